//! Programs: filters that say the same, once for all their subscriptions.
//!
//! Owns their numbers, and who has which. Filters are equal if their formulas and their concerns are.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use super::filter::Filter;
use super::paged::Paged;
use super::{ProgramId, SubscriptionIndex};

/// All programs of a matcher.
#[derive(Default, Debug)]
pub(super) struct Programs {
    all: Paged<Program>,
    /// By their hashes, in shards that grow one at a time.
    known: Vec<HashTable<ProgramId>>,
    of: Paged<ProgramId>,
    len: usize,
    with_cel: usize,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) filter: Arc<Filter>,
    subscriptions: Subscriptions,
    digest: u32,
    /// Whether it runs CEL that no term says.
    pub(super) has_cel: bool,
    /// Under which of its conjuncts it is filed; scanned if under none.
    pub(super) conjunct: Option<u16>,
    /// The last search that found it.
    found_by: u32,
}

/// Whose it is; nearly always one's.
#[derive(Debug)]
enum Subscriptions {
    One(SubscriptionIndex),
    #[allow(clippy::box_collection, reason = "a program with one subscription is to be small")]
    Many(Box<BTreeSet<SubscriptionIndex>>),
}

const SHARDS: usize = 256;

fn digest(filter: &Filter) -> u32 {
    let hash = FxBuildHasher.hash_one((&filter.concern, filter.formula.digest()));
    (hash ^ (hash >> 32)) as u32
}

/// Where a digest is to be found: the shard, and a hash that fills the rest of the word.
fn place(digest: u32) -> (usize, u64) {
    (digest as usize % SHARDS, u64::from(digest).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Programs {
    /// How many subscriptions have one.
    pub(super) fn subscriptions(&self) -> usize {
        self.len
    }

    /// How many programs run CEL.
    pub(super) fn with_cel(&self) -> usize {
        self.with_cel
    }

    /// The program of a subscription.
    pub(super) fn of(&self, subscription: SubscriptionIndex) -> Option<ProgramId> {
        self.of.get(subscription.0).copied()
    }

    #[inline]
    pub(super) fn get(&self, program: ProgramId) -> Option<&Program> {
        self.all.get(program.0)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, program: ProgramId) -> Option<&mut Program> {
        self.all.get_mut(program.0)
    }

    /// The numbers of searches begin anew.
    pub(super) fn forget_searches(&mut self) {
        self.all.iter_mut().for_each(|program| program.found_by = 0);
    }

    /// Gives a subscription, which has none, its program. Whether it is the program's first.
    pub(super) fn add(&mut self, subscription: SubscriptionIndex, filter: Arc<Filter>) -> (ProgramId, bool) {
        if self.known.is_empty() {
            self.known.resize_with(SHARDS, HashTable::new);
        }
        self.len += 1;
        let digest = digest(&filter);
        let (shard, hash) = place(digest);
        let all = &mut self.all;
        let is = |program: &ProgramId| {
            let program = all.get(program.0);
            program.is_some_and(|known| known.digest == digest && is_same(&known.filter, &filter))
        };
        if let Some(program) = self.known[shard].find(hash, is).copied() {
            if let Some(known) = all.get_mut(program.0) {
                known.subscriptions.insert(subscription);
            }
            self.of.put(subscription.0, program);
            return (program, false);
        }
        let (subscriptions, has_cel) = (Subscriptions::One(subscription), filter.formula.has_cel());
        self.with_cel += usize::from(has_cel);
        let program = Program { filter, subscriptions, digest, has_cel, conjunct: None, found_by: 0 };
        let program = ProgramId(all.insert(program));
        let rehash = |program: &ProgramId| place(all.get(program.0).map_or(0, |program| program.digest)).1;
        self.known[shard].insert_unique(hash, program, rehash);
        self.of.put(subscription.0, program);
        (program, true)
    }

    /// Takes a subscription's program from it. If it was the last to have it, the program's filter and
    /// conjunct are handed back.
    pub(super) fn remove(&mut self, subscription: SubscriptionIndex) -> Option<(ProgramId, Option<Program>)> {
        let program = self.of.take(subscription.0)?;
        self.len -= 1;
        if self.all.get_mut(program.0)?.subscriptions.remove(subscription) {
            return Some((program, None));
        }
        let last = self.all.remove(program.0)?;
        self.with_cel -= usize::from(last.has_cel);
        let (shard, hash) = place(last.digest);
        if let Ok(entry) = self.known[shard].find_entry(hash, |known| *known == program) {
            entry.remove();
        }
        Some((program, Some(last)))
    }
}

fn is_same(a: &Arc<Filter>, b: &Arc<Filter>) -> bool {
    Arc::ptr_eq(a, b) || (a.concern == b.concern && a.formula == b.formula)
}

impl Program {
    /// A search found it; whether for the first time.
    #[inline]
    pub(super) fn found_by(&mut self, search: u32) -> bool {
        std::mem::replace(&mut self.found_by, search) != search
    }

    /// Everyone who has it.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = SubscriptionIndex> {
        let (one, many) = match &self.subscriptions {
            Subscriptions::One(one) => (Some(*one), None),
            Subscriptions::Many(many) => (None, Some(many)),
        };
        one.into_iter().chain(many.into_iter().flat_map(|many| many.iter().copied()))
    }
}

impl Subscriptions {
    fn insert(&mut self, subscription: SubscriptionIndex) {
        match self {
            Self::One(one) => *self = Self::Many(Box::new(BTreeSet::from([*one, subscription]))),
            Self::Many(many) => drop(many.insert(subscription)),
        }
    }

    /// Whether there are others left.
    fn remove(&mut self, subscription: SubscriptionIndex) -> bool {
        let Self::Many(many) = self else { return false };
        many.remove(&subscription);
        if let (1, Some(last)) = (many.len(), many.first().copied()) {
            *self = Self::One(last);
        }
        true
    }
}
