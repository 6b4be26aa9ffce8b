//! The table of latencies.
//!
//! Owns the figures, their medians over the rounds, and how they are printed.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::super::table::middle;
use super::arrivals::Arrivals;
use super::{LatencyArgs, Side};
use crate::cmd::Output;
use crate::cmd::rig::Machine;

/// In milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

impl Percentiles {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let index = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
            times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// One side's part of a round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Round {
    side: &'static str,
    changes: usize,
    /// From the insert's sending to the raw cursor.
    raw: Percentiles,
    /// From there to the gateway.
    gateway: Percentiles,
    /// The difference of the two, change by change.
    added: Percentiles,
    /// What an insert took.
    insert: Percentiles,
}

impl Round {
    pub(super) fn new(side: Side, arrivals: &Arrivals, skip: u64, inserts: &[Duration]) -> Self {
        let late = arrivals.late(skip);
        Self {
            side: side.name(),
            changes: late.len(),
            raw: Percentiles::of(late.iter().map(|late| late.raw).collect()),
            gateway: Percentiles::of(late.iter().map(|late| late.gateway).collect()),
            // Where the gateway is the earlier of the two, nothing is added.
            added: Percentiles::of(late.iter().map(|late| late.gateway.saturating_sub(late.raw)).collect()),
            insert: Percentiles::of(inserts.to_vec()),
        }
    }
}

/// All rounds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    bench: &'static str,
    rate: u32,
    batch: u32,
    seconds: u32,
    subscriptions: u32,
    gateways: u32,
    body_bytes: usize,
    rounds: Vec<Round>,
    machine: Machine,
    mongod: String,
    streamer: &'static str,
    debug_build: bool,
}

impl Report {
    pub(super) fn new(args: &LatencyArgs, mongod: String, rounds: Vec<Round>) -> Self {
        Self {
            bench: "latency",
            rate: args.rate,
            batch: args.batch,
            seconds: args.seconds,
            subscriptions: args.subscriptions,
            gateways: args.gateways,
            body_bytes: args.body_bytes,
            rounds,
            machine: Machine::here(),
            mongod,
            streamer: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        }
    }

    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", serde_json::json!(self)),
            Output::Text => println!("{}\n\n{}", self.table(), self.circumstances()),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header([
            "median of the rounds",
            "raw cursor, p50",
            "p99",
            "gateway, p50",
            "p99",
            "added, p50",
            "p99",
            "insert, p50",
            "p99",
        ]);
        let mut sides: Vec<&str> = self.rounds.iter().map(|round| round.side).collect();
        let mut seen = std::collections::HashSet::new();
        sides.retain(|side| seen.insert(*side));
        for side in sides {
            let of = |what: fn(&Round) -> Percentiles| {
                let of_side = || self.rounds.iter().filter(|round| round.side == side).map(what);
                [middle(of_side().map(|figures| figures.p50)), middle(of_side().map(|figures| figures.p99))]
            };
            let figures =
                [of(|round| round.raw), of(|round| round.gateway), of(|round| round.added), of(|round| round.insert)];
            let cells = figures.iter().flatten().map(|millis| format!("{millis:.2} ms"));
            table.add_row(std::iter::once(side.to_owned()).chain(cells));
        }
        table
    }

    fn circumstances(&self) -> String {
        let Machine { cores, cpu, memory_gib, kernel } = &self.machine;
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        format!(
            "{} writes/s of {} bytes, {} an insert, for {} s; {} subscriptions of {} gateways, one match a change\n\
             {cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}; mongod {}, streamer {}{debug}",
            self.rate,
            self.body_bytes,
            self.batch,
            self.seconds,
            self.subscriptions,
            self.gateways,
            self.mongod,
            self.streamer,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let figures = Percentiles::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((figures.p50, figures.p99), (50.0, 99.0));
        let figures = Percentiles::of(vec![Duration::from_millis(7)]);
        assert_eq!((figures.p50, figures.p99), (7.0, 7.0));
    }
}
