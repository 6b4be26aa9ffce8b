//! Rates: what two pictures' totals come to a second.
//!
//! Owns when such a difference means something. Knows nothing of where pictures come from.

use std::collections::HashMap;
use std::time::Duration;

use super::picture::{Overview, Partition, Totals};
use crate::clock::Instant;

/// A partition's, or all partitions' together.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rate {
    pub(super) changes: f64,
    pub(super) matches: f64,
    pub(super) delivered: f64,
    pub(super) delivered_bytes: f64,
}

/// Of every partition that has one.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Rates(HashMap<String, Rate>);

impl Rates {
    /// What happened from one picture to another. A partition that changed hands in between, or whose
    /// owner began anew, has no rate.
    pub(super) fn between(old: &Overview, new: &Overview, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return Self::default();
        }
        // A node that was started again counts from nothing, also where it has come to more than before.
        let restarted = (old.node == new.node && old.started_at != new.started_at).then_some(new.node.as_str());
        let before: HashMap<&str, &Partition> =
            old.partitions.iter().map(|partition| (partition.partition.as_str(), partition)).collect();
        let rate = |partition: &Partition| {
            let before = before.get(partition.partition.as_str())?;
            let owner = partition.owner.as_deref()?;
            let is_same = before.owner.as_deref() == Some(owner) && before.epoch == partition.epoch;
            if !is_same || restarted == Some(owner) {
                return None;
            }
            let rate = difference(before.totals.as_ref()?, partition.totals.as_ref()?, seconds)?;
            Some((partition.partition.clone(), rate))
        };
        Self(new.partitions.iter().filter_map(rate).collect())
    }

    /// A partition's.
    pub(super) fn of(&self, partition: &str) -> Option<Rate> {
        self.0.get(partition).copied()
    }

    /// All partitions' that have one.
    pub(super) fn all(&self) -> Option<Rate> {
        self.0.values().copied().reduce(|one, other| Rate {
            changes: one.changes + other.changes,
            matches: one.matches + other.matches,
            delivered: one.delivered + other.delivered,
            delivered_bytes: one.delivered_bytes + other.delivered_bytes,
        })
    }
}

/// None where anything counts backwards: then it was counted anew.
fn difference(old: &Totals, new: &Totals, seconds: f64) -> Option<Rate> {
    let rate = |old: u64, new: u64| Some(new.checked_sub(old)? as f64 / seconds);
    Some(Rate {
        changes: rate(old.changes, new.changes)?,
        matches: rate(old.matches, new.matches)?,
        delivered: rate(old.delivered, new.delivered)?,
        delivered_bytes: rate(old.delivered_bytes, new.delivered_bytes)?,
    })
}

/// Rates, picture after picture.
#[derive(Debug)]
pub(super) struct Pace {
    /// Pictures closer together than this, such as after a key was pressed, give no rate worth showing.
    shortest: Duration,
    base: Option<(Overview, Instant)>,
    pub(super) rates: Rates,
}

impl Pace {
    /// For pictures that come at about this interval.
    pub(super) fn new(interval: Duration) -> Self {
        Self { shortest: interval / 2, base: None, rates: Rates::default() }
    }

    /// The next picture, and when it came.
    pub(super) fn take(&mut self, new: &Overview, now: Instant) {
        if let Some((old, at)) = &self.base {
            let elapsed = elapsed(old, new).unwrap_or_else(|| now.since(*at));
            if elapsed < self.shortest && now.since(*at) < self.shortest {
                return;
            }
            self.rates = Rates::between(old, new, elapsed);
        }
        self.base = Some((new.clone(), now));
    }
}

/// By the hub's clock, for it is the hub that counted; where two nodes answered, their clocks are two.
fn elapsed(old: &Overview, new: &Overview) -> Option<Duration> {
    let between = new.at? - old.at?;
    between.to_std().ok().filter(|elapsed| old.node == new.node && !elapsed.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn picture(second: u32, partitions: &[(&str, &str, u64, u64)]) -> Overview {
        let partitions = partitions.iter().map(|(name, owner, epoch, changes)| {
            json!({"partition": name, "owner": owner, "epoch": epoch, "totals": {"changes": changes, "matches": changes / 2}})
        });
        let partitions: Vec<_> = partitions.collect();
        Overview::of(json!({
            "at": format!("2026-11-22T10:00:{second:02}.000Z"), "node": "hub-1", "startedAt": "2026-11-22T09:00:00.000Z",
            "partitions": partitions,
        }))
        .unwrap()
    }

    #[test]
    fn a_rate_is_a_difference_by_the_hubs_clock() {
        let mut pace = Pace::new(Duration::from_secs(1));
        pace.take(&picture(0, &[("a/0", "hub-1", 1, 100), ("a/1", "hub-2", 1, 0)]), Instant(0));
        assert_eq!(pace.rates.all(), None, "one picture gives none");
        pace.take(&picture(2, &[("a/0", "hub-1", 1, 300), ("a/1", "hub-2", 1, 20)]), Instant(2_500_000));
        let rate = pace.rates.of("a/0").unwrap();
        assert_eq!((rate.changes, rate.matches, rate.delivered), (100.0, 50.0, 0.0));
        assert_eq!(pace.rates.all().unwrap().changes, 110.0);
    }

    #[test]
    fn counters_that_begin_anew_give_no_rate() {
        let between = |old: &Overview, new: &Overview| Rates::between(old, new, Duration::from_secs(1));
        let old = picture(0, &[("a/0", "hub-1", 1, 100), ("a/1", "hub-2", 1, 100)]);
        let rates = between(&old, &picture(1, &[("a/0", "hub-1", 1, 3), ("a/1", "hub-2", 1, 101)]));
        assert_eq!((rates.of("a/0"), rates.of("a/1").map(|rate| rate.changes)), (None, Some(1.0)));

        let mut restarted = picture(1, &[("a/0", "hub-1", 1, 5000), ("a/1", "hub-2", 1, 101)]);
        restarted.started_at = restarted.at;
        let rates = between(&old, &restarted);
        assert!(rates.of("a/0").is_none() && rates.of("a/1").is_some(), "also if they are past where they were");
    }

    #[test]
    fn a_partition_that_changed_hands_has_no_rate() {
        let old = picture(0, &[("a/0", "hub-1", 1, 100), ("a/1", "hub-1", 1, 100)]);
        let new = picture(1, &[("a/0", "hub-2", 2, 200), ("a/1", "hub-1", 3, 200), ("a/2", "hub-1", 1, 7)]);
        assert_eq!(Rates::between(&old, &new, Duration::from_secs(1)), Rates::default());
        assert_eq!(Rates::between(&old, &old, Duration::ZERO), Rates::default());
    }

    #[test]
    fn a_picture_out_of_turn_changes_no_rate() {
        let mut pace = Pace::new(Duration::from_secs(10));
        let at = |second: u32, changes| {
            (picture(second, &[("a/0", "hub-1", 1, changes)]), Instant(u64::from(second) * 1_000_000))
        };
        for (second, changes, expected) in
            [(0, 0, None), (10, 100, Some(10.0)), (11, 200, Some(10.0)), (20, 300, Some(20.0))]
        {
            let (picture, now) = at(second, changes);
            pace.take(&picture, now);
            assert_eq!(pace.rates.of("a/0").map(|rate| rate.changes), expected, "after {second} s");
        }
    }
}
