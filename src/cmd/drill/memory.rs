//! The hub's resident memory during a soak.
//!
//! Owns the samples and what is made of them. A hub that has just begun is small, and each fault kills some:
//! only hubs that have been up for a while are compared, by the medians of the first and the last third.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::super::rig::{Pid, resident_kib};

/// How often the system is asked.
const EACH: Duration = Duration::from_secs(1);
/// A hub that has been up for less is not compared.
const UP_LEAST: Duration = Duration::from_secs(20);
/// With fewer samples a third has no median to speak of.
const SAMPLES_LEAST: usize = 20;
/// A soak that is shorter need not be long enough to compare.
const COMPARED_FROM: Duration = Duration::from_secs(600);
/// What the last third may have more than the first: a quarter, and this.
const MORE_MIB: f64 = 32.0;
const TIMES_MORE: f64 = 1.25;

/// One look at a hub.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Since the soak began.
    at: Duration,
    /// Since this hub was seen first.
    up: Duration,
    kib: u64,
}

/// Looks at whichever process is the hub, until told to stop.
pub(super) async fn sample(hub: watch::Receiver<Option<Pid>>, stop: CancellationToken) -> anyhow::Result<Vec<Sample>> {
    let (began, mut ticks, mut samples) = (Instant::now(), interval(EACH), Vec::new());
    let mut latest: Option<(Pid, Instant)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return Ok(samples),
        }
        let Some(pid) = *hub.borrow() else { continue };
        let since = match latest {
            Some((known, since)) if known == pid => since,
            _ => Instant::now(),
        };
        latest = Some((pid, since));
        // One that has been killed has none.
        if let Some(kib) = resident_kib(pid) {
            samples.push(Sample { at: began.elapsed(), up: since.elapsed(), kib });
        }
    }
}

/// What became of the memory.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Memory {
    samples: usize,
    /// Of any hub at any time.
    peak_mib: f64,
    /// Of hubs that have been up for a while.
    first: Third,
    last: Third,
    /// What the last third's median may be at most; none if there is too little to compare.
    limit_mib: Option<f64>,
    /// Whether the soak was so long that there had to be enough.
    due: bool,
}

/// A third of a soak.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Third {
    samples: usize,
    median_mib: f64,
    /// How long those hubs had been up.
    median_up_seconds: f64,
}

impl Third {
    fn of<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let samples: Vec<&Sample> = samples.filter(|sample| sample.up >= UP_LEAST).collect();
        Self {
            samples: samples.len(),
            median_mib: median(samples.iter().map(|sample| mib(sample.kib))),
            median_up_seconds: median(samples.iter().map(|sample| sample.up.as_secs_f64())),
        }
    }
}

impl Memory {
    /// Of a soak that took so long.
    pub(super) fn of(samples: &[Sample], took: Duration) -> Self {
        let first = Third::of(samples.iter().filter(|sample| sample.at < took / 3));
        let last = Third::of(samples.iter().filter(|sample| sample.at >= took / 3 * 2));
        let is_enough = first.samples.min(last.samples) >= SAMPLES_LEAST;
        Self {
            samples: samples.len(),
            peak_mib: samples.iter().map(|sample| mib(sample.kib)).fold(0.0, f64::max),
            first,
            last,
            limit_mib: is_enough.then_some(first.median_mib * TIMES_MORE + MORE_MIB),
            due: took >= COMPARED_FROM,
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        match self.limit_mib {
            Some(limit) if self.last.median_mib > limit => Some(format!(
                "resident memory grew from {:.0} to {:.0} MiB, {limit:.0} allowed",
                self.first.median_mib, self.last.median_mib
            )),
            None if self.due => Some("too few samples of resident memory to compare".into()),
            _ => None,
        }
    }

    /// For the table.
    pub(super) fn text(&self) -> String {
        let third = |third: &Third| {
            let Third { samples, median_mib, median_up_seconds } = third;
            format!("{median_mib:.0} MiB (median of {samples} samples of hubs up for {median_up_seconds:.0} s)")
        };
        let compared = self.limit_mib.map_or_else(
            || "too few samples to compare".to_owned(),
            |limit| {
                format!("first third {}, last third {}, {limit:.0} MiB allowed", third(&self.first), third(&self.last))
            },
        );
        format!("{compared}; {:.0} MiB at most", self.peak_mib)
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_secs(900);

    /// A hub is killed every minute; its memory depends on the second of the soak and on how long it has been up.
    fn memory(mib: fn(u64, u64) -> u64) -> Memory {
        let second = Duration::from_secs;
        let samples: Vec<Sample> =
            (0..900).map(|at| Sample { at: second(at), up: second(at % 60), kib: mib(at, at % 60) << 10 }).collect();
        Memory::of(&samples, TOOK)
    }

    #[test]
    fn flat_memory_passes_whatever_young_hubs_have() {
        let flat = memory(|at, up| if up < 20 { at } else { 100 });
        assert_eq!(flat.fault(), None);
        assert_eq!((flat.first.samples, flat.last.samples), (200, 200));
        assert_eq!((flat.first.median_mib, flat.limit_mib), (100.0, Some(157.0)));
    }

    #[test]
    fn memory_that_grows_from_hub_to_hub_fails() {
        let fault = memory(|at, _| 100 + at / 5).fault().unwrap();
        assert!(fault.contains("grew from"), "{fault}");
        assert_eq!(memory(|at, _| 100 + at / 30).fault(), None, "within what is allowed");
    }

    #[test]
    fn too_little_to_compare_is_a_fault_of_a_long_soak_only() {
        assert!(Memory::of(&[], TOOK).fault().is_some());
        let short = Memory::of(&[], Duration::from_secs(60));
        assert!(short.fault().is_none() && short.text().contains("too few"));
    }
}
