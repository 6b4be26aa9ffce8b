//! The table of last positions, and the cursor to resume from.
//!
//! Owns what a gateway must keep so that nothing comes twice, and its saved form. One entry a
//! subscription and partition: the position last handed over, by generation. Knows nothing of
//! connections.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::position::Position;

/// What a gateway has been handed, and where it resumes.
///
/// Save it together with what the application made of the changes handed over so far, at best in one
/// transaction: then a crash of the gateway repeats nothing and loses nothing. What was handed over
/// before a state was saved counts as taken when a client starts from that state.
///
/// Without a saved state (`State::default()`) the hub resumes from the last ack it knows, and what was
/// unacked at the crash comes again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<Arc<str>>,
    partitions: FxHashMap<Arc<str>, Partition>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Partition {
    last: FxHashMap<Box<str>, Last>,
    /// Where positions began anew, so that the same notice said again changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_to: Option<Position>,
}

/// The last positions of one subscription, as `[[generation, position], ...]`, newest generation first.
#[derive(Clone, Debug, PartialEq)]
struct Last {
    newest: (u64, Position),
    /// Generations before a PUT: their changes may still be sent again.
    older: Vec<(u64, Position)>,
}

/// A generation is remembered until so many newer ones have come: the hub keeps no more.
const GENERATIONS_MAX: usize = limits::superseded_max + 1;

impl State {
    /// The cursor to resume from: everything before it has been acked by the application.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// How many (partition, subscription) pairs are remembered.
    pub fn len(&self) -> usize {
        self.partitions.values().map(|partition| partition.last.len()).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets subscriptions that are gone for good (after `unregister`). One that comes back under the
    /// same id has a new generation, so forgetting too late costs only memory.
    pub fn forget<'a>(&mut self, subscription_ids: impl IntoIterator<Item = &'a str>) {
        for id in subscription_ids {
            for partition in self.partitions.values_mut() {
                partition.last.remove(id);
            }
        }
    }

    /// Keeps only subscriptions of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        for partition in self.partitions.values_mut() {
            partition.last.retain(|id, _| keep(id));
        }
    }

    pub(super) fn cursor_text(&self) -> Option<Arc<str>> {
        self.cursor.clone()
    }

    pub(super) fn set_cursor(&mut self, cursor: Option<Arc<str>>) {
        self.cursor = cursor;
    }

    /// Whether a match is to be handed over; if so it is remembered as handed over.
    pub(super) fn admit(
        &mut self,
        partition: &str,
        subscription_id: &str,
        generation: u64,
        position: Position,
        redelivered: bool,
    ) -> bool {
        let Some(known) = self.partitions.get_mut(partition) else {
            let mut known = Partition::default();
            known.insert(subscription_id, generation, position, limits::client_positions_max);
            self.partitions.insert(partition.into(), known);
            return true;
        };
        match known.last.get_mut(subscription_id) {
            Some(last) => last.admit(generation, position, redelivered),
            None => {
                known.insert(subscription_id, generation, position, limits::client_positions_max);
                true
            }
        }
    }

    /// Positions of this partition began anew at `to`: what is remembered beyond it concerns another
    /// history. Said again, it changes nothing.
    pub(super) fn restored(&mut self, partition: &str, to: Position) {
        let Some(known) = self.partitions.get_mut(partition) else { return };
        if known.restored_to.replace(to) == Some(to) {
            return;
        }
        for last in known.last.values_mut() {
            last.newest.1 = last.newest.1.min(to);
            for (_, position) in &mut last.older {
                *position = (*position).min(to);
            }
        }
    }
}

impl Partition {
    fn insert(&mut self, subscription_id: &str, generation: u64, position: Position, most: usize) {
        if self.last.len() >= most {
            self.forget_quietest();
        }
        self.last.insert(subscription_id.into(), Last { newest: (generation, position), older: Vec::new() });
    }

    /// The half that has been quiet for longest: subscriptions that are gone are among them, and for one
    /// that is not, nothing but acked changes can be sent again.
    fn forget_quietest(&mut self) {
        let mut positions: Vec<_> = self.last.values().map(|last| last.newest.1).collect();
        let middle = positions.len() / 2;
        let (_, median, _) = positions.select_nth_unstable(middle);
        let median = *median;
        self.last.retain(|_, last| last.newest.1 > median);
    }
}

impl Last {
    fn admit(&mut self, generation: u64, position: Position, redelivered: bool) -> bool {
        if generation > self.newest.0 {
            self.older.insert(0, self.newest);
            self.older.truncate(GENERATIONS_MAX - 1);
            self.newest = (generation, position);
            return true;
        }
        let known = if generation == self.newest.0 {
            Some(&mut self.newest)
        } else {
            self.older.iter_mut().find(|(older, _)| *older == generation)
        };
        match known {
            Some((_, last)) if redelivered || position > *last => {
                // What is redelivered moves the mark back: the subscription goes on from there.
                *last = position;
                true
            }
            Some(_) => false,
            // An older filter's first change, seen after a newer filter's: its own place in the order is
            // before the newer one's, so it is remembered behind it.
            None => {
                let at = self.older.partition_point(|(older, _)| *older > generation);
                self.older.insert(at, (generation, position));
                self.older.truncate(GENERATIONS_MAX - 1);
                true
            }
        }
    }
}

impl Serialize for Last {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(std::iter::once(&self.newest).chain(&self.older))
    }
}

impl<'de> Deserialize<'de> for Last {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Vec::<(u64, Position)>::deserialize(deserializer)?.into_iter();
        let newest = all.next().ok_or_else(|| serde::de::Error::custom("a subscription without a position"))?;
        Ok(Self { newest, older: all.take(GENERATIONS_MAX - 1).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{ClusterTime, Epoch};

    const PARTITION: &str = "default/0";

    fn at(time: u64) -> Position {
        Position::new(Epoch(1), ClusterTime(time), 1)
    }

    fn admit(state: &mut State, generation: u64, time: u64) -> bool {
        state.admit(PARTITION, "s", generation, at(time), false)
    }

    #[test]
    fn matches_at_or_before_the_last_are_dropped_by_subscription_and_partition() {
        let mut state = State::default();
        assert!(admit(&mut state, 1, 5));
        assert!(!admit(&mut state, 1, 5));
        assert!(!admit(&mut state, 1, 4));
        assert!(state.admit(PARTITION, "other", 1, at(4), false));
        assert!(state.admit("default/1", "s", 1, at(4), false));
        assert!(admit(&mut state, 1, 6));
        assert_eq!(state.len(), 3);
    }

    #[test]
    fn generations_count_apart() {
        let mut state = State::default();
        assert!(admit(&mut state, 1, 5));
        assert!(admit(&mut state, 2, 3), "made anew with an earlier start");
        assert!(!admit(&mut state, 1, 5), "the old filter's change, sent again");
        assert!(!admit(&mut state, 2, 3));
        assert!(admit(&mut state, 2, 4));
    }

    #[test]
    fn an_older_generation_first_seen_late_is_handed_over_once() {
        let mut state = State::default();
        assert!(admit(&mut state, 2, 5));
        assert!(admit(&mut state, 1, 4));
        assert!(!admit(&mut state, 1, 4));
    }

    #[test]
    fn generations_are_bounded() {
        let mut state = State::default();
        for generation in 1..100 {
            assert!(admit(&mut state, generation, generation));
        }
        assert_eq!(state.partitions[PARTITION].last["s"].older.len(), GENERATIONS_MAX - 1);
        assert!(!admit(&mut state, 95, 95));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_latest() {
        let mut partition = Partition::default();
        for n in 0..1000 {
            partition.insert(&format!("s{n}"), 1, at(n), 100);
            assert!(partition.last.len() <= 100);
        }
        assert!((960..1000).all(|n| partition.last.contains_key(format!("s{n}").as_str())));
    }

    #[test]
    fn redelivered_goes_back_and_on_from_there() {
        let mut state = State::default();
        assert!(admit(&mut state, 1, 9));
        assert!(state.admit(PARTITION, "s", 1, at(5), true));
        assert!(state.admit(PARTITION, "s", 1, at(6), true));
        assert!(!admit(&mut state, 1, 6), "unflagged, and handed over");
        assert!(admit(&mut state, 1, 7));
    }

    #[test]
    fn after_a_restore_lower_positions_are_new_ones() {
        let mut state = State::default();
        assert!(admit(&mut state, 1, 100));
        state.restored(PARTITION, at(50));
        assert!(admit(&mut state, 1, 60));
        state.restored(PARTITION, at(50));
        assert!(!admit(&mut state, 1, 60), "the same notice again changes nothing");
    }

    #[test]
    fn it_comes_back_from_its_saved_form() {
        let mut state = State::default();
        assert!(admit(&mut state, 1, 5) && admit(&mut state, 2, 6));
        state.set_cursor(Some("c".into()));
        let saved = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&saved).unwrap(), state);
        assert_eq!(serde_json::from_str::<State>("{}").unwrap(), State::default());
        assert!(serde_json::from_str::<State>(r#"{"partitions":{"p":{"last":{"s":[]}}}}"#).is_err());
    }

    #[test]
    fn forgotten_subscriptions_cost_nothing() {
        let mut state = State::default();
        for id in ["a", "b", "c"] {
            state.admit(PARTITION, id, 1, at(1), false);
        }
        state.forget(["a"]);
        state.retain(|id| id != "b");
        assert_eq!(state.len(), 1);
        state.forget(["c"]);
        assert!(state.is_empty());
    }
}
