//! The table of a drain.
//!
//! Owns the figures, their medians, and how they are printed.

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use super::super::Output;
use super::super::rig::Machine;
use super::plot::{self, Line, Panel, Scale};
use super::{BodyChoice, DrainArgs};

/// One reading by the driver's own change stream.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawSide {
    pub(super) seconds: f64,
    /// Changes a second.
    pub(super) rate: f64,
    pub(super) reader_cpu_seconds: f64,
    pub(super) mongod_cpu_seconds: f64,
    /// How far it had come when: seconds, and thousands of changes.
    pub(super) course: Vec<(f64, f64)>,
}

/// One reading through the hub.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HubSide {
    /// From the start of the process to `welcome`; not part of `seconds`.
    pub(super) startup_seconds: f64,
    /// From `welcome` to the last change.
    pub(super) seconds: f64,
    /// Changes a second.
    pub(super) rate: f64,
    pub(super) consumer_cpu_seconds: f64,
    /// With its start.
    pub(super) hub_cpu_seconds: f64,
    /// With the hub's start.
    pub(super) mongod_cpu_seconds: f64,
    pub(super) body_bytes: u64,
    /// How far it had come when: seconds, and thousands of changes.
    pub(super) course: Vec<(f64, f64)>,
}

/// Both, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) raw: RawSide,
    pub(super) hub: HubSide,
}

/// All rounds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    bench: &'static str,
    changes: u64,
    body_bytes: usize,
    subscriptions: u32,
    matches: u32,
    body: &'static str,
    rounds: Vec<Round>,
    raw_rate: f64,
    hub_rate: f64,
    /// The hub's median rate by the raw cursor's.
    ratio: f64,
    machine: Machine,
    mongod: String,
    streamer: &'static str,
    debug_build: bool,
}

impl Report {
    pub(super) fn new(args: &DrainArgs, mongod: String, rounds: Vec<Round>) -> Self {
        let raw_rate = median(&rounds, |round| round.raw.rate);
        let hub_rate = median(&rounds, |round| round.hub.rate);
        Self {
            bench: "drain",
            changes: args.changes,
            body_bytes: args.body_bytes,
            subscriptions: args.subscriptions,
            matches: args.matches,
            body: match args.body {
                BodyChoice::Bson => "bson",
                BodyChoice::Json => "json",
            },
            rounds,
            raw_rate,
            hub_rate,
            ratio: hub_rate / raw_rate,
            machine: Machine::here(),
            mongod,
            streamer: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        }
    }

    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", json!(self)),
            Output::Text => {
                println!("{}", self.table());
                println!("{}", self.circumstances());
            }
        }
    }

    /// Each round of both sides.
    pub(super) fn plot(&self) -> String {
        let of = |side: &str, course: fn(&Round) -> &Vec<(f64, f64)>| -> Vec<Line> {
            let rounds = (1..).zip(&self.rounds);
            rounds.map(|(n, round)| Line { name: format!("{side}, {n}"), points: course(round).clone() }).collect()
        };
        let mut lines = of("hub", |round| &round.hub.course);
        lines.extend(of("raw cursor", |round| &round.raw.course));
        plot::svg(&[Panel {
            title: format!("{} bodies, {} subscriptions", self.body, self.subscriptions),
            caption: "time; changes that have arrived",
            across: Scale::Seconds,
            up: Scale::Thousands,
            lines,
        }])
    }

    fn table(&self) -> Table {
        let of = |what: fn(&Round) -> f64| median(&self.rounds, what);
        let micros = |seconds: f64| format!("{:.2} µs", seconds * 1e6 / self.changes as f64);
        let raw_cpu = [of(|r| r.raw.reader_cpu_seconds), of(|r| r.raw.mongod_cpu_seconds)].map(micros);
        let hub_cpu =
            [of(|r| r.hub.consumer_cpu_seconds), of(|r| r.hub.mongod_cpu_seconds), of(|r| r.hub.hub_cpu_seconds)]
                .map(micros);
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(["median", "raw cursor", "hub"]);
        table.add_row(["changes/s", &format!("{:.0}", self.raw_rate), &format!("{:.0}", self.hub_rate)]);
        let seconds = [of(|r| r.raw.seconds), of(|r| r.hub.seconds)].map(|seconds| format!("{seconds:.2} s"));
        table.add_row(["time", &seconds[0], &seconds[1]]);
        table.add_row(["ratio", "1", &format!("{:.2}", self.ratio)]);
        table.add_row(["reader's CPU a change", &raw_cpu[0], &hub_cpu[0]]);
        table.add_row(["hub's CPU a change", "", &hub_cpu[2]]);
        table.add_row(["mongod's CPU a change", &raw_cpu[1], &hub_cpu[1]]);
        table.add_row(["hub's start", "", &format!("{:.2} s", of(|r| r.hub.startup_seconds))]);
        for (number, Round { raw, hub }) in (1..).zip(&self.rounds) {
            let name = format!("round {number}, changes/s");
            table.add_row([name, format!("{:.0}", raw.rate), format!("{:.0}", hub.rate)]);
        }
        table
    }

    fn circumstances(&self) -> String {
        let machine = &self.machine;
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        format!(
            "{} changes of {} bytes, {} subscriptions, {} matches a change, bodies as {}\n\
             {machine}; mongod {}, streamer {}{debug}",
            self.changes, self.body_bytes, self.subscriptions, self.matches, self.body, self.mongod, self.streamer,
        )
    }
}

fn median(rounds: &[Round], what: impl Fn(&Round) -> f64) -> f64 {
    middle(rounds.iter().map(what))
}

/// The middle one; of an even number the lower of the two.
pub(super) fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_bad_round() {
        let round = |rate| Round {
            raw: RawSide { seconds: 1.0, rate, reader_cpu_seconds: 0.0, mongod_cpu_seconds: 0.0, course: Vec::new() },
            hub: HubSide {
                startup_seconds: 0.0,
                seconds: 1.0,
                rate,
                consumer_cpu_seconds: 0.0,
                hub_cpu_seconds: 0.0,
                mongod_cpu_seconds: 0.0,
                body_bytes: 0,
                course: Vec::new(),
            },
        };
        let rounds = [round(90.0), round(5.0), round(100.0)];
        assert_eq!(median(&rounds, |round| round.raw.rate), 90.0);
    }
}
