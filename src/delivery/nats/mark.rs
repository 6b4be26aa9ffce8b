//! What is stored with a gateway's cursor: what the stream had when its last message was acked.
//!
//! Owns what a stream that has gone back is compared with. Knows nothing of connections and of the store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::nats::State;
use crate::store::Revision;
use crate::store::streams::{Check, StreamRecord};

/// Looks that are kept apart: those before count as one.
const CHECKS_MAX: usize = 64;

/// Stored with the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mark {
    /// The check of the stream after which this was stored.
    pub(super) check: u64,
    /// When the stream had been made.
    pub(super) created: String,
    /// The number of the gateway's last acked message.
    pub(super) sequence: u64,
}

impl Mark {
    /// What is written down.
    pub(super) fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What was written down; nothing where it is of no use.
    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The history of the stream as it is known here, over all connections and all hubs.
#[derive(Debug, Default)]
pub(super) struct Checks {
    known: Mutex<Known>,
    /// [`super::Mistake::TrustStream`].
    trusting: bool,
}

/// What was known of the stream at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knowledge {
    /// The greatest number that a message was known to have been given,
    pub(super) newest: u64,
    /// since this check.
    check: u64,
}

#[derive(Debug, Default)]
struct Known {
    checks: Vec<Check>,
    /// The store's record, as it was last read or written.
    revision: Option<Revision>,
    /// Not in the record yet: the last ones of `checks`.
    unsaved: usize,
    /// The greatest number that a message is known to have been given.
    newest: u64,
}

impl Checks {
    /// Nothing is known yet. With `trusting` nothing is found out either.
    pub(super) fn new(trusting: bool) -> Self {
        Self { known: Mutex::default(), trusting }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the store has, which others may have written.
    pub(super) fn adopt(&self, record: StreamRecord, revision: Revision) {
        let mut known = self.lock();
        if known.revision.is_some_and(|own| revision <= own) {
            return;
        }
        let saved = known.checks.len() - known.unsaved;
        let is_news = record.checks.last() != known.checks[..saved].last();
        let mut unsaved = known.checks.split_off(saved);
        // One that nobody answered for may be there all the same.
        unsaved.retain(|own| record.checks.iter().all(|check| check.id != own.id));
        known.unsaved = unsaved.len();
        if let Some(last) = record.checks.last().filter(|_| is_news && unsaved.is_empty()) {
            known.newest = last.last_sequence;
        }
        known.checks = record.checks;
        known.checks.extend(unsaved);
        known.revision = Some(revision);
    }

    /// The store has nothing any more, or nothing yet.
    pub(super) fn adopt_nothing(&self) {
        let mut known = self.lock();
        known.revision = None;
        known.unsaved = known.checks.len();
    }

    /// What the store must have before anything is published, and the record whose place it takes. Nothing, if it has
    /// it.
    pub(super) fn unsaved(&self) -> Option<(StreamRecord, Option<Revision>)> {
        let known = self.lock();
        (known.unsaved > 0).then(|| (StreamRecord { checks: known.checks.clone() }, known.revision))
    }

    /// The store has that.
    pub(super) fn saved(&self, record: &StreamRecord, revision: Revision) {
        let mut known = self.lock();
        let last = record.checks.last();
        let later = known.checks.iter().rev().take_while(|check| Some(*check) != last).count();
        known.unsaved = later.min(known.unsaved);
        known.revision = Some(revision);
    }

    /// Takes what has been acked to gateways, here or elsewhere: the stream had as much.
    pub(super) fn raise<'a>(&self, marks: impl Iterator<Item = &'a Mark>) {
        let intact = marks.filter(|mark| self.reaches(mark).is_some_and(|last| mark.sequence <= last));
        let newest = intact.map(|mark| mark.sequence).max().unwrap_or_default();
        let mut known = self.lock();
        known.newest = known.newest.max(newest);
    }

    /// Takes what a connection sees before anything is published on it; when it asked, `newest` was the greatest number
    /// known. Whether the stream has lost something.
    pub(super) fn look(&self, state: &State, newest: u64) -> bool {
        let mut known = self.lock();
        let is_lost = match known.checks.last() {
            Some(last) if self.trusting || (last.created == state.created && state.last_sequence >= newest) => {
                known.newest = known.newest.max(state.last_sequence);
                return false;
            }
            last => last.is_some(),
        };
        known.begin(state.clone());
        is_lost
    }

    /// What is known when a message is handed over for the first time.
    pub(super) fn now(&self) -> Knowledge {
        let known = self.lock();
        Knowledge { newest: known.newest, check: known.id() }
    }

    /// A message has this number, and `before` was known when it was handed over for the first time. Whether the stream
    /// can be the one that it was then.
    pub(super) fn stored(&self, sequence: u64, before: Knowledge) -> bool {
        let mut known = self.lock();
        if self.trusting || (sequence > before.newest && before.check == known.id()) {
            known.newest = known.newest.max(sequence);
            return true;
        }
        // What others have found since is the same loss.
        if before.check == known.id() {
            let created = known.checks.last().map(|last| last.created.clone()).unwrap_or_default();
            known.begin(State { created, last_sequence: sequence.saturating_sub(1) });
        } else {
            known.newest = known.newest.max(sequence);
        }
        false
    }

    /// The greatest number that a message is known to have been given.
    pub(super) fn newest(&self) -> u64 {
        self.lock().newest
    }

    /// The last check.
    pub(super) fn id(&self) -> u64 {
        self.lock().id()
    }

    /// When the stream was made.
    pub(super) fn created(&self) -> String {
        self.lock().checks.last().map(|last| last.created.clone()).unwrap_or_default()
    }

    /// Up to where the stream still is the one that a mark speaks of; `None` if it is another.
    pub(super) fn reaches(&self, mark: &Mark) -> Option<u64> {
        let known = self.lock();
        let own = known.checks.iter().position(|check| check.id == mark.check);
        let later = &known.checks[own.map_or(0, |own| own + 1)..];
        if later.iter().any(|check| check.created != mark.created) {
            return None;
        }
        Some(later.iter().map(|check| check.last_sequence).min().unwrap_or(u64::MAX))
    }
}

impl Known {
    fn id(&self) -> u64 {
        self.checks.last().map_or(0, |last| last.id)
    }

    fn begin(&mut self, State { created, last_sequence }: State) {
        // Another hub must not take it for one of its own.
        self.checks.push(Check { id: rand::random(), created, last_sequence });
        self.unsaved += 1;
        self.newest = last_sequence;
        if self.checks.len() > CHECKS_MAX {
            // Who was acked before the second one is held to the lower of both: at worst something comes again.
            let first = self.checks.remove(0);
            let second = &mut self.checks[0];
            if second.created == first.created {
                second.last_sequence = second.last_sequence.min(first.last_sequence);
            }
            self.unsaved = self.unsaved.min(self.checks.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(created: &str, last_sequence: u64) -> State {
        State { created: created.into(), last_sequence }
    }

    fn mark(checks: &Checks, sequence: u64) -> Mark {
        Mark { check: checks.id(), created: checks.created(), sequence }
    }

    fn at(checks: &Checks, newest: u64) -> Knowledge {
        Knowledge { newest, check: checks.id() }
    }

    fn is_intact(checks: &Checks, mark: &Mark) -> bool {
        checks.reaches(mark).is_some_and(|last| mark.sequence <= last)
    }

    #[test]
    fn a_stream_that_only_grows_is_intact_over_connections_and_processes() {
        let first = Checks::default();
        assert!(!first.look(&state("a", 5), first.newest()));
        assert!(first.stored(6, first.now()) && !first.look(&state("a", 6), first.newest()));
        let stored = mark(&first, 6);
        assert!(is_intact(&first, &stored));
        let next = Checks::default();
        assert!(!next.look(&state("a", 9), next.newest()));
        assert!(is_intact(&next, &stored));
    }

    #[test]
    fn one_that_went_back_is_found_out_even_after_it_was_overtaken() {
        let checks = Checks::default();
        checks.look(&state("a", 0), checks.newest());
        let marks = [mark(&checks, 3), mark(&checks, 7)];
        assert!(checks.stored(7, at(&checks, 6)));
        // Another connection comes first, and publishes.
        assert!(checks.look(&state("a", 4), checks.newest()));
        assert!(checks.stored(5, checks.now()) && checks.stored(9, checks.now()));
        assert!(!checks.look(&state("a", 9), checks.newest()));
        assert_eq!(marks.each_ref().map(|mark| is_intact(&checks, mark)), [true, false]);
        assert_eq!(checks.reaches(&marks[1]), Some(4));
        assert!(is_intact(&checks, &mark(&checks, 9)), "what was acked since is of the present one");
        let next = Checks::default();
        next.look(&state("a", 5), next.newest());
        assert_eq!(marks.each_ref().map(|mark| is_intact(&next, mark)), [true, false]);
    }

    #[test]
    fn what_others_store_while_it_is_asked_is_no_loss() {
        let checks = Checks::default();
        checks.look(&state("a", 5), 0);
        let newest = checks.newest();
        assert!(checks.stored(6, at(&checks, 5)));
        assert!(!checks.look(&state("a", 5), newest));
        assert_eq!(checks.newest(), 6);
    }

    #[test]
    fn another_stream_keeps_nothing() {
        let checks = Checks::default();
        checks.look(&state("a", 0), checks.newest());
        let mark = mark(&checks, 3);
        assert!(checks.look(&state("b", 1_000), checks.newest()));
        assert_eq!(checks.reaches(&mark), None);
    }

    #[test]
    fn a_number_that_was_given_before_is_no_new_message() {
        let checks = Checks::default();
        checks.look(&state("a", 0), checks.newest());
        assert!(checks.stored(8, at(&checks, 0)));
        let mark = mark(&checks, 8);
        assert!(!checks.stored(8, checks.now()), "the server has lost its last message");
        assert_eq!((checks.reaches(&mark), checks.newest()), (Some(7), 7));
    }

    /// What another hub, or the next process, knows.
    fn successor(of: &Checks, marks: &[Mark]) -> Checks {
        if let Some((record, _)) = of.unsaved() {
            let revision = Revision(of.lock().revision.map_or(1, |revision| revision.0 + 1));
            of.saved(&record, revision);
        }
        let next = Checks::default();
        let known = of.lock();
        next.adopt(StreamRecord { checks: known.checks.clone() }, known.revision.unwrap());
        next.raise(marks.iter());
        next
    }

    #[test]
    fn a_loss_is_known_to_successors_after_it_was_overtaken() {
        let first = Checks::default();
        first.look(&state("a", 0), 0);
        let old = mark(&first, 8);
        assert!(first.look(&state("a", 5), 8));
        assert!(first.stored(30, at(&first, 5)));
        let next = successor(&first, &[mark(&first, 30), old.clone()]);
        assert!(!next.look(&state("a", 30), next.newest()), "nothing has happened since");
        assert!(next.unsaved().is_none(), "and there is nothing to write down");
        assert!(!is_intact(&next, &old));
    }

    #[test]
    fn a_loss_while_no_hub_was_there_shows_in_what_had_been_acked() {
        let first = Checks::default();
        first.look(&state("a", 0), 0);
        let marks = [mark(&first, 3), mark(&first, 8)];
        let next = successor(&first, &marks);
        assert!(next.look(&state("a", 5), next.newest()));
        assert_eq!(marks.each_ref().map(|mark| is_intact(&next, mark)), [true, false]);
    }

    #[test]
    fn what_another_hub_has_found_counts_and_own_findings_are_kept_beside_it() {
        let (ours, theirs) = (Checks::default(), Checks::default());
        ours.look(&state("a", 0), 0);
        let (record, _) = ours.unsaved().unwrap();
        ours.saved(&record, Revision(1));
        theirs.adopt(record, Revision(1));
        assert!(ours.stored(9, at(&ours, 0)));
        let lost = mark(&ours, 9);
        assert!(theirs.look(&state("a", 2), 9) && theirs.stored(12, at(&theirs, 2)));
        let (record, expected) = theirs.unsaved().unwrap();
        assert_eq!(expected, Some(Revision(1)));
        assert!(!ours.stored(7, at(&ours, 8)), "a finding of our own, which is not written down yet");
        ours.adopt(record.clone(), Revision(2));
        let (both, expected) = ours.unsaved().unwrap();
        assert_eq!((both.checks.len(), expected), (3, Some(Revision(2))));
        assert_eq!(both.checks[..2], record.checks);
        assert!(!is_intact(&ours, &lost));
        ours.adopt(StreamRecord::default(), Revision(1));
        assert_eq!(ours.unsaved().unwrap().0.checks.len(), 3, "what was read before is no news");
    }

    #[test]
    fn of_very_many_losses_the_first_count_as_one() {
        let checks = Checks::default();
        checks.look(&state("a", 1_000), 0);
        let oldest = mark(&checks, 999);
        for last in (0..200).rev() {
            assert!(checks.look(&state("a", last), last + 1));
        }
        assert_eq!(checks.unsaved().unwrap().0.checks.len(), CHECKS_MAX);
        assert_eq!(checks.reaches(&oldest), Some(0));
        assert!(is_intact(&checks, &mark(&checks, 5)));
    }

    #[test]
    fn a_write_that_took_effect_unheard_is_not_repeated() {
        let checks = Checks::default();
        checks.look(&state("a", 3), 0);
        assert!(checks.stored(9, checks.now()));
        let acked = mark(&checks, 9);
        let (written, _) = checks.unsaved().unwrap();
        checks.adopt(written.clone(), Revision(1));
        assert!(checks.unsaved().is_none() && is_intact(&checks, &acked));
        // Gone from the store, it is written again.
        checks.adopt_nothing();
        assert_eq!(checks.unsaved(), Some((written, None)));
    }

    #[test]
    fn all_that_was_under_way_over_one_loss_is_one_loss() {
        let checks = Checks::default();
        checks.look(&state("a", 30), 0);
        let before = checks.now();
        assert!(!checks.stored(1, before) && !checks.stored(2, before) && !checks.stored(31, before));
        assert_eq!((checks.unsaved().unwrap().0.checks.len(), checks.newest()), (2, 31));
    }
}
