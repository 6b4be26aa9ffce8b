//! One contender on one workload.
//!
//! Owns the course of a measurement and its clocks. Time is the measuring thread's processor time, so that
//! neighbours on the machine do not count, not even against the rounds' budget; the budget of building
//! is time as people see it.

use std::hint::black_box;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::churn;
use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan};
use crate::clock::{Clock, Instant};

/// How long things may take.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Says when they have.
    pub clock: Clock,
    /// Rounds of looking up, all together, in processor time.
    pub seconds: Duration,
    /// Building; what takes longer is not built.
    pub build_seconds: Duration,
}

impl Limits {
    pub(super) fn is_over(&self, began: Instant, limit: Duration) -> bool {
        self.clock.now().since(began) >= limit
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) outcome: Outcome,
    /// Matches of each change, as far as it got in its first round.
    pub(super) counts: Vec<u32>,
    /// What it did not do as a matcher must, on its own.
    pub(super) fault: Option<String>,
}

/// Figures, or why there are none.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "state")]
pub(super) enum Outcome {
    /// It ran.
    Measured(Figures),
    /// Building took longer than its budget.
    NotBuilt {
        /// So many were.
        inserted: u32,
    },
}

/// The figures of a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figures {
    /// Different changes.
    pub changes: usize,
    /// How often each was looked up.
    pub rounds: u32,
    /// Changes a second in the best round.
    pub rate: f64,
    /// In the mean.
    pub matches_per_change: f64,
    /// Generating, compiling and inserting all subscriptions, as people see it.
    pub build_seconds: f64,
    /// Inserts a second while built.
    pub build_insert_rate: Option<f64>,
    /// Inserts a second afterwards, each in the place of a removal.
    pub insert_rate: Option<f64>,
    /// Removals a second.
    pub remove_rate: Option<f64>,
    /// The longest single insert, while built or afterwards; of several turns the one in which it was shortest.
    pub longest_insert_micros: Option<f64>,
    /// The longest single removal, likewise.
    pub longest_remove_micros: Option<f64>,
    /// Resident memory; see `alone`.
    pub bytes_per_subscription: Option<f64>,
}

impl Figures {
    /// Those of the inserts while it was built.
    pub(super) fn built<C: Contender>(steps: &Steps) -> Self {
        Self {
            build_insert_rate: if C::COUNTS { steps.rate() } else { None },
            // A static one is built in a single step.
            longest_insert_micros: if C::UPKEEP == Upkeep::Static { None } else { steps.longest_micros() },
            ..Self::default()
        }
    }

    /// Of the longest insert and removal here and in another turn, the shorter each.
    pub(super) fn keep_shorter_pauses(&mut self, other: &Self) {
        let shorter = |one: Option<f64>, other: Option<f64>| Some(one?.min(other?));
        self.longest_insert_micros = shorter(self.longest_insert_micros, other.longest_insert_micros);
        self.longest_remove_micros = shorter(self.longest_remove_micros, other.longest_remove_micros);
    }

    /// Takes over what a process of its own found out.
    pub(super) fn learn(&mut self, alone: &Self, is_churn: bool) {
        self.bytes_per_subscription = alone.bytes_per_subscription;
        // Churn is measured where it happens: between look-ups.
        if !is_churn {
            self.build_insert_rate = alone.build_insert_rate;
            self.insert_rate = alone.insert_rate;
            self.remove_rate = alone.remove_rate;
            self.longest_insert_micros = alone.longest_insert_micros;
            self.longest_remove_micros = alone.longest_remove_micros;
        }
    }
}

/// Processor time of this thread so far, in nanoseconds.
pub(super) fn cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The times of many short steps, each by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    own_nanos: u64,
    count: u64,
    total_nanos: u64,
    longest_nanos: u64,
}

impl Steps {
    /// Finds out what reading the clock costs, to take it off each step.
    pub(super) fn new() -> Self {
        let own = (0..1_000).map(|_| {
            let before = cpu_nanos();
            cpu_nanos().saturating_sub(before)
        });
        Self { own_nanos: own.min().unwrap_or_default(), count: 0, total_nanos: 0, longest_nanos: 0 }
    }

    pub(super) fn time<R>(&mut self, step: impl FnOnce() -> R) -> R {
        let before = cpu_nanos();
        let result = step();
        let took = cpu_nanos().saturating_sub(before).saturating_sub(self.own_nanos);
        self.count += 1;
        self.total_nanos += took;
        self.longest_nanos = self.longest_nanos.max(took);
        result
    }

    /// A step of another kind that belongs to them all.
    pub(super) fn add(&mut self, nanos: u64) {
        self.total_nanos += nanos;
    }

    pub(super) fn rate(&self) -> Option<f64> {
        (self.count > 0).then(|| self.count as f64 * 1e9 / self.total_nanos.max(1) as f64)
    }

    pub(super) fn longest_micros(&self) -> Option<f64> {
        (self.count > 0).then_some(self.longest_nanos as f64 / 1e3)
    }
}

/// A contender with all its subscriptions, or with as many as its budget allowed.
pub(super) enum Built<C> {
    Whole(C, Steps),
    Part { inserted: u32 },
}

/// Built and dropped beforehand.
pub(super) const WARM_UP: u32 = 100;
/// The first round takes at most this part of the budget, so that there are others.
const FIRST_ROUND: u64 = 4;
/// So many inserts between two looks at the budget.
const LOOK_EVERY: u32 = 64;

pub(super) fn build<C: Contender>(plan: &Plan, limits: &Limits) -> anyhow::Result<Built<C>> {
    let began = limits.clock.now();
    let mut contender = C::new(plan);
    let mut steps = Steps::new();
    if C::COUNTS {
        for number in 0..plan.subscriptions {
            if number.is_multiple_of(LOOK_EVERY) && limits.is_over(began, limits.build_seconds) {
                return Ok(Built::Part { inserted: number });
            }
            let filter = contender.compile(&plan.spec(number)?)?;
            steps.time(|| contender.insert(number, filter))?;
        }
        let before = cpu_nanos();
        contender.finish();
        steps.add(cpu_nanos() - before);
    }
    Ok(Built::Whole(contender, steps))
}

/// Builds a contender and lets it look up.
///
/// # Errors
/// What it cannot express or read.
pub(super) fn measure<C: Contender>(plan: &Plan, events: &[Event], limits: &Limits) -> anyhow::Result<Measured> {
    // What a process does once is nobody's cost.
    drop(build::<C>(&Plan { subscriptions: WARM_UP, ..*plan }, limits)?);
    let began = limits.clock.now();
    let (mut contender, built) = match build::<C>(plan, limits)? {
        Built::Whole(contender, steps) => (contender, steps),
        Built::Part { inserted } => {
            return Ok(Measured { outcome: Outcome::NotBuilt { inserted }, counts: Vec::new(), fault: None });
        }
    };
    let build_seconds = limits.clock.now().since(began).as_secs_f64();
    let mut figures = Figures { build_seconds, ..Figures::built::<C>(&built) };
    if plan.workload.is_churn() && C::UPKEEP == Upkeep::Both {
        let counts = churn::interleaved(plan, &mut contender, events, limits, &mut figures)?;
        return Ok(Measured { outcome: Outcome::Measured(figures), counts, fault: None });
    }
    let counts = rounds(&mut contender, events, limits, &mut figures)?;
    let fault = churn::afterwards(plan, &mut contender, (events, &counts), limits, &mut figures)?;
    Ok(Measured { outcome: Outcome::Measured(figures), counts: if C::COUNTS { counts } else { Vec::new() }, fault })
}

/// The first round takes each change by itself and goes as far as its part of the budget lets it; the others
/// repeat what it did.
fn rounds<C: Contender>(
    contender: &mut C,
    events: &[Event],
    limits: &Limits,
    figures: &mut Figures,
) -> anyhow::Result<Vec<u32>> {
    let budget = limits.seconds.as_nanos() as u64;
    let began = cpu_nanos();
    let mut counts = Vec::with_capacity(events.len());
    let mut look_at = 1;
    for event in events {
        counts.push(contender.look_up(event)? as u32);
        // Ever more rarely, so that to look costs nothing where changes are fast.
        if counts.len() >= look_at {
            if cpu_nanos() - began >= budget / FIRST_ROUND {
                break;
            }
            look_at += (look_at / 8).clamp(1, 4_096);
        }
    }
    let mut best = (cpu_nanos() - began).max(1);
    let (events, total) = (&events[..counts.len()], counts.iter().map(|count| u64::from(*count)).sum::<u64>());
    figures.rounds = 1;
    while cpu_nanos() - began < budget {
        let before = cpu_nanos();
        let mut sum = 0;
        contender.look_up_all(events, |count| sum += count as u64)?;
        best = best.min((cpu_nanos() - before).max(1));
        anyhow::ensure!(black_box(sum) == total, "{} counts {sum} where it counted {total} before", C::NAME);
        figures.rounds += 1;
    }
    figures.changes = counts.len();
    figures.rate = counts.len() as f64 * 1e9 / best as f64;
    if C::COUNTS {
        figures.matches_per_change = total as f64 / counts.len().max(1) as f64;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_and_the_longest_kept() {
        let mut steps = Steps { own_nanos: 0, count: 0, total_nanos: 0, longest_nanos: 0 };
        assert_eq!((steps.rate(), steps.longest_micros()), (None, None));
        steps.time(|| black_box((0..1_000_000).fold(0_u64, |sum, n| sum ^ black_box(n))));
        steps.time(|| ());
        assert_eq!(steps.count, 2);
        assert!(steps.longest_micros().unwrap() > 10.0, "{steps:?}");
        assert!(steps.total_nanos >= steps.longest_nanos);
    }
}
