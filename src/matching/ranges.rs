//! Ranges: which of many intervals of texts a text lies in; prefixes, mostly.
//!
//! A key is a string of bits that sorts like the values it stands for. An interval is filed under the
//! bits that its two ends share, at the first bit in which they differ: all that lies between them
//! begins with those bits, too. A value looks, at each bit position in use, under its own bits before it;
//! if its bit there is 0 it lies below the upper end of everything filed there, and is inside
//! of those that start at or below it; if it is 1, of those that stop at or above it. So two sorted lists
//! a node, read from an end until the first that does not contain it, give exactly the intervals that
//! contain the value, and nothing is balanced or rebuilt.
//!
//! This is the interval tree of Edelsbrunner (1980) over the fixed tree of binary digits, with a hash
//! table a level in the place of its pointers. A look-up costs a probe for each bit position in use, and its
//! matches; insertion and removal touch one node.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::ProgramId;
use super::shards::Shards;

/// A string of bits that sorts like what it stands for.
pub(super) trait Bits: Ord + ToOwned<Owned: Ord + Clone + Debug> {
    /// The first bit in which two keys differ; past the end of both if they do not.
    fn first_difference(&self, other: &Self) -> u32;

    /// One bit; 0 past the end.
    fn bit(&self, at: u32) -> bool;

    /// A hash of the bits before this one.
    fn hash_before(&self, at: u32, hashing: &DefaultHashBuilder) -> u64;
}

/// Past the end of every text.
const NO_DIFFERENCE: u32 = u32::MAX;

/// Texts end in zeros without end.
impl Bits for [u8] {
    fn first_difference(&self, other: &Self) -> u32 {
        let byte = |text: &Self, at: usize| text.get(at).copied().unwrap_or(0);
        let common = self.iter().zip(other).take_while(|(a, b)| a == b).count();
        let differing = (common..self.len().max(other.len())).find(|at| byte(self, *at) != byte(other, *at));
        differing.map_or(NO_DIFFERENCE, |at| {
            let differing = byte(self, at) ^ byte(other, at);
            u32::try_from(at).map_or(NO_DIFFERENCE, |at| at.saturating_mul(8) + differing.leading_zeros())
        })
    }

    fn bit(&self, at: u32) -> bool {
        self.get((at / 8) as usize).is_some_and(|byte| (byte >> (7 - at % 8)) & 1 == 1)
    }

    fn hash_before(&self, at: u32, hashing: &DefaultHashBuilder) -> u64 {
        let whole = self.len().min((at / 8) as usize);
        let last = self.get(whole).map_or(0, |byte| byte & !(0xff >> (at % 8)));
        let mut bytes = &self[..whole];
        while let (0, [before @ .., 0]) = (last, bytes) {
            bytes = before;
        }
        hashing.hash_one((bytes, last))
    }
}

/// A set of intervals, both ends included, each of a program.
#[derive(Debug)]
pub(super) struct Ranges<K: Bits + ?Sized> {
    /// Where two ends differ first, and what is filed there; in order.
    levels: Vec<(u32, Shards<Node<K::Owned>>)>,
    hashing: DefaultHashBuilder,
}

#[derive(Debug)]
struct Node<K> {
    by_start: Sorted<K>,
    by_stop: Sorted<K>,
}

impl<K: Ord + Clone> Node<K> {
    /// One of the keys below this node: all of them begin alike.
    fn sample(&self) -> Option<&K> {
        self.by_start.iter().next().map(|(key, _)| key)
    }
}

/// Ends of intervals in their order.
#[derive(Debug)]
enum Sorted<K> {
    Few(Vec<(K, ProgramId)>),
    Many(BTreeSet<(K, ProgramId)>),
}

/// So many are kept in one piece of memory.
const FEW: usize = 32;

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Ord + Clone> Sorted<K> {
    pub(super) fn insert(&mut self, end: (K, ProgramId)) {
        match self {
            Self::Few(all) if all.len() < FEW => {
                if let Err(at) = all.binary_search(&end) {
                    // Most have one: a vector's own choice would be four.
                    all.reserve_exact(if all.len() < 4 { 1 } else { all.len() / 2 });
                    all.insert(at, end);
                }
            }
            Self::Few(all) => *self = Self::Many(all.drain(..).chain([end]).collect()),
            Self::Many(all) => drop(all.insert(end)),
        }
    }

    pub(super) fn remove(&mut self, end: &(K, ProgramId)) {
        match self {
            Self::Few(all) => {
                if let Ok(at) = all.binary_search(end) {
                    all.remove(at);
                }
            }
            Self::Many(all) => {
                all.remove(end);
                if all.len() < FEW / 2 {
                    *self = Self::Few(std::mem::take(all).into_iter().collect());
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &(K, ProgramId)> {
        let (few, many) = match self {
            Self::Few(all) => (all.as_slice(), None),
            Self::Many(all) => (&[][..], Some(all)),
        };
        few.iter().chain(many.into_iter().flatten())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl<K: Bits + ?Sized> Default for Ranges<K> {
    fn default() -> Self {
        Self { levels: Vec::new(), hashing: DefaultHashBuilder::default() }
    }
}

impl<K: Bits + ?Sized> Ranges<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Adds an interval; one that ends before it starts contains nothing.
    pub(super) fn insert(&mut self, start: &K, stop: &K, program: ProgramId) {
        if start > stop {
            return;
        }
        let at = start.first_difference(stop);
        let level = self.levels.binary_search_by_key(&at, |(at, _)| *at).unwrap_or_else(|level| {
            self.levels.insert(level, (at, Shards::default()));
            level
        });
        let hashing = &self.hashing;
        let hash = |node: &Node<K::Owned>| node.sample().map_or(0, |key| key.borrow().hash_before(at, hashing));
        let nodes = &mut self.levels[level].1;
        let make = || Node { by_start: Sorted::default(), by_stop: Sorted::default() };
        let node = nodes.find_or_insert(start.hash_before(at, hashing), |node| is_at(node, start, at), make, hash);
        node.by_start.insert((start.to_owned(), program));
        node.by_stop.insert((stop.to_owned(), program));
    }

    /// Takes an interval out that was added with these ends.
    pub(super) fn remove(&mut self, start: &K, stop: &K, program: ProgramId) {
        if start > stop {
            return;
        }
        let at = start.first_difference(stop);
        let Ok(level) = self.levels.binary_search_by_key(&at, |(at, _)| *at) else { return };
        let nodes = &mut self.levels[level].1;
        let is_over = |node: &mut Node<K::Owned>| {
            node.by_start.remove(&(start.to_owned(), program));
            node.by_stop.remove(&(stop.to_owned(), program));
            node.by_start.is_empty()
        };
        nodes.change(start.hash_before(at, &self.hashing), |node| is_at(node, start, at), is_over);
        if nodes.is_empty() {
            self.levels.remove(level);
        }
    }

    /// Calls `found` with the program of each interval that contains the key.
    #[inline]
    pub(super) fn stab(&self, key: &K, found: &mut impl FnMut(ProgramId)) {
        for (at, nodes) in &self.levels {
            let Some(node) = nodes.find(key.hash_before(*at, &self.hashing), |node| is_at(node, key, *at)) else {
                continue;
            };
            if key.bit(*at) {
                let inside = node.by_stop.iter().rev().take_while(|(stop, _)| stop.borrow() >= key);
                inside.for_each(|(_, program)| found(*program));
            } else {
                let inside = node.by_start.iter().take_while(|(start, _)| start.borrow() <= key);
                inside.for_each(|(_, program)| found(*program));
            }
        }
    }
}

/// Whether this is the node for a key's bits before a bit.
#[inline]
fn is_at<K: Bits + ?Sized>(node: &Node<K::Owned>, key: &K, at: u32) -> bool {
    node.sample().is_some_and(|sample| sample.borrow().first_difference(key) >= at)
}

/// Whether two ends are one but for zeros behind them.
pub(super) fn are_one(start: &[u8], stop: &[u8]) -> bool {
    start.first_difference(stop) == NO_DIFFERENCE
}

/// The end of all texts that begin with this one: no text has such a byte.
pub(super) fn after_prefix(prefix: &str) -> Box<[u8]> {
    [prefix.as_bytes(), &[0xff]].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn agree<K: Bits + ?Sized>(
        intervals: &[(K::Owned, K::Owned, bool)],
        keys: &[K::Owned],
    ) -> Result<(), TestCaseError> {
        let mut ranges = Ranges::<K>::default();
        for (number, (start, stop, _)) in intervals.iter().enumerate() {
            ranges.insert(start.borrow(), stop.borrow(), ProgramId(number as u32));
        }
        for (number, (start, stop, stays)) in intervals.iter().enumerate() {
            if !stays {
                ranges.remove(start.borrow(), stop.borrow(), ProgramId(number as u32));
            }
        }
        for key in keys.iter().chain(intervals.iter().flat_map(|(start, stop, _)| [start, stop])) {
            let mut found = Vec::new();
            ranges.stab(key.borrow(), &mut |subscription| found.push(subscription.0));
            found.sort_unstable();
            let inside =
                intervals.iter().enumerate().filter(|(_, (start, stop, stays))| *stays && start <= key && key <= stop);
            let expected: Vec<u32> = inside.map(|(number, _)| number as u32).collect();
            prop_assert_eq!(found, expected, "{:?}", key);
        }
        for (number, (start, stop, stays)) in intervals.iter().enumerate() {
            if *stays {
                ranges.remove(start.borrow(), stop.borrow(), ProgramId(number as u32));
            }
        }
        prop_assert!(ranges.is_empty());
        Ok(())
    }

    /// Without zeros at the end: such a text is filed with the one before it.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => proptest::sample::select(vec![b'a', b'b', 0xff]), 1 => 1_u8..];
        vec(byte, 0..5)
    }

    proptest! {
        #[test]
        fn exactly_the_intervals_around_a_text_are_found(
            intervals in vec((text(), text(), any::<bool>()), 0..60), keys in vec(text(), 0..20),
        ) {
            agree::<[u8]>(&intervals, &keys)?;
        }
    }
}
