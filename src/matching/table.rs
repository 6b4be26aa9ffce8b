//! Tables: what is filed under one path.
//!
//! Owns the ways in which a value at a path leads to programs: by its hash through the table of keys
//! that all paths share, by the ranges it lies in, and by being there at all.

use std::collections::BTreeSet;

use super::ProgramId;
use super::access::{By, KEYS_UNKNOWN, Key, KeyRef, with_key};
use super::keys::{KeyHash, Keys};
use super::names::NodeId;
use super::programs::{Lead, ShelfId};
use super::ranges::Ranges;
use super::raw::Raw;
use super::search::Finds;
use super::spans::{Spans, number_key, time_key};
use super::value::Value;

/// What is filed under one path of one scope.
#[derive(Default, Debug)]
pub(super) struct Table {
    /// Keys filed for the value itself.
    equal: u32,
    /// Keys filed for what is in the container.
    member: u32,
    /// Keys ever named here, and a bit for each: how many different ones there are, roughly.
    named: u32,
    seen: u64,
    ordered: Option<Box<Ordered>>,
}

#[derive(Default, Debug)]
struct Ordered {
    numbers: Spans,
    times: Spans,
    texts: Ranges<[u8]>,
    present: BTreeSet<ProgramId>,
}

/// What intervals are of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Numbers,
    Times,
}

/// Which table: scope and node.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Spot(pub(super) ShelfId, pub(super) NodeId);

/// The two things that a key is filed for.
#[derive(Clone, Copy, Hash, Debug)]
enum Of {
    Value,
    Member,
}

#[inline]
fn hash(keys: &Keys, spot: Spot, of: Of, key: KeyRef<'_>) -> KeyHash {
    keys.hash((spot, of, key))
}

impl Table {
    pub(super) fn insert(&mut self, keys: &mut Keys, spot: Spot, by: &By, lead: Lead) {
        let mut file = |of, key: &Key| keys.insert(hash(keys, spot, of, key.as_ref()), lead.program);
        match by {
            By::Equal(key) => {
                self.equal += 1;
                file(Of::Value, key);
            }
            By::In(list) => {
                self.equal += list.len() as u32;
                list.iter().for_each(|key| file(Of::Value, key));
            }
            By::Member(list) => {
                self.member += list.len() as u32;
                list.iter().for_each(|key| file(Of::Member, key));
            }
            By::Numbers(start, stop) => self.ordered().numbers.insert(*start, *stop, lead),
            By::Times(start, stop) => self.ordered().times.insert(*start, *stop, lead),
            By::Texts(start, stop) => self.ordered().texts.insert(start, stop, lead.program),
            By::Present => drop(self.ordered().present.insert(lead.program)),
        }
    }

    pub(super) fn remove(&mut self, keys: &mut Keys, spot: Spot, by: &By, program: ProgramId) {
        let mut unfile = |of, key: &Key| keys.remove(hash(keys, spot, of, key.as_ref()), program);
        match by {
            By::Equal(key) => {
                self.equal -= 1;
                unfile(Of::Value, key);
            }
            By::In(list) => {
                self.equal -= list.len() as u32;
                list.iter().for_each(|key| unfile(Of::Value, key));
            }
            By::Member(list) => {
                self.member -= list.len() as u32;
                list.iter().for_each(|key| unfile(Of::Member, key));
            }
            By::Numbers(start, stop) => self.ordered().numbers.remove(*start, *stop, program),
            By::Times(start, stop) => self.ordered().times.remove(*start, *stop, program),
            By::Texts(start, stop) => self.ordered().texts.remove(start, stop, program),
            By::Present => drop(self.ordered().present.remove(&program)),
        }
        if self.ordered.as_ref().is_some_and(|ordered| ordered.is_empty()) {
            self.ordered = None;
        }
    }

    fn ordered(&mut self) -> &mut Ordered {
        self.ordered.get_or_insert_default()
    }

    /// Notes the keys of a condition, whether or not it will be filed under them.
    pub(super) fn note(&mut self, keys: &Keys, spot: Spot, by: &By) {
        let mut note = |of, key: &Key| {
            self.seen |= 1 << (hash(keys, spot, of, key.as_ref()).bits() % 64);
            self.named = self.named.saturating_add(1);
        };
        match by {
            By::Equal(key) => note(Of::Value, key),
            By::In(list) => list.iter().for_each(|key| note(Of::Value, key)),
            By::Member(list) => list.iter().for_each(|key| note(Of::Member, key)),
            By::Numbers(..) | By::Times(..) | By::Texts(..) | By::Present => {}
        }
    }

    /// How many different keys a document may be expected to have here, going by those that conditions
    /// have named: counted linearly (Whang et al. 1990) over as many bits as there are. Only repetition is
    /// evidence of few.
    pub(super) fn keys_seen(&self) -> f64 {
        if self.seen == u64::MAX {
            return 50.0 * KEYS_UNKNOWN;
        }
        let different = 64.0 * (64.0 / f64::from(self.seen.count_zeros())).ln();
        if f64::from(self.named) > 4.0 * different { different.max(1.0) } else { KEYS_UNKNOWN.max(different) }
    }

    /// How many programs are filed under the one key of a condition.
    pub(super) fn crowd(&self, keys: &Keys, spot: Spot, by: &By) -> usize {
        match by {
            By::Equal(key) => keys.crowd(hash(keys, spot, Of::Value, key.as_ref())),
            _ => 0,
        }
    }

    /// The intervals that are filed here.
    pub(super) fn spans(&self, kind: Kind) -> Option<&Spans> {
        self.ordered.as_ref().map(|ordered| ordered.of(kind))
    }

    /// Adds each program filed here by a range that this value is in, and what is to be looked up for it.
    #[inline]
    pub(super) fn find(&self, keys: &Keys, spot: Spot, value: Raw<'_>, found: &mut Finds) {
        let mut look = |of, value| {
            if let Some(key) = with_key(value, |key| hash(keys, spot, of, key)) {
                found.key(key);
            }
        };
        if self.equal > 0 {
            look(Of::Value, value);
        }
        if self.member > 0
            && let Raw::List(container) | Raw::Map(container) = value
        {
            for (name, item) in container.fields() {
                let member = if matches!(value, Raw::List(_)) { item } else { Raw::Text(name) };
                look(Of::Member, member);
            }
        }
        if let Some(ordered) = &self.ordered {
            ordered.find(value, spot.1, found);
        }
    }
}

impl Ordered {
    fn is_empty(&self) -> bool {
        let ranges = self.numbers.is_empty() && self.times.is_empty() && self.texts.is_empty();
        ranges && self.present.is_empty()
    }

    fn find(&self, value: Raw<'_>, node: NodeId, found: &mut Finds) {
        self.present.iter().for_each(|program| found.lead(Lead::to(*program)));
        match value {
            // Found is true: what is an error to look at must not be.
            Raw::Time(time) if !Value::is_time(time) => {}
            Raw::Text(text) if self.texts.is_empty() || std::str::from_utf8(text).is_err() => {}
            Raw::Time(time) => self.spans(node, Kind::Times, Some(time_key(time)), found),
            Raw::Int(number) => self.spans(node, Kind::Numbers, number_key(number as f64), found),
            Raw::Double(number) => self.spans(node, Kind::Numbers, number_key(number), found),
            Raw::Text(text) => self.texts.stab(text, &mut |program| found.lead(Lead::to(program))),
            // Some of the rarer types count as numbers or as texts.
            Raw::Other(..) if !self.texts.is_empty() || !self.numbers.is_empty() => match value.value() {
                Value::Double(number) => self.spans(node, Kind::Numbers, number_key(number), found),
                Value::Text(text) => self.texts.stab(text.as_bytes(), &mut |program| found.lead(Lead::to(program))),
                _ => {}
            },
            Raw::Null | Raw::Bool(_) | Raw::List(_) | Raw::Map(_) | Raw::Other(..) | Raw::Error => {}
        }
    }

    fn of(&self, kind: Kind) -> &Spans {
        match kind {
            Kind::Numbers => &self.numbers,
            Kind::Times => &self.times,
        }
    }

    /// To be looked up, if there is something.
    fn spans(&self, node: NodeId, kind: Kind, key: Option<u64>, found: &mut Finds) {
        if let Some(key) = key.filter(|_| !self.of(kind).is_empty()) {
            found.span(node, kind, key);
        }
    }
}
