//! Spans: which of many intervals of numbers a number lies in.
//!
//! A segment tree (Bentley 1977) over digits of four bits that grows only where intervals end: an interval is kept with each
//! run of digits that it contains whole, and beyond those in the two leaves that its ends are in. A leaf keeps its
//! intervals as they come while they are few, and is divided by the next digit when they are more. A look-up goes down
//! along the number's digits, one line of memory for each, takes all that is kept with a run that its digit is in,
//! and looks through one leaf. Insertion and removal touch the two ways to the ends; nothing is balanced, copied or rebuilt.

use super::ProgramId;
use super::ids::Ids;
use super::programs::Lead;

/// Digits have four bits.
const DIGITS: usize = 16;
/// More than these in a leaf are divided.
const FEW: usize = 32;

/// A set of intervals between keys, both ends included, each of a program.
#[derive(Default, Debug)]
pub(super) struct Spans {
    root: Place,
}

/// All keys that begin with some digits, and the intervals that have an end there.
#[derive(Debug)]
enum Place {
    Leaf(Vec<Span>),
    Fork(Box<Fork>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    start: u64,
    stop: u64,
    lead: Lead,
}

impl Span {
    /// Whether it is the same program's.
    fn is_of(self, other: Self) -> bool {
        (self.start, self.stop, self.lead.program) == (other.start, other.stop, other.lead.program)
    }
}

/// A place divided by the next digit.
#[derive(Default, Debug)]
struct Fork {
    /// Which runs of digits have something, a bit for each.
    kept: u32,
    /// What contains all keys of a run and not of a longer one, in order of the runs.
    runs: Vec<(u8, Ids)>,
    places: [Place; DIGITS],
}

/// The keys that begin with as many digits as the level says, of which the lowest is `low`.
#[derive(Clone, Copy, Debug)]
struct Region {
    low: u64,
    level: u32,
}

impl Region {
    const ALL: Self = Self { low: 0, level: 0 };

    fn high(self) -> u64 {
        self.low | u64::MAX.checked_shr(4 * self.level).unwrap_or(0)
    }

    /// The part with this next digit.
    fn part(self, digit: usize) -> Self {
        Self { low: self.low | (digit as u64) << (60 - 4 * self.level), level: self.level + 1 }
    }

    fn is_in(self, span: Span) -> bool {
        span.start <= self.low && self.high() <= span.stop
    }

    /// The first and the last digit that an interval touches.
    fn touched(self, span: Span) -> (usize, usize) {
        (digit(span.start.max(self.low), self.level), digit(span.stop.min(self.high()), self.level))
    }

    /// The parts that an interval has an end in, and the digits of those that it contains whole.
    fn divide(self, span: Span) -> (impl Iterator<Item = usize>, std::ops::Range<usize>) {
        let (first, last) = self.touched(span);
        let is_cut = |at: usize| !self.part(at).is_in(span);
        let (starts, stops) = (is_cut(first), is_cut(last));
        let ends = starts.then_some(first).into_iter().chain((stops && last != first).then_some(last));
        (ends, first + usize::from(starts)..(last + usize::from(!stops)).max(first + usize::from(starts)))
    }
}

#[inline]
fn digit(key: u64, level: u32) -> usize {
    (key >> (60 - 4 * level)) as usize % DIGITS
}

/// The fewest runs that make up some digits. A run is a node of the binary tree over all digits, 1 its root; the two below
/// a node `n` are `2n` and `2n + 1`.
fn runs(digits: std::ops::Range<usize>) -> impl Iterator<Item = u8> {
    let (mut start, mut stop) = (digits.start + DIGITS, digits.end + DIGITS);
    let next = move || {
        while start < stop {
            if start % 2 == 1 {
                start += 1;
                return Some((start - 1) as u8);
            }
            if stop % 2 == 1 {
                stop -= 1;
                return Some(stop as u8);
            }
            (start, stop) = (start / 2, stop / 2);
        }
        None
    };
    std::iter::from_fn(next)
}

/// The runs that a digit is in, a bit for each.
const RUNS_OF: [u32; DIGITS] = {
    let mut of = [0; DIGITS];
    let mut digit = 0;
    while digit < DIGITS {
        let mut run = digit + DIGITS;
        while run > 0 {
            of[digit] |= 1 << run;
            run /= 2;
        }
        digit += 1;
    }
    of
};

impl Default for Place {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl Spans {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds an interval; one that ends before it starts contains nothing.
    pub(super) fn insert(&mut self, start: u64, stop: u64, lead: Lead) {
        if start <= stop {
            self.root.insert(Region::ALL, Span { start, stop, lead });
        }
    }

    /// Takes an interval out that was added with these ends.
    pub(super) fn remove(&mut self, start: u64, stop: u64, program: ProgramId) {
        if start <= stop {
            self.root.remove(Region::ALL, Span { start, stop, lead: Lead::to(program) });
        }
    }

    /// Goes down to the leaf that the key is in, and calls `found` with what the intervals on the way lead to, which contain it.
    #[inline]
    pub(super) fn descend(&self, key: u64, found: &mut impl FnMut(Lead)) -> Leaf<'_> {
        let (mut place, mut level) = (&self.root, 0);
        loop {
            match place {
                Place::Fork(fork) => {
                    let digit = digit(key, level);
                    let runs = fork.kept & RUNS_OF[digit];
                    if runs != 0 {
                        let found_in =
                            |(_, programs): &(u8, Ids)| programs.each(|program| found(Lead::to(ProgramId(program))));
                        fork.runs.iter().filter(|(run, _)| runs & 1 << run != 0).for_each(found_in);
                    }
                    (place, level) = (&fork.places[digit], level + 1);
                }
                Place::Leaf(spans) => return Leaf { spans, key },
            }
        }
    }
}

/// What a key was led to.
pub(super) struct Leaf<'a> {
    spans: &'a [Span],
    key: u64,
}

impl Leaf<'_> {
    /// Fetches what is looked at first, for it to be at hand later.
    #[inline]
    pub(super) fn fetch(&self) {
        std::hint::black_box(self.spans.first().map(|span| span.start));
    }

    /// Calls `found` with what those intervals lead to that contain the key.
    #[inline]
    pub(super) fn stab(&self, found: &mut impl FnMut(Lead)) {
        // Which of them do nobody can foresee, a processor neither.
        let (mut inside, mut count) = ([Lead::to(ProgramId(0)); FEW], 0);
        for span in self.spans.iter().take(FEW) {
            inside[count] = span.lead;
            count += usize::from(span.start <= self.key && self.key <= span.stop);
        }
        inside[..count].iter().for_each(|lead| found(*lead));
    }
}

impl Place {
    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(spans) => spans.is_empty(),
            Self::Fork(_) => false,
        }
    }

    /// Adds an interval that has something of this region.
    fn insert(&mut self, region: Region, span: Span) {
        match self {
            Self::Fork(fork) => fork.insert(region, span),
            Self::Leaf(spans) if spans.len() < FEW => {
                if let Some(known) = spans.iter_mut().find(|known| known.is_of(span)) {
                    *known = span;
                    return;
                }
                // Most have few: a vector's own choice would be four.
                spans.reserve_exact(if spans.len() < 4 { 1 } else { spans.len() / 2 });
                spans.push(span);
            }
            Self::Leaf(spans) => {
                let mut fork = Box::<Fork>::default();
                spans.iter().chain([&span]).for_each(|span| fork.insert(region, *span));
                *self = Self::Fork(fork);
            }
        }
    }

    fn remove(&mut self, region: Region, span: Span) {
        match self {
            Self::Leaf(spans) => {
                if let Some(at) = spans.iter().position(|known| known.is_of(span)) {
                    spans.swap_remove(at);
                }
                if spans.is_empty() {
                    *spans = Vec::new();
                }
            }
            Self::Fork(fork) => {
                fork.remove(region, span);
                if fork.kept == 0 && fork.places.iter().all(Self::is_empty) {
                    *self = Self::default();
                }
            }
        }
    }
}

impl Fork {
    fn insert(&mut self, region: Region, span: Span) {
        let (ends, whole) = region.divide(span);
        ends.for_each(|digit| self.places[digit].insert(region.part(digit), span));
        for run in runs(whole) {
            match self.runs.binary_search_by_key(&run, |(run, _)| *run) {
                Ok(at) => self.runs[at].1.insert(span.lead.program.0),
                Err(at) => {
                    self.runs.reserve_exact(1);
                    self.runs.insert(at, (run, Ids::one(span.lead.program.0)));
                }
            }
            self.kept |= 1 << run;
        }
    }

    fn remove(&mut self, region: Region, span: Span) {
        let (ends, whole) = region.divide(span);
        ends.for_each(|digit| self.places[digit].remove(region.part(digit), span));
        for run in runs(whole) {
            if let Ok(at) = self.runs.binary_search_by_key(&run, |(run, _)| *run)
                && self.runs[at].1.remove(span.lead.program.0)
            {
                self.runs.remove(at);
                self.kept &= !(1 << run);
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
                spans.insert(*start, *stop, Lead::to(ProgramId(number as u32)));
            }
            for (number, (start, stop, stays)) in intervals.iter().enumerate() {
                if !stays {
                    spans.remove(*start, *stop, ProgramId(number as u32));
                }
            }
            for key in keys.iter().chain(intervals.iter().flat_map(|(start, stop, _)| [start, stop])) {
                let mut found = Vec::new();
                let mut found_one = |lead: Lead| found.push(lead.program.0);
                spans.descend(*key, &mut found_one).stab(&mut found_one);
                found.sort_unstable();
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
