//! Spans: which of many intervals of numbers a number lies in.
//!
//! The same tree as in `ranges`, over digits of four bits: an interval is filed under the digits that its two
//! ends share, at the first digit in which they differ. A look-up costs a probe for each digit position
//! in use, of which there are at most 17 and seldom more than six, and its matches. What is filed at a node is searched as it
//! stands while it is little; when it is more it fans out by that digit: a number takes those that begin in its
//! own digit at or below it, those that end in its own digit at or above it, and all that begin before and end
//! after that digit. Insertion and removal touch one node, and nothing is balanced or rebuilt.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::ProgramId;
use super::ranges::Sorted;
use super::shards::Shards;

/// Digits in a key.
const DIGITS: u32 = 16;

/// A set of intervals between keys, both ends included, each of a program.
#[derive(Default, Debug)]
pub(super) struct Spans {
    /// Where two ends differ first, and what is filed there; in order. Past the last digit they are equal.
    levels: Vec<(u32, Shards<Node>)>,
    hashing: DefaultHashBuilder,
}

#[derive(Debug)]
struct Node {
    /// The digits before.
    prefix: u64,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Few(Vec<Span>),
    Many(Box<Fan>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    start: u64,
    stop: u64,
    program: ProgramId,
}

/// Intervals by their digits.
#[derive(Default, Debug)]
struct Fan([Rib; DIGITS as usize]);

/// What a number with this digit has to look at.
#[derive(Default, Debug)]
struct Rib {
    /// Those that begin here.
    begin: Sorted<u64>,
    /// Those that end here.
    end: Sorted<u64>,
    /// Those that begin before and end after.
    pass: BTreeSet<ProgramId>,
}

/// More than these fan out.
const FEW: usize = 48;

#[inline]
fn level_of(start: u64, stop: u64) -> u32 {
    (start ^ stop).leading_zeros() / 4
}

#[inline]
fn prefix(key: u64, level: u32) -> u64 {
    key.checked_shr(64 - 4 * level).unwrap_or(0)
}

/// The digit at a level; past the last there is but one.
#[inline]
fn digit(key: u64, level: u32) -> usize {
    60_u32.checked_sub(4 * level).map_or(0, |shift| (key >> shift) as usize % 16)
}

impl Spans {
    pub(super) fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// Adds an interval; one that ends before it starts contains nothing.
    pub(super) fn insert(&mut self, start: u64, stop: u64, program: ProgramId) {
        if start > stop {
            return;
        }
        let level = level_of(start, stop);
        let at = self.levels.binary_search_by_key(&level, |(level, _)| *level).unwrap_or_else(|at| {
            self.levels.insert(at, (level, Shards::default()));
            at
        });
        let (prefix, hashing) = (prefix(start, level), &self.hashing);
        let is = |node: &Node| node.prefix == prefix;
        let make = || Node { prefix, held: Held::Few(Vec::new()) };
        let hash_of = |node: &Node| hashing.hash_one(node.prefix);
        let node = self.levels[at].1.find_or_insert(hashing.hash_one(prefix), is, make, hash_of);
        node.held.insert(Span { start, stop, program }, level);
    }

    /// Takes an interval out that was added with these ends.
    pub(super) fn remove(&mut self, start: u64, stop: u64, program: ProgramId) {
        if start > stop {
            return;
        }
        let level = level_of(start, stop);
        let Ok(at) = self.levels.binary_search_by_key(&level, |(level, _)| *level) else { return };
        let (prefix, nodes) = (prefix(start, level), &mut self.levels[at].1);
        let is = |node: &Node| node.prefix == prefix;
        let is_over = |node: &mut Node| node.held.remove(Span { start, stop, program }, level);
        nodes.change(self.hashing.hash_one(prefix), is, is_over);
        if nodes.is_empty() {
            self.levels.remove(at);
        }
    }

    /// Calls `found` with the program of each interval that contains the key.
    #[inline]
    pub(super) fn stab(&self, key: u64, found: &mut impl FnMut(ProgramId)) {
        for (level, nodes) in &self.levels {
            let prefix = prefix(key, *level);
            let Some(node) = nodes.find(self.hashing.hash_one(prefix), |node| node.prefix == prefix) else { continue };
            match &node.held {
                Held::Few(spans) => {
                    let inside = spans.iter().filter(|span| span.start <= key && key <= span.stop);
                    inside.for_each(|span| found(span.program));
                }
                Held::Many(fan) => fan.0[digit(key, *level)].stab(key, found),
            }
        }
    }
}

impl Held {
    fn insert(&mut self, span: Span, level: u32) {
        match self {
            Self::Many(fan) => fan.insert(span, level),
            Self::Few(spans) if spans.contains(&span) => {}
            Self::Few(spans) if spans.len() < FEW => {
                // Most nodes have one: a vector's own choice would be four.
                spans.reserve_exact(if spans.len() < 4 { 1 } else { spans.len() / 2 });
                spans.push(span);
            }
            Self::Few(spans) => {
                let mut fan = Box::<Fan>::default();
                spans.iter().chain([&span]).for_each(|span| fan.insert(*span, level));
                *self = Self::Many(fan);
            }
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, span: Span, level: u32) -> bool {
        match self {
            Self::Few(spans) => {
                if let Some(at) = spans.iter().position(|known| *known == span) {
                    spans.swap_remove(at);
                }
                spans.is_empty()
            }
            Self::Many(fan) => {
                fan.remove(span, level);
                // Nothing passes that does not begin.
                fan.0.iter().all(|rib| rib.begin.is_empty() && rib.end.is_empty())
            }
        }
    }
}

impl Fan {
    fn insert(&mut self, span: Span, level: u32) {
        let (first, last) = (digit(span.start, level), digit(span.stop, level));
        self.0[first].begin.insert((span.start, span.program));
        self.0[last].end.insert((span.stop, span.program));
        for rib in self.0[first..last].iter_mut().skip(1) {
            rib.pass.insert(span.program);
        }
    }

    fn remove(&mut self, span: Span, level: u32) {
        let (first, last) = (digit(span.start, level), digit(span.stop, level));
        self.0[first].begin.remove(&(span.start, span.program));
        self.0[last].end.remove(&(span.stop, span.program));
        for rib in self.0[first..last].iter_mut().skip(1) {
            rib.pass.remove(&span.program);
        }
    }
}

impl Rib {
    /// What begins and ends here both is at the last level, where all keys are equal; found twice, it is found.
    fn stab(&self, key: u64, found: &mut impl FnMut(ProgramId)) {
        self.begin.iter().take_while(|(start, _)| *start <= key).for_each(|(_, program)| found(*program));
        self.end.iter().rev().take_while(|(stop, _)| *stop >= key).for_each(|(_, program)| found(*program));
        self.pass.iter().for_each(|program| found(*program));
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (-20_i64..20).prop_map(|n| number_key(n as f64).expect("a number")),
            2 => any::<f64>().prop_filter_map("a number", number_key),
            1 => any::<u64>(),
            1 => proptest::sample::select(vec![0, u64::MAX, 1 << 63]),
        ]
    }

    proptest! {
        /// Enough of them to fan out, in few enough places.
        #[test]
        fn exactly_the_intervals_around_a_number_are_found(
            intervals in vec((number(), number(), any::<bool>()), 0..300), keys in vec(number(), 0..20),
        ) {
            let mut spans = Spans::default();
            for (number, (start, stop, _)) in intervals.iter().enumerate() {
                spans.insert(*start, *stop, ProgramId(number as u32));
            }
            for (number, (start, stop, stays)) in intervals.iter().enumerate() {
                if !stays {
                    spans.remove(*start, *stop, ProgramId(number as u32));
                }
            }
            for key in keys.iter().chain(intervals.iter().flat_map(|(start, stop, _)| [start, stop])) {
                let mut found = Vec::new();
                spans.stab(*key, &mut |program| found.push(program.0));
                found.sort_unstable();
                found.dedup();
                let is_inside = |(_, (start, stop, stays)): &(usize, &(u64, u64, bool))| *stays && start <= key && key <= stop;
                let inside = intervals.iter().enumerate().filter(is_inside);
                let expected: Vec<u32> = inside.map(|(number, _)| number as u32).collect();
                prop_assert_eq!(found, expected, "{:?}", key);
            }
            for (number, (start, stop, stays)) in intervals.iter().enumerate() {
                if *stays {
                    spans.remove(*start, *stop, ProgramId(number as u32));
                }
            }
            prop_assert!(spans.is_empty());
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
