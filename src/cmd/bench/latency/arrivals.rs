//! When each numbered change was written and arrived.
//!
//! Owns the clock that all share. Nothing here waits for anything: readers store a number each.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Microseconds since the beginning; 0 for what has not come.
pub(super) struct Arrivals {
    began: Instant,
    first: u64,
    sent: Vec<AtomicU64>,
    raw: Vec<AtomicU64>,
    gateway: Vec<AtomicU64>,
}

/// How late one change was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    /// The raw cursor had it, after it was sent to be written.
    pub(super) raw: Duration,
    /// The gateway had it.
    pub(super) gateway: Duration,
}

impl Arrivals {
    /// For `count` changes from number `first` on.
    pub(super) fn new(first: u64, count: u64) -> Self {
        let none = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), first, sent: none(), raw: none(), gateway: none() }
    }

    pub(super) fn begin(&self) -> u64 {
        self.first
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    pub(super) fn sent(&self, numbers: Range<u64>) {
        numbers.for_each(|number| self.note(&self.sent, number, Instant::now()));
    }

    pub(super) fn raw(&self, number: u64, now: Instant) {
        self.note(&self.raw, number, now);
    }

    pub(super) fn gateway(&self, number: u64, now: Instant) {
        self.note(&self.gateway, number, now);
    }

    fn note(&self, of: &[AtomicU64], number: u64, now: Instant) {
        let Some(place) = number.checked_sub(self.first).and_then(|number| of.get(number as usize)) else { return };
        let micros = (now - self.began).as_micros() as u64;
        // What comes twice counts once.
        let _ = place.compare_exchange(0, micros.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn all_there(&self) -> bool {
        [&self.raw, &self.gateway].iter().all(|of| of.iter().rev().all(|at| at.load(Ordering::Relaxed) > 0))
    }

    pub(super) fn missing(&self) -> String {
        let missing = |of: &[AtomicU64]| of.iter().filter(|at| at.load(Ordering::Relaxed) == 0).count();
        let (raw, gateway) = (missing(&self.raw), missing(&self.gateway));
        format!("of {} changes {raw} did not come to the raw cursor, {gateway} not to their gateway", self.sent.len())
    }

    /// Of all changes but the first `skip`.
    pub(super) fn late(&self, skip: u64) -> Vec<Late> {
        let at = |of: &[AtomicU64], index: usize| Duration::from_micros(of[index].load(Ordering::Relaxed));
        let late = |index| {
            let sent = at(&self.sent, index);
            Late {
                raw: at(&self.raw, index).saturating_sub(sent),
                gateway: at(&self.gateway, index).saturating_sub(sent),
            }
        };
        (skip as usize..self.sent.len()).map(late).collect()
    }
}
