//! The window: the recent changes that a partition's owner keeps in memory.
//!
//! Owns the promise that everything after `start` up to the loop's position is here. Knows nothing of
//! who needs it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::body::SharedChange;
use crate::position::Position;
use crate::source::Gap;

/// A change or a gap, in its place.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Change(Arc<SharedChange>),
    /// And whether it is the last at its position: one event may concern two scopes.
    Gap(Arc<Gap>, bool),
}

impl Entry {
    pub(super) fn position(&self) -> Position {
        match self {
            Self::Change(change) => change.position,
            Self::Gap(gap, _) => gap.position,
        }
    }

    /// With the encoded forms that it keeps by now.
    fn size_bytes(&self) -> usize {
        match self {
            Self::Change(change) => change.size_bytes() + change.encoded_bytes(),
            Self::Gap(..) => 128,
        }
    }
}

/// Sessions encode what they deliver, and the forms stay with the change. So an entry is measured again
/// when so many others have come: live sessions encode at once, catch-ups at any age.
const MEASURED_AGAIN_AFTER: [usize; 6] = [256, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18];

/// The most recent entries within a budget of bytes.
#[derive(Debug)]
pub(super) struct Window {
    /// With the bytes that each was found to take.
    entries: VecDeque<(Entry, usize)>,
    start: Position,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    /// An empty window that begins at `start`.
    pub(super) fn new(start: Position, bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), start, bytes: 0, bytes_max }
    }

    /// Everything after this is here.
    pub(super) fn start(&self) -> Position {
        self.start
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends an entry and evicts what no longer fits.
    pub(super) fn push(&mut self, entry: Entry) {
        let bytes = entry.size_bytes();
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        for after in MEASURED_AGAIN_AFTER {
            let Some(number) = self.entries.len().checked_sub(after + 1) else { break };
            self.measure(number);
        }
        while self.bytes > self.bytes_max {
            let Some((evicted, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            self.start = self.start.max(evicted.position());
        }
    }

    fn measure(&mut self, number: usize) {
        if let Some((entry, bytes)) = self.entries.get_mut(number) {
            let now = entry.size_bytes();
            self.bytes = self.bytes - *bytes + now;
            *bytes = now;
        }
    }

    /// Forgets everything and begins anew.
    pub(super) fn restart(&mut self, start: Position) {
        *self = Self::new(start, self.bytes_max);
    }

    /// Whether everything after `position` is here.
    pub(super) fn reaches(&self, position: Position) -> bool {
        position >= self.start
    }

    /// The entries after `position`, at most `count` and what shares the last one's position.
    pub(super) fn after(&self, position: Position, count: usize) -> impl Iterator<Item = &Entry> {
        let from = self.entries.partition_point(|(entry, _)| entry.position() <= position);
        let mut left = count;
        let mut is_amidst = false;
        self.entries.range(from..).map(|(entry, _)| entry).take_while(move |entry| {
            let takes = left > 0 || is_amidst;
            left = left.saturating_sub(1);
            is_amidst = takes && matches!(entry, Entry::Gap(_, false));
            takes
        })
    }

    /// The earliest position after which there are no more than so many bytes.
    pub(super) fn last(&self, bytes_max: usize) -> Position {
        let mut left = bytes_max;
        for (entry, bytes) in self.entries.iter().rev() {
            match left.checked_sub(*bytes) {
                Some(rest) => left = rest,
                None => return entry.position(),
            }
        }
        self.start
    }

    /// How many entries lie after `position`.
    pub(super) fn count_after(&self, position: Position) -> usize {
        self.entries.len() - self.entries.partition_point(|(entry, _)| entry.position() <= position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::body::Format;
    use crate::delivery::testing::{change, delivery, position};

    #[test]
    fn encoded_forms_count_and_are_evicted_with_their_change() {
        let mut window = Window::new(position(0), usize::MAX);
        let mut kept = Vec::new();
        for ordinal in 1..=600 {
            let shared = Arc::new(SharedChange::new(change(ordinal)));
            kept.push(Arc::clone(&shared));
            window.push(Entry::Change(shared));
        }
        let (raw, one) = (window.bytes(), kept[0].size_bytes());
        assert_eq!(raw, 600 * one);
        let mut encoded = delivery(1, change(1));
        for shared in &kept {
            encoded.change = Arc::clone(shared);
            encoded.bodies(Format::Json);
        }
        let more = kept[0].encoded_bytes();
        assert!(more > 0);
        for ordinal in 601..=2_000 {
            window.push(Entry::Change(Arc::new(SharedChange::new(change(ordinal)))));
        }
        assert_eq!(window.bytes(), 2_000 * one + 600 * more);
        window.bytes_max = 0;
        window.push(Entry::Change(Arc::new(SharedChange::new(change(2_001)))));
        assert_eq!((window.bytes(), window.start()), (0, position(2_001)));
    }
}
