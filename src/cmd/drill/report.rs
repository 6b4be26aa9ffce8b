//! A drill's report.
//!
//! Owns the table, the JSON and the one line that says what was wrong.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::super::Output;
use super::RestartArgs;
use super::gateway::Outcome;
use super::verdict::Verdict;

/// What a drill found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    drill: &'static str,
    seed: u64,
    kills: u32,
    gateways: u32,
    sabotage: bool,
    writes: usize,
    #[serde(flatten)]
    verdict: Verdict,
    resyncs: u64,
    /// Gateways that were not told in time that everything had been sent.
    behind: u64,
    sessions: u64,
    gateway_crashes: u64,
    first_delivery_ms: Percentiles,
    took_seconds: f64,
    passed: bool,
}

/// Times from the start of a killed hub to the first change that a gateway was handed.
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
}

impl Report {
    pub(super) fn new(
        args: &RestartArgs,
        verdict: Verdict,
        writes: usize,
        outcomes: &[Outcome],
        behind: u64,
        first_deliveries: Vec<Duration>,
        took: Duration,
    ) -> Self {
        let sum = |what: fn(&Outcome) -> u64| outcomes.iter().map(what).sum();
        let resyncs = sum(|outcome| outcome.resyncs);
        Self {
            drill: "restart",
            seed: args.seed,
            kills: args.kills,
            gateways: args.gateways,
            sabotage: args.sabotage,
            writes,
            verdict,
            resyncs,
            behind,
            sessions: sum(|outcome| outcome.sessions),
            gateway_crashes: sum(|outcome| outcome.crashes),
            first_delivery_ms: Percentiles::of(first_deliveries),
            took_seconds: took.as_secs_f64(),
            passed: verdict.is_clean() && resyncs == 0 && behind == 0,
        }
    }

    /// What was wrong, in one line.
    pub(super) fn fault(&self) -> Option<String> {
        let Verdict { lost, duplicated, misordered, unexpected, checksums, .. } = self.verdict;
        let counts = [
            (lost, "lost"),
            (duplicated, "duplicated"),
            (misordered, "misordered"),
            (unexpected, "unexpected"),
            (checksums, "keys with wrong checksums"),
            (self.resyncs, "resyncs"),
            (self.behind, "gateways without progress past the last write"),
        ];
        let faults: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        (!faults.is_empty()).then(|| faults.join(", "))
    }

    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", serde_json::json!(self)),
            Output::Text => println!("{}", self.table()),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["drill restart", ""]);
        let times = self.first_delivery_ms;
        let rows = [
            ("kills of the hub", self.kills.to_string()),
            ("crashes of gateways", self.gateway_crashes.to_string()),
            ("sessions", self.sessions.to_string()),
            ("numbered writes", self.writes.to_string()),
            ("matches expected", self.verdict.expected.to_string()),
            ("lost", self.verdict.lost.to_string()),
            ("duplicated", self.verdict.duplicated.to_string()),
            ("misordered", self.verdict.misordered.to_string()),
            ("unexpected", self.verdict.unexpected.to_string()),
            ("keys with wrong checksums", self.verdict.checksums.to_string()),
            ("resyncs", self.resyncs.to_string()),
            ("gateways without progress", self.behind.to_string()),
            (
                "first delivery after a start",
                format!("p50 {} ms, max {} ms, of {} starts", times.p50, times.max, times.starts),
            ),
            ("took", format!("{:.1} s, seed {}", self.took_seconds, self.seed)),
            ("result", if self.passed { "passed" } else { "FAILED" }.to_owned()),
        ];
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
