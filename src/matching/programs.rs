//! Programs: filters that say the same, once for all their subscriptions.
//!
//! Owns their numbers, and who has which. Filters are equal if their formulas and their concerns are.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::filter::Filter;
use super::ids::Ids;
use super::images::Images;
use super::residual::Residual;
use super::verdict::{Asks, Image};
use super::{ProgramId, SubscriptionIndex};
use crate::paged::Paged;

/// All programs of a matcher.
#[derive(Default, Debug)]
pub(super) struct Programs {
    all: Paged<Program>,
    /// By their hashes, in shards that grow one at a time. Seeded: who registers filters cannot choose what meets.
    known: Vec<HashTable<Known>>,
    hashing: DefaultHashBuilder,
    /// By subscription: the number after its program's, so that none takes no room.
    of: Paged<NonZeroU32>,
    len: usize,
}

/// A program, and as much of its hash as tells most others from it.
#[derive(Clone, Copy, Debug)]
struct Known {
    digest: u32,
    program: ProgramId,
}

/// One of them: all that most changes that find it look at, in one line of memory.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Program {
    /// What is to be evaluated where it was found.
    residual: Residual,
    subscriptions: Ids,
    /// The last search that found it.
    found_by: u32,
    /// In which images: a bit for each.
    found_in: u8,
    pub(super) asks: Asks,
    /// Where it is filed. Keys of all shelves are in one table, and two may meet there.
    shelf: ShelfId,
    /// Under which of its conjuncts it is filed; scanned if under none.
    conjunct: u16,
    /// What it is filed under leads to its subscription, too.
    is_direct: bool,
    pub(super) filter: Arc<Filter>,
}

const _: () = assert!(size_of::<Option<Program>>() == 64, "a program is to be one line of memory");

/// Whom it leads to: a program; and if to be found is all that it asks and nobody else has it, its subscription, so that
/// the program need not be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lead {
    pub(super) program: ProgramId,
    only: u32,
}

impl Lead {
    const NOT_ONLY: u32 = u32::MAX;

    /// To a program of which no more is known.
    pub(super) const fn to(program: ProgramId) -> Self {
        Self { program, only: Self::NOT_ONLY }
    }

    /// To a program and its one subscription.
    pub(super) const fn only(program: ProgramId, subscription: SubscriptionIndex) -> Self {
        Self { program, only: subscription.0 }
    }

    /// The one subscription.
    #[inline]
    pub(super) fn subscription(self) -> Option<SubscriptionIndex> {
        (self.only != Self::NOT_ONLY).then_some(SubscriptionIndex(self.only))
    }
}

/// Filed under no conjunct.
const SCANNED: u16 = u16::MAX;

/// Found in both images, or neither is to be evaluated.
pub(super) const EVERYWHERE: u8 = 3;

const SHARDS: usize = 256;

/// Where a digest is to be found: the shard, and a hash that fills the rest of the word.
fn place(digest: u32) -> (usize, u64) {
    (digest as usize % SHARDS, u64::from(digest).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Programs {
    /// How many subscriptions have one.
    pub(super) fn subscriptions(&self) -> usize {
        self.len
    }

    fn digest(&self, filter: &Filter) -> u32 {
        let hash = self.hashing.hash_one((&filter.concern, &filter.formula));
        (hash ^ (hash >> 32)) as u32
    }

    /// The program of a subscription.
    pub(super) fn of(&self, subscription: SubscriptionIndex) -> Option<ProgramId> {
        self.of.get(subscription.0).map(|after| ProgramId(after.get() - 1))
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
        let digest = self.digest(&filter);
        let (shard, hash) = place(digest);
        let all = &mut self.all;
        let is = |known: &Known| {
            known.digest == digest && all.get(known.program.0).is_some_and(|program| is_same(&program.filter, &filter))
        };
        if let Some(Known { program, .. }) = self.known[shard].find(hash, is).copied() {
            if let Some(known) = all.get_mut(program.0) {
                known.subscriptions.insert(subscription.0);
            }
            self.put(subscription, program);
            return (program, false);
        }
        let asks = filter.concern.asks;
        let (residual, subscriptions) = (Residual::Nothing, Ids::one(subscription.0));
        let (conjunct, shelf, found_by, found_in) = (SCANNED, ShelfId(0), 0, 0);
        let is_direct = false;
        let program = Program { residual, subscriptions, found_by, found_in, asks, shelf, conjunct, is_direct, filter };
        let program = ProgramId(all.insert(program));
        self.known[shard].insert_unique(hash, Known { digest, program }, |known| place(known.digest).1);
        self.put(subscription, program);
        (program, true)
    }

    fn put(&mut self, subscription: SubscriptionIndex, program: ProgramId) {
        if let Some(after) = NonZeroU32::MIN.checked_add(program.0) {
            self.of.put(subscription.0, after);
        }
    }

    /// Takes a subscription's program from it. If it was the last to have it, the program's filter and
    /// conjunct are handed back.
    pub(super) fn remove(&mut self, subscription: SubscriptionIndex) -> Option<(ProgramId, Option<Program>)> {
        let program = ProgramId(self.of.take(subscription.0)?.get() - 1);
        self.len -= 1;
        if !self.all.get_mut(program.0)?.subscriptions.remove(subscription.0) {
            return Some((program, None));
        }
        let last = self.all.remove(program.0)?;
        let (shard, hash) = place(self.digest(&last.filter));
        if let Ok(entry) = self.known[shard].find_entry(hash, |known| known.program == program) {
            entry.remove();
        }
        Some((program, Some(last)))
    }
}

/// How a program is filed.
pub(super) struct Filed {
    /// Under which of its conjuncts; none if scanned.
    pub(super) conjunct: Option<u16>,
    /// What is left to evaluate.
    pub(super) residual: Residual,
    /// Whether that leads to its subscription, too.
    pub(super) is_direct: bool,
}

/// A shelf's number within its matcher.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct ShelfId(pub(super) u32);

fn is_same(a: &Arc<Filter>, b: &Arc<Filter>) -> bool {
    Arc::ptr_eq(a, b) || (a.concern == b.concern && a.formula == b.formula)
}

impl Program {
    /// Whether it is filed on this shelf.
    #[inline]
    pub(super) fn is_on(&self, shelf: ShelfId) -> bool {
        self.shelf == shelf
    }

    /// Fetches what is evaluated of it, for it to be at hand later.
    #[inline]
    pub(super) fn fetch(&self) {
        self.residual.fetch();
    }

    /// A search of its shelf found it in these images; whether for the first time. What another shelf's search has found is not
    /// meant: two keys have met in the table.
    #[inline]
    pub(super) fn found_by(&mut self, search: u32, shelf: ShelfId, images: u8) -> bool {
        if self.shelf != shelf {
            return false;
        }
        let is_first = self.found_by != search;
        if is_first {
            (self.found_by, self.found_in) = (search, 0);
        }
        self.found_in |= images;
        is_first
    }

    /// It is filed on this shelf.
    pub(super) fn filed(&mut self, shelf: ShelfId, Filed { conjunct, residual, is_direct }: Filed) {
        (self.shelf, self.conjunct, self.residual) = (shelf, conjunct.unwrap_or(SCANNED), residual);
        self.is_direct = is_direct;
    }

    /// Others have it now: what it is filed under must not lead to one of them. Whether it did.
    pub(super) fn was_direct(&mut self) -> bool {
        std::mem::take(&mut self.is_direct)
    }

    /// Under which of its conjuncts it is filed; scanned if under none.
    pub(super) fn conjunct(&self) -> Option<u16> {
        (self.conjunct != SCANNED).then_some(self.conjunct)
    }

    /// Whether its filter is true of an image, for the search that found it last: where it is not found it is not true.
    #[inline]
    pub(super) fn holds(&self, image: Image, images: &mut Images<'_>) -> bool {
        self.found_in & (1 << image as u8) != 0 && self.residual.holds(&self.filter, image, images)
    }

    /// Any of those who have it.
    pub(super) fn subscription(&self) -> Option<SubscriptionIndex> {
        self.subscriptions.any().map(SubscriptionIndex)
    }

    /// Calls `each` with everyone who has it.
    #[inline]
    pub(super) fn subscriptions(&self, mut each: impl FnMut(SubscriptionIndex)) {
        self.subscriptions.each(|subscription| each(SubscriptionIndex(subscription)));
    }
}
