//! Shelves: the programs of one tenant and collection.
//!
//! Owns what a program is filed under, and what its paths are.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::access::{self, Access, Cover};
use super::filter::Filter;
use super::keys::Keys;
use super::names::Names;
use super::programs::{Programs, ShelfId};
use super::residual::Residual;
use super::shadow::{self, Difference, Shadow};
use super::table::Spot;
use super::{Match, ProgramId};
use crate::change::Change;

/// The programs of one tenant and collection.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) id: ShelfId,
    pub(super) names: Names,
    pub(super) all: BTreeSet<ProgramId>,
    /// Those that nothing leads to.
    pub(super) scanned: BTreeSet<ProgramId>,
    /// How many look at pre-images.
    pub(super) transitions: usize,
}

impl Shelf {
    pub(super) fn new(id: ShelfId) -> Self {
        let (all, scanned) = (BTreeSet::new(), BTreeSet::new());
        Self { id, names: Names::default(), all, scanned, transitions: 0 }
    }

    /// Files a program under the conjunct that lets the fewest changes through, by what is known by now.
    /// What is left to evaluate once it is found comes back with the conjunct's number.
    pub(super) fn file(&mut self, keys: &mut Keys, program: ProgramId, filter: &Filter) -> (Option<u16>, Residual) {
        self.all.insert(program);
        self.transitions += usize::from(filter.concern.asks.transitions);
        filter.formula.paths(&mut |path| {
            self.names.add(path);
        });
        let covers: Vec<(usize, Cover)> = access::covers(filter.formula.conjuncts()).collect();
        let cheapest = access::cheapest(&covers, |access| self.share(keys, access));
        for access in covers.iter().flat_map(|(_, cover)| cover) {
            if let Some(node) = self.names.find(&access.path) {
                self.names.table_mut(node).note(keys, Spot(self.id, node), &access.by);
            }
        }
        let Some((conjunct, cover)) = cheapest.map(|at| &covers[at]) else {
            self.scanned.insert(program);
            return (None, Residual::of(filter, &[], &self.names));
        };
        for access in cover {
            if let Some(node) = self.names.find(&access.path) {
                self.names.table_mut(node).insert(keys, Spot(self.id, node), &access.by, program);
            }
        }
        (u16::try_from(*conjunct).ok(), Residual::of(filter, cover, &self.names))
    }

    /// The share of changes that this is expected to let through; among equals, the less crowded has less.
    fn share(&self, keys: &Keys, access: &Access) -> f64 {
        let Some(node) = self.names.find(&access.path) else { return 1.0 };
        let table = self.names.table(node);
        access.share(table.keys_seen()) * (1.0 + table.crowd(keys, Spot(self.id, node), &access.by) as f64 * 1e-6)
    }

    /// Evaluates some of the programs that were found, and some that were not, by the reference.
    pub(super) fn check(
        &self,
        programs: &Programs,
        found: &[ProgramId],
        change: &Change,
        out: &[Match],
        shadow: &mut Shadow,
    ) {
        let after = shadow.at.map_or(Bound::Unbounded, Bound::Excluded);
        let others: Vec<_> = self.all.range((after, Bound::Unbounded)).take(shadow::PROGRAMS_MAX).copied().collect();
        shadow.at = if others.len() < shadow::PROGRAMS_MAX { None } else { others.last().copied() };
        for program in found.iter().take(shadow::PROGRAMS_MAX).chain(&others) {
            let Some(program) = programs.get(*program) else { continue };
            let is_its = |found: &&Match| program.subscription() == Some(found.subscription);
            let found = out.iter().find(is_its).map(|found| found.verdict);
            let expected = program.filter.evaluate(change);
            shadow.counts.checks += 1;
            if found != expected {
                shadow.differs(|| Difference {
                    program: program.filter.text(),
                    shape: shadow::shape(change.document.as_deref().or(change.before.as_deref())),
                    expected,
                    found,
                });
            }
        }
    }

    pub(super) fn unfile(&mut self, keys: &mut Keys, program: ProgramId, filter: &Filter, conjunct: Option<u16>) {
        self.all.remove(&program);
        self.transitions -= usize::from(filter.concern.asks.transitions);
        let is_filed = |(number, _): &(usize, Cover)| Some(*number) == conjunct.map(usize::from);
        match access::covers(filter.formula.conjuncts()).find(is_filed) {
            None => drop(self.scanned.remove(&program)),
            Some((_, cover)) => {
                for access in &cover {
                    if let Some(node) = self.names.find(&access.path) {
                        self.names.table_mut(node).remove(keys, Spot(self.id, node), &access.by, program);
                    }
                }
            }
        }
        filter.formula.paths(&mut |path| self.names.remove(path));
    }
}
