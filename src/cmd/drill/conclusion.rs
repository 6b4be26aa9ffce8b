//! What is made of a course when it is over.
//!
//! Owns what the steps of a course leave behind, what was owed by them, and whether the fault was one. The
//! counting itself is the verdict's.

use std::time::Duration;

use tokio::time::Instant;

use super::DrillArgs;
use super::cast::Finale;
use super::guests::{Guest, judge_guests};
use super::report::Report;
use super::schedule::Schedule;
use super::script::{Drill, Expects};
use super::soak::{Found, Legacy};
use super::verdict::{Delivered, Duty, Verdict, judge};
use crate::change::ResyncReason;
use crate::position::ClusterTime;

/// What the steps leave behind.
#[derive(Default)]
pub(super) struct Tally {
    /// How often the hub was killed.
    pub(super) kills: u32,
    /// How long each recovery took, from the last thing mended to everything taken.
    pub(super) recoveries: Vec<Duration>,
    /// Gateways that did not recover in time.
    pub(super) unrecovered: u64,
    /// Why the fault was none, where it was none.
    pub(super) idle: Vec<String>,
    /// Some of what is wrong, in words.
    pub(super) examples: Vec<String>,
    /// Resyncs of which each subscription must be told, beside those that every round brings.
    pub(super) resyncs: Vec<ResyncReason>,
    /// What a soak found.
    pub(super) soak: Option<Found>,
    /// When something was last mended.
    pub(super) mended: Option<Instant>,
    /// Where things may be lost: from when, until when.
    pub(super) losses: Vec<(ClusterTime, Option<ClusterTime>)>,
}

/// Judges everybody, the random subscriptions of a soak too.
pub(super) fn conclude(
    drill: &'static Drill,
    args: &DrillArgs,
    rounds: u32,
    finale: &Finale,
    soak: Option<(&Schedule, &Legacy)>,
    mut tally: Tally,
    took: Duration,
) -> Report {
    let Expects { resyncs, epoch_rises, redelivers, broadcasts, .. } = drill.expects;
    let open_end = ClusterTime(u64::MAX);
    let duty = Duty {
        resyncs: [resyncs.repeat(rounds as usize), tally.resyncs.clone()].concat(),
        losses: tally.losses.iter().map(|(from, to)| (*from, to.unwrap_or(open_end))).collect(),
        redelivers: redelivers || epoch_rises,
        broadcasts,
    };
    let mut verdict = Verdict::default();
    for outcome in &finale.outcomes {
        let delivered = Delivered { seen: &outcome.seen, resyncs: &outcome.resyncs };
        verdict.add(&judge(&finale.written, &delivered, &duty, &mut tally.examples));
        if !tally.examples.is_empty() {
            tally.examples.extend(outcome.resyncs.iter().map(|resync| format!("it was told of {resync:?}")));
        }
    }
    if let Some((schedule, legacy)) = soak {
        let of_guests = judge_all_guests(finale, legacy, &duty, &mut tally.examples);
        verdict.add(&of_guests);
        tally.soak = Some(Found::new(schedule, legacy, of_guests.expected, took));
    }
    tally.idle.extend(idle(drill.expects, finale, &verdict));
    Report::new(drill, args, rounds, finale, verdict, tally, took)
}

fn judge_all_guests(finale: &Finale, legacy: &Legacy, duty: &Duty, examples: &mut Vec<String>) -> Verdict {
    let mut verdict = Verdict::default();
    for (number, outcome) in finale.outcomes.iter().enumerate() {
        let guests: Vec<&Guest> = legacy.guests.iter().filter(|guest| guest.gateway() == number).collect();
        verdict.add(&judge_guests(&guests, &finale.written, outcome, duty, examples));
    }
    verdict
}

/// What should have come of the fault and did not.
fn idle(expects: Expects, finale: &Finale, verdict: &Verdict) -> Vec<String> {
    let mut idle = Vec::new();
    if let Some(flag) = expects.flag
        && !finale.outcomes.iter().any(|outcome| outcome.flags.contains_key(flag))
    {
        idle.push(format!("nothing was flagged {flag}"));
    }
    if expects.loses && verdict.resynced == 0 {
        idle.push("nothing was lost that had to be lost".into());
    }
    // One that crashed itself at that very moment knows nothing of it.
    if expects.reconnects && finale.outcomes.iter().all(|outcome| outcome.broken == 0) {
        idle.push("no gateway lost its session".into());
    }
    let epochs = finale.outcomes.iter().map(|outcome| {
        let epochs = outcome.seen.iter().map(|seen| seen.position.epoch);
        epochs.max().map_or(0, |epoch| epoch.0)
    });
    if epochs.min().unwrap_or_default() != 1 + u32::from(expects.epoch_rises) {
        idle.push("the epoch is not what it should be".into());
    }
    idle
}
