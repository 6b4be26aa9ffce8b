//! What is stored with a gateway's cursor: what the stream had when its last message was acked.
//!
//! Owns what a stream that has gone back is compared with. Knows nothing of connections.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::nats::State;

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
    /// The cursor before the oldest message that the gateway had not taken when it was last looked.
    pub(super) floor: Option<String>,
}

impl Mark {
    /// What is written down.
    pub(super) fn encode(&self) -> crate::handle::Mark {
        serde_json::to_string(self).unwrap_or_default().into()
    }

    /// What was written down; nothing where it is of no use.
    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What the stream had when it was found to be another, or to have gone back; first, when it was first seen.
#[derive(Clone, Debug)]
struct Check {
    id: u64,
    created: String,
    last_sequence: u64,
}

/// The history of the stream as this process knows it, over all connections.
#[derive(Debug, Default)]
pub(super) struct Checks(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    checks: Vec<Check>,
    /// The greatest number that a message is known to have been given.
    newest: u64,
}

impl Checks {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a connection sees before anything is published on it; when it asked, `newest` was the greatest number
    /// known. Whether the stream has lost something.
    pub(super) fn look(&self, state: &State, newest: u64) -> bool {
        let mut known = self.lock();
        let is_lost = match known.checks.last() {
            Some(last) if last.created == state.created && state.last_sequence >= newest => {
                known.newest = known.newest.max(state.last_sequence);
                return false;
            }
            last => last.is_some(),
        };
        known.begin(state.clone());
        is_lost
    }

    /// A message has this number; when it was handed over for the first time, `before` was the newest. Whether the
    /// stream can be the one that it was then.
    pub(super) fn stored(&self, sequence: u64, before: u64) -> bool {
        let mut known = self.lock();
        if sequence > before {
            known.newest = known.newest.max(sequence);
            return true;
        }
        let created = known.checks.last().map(|last| last.created.clone()).unwrap_or_default();
        known.begin(State { created, last_sequence: sequence.saturating_sub(1) });
        false
    }

    /// The greatest number that a message is known to have been given.
    pub(super) fn newest(&self) -> u64 {
        self.lock().newest
    }

    /// The last check.
    pub(super) fn id(&self) -> u64 {
        self.lock().checks.last().map_or(0, |last| last.id)
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
    fn begin(&mut self, State { created, last_sequence }: State) {
        // Another process must not take it for one of its own.
        self.checks.push(Check { id: rand::random(), created, last_sequence });
        self.newest = last_sequence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(created: &str, last_sequence: u64) -> State {
        State { created: created.into(), last_sequence }
    }

    fn mark(checks: &Checks, sequence: u64) -> Mark {
        Mark { check: checks.id(), created: checks.created(), sequence, floor: None }
    }

    fn is_intact(checks: &Checks, mark: &Mark) -> bool {
        checks.reaches(mark).is_some_and(|last| mark.sequence <= last)
    }

    #[test]
    fn a_stream_that_only_grows_is_intact_over_connections_and_processes() {
        let first = Checks::default();
        assert!(!first.look(&state("a", 5), first.newest()));
        assert!(first.stored(6, first.newest()) && !first.look(&state("a", 6), first.newest()));
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
        assert!(checks.stored(7, 6));
        // Another connection comes first, and publishes.
        assert!(checks.look(&state("a", 4), checks.newest()));
        assert!(checks.stored(5, checks.newest()) && checks.stored(9, checks.newest()));
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
        assert!(checks.stored(6, 5));
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
        assert!(checks.stored(8, 0));
        let mark = mark(&checks, 8);
        assert!(!checks.stored(8, checks.newest()), "the server has lost its last message");
        assert_eq!((checks.reaches(&mark), checks.newest()), (Some(7), 7));
    }
}
