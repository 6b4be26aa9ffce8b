//! Shelves: the programs of one tenant and collection.
//!
//! Owns what a program is filed under, and what its paths are.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::access::{self, Access, By, Cover};
use super::filter::Filter;
use super::keys::Keys;
use super::names::Names;
use super::programs::{Filed, Lead, Programs, ShelfId};
use super::residual::Residual;
use super::search::Found;
use super::shadow::{self, Difference, Shadow};
use super::table::Spot;
use super::verdict::Home;
use super::{Match, ProgramId, SubscriptionIndex};
use crate::change::Change;

/// The programs of one tenant and collection.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) id: ShelfId,
    pub(super) home: Home,
    pub(super) names: Names,
    pub(super) all: BTreeSet<ProgramId>,
    /// Those that nothing leads to.
    pub(super) scanned: BTreeSet<ProgramId>,
    /// How many look at pre-images.
    pub(super) transitions: usize,
}

impl Shelf {
    pub(super) fn new(id: ShelfId, home: Home) -> Self {
        let (all, scanned) = (BTreeSet::new(), BTreeSet::new());
        Self { id, home, names: Names::default(), all, scanned, transitions: 0 }
    }

    /// Files a program under the conjunct that lets the fewest changes through, by what is known by now.
    /// It has one subscription so far.
    pub(super) fn file(
        &mut self,
        keys: &mut Keys,
        (program, subscription): (ProgramId, SubscriptionIndex),
        filter: &Filter,
    ) -> Filed {
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
            return Filed { conjunct: None, residual: Residual::of(filter, &[], &self.names), is_direct: false };
        };
        let residual = Residual::of(filter, cover, &self.names);
        let is_enough = residual.is_nothing() && filter.concern.asks.is_plain();
        let is_direct = is_enough && matches!(cover.as_slice(), [Access { by: By::Numbers(..) | By::Times(..), .. }]);
        let lead = if is_direct { Lead::only(program, subscription) } else { Lead::to(program) };
        self.lead(keys, cover, lead);
        Filed { conjunct: u16::try_from(*conjunct).ok(), residual, is_direct }
    }

    fn lead(&mut self, keys: &mut Keys, cover: &Cover, lead: Lead) {
        for access in cover {
            if let Some(node) = self.names.find(&access.path) {
                self.names.table_mut(node).insert(keys, Spot(self.id, node), &access.by, lead);
            }
        }
    }

    /// What a program is filed under leads to the program alone from now on.
    pub(super) fn lead_to_program(
        &mut self,
        keys: &mut Keys,
        program: ProgramId,
        filter: &Filter,
        conjunct: Option<u16>,
    ) {
        if let Some(cover) = cover(filter, conjunct) {
            self.forget(keys, &cover, program);
            self.lead(keys, &cover, Lead::to(program));
        }
    }

    fn forget(&mut self, keys: &mut Keys, cover: &Cover, program: ProgramId) {
        for access in cover {
            if let Some(node) = self.names.find(&access.path) {
                self.names.table_mut(node).remove(keys, Spot(self.id, node), &access.by, program);
            }
        }
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
        found: &Found<'_>,
        change: &Change,
        out: &[Match],
        shadow: &mut Shadow,
    ) {
        let after = shadow.at.map_or(Bound::Unbounded, Bound::Excluded);
        let others: Vec<_> = self.all.range((after, Bound::Unbounded)).take(shadow::PROGRAMS_MAX).copied().collect();
        shadow.at = if others.len() < shadow::PROGRAMS_MAX { None } else { others.last().copied() };
        let evaluated = found.programs.iter().take(shadow::PROGRAMS_MAX).copied();
        let matched = found.matched.iter().filter_map(|it| programs.of(*it)).take(shadow::PROGRAMS_MAX);
        for program in evaluated.chain(matched).chain(others) {
            let Some(program) = programs.get(program) else { continue };
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
        match cover(filter, conjunct) {
            None => drop(self.scanned.remove(&program)),
            Some(cover) => self.forget(keys, &cover, program),
        }
        filter.formula.paths(&mut |path| self.names.remove(path));
    }
}

/// What stands for the conjunct of this number.
fn cover(filter: &Filter, conjunct: Option<u16>) -> Option<Cover> {
    let wanted = conjunct.map(usize::from)?;
    access::covers(filter.formula.conjuncts()).find(|(number, _)| *number == wanted).map(|(_, cover)| cover)
}
