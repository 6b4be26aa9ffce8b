//! A drill's report.
//!
//! Owns the table, the JSON and the one line that says what was wrong.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::SecondsFormat;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use super::super::Output;
use super::DrillArgs;
use super::cast::Finale;
use super::conclusion::Tally;
use super::gateway::Outcome;
use super::script::{Drill, Symptom};
use super::soak::Found;
use super::verdict::Verdict;
use crate::clock::Clock;

/// What a drill found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) drill: &'static str,
    seed: u64,
    rounds: u32,
    /// Of the hub.
    kills: u32,
    gateways: u32,
    sabotage: bool,
    writes: usize,
    #[serde(flatten)]
    verdict: Verdict,
    /// Resyncs that gateways were told, repetitions included.
    resyncs: u64,
    /// Gateways that were not told in time that everything had been sent.
    behind: u64,
    /// The same after a fault, which then was the last.
    unrecovered: u64,
    sessions: u64,
    gateway_crashes: u64,
    first_delivery_ms: Percentiles,
    recovery_ms: Percentiles,
    pub(super) took_seconds: f64,
    /// Why the fault was none, where it was none.
    idle: Vec<String>,
    /// Some of what is wrong, in words.
    examples: Vec<String>,
    #[serde(flatten)]
    soak: Option<Found>,
    pub(super) passed: bool,
}

/// How long something took, over some times.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Percentiles {
    starts: usize,
    p50: u64,
    max: u64,
}

impl Percentiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let millis = |time: Option<&Duration>| time.map_or(0, |time| time.as_millis() as u64);
        Self { starts: times.len(), p50: millis(times.get(times.len() / 2)), max: millis(times.last()) }
    }

    fn text(self, of: &str) -> String {
        format!("p50 {} ms, max {} ms, of {} {of}", self.p50, self.max, self.starts)
    }
}

impl Report {
    pub(super) fn new(
        drill: &'static Drill,
        args: &DrillArgs,
        rounds: u32,
        finale: &Finale,
        verdict: Verdict,
        tally: Tally,
        took: Duration,
    ) -> Self {
        let sum = |what: fn(&Outcome) -> u64| finale.outcomes.iter().map(what).sum();
        let mut this = Self {
            drill: drill.name,
            seed: args.seed,
            rounds,
            kills: tally.kills,
            gateways: args.gateways.unwrap_or(drill.scene.gateways),
            sabotage: args.sabotage,
            writes: finale.written.len(),
            verdict,
            resyncs: sum(|outcome| outcome.resyncs.len() as u64),
            behind: finale.behind,
            unrecovered: tally.unrecovered,
            sessions: sum(|outcome| outcome.sessions),
            gateway_crashes: sum(|outcome| outcome.crashes),
            first_delivery_ms: Percentiles::of(finale.first_deliveries.clone()),
            recovery_ms: Percentiles::of(tally.recoveries),
            took_seconds: took.as_secs_f64(),
            idle: tally.idle,
            examples: tally.examples,
            soak: tally.soak,
            passed: false,
        };
        this.passed = this.fault().is_none();
        this
    }

    /// What was wrong, in one line.
    pub(super) fn fault(&self) -> Option<String> {
        let behind = (self.behind, "gateways without progress past the last write");
        let unrecovered = (self.unrecovered, "gateways that did not recover");
        let counts = self.verdict.faults().into_iter().chain([behind, unrecovered]);
        let faults = counts.filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
        let of_soak = self.soak.as_ref().and_then(Found::fault);
        let faults: Vec<String> = faults.chain(self.idle.iter().cloned()).chain(of_soak).collect();
        (!faults.is_empty()).then(|| faults.join(", "))
    }

    /// Writes what a dashboard shows of it, in place of the last one of this drill.
    pub(super) fn leave(&self, folder: &Path) -> anyhow::Result<()> {
        let named = || format!("--report-dir {}", folder.display());
        std::fs::create_dir_all(folder).with_context(named)?;
        let at = Clock::system().wall().to_rfc3339_opts(SecondsFormat::Secs, true);
        let of = format!("{} rounds, {} writes, {} gateways", self.rounds, self.writes, self.gateways);
        let summary = match self.fault() {
            None => format!("{of}: nothing lost, doubled or misordered; recovery at most {} ms", self.recovery_ms.max),
            Some(fault) => format!("{of}: {fault}"),
        };
        let text = json!({"name": self.drill, "at": at, "passed": self.passed, "summary": summary}).to_string();
        // A hub may look at any moment.
        let (beside, file) = (folder.join(format!(".{}.new", self.drill)), folder.join(format!("{}.json", self.drill)));
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file)).with_context(named)
    }

    /// Whether it shows what its sabotage must show.
    pub(super) fn shows(&self, symptom: Symptom) -> bool {
        let count = match symptom {
            Symptom::Lost => self.verdict.lost,
            Symptom::Unexpected => self.verdict.unexpected,
            Symptom::MissingResyncs => self.verdict.missing_resyncs,
        };
        count > 0
    }

    /// For the row of a summary.
    pub(super) fn summary(&self) -> [String; 5] {
        [
            self.writes.to_string(),
            self.verdict.expected.to_string(),
            self.resyncs.to_string(),
            match self.recovery_ms.starts {
                0 => self.first_delivery_ms.max,
                _ => self.recovery_ms.max,
            }
            .to_string(),
            format!("{:.0}", self.took_seconds),
        ]
    }

    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", serde_json::json!(self)),
            Output::Text => println!("{}", self.table()),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([format!("drill {}", self.drill), String::new()]);
        let verdict = &self.verdict;
        let mut rows = vec![
            ("rounds", self.rounds.to_string()),
            ("kills of the hub", self.kills.to_string()),
            ("crashes of gateways", self.gateway_crashes.to_string()),
            ("sessions", self.sessions.to_string()),
            ("numbered writes", self.writes.to_string()),
            ("matches expected", verdict.expected.to_string()),
            ("matches in resynced ranges", verdict.resynced.to_string()),
            ("matches redelivered as such", verdict.redelivered.to_string()),
            ("matches broadcast as such", verdict.broadcast.to_string()),
            ("resyncs", self.resyncs.to_string()),
        ];
        rows.extend(verdict.faults().map(|(count, name)| (name, count.to_string())));
        rows.push(("gateways without progress", self.behind.to_string()));
        rows.push(("gateways not recovered", self.unrecovered.to_string()));
        rows.extend(self.idle.iter().map(|why| ("no fault", why.clone())));
        if self.first_delivery_ms.starts > 0 {
            rows.push(("first delivery after a start", self.first_delivery_ms.text("starts")));
        }
        if self.recovery_ms.starts > 0 {
            rows.push(("recovery", self.recovery_ms.text("recoveries")));
        }
        rows.extend(self.soak.iter().flat_map(Found::rows));
        rows.push(("took", format!("{:.1} s, seed {}", self.took_seconds, self.seed)));
        rows.push(("result", if self.passed { "passed" } else { "FAILED" }.to_owned()));
        for (name, value) in rows {
            table.add_row([name, &value]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_of_none() {
        let times = |millis: &[u64]| Percentiles::of(millis.iter().map(|ms| Duration::from_millis(*ms)).collect());
        let some = times(&[30, 10, 20]);
        assert_eq!((some.starts, some.p50, some.max), (3, 20, 30));
        assert_eq!(times(&[]).max, 0);
    }
}
