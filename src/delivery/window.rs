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
    Gap(Arc<Gap>),
}

impl Entry {
    pub(super) fn position(&self) -> Position {
        match self {
            Self::Change(change) => change.position,
            Self::Gap(gap) => gap.position,
        }
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Change(change) => change.size_bytes(),
            Self::Gap(_) => 128,
        }
    }
}

/// The most recent entries within a budget of bytes.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
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
        self.bytes += entry.size_bytes();
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max {
            let Some(evicted) = self.entries.pop_front() else { break };
            self.bytes -= evicted.size_bytes();
            self.start = self.start.max(evicted.position());
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

    /// The entries after `position`, at most `count`.
    pub(super) fn after(&self, position: Position, count: usize) -> impl Iterator<Item = &Entry> {
        let from = self.entries.partition_point(|entry| entry.position() <= position);
        self.entries.range(from..).take(count)
    }

    /// How many entries lie after `position`.
    pub(super) fn count_after(&self, position: Position) -> usize {
        self.entries.len() - self.entries.partition_point(|entry| entry.position() <= position)
    }
}
