//! The Bloom filter in front of the table of keys.
//!
//! Owns its size and its age. It is asked with the hash that the table needs anyway, and says of most
//! keys that nobody filed anything under them. That would spare a look-up in main memory; but the table's own
//! control bytes say the same in one line of it, and at no size up to five million keys was the filter found to pay
//! (`docs/benchmarks.md`), so it is off unless asked for. Whoever is filed is in it, always: a removal leaves its bits behind, and when too many of those have gathered, or the table
//! has outgrown it, another is filled beside it, a shard of the table with each insertion and removal,
//! and takes its place.

use bloomfilter::Bloom as Bits;
use hashbrown::HashTable;

use super::keys::{Entry, KeyHash};

/// The share of absent keys that a full filter lets through.
const FALSE_POSITIVES: f64 = 0.005;

/// When there is a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BloomUse {
    /// Never.
    Off,
    /// From this many keys on.
    From(usize),
}

impl Default for BloomUse {
    /// As it was measured (`docs/benchmarks.md`).
    fn default() -> Self {
        Self::Off
    }
}

/// What the filter did since the matcher was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BloomCounts {
    /// Keys it was asked for.
    pub checks: u64,
    /// Keys it let through.
    pub passes: u64,
    /// Keys it let through that the table did not have.
    pub false_passes: u64,
    /// Filters filled.
    pub rebuilds: u64,
}

impl BloomCounts {
    /// The share of absent keys that it let through.
    pub fn false_positive_rate(&self) -> f64 {
        let absent = self.checks - self.passes + self.false_passes;
        if absent == 0 { 0.0 } else { self.false_passes as f64 / absent as f64 }
    }
}

#[derive(Default, Debug)]
pub(super) struct Bloom {
    pub(super) wanted: BloomUse,
    current: Option<Filter>,
    next: Option<Filling>,
    pub(super) counts: BloomCounts,
}

#[derive(Debug)]
struct Filter {
    bits: Bits<u64>,
    /// Keys for which it keeps its promise.
    capacity: usize,
    /// Keys in it that are gone.
    removed: usize,
}

/// A filter on its way, and how many shards of the table are in it.
#[derive(Debug)]
struct Filling {
    filter: Filter,
    shards: usize,
}

impl Bloom {
    pub(super) fn new(wanted: BloomUse) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Whether a key may be there.
    #[inline]
    pub(super) fn may_have(&mut self, key: KeyHash) -> bool {
        let Some(current) = &self.current else { return true };
        self.counts.checks += 1;
        let may = current.bits.check(&key.bits());
        self.counts.passes += u64::from(may);
        may
    }

    /// A key that passed was not there.
    #[inline]
    pub(super) fn passed_in_vain(&mut self) {
        self.counts.false_passes += u64::from(self.current.is_some());
    }

    /// A key is in the table, which has `len` by now.
    pub(super) fn inserted(&mut self, key: KeyHash, len: usize, table: &[HashTable<Entry>]) {
        let BloomUse::From(least) = self.wanted else { return };
        for filter in self.current.iter_mut().chain(self.next.as_mut().map(|next| &mut next.filter)) {
            filter.bits.set(&key.bits());
        }
        if self.current.as_ref().map_or(least, |current| current.capacity) <= len {
            self.begin(len);
        }
        self.fill(table);
    }

    /// A key is gone from the table, which has `len` by now.
    pub(super) fn removed(&mut self, len: usize, table: &[HashTable<Entry>]) {
        let BloomUse::From(least) = self.wanted else { return };
        for filter in self.current.iter_mut().chain(self.next.as_mut().map(|next| &mut next.filter)) {
            filter.removed += 1;
        }
        // Between the two limits it stays as it is, so that a set about that size does not build without end.
        if len < least / 2 {
            (self.current, self.next) = (None, None);
        } else if self.current.as_ref().is_some_and(|current| current.removed > current.capacity / 2) {
            self.begin(len);
        }
        self.fill(table);
    }

    fn begin(&mut self, len: usize) {
        if self.next.is_none() {
            let capacity = 2 * len.max(1);
            let bits = Bits::new_for_fp_rate(capacity, FALSE_POSITIVES);
            let filter = bits.ok().map(|bits| Filter { bits, capacity, removed: 0 });
            self.next = filter.map(|filter| Filling { filter, shards: 0 });
        }
    }

    fn fill(&mut self, table: &[HashTable<Entry>]) {
        let Some(next) = &mut self.next else { return };
        if let Some(shard) = table.get(next.shards) {
            shard.iter().for_each(|entry| next.filter.bits.set(&entry.key(next.shards).bits()));
            next.shards += 1;
        }
        if next.shards >= table.len() {
            self.counts.rebuilds += 1;
            self.current = self.next.take().map(|next| next.filter);
        }
    }
}
