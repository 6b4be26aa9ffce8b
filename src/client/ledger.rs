//! The ack rule: which cursor may be acked when the application has taken how much.
//!
//! A cursor acks everything that its session sent before it. So it is free once the application has
//! taken everything that had been handed over when the cursor arrived; this holds alike for changes that
//! were handed over, for those that were dropped as duplicates, and for progress. Owns that order and
//! nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

/// A cursor and the connection it came by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// Counts this client's connections from 1; 0 is a saved state's.
    pub(super) connection: u64,
    pub(super) text: Arc<str>,
}

/// Cursors that wait for the application, oldest first.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    handed: u64,
    taken: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Free once so many have been taken.
    needs: u64,
    place: Place,
}

impl Ledger {
    /// Something is handed over, at this place. Returns its number, for [`Self::take`].
    pub(super) fn hand_over(&mut self, place: Place) -> u64 {
        self.handed += 1;
        self.waiting.push_back(Waiting { needs: self.handed, place });
        self.handed
    }

    /// The session moved on to this place with nothing to hand over.
    pub(super) fn pass(&mut self, place: Place) {
        match self.waiting.back_mut() {
            // The later cursor says more, and waits for the same.
            Some(last) if last.needs == self.handed => last.place = place,
            _ => self.waiting.push_back(Waiting { needs: self.handed, place }),
        }
    }

    /// The application has taken everything up to this number.
    pub(super) fn take(&mut self, number: u64) {
        self.taken = self.taken.max(number.min(self.handed));
    }

    /// The newest cursor that has become free since the last call.
    pub(super) fn settle(&mut self) -> Option<Place> {
        let mut free = None;
        while self.waiting.front().is_some_and(|first| first.needs <= self.taken) {
            free = self.waiting.pop_front().map(|first| first.place);
        }
        free
    }

    /// Places up to now mean nothing any more: an operator moved the gateway's cursor.
    pub(super) fn void(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place { connection: 1, text: text.into() }
    }

    fn settled(ledger: &mut Ledger) -> Option<String> {
        ledger.settle().map(|place| place.text.to_string())
    }

    #[test]
    fn what_comes_after_something_untaken_waits_for_it() {
        let mut ledger = Ledger::default();
        let first = ledger.hand_over(place("a"));
        ledger.pass(place("dropped"));
        ledger.pass(place("progress"));
        assert_eq!(settled(&mut ledger), None);
        ledger.take(first);
        assert_eq!(settled(&mut ledger), Some("progress".into()));
    }

    #[test]
    fn what_comes_after_nothing_untaken_is_free_at_once() {
        let mut ledger = Ledger::default();
        ledger.pass(place("progress"));
        assert_eq!(settled(&mut ledger), Some("progress".into()));
        assert_eq!(settled(&mut ledger), None);
        assert!(ledger.waiting.is_empty());
    }

    #[test]
    fn taking_one_takes_those_before_and_none_after() {
        let mut ledger = Ledger::default();
        let numbers: Vec<_> = ["a", "b", "c"].iter().map(|text| ledger.hand_over(place(text))).collect();
        ledger.take(numbers[1]);
        assert_eq!(settled(&mut ledger), Some("b".into()));
        ledger.take(numbers[0]);
        assert_eq!(settled(&mut ledger), None, "acks never go back");
        ledger.take(99);
        assert_eq!(settled(&mut ledger), Some("c".into()));
    }

    #[test]
    fn progress_alone_needs_no_room() {
        let mut ledger = Ledger::default();
        ledger.hand_over(place("a"));
        for _ in 0..1000 {
            ledger.pass(place("progress"));
        }
        assert!(ledger.waiting.len() <= 2);
    }
}
