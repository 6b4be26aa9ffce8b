//! The budget of bytes that all outboxes of a partition share.
//!
//! Owns the count. An item counts with what it keeps alive: its own form, and its change's body unless the
//! window has that anyway. Knows nothing of who is cut when it is exhausted (`machine::relief`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes held by all outboxes together, and how many they may hold.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { held: AtomicUsize::new(0), bytes_max }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.held() >= self.bytes_max
    }

    /// By as much again.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.held() / 2 >= self.bytes_max
    }

    pub(super) fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether there is something to share out again because of this.
    pub(super) fn give_back(&self, bytes: usize) -> bool {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        before >= self.bytes_max && before - bytes < self.bytes_max
    }
}
