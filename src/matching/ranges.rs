//! Ranges: which of many intervals a value lies in.
//!
//! A key is a string of bits that sorts like the values it stands for. An interval is filed under the
//! bits that its two ends share, at the first bit in which they differ: all that lies between them
//! begins with those bits, too. A value looks, at each bit position that is in use, under its own bits
//! before it; if its bit there is 0 it lies below the upper end of everything filed there, and is inside
//! of those that start at or below it; if it is 1, of those that stop at or above it. So two sorted sets
//! a node give exactly the intervals that contain the value, and nothing is balanced or rebuilt.
//!
//! This is the interval tree of Edelsbrunner (1980) over the fixed tree of binary digits, with a hash
//! table in the place of its pointers. A look-up costs a probe for each bit position in use, and its
//! matches; insertion and removal touch one node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::SubscriptionIndex;

/// A string of bits that sorts like what it stands for.
pub(super) trait Bits: Ord + Clone + Debug {
    /// Its first bits; what is left of its last part is 0.
    type Prefix: std::hash::Hash + Eq + Debug;

    /// The first bit in which two keys differ; past the end of both if they do not.
    fn first_difference(&self, other: &Self) -> u32;

    /// One bit; 0 past the end.
    fn bit(&self, at: u32) -> bool;

    /// The bits before this one.
    fn prefix(&self, before: u32) -> Self::Prefix;
}

impl Bits for u64 {
    type Prefix = u64;

    fn first_difference(&self, other: &Self) -> u32 {
        (self ^ other).leading_zeros()
    }

    fn bit(&self, at: u32) -> bool {
        at < u64::BITS && (self >> (u64::BITS - 1 - at)) & 1 == 1
    }

    fn prefix(&self, before: u32) -> u64 {
        self.checked_shr(u64::BITS - before).unwrap_or(0)
    }
}

/// Past the end of every text.
const NO_DIFFERENCE: u32 = u32::MAX;

impl Bits for Box<[u8]> {
    type Prefix = Box<[u8]>;

    fn first_difference(&self, other: &Self) -> u32 {
        let byte = |text: &Self, at: usize| text.get(at).copied().unwrap_or(0);
        let differing = (0..self.len().max(other.len())).find(|at| byte(self, *at) != byte(other, *at));
        differing.map_or(NO_DIFFERENCE, |at| {
            let differing = byte(self, at) ^ byte(other, at);
            u32::try_from(at).map_or(NO_DIFFERENCE, |at| at * 8 + differing.leading_zeros())
        })
    }

    fn bit(&self, at: u32) -> bool {
        self.get((at / 8) as usize).is_some_and(|byte| (byte >> (7 - at % 8)) & 1 == 1)
    }

    fn prefix(&self, before: u32) -> Box<[u8]> {
        let whole = self.len().min((before / 8) as usize);
        let mut bits = self[..whole].to_vec();
        if let (Some(byte), 1..) = (self.get(whole), before % 8) {
            bits.push(byte & !(0xff >> (before % 8)));
        }
        // Texts end in zeros without end.
        while bits.last() == Some(&0) {
            bits.pop();
        }
        bits.into()
    }
}

/// A set of intervals, both ends included, each of a subscription.
#[derive(Debug)]
pub(super) struct Ranges<K: Bits> {
    nodes: HashMap<(u32, K::Prefix), Node<K>, FxBuildHasher>,
    /// How many nodes there are at each bit position in use.
    in_use: BTreeMap<u32, usize>,
}

#[derive(Debug)]
struct Node<K> {
    by_start: BTreeSet<(K, SubscriptionIndex)>,
    by_stop: BTreeSet<(K, SubscriptionIndex)>,
}

impl<K: Bits> Default for Ranges<K> {
    fn default() -> Self {
        Self { nodes: HashMap::default(), in_use: BTreeMap::new() }
    }
}

impl<K: Bits> Ranges<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds an interval; one that ends before it starts contains nothing.
    pub(super) fn insert(&mut self, start: &K, stop: &K, subscription: SubscriptionIndex) {
        if start > stop {
            return;
        }
        let at = start.first_difference(stop);
        let node = self.nodes.entry((at, start.prefix(at))).or_insert_with(|| {
            *self.in_use.entry(at).or_default() += 1;
            Node { by_start: BTreeSet::new(), by_stop: BTreeSet::new() }
        });
        node.by_start.insert((start.clone(), subscription));
        node.by_stop.insert((stop.clone(), subscription));
    }

    /// Takes an interval out that was added with these ends.
    pub(super) fn remove(&mut self, start: &K, stop: &K, subscription: SubscriptionIndex) {
        if start > stop {
            return;
        }
        let at = start.first_difference(stop);
        let key = (at, start.prefix(at));
        let Some(node) = self.nodes.get_mut(&key) else { return };
        node.by_start.remove(&(start.clone(), subscription));
        node.by_stop.remove(&(stop.clone(), subscription));
        if node.by_start.is_empty() {
            self.nodes.remove(&key);
            if let Some(count) = self.in_use.get_mut(&at) {
                *count -= 1;
                if *count == 0 {
                    self.in_use.remove(&at);
                }
            }
        }
    }

    /// Calls `found` with the subscription of each interval that contains the key.
    pub(super) fn stab(&self, key: &K, found: &mut impl FnMut(SubscriptionIndex)) {
        for at in self.in_use.keys() {
            let Some(node) = self.nodes.get(&(*at, key.prefix(*at))) else { continue };
            if key.bit(*at) {
                let from = (key.clone(), SubscriptionIndex(0));
                node.by_stop.range(from..).for_each(|(_, subscription)| found(*subscription));
            } else {
                let to = (key.clone(), SubscriptionIndex(u32::MAX));
                node.by_start.range(..=to).for_each(|(_, subscription)| found(*subscription));
            }
        }
    }
}

/// A number as a key: doubles in their order, with one zero; `None` for NaN, which has none.
pub(super) fn number_key(number: f64) -> Option<u64> {
    const SIGN: u64 = 1 << 63;
    if number.is_nan() {
        return None;
    }
    let bits = (number + 0.0).to_bits();
    Some(if bits & SIGN == 0 { bits | SIGN } else { !bits })
}

/// Milliseconds as a key.
pub(super) const fn time_key(milliseconds: i64) -> u64 {
    milliseconds.cast_unsigned() ^ (1 << 63)
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

    fn agree<K: Bits>(intervals: &[(K, K, bool)], keys: &[K]) -> Result<(), TestCaseError> {
        let mut ranges = Ranges::default();
        for (number, (start, stop, _)) in intervals.iter().enumerate() {
            ranges.insert(start, stop, SubscriptionIndex(number as u32));
        }
        for (number, (start, stop, stays)) in intervals.iter().enumerate() {
            if !stays {
                ranges.remove(start, stop, SubscriptionIndex(number as u32));
            }
        }
        for key in keys.iter().chain(intervals.iter().flat_map(|(start, stop, _)| [start, stop])) {
            let mut found = Vec::new();
            ranges.stab(key, &mut |subscription| found.push(subscription.0));
            found.sort_unstable();
            let inside =
                intervals.iter().enumerate().filter(|(_, (start, stop, stays))| *stays && start <= key && key <= stop);
            let expected: Vec<u32> = inside.map(|(number, _)| number as u32).collect();
            prop_assert_eq!(found, expected, "{:?}", key);
        }
        for (number, (start, stop, stays)) in intervals.iter().enumerate() {
            if *stays {
                ranges.remove(start, stop, SubscriptionIndex(number as u32));
            }
        }
        prop_assert!(ranges.is_empty() && ranges.in_use.is_empty());
        Ok(())
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (-20_i64..20).prop_map(|n| number_key(n as f64).expect("a number")),
            2 => any::<f64>().prop_filter_map("a number", number_key),
            1 => any::<u64>(),
            1 => proptest::sample::select(vec![0, u64::MAX, 1 << 63]),
        ]
    }

    /// Without zeros at the end: such a text is filed with the one before it.
    fn text() -> impl Strategy<Value = Box<[u8]>> {
        let byte = prop_oneof![4 => proptest::sample::select(vec![b'a', b'b', 0xff]), 1 => 1_u8..];
        vec(byte, 0..5).prop_map(Vec::into_boxed_slice)
    }

    proptest! {
        #[test]
        fn exactly_the_intervals_around_a_number_are_found(
            intervals in vec((number(), number(), any::<bool>()), 0..60), keys in vec(number(), 0..20),
        ) {
            agree(&intervals, &keys)?;
        }

        #[test]
        fn exactly_the_intervals_around_a_text_are_found(
            intervals in vec((text(), text(), any::<bool>()), 0..60), keys in vec(text(), 0..20),
        ) {
            agree(&intervals, &keys)?;
        }

        #[test]
        fn number_keys_sort_like_numbers(a in any::<f64>(), b in any::<f64>()) {
            let (Some(x), Some(y)) = (number_key(a), number_key(b)) else { return Ok(()) };
            prop_assert_eq!(a.partial_cmp(&b), Some(x.cmp(&y)));
        }

        #[test]
        fn time_keys_sort_like_times(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(a.cmp(&b), time_key(a).cmp(&time_key(b)));
        }
    }

    #[test]
    fn the_two_zeros_are_one() {
        assert_eq!(number_key(0.0), number_key(-0.0));
        assert_eq!(number_key(f64::NAN), None);
        assert!(
            number_key(f64::NEG_INFINITY) < number_key(f64::MIN) && number_key(f64::MAX) < number_key(f64::INFINITY)
        );
    }
}
