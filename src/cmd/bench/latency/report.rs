//! The table of latencies.
//!
//! Owns the figures, their medians over the rounds, and how they are printed.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::super::plot::{self, Line, Panel, Scale};
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
        Self { p50: at_share(&times, 0.5), p99: at_share(&times, 0.99) }
    }
}

/// How many changes there are for each that is later, where a picture has a point.
const TAILS: [f64; 8] = [1.25, 2.0, 4.0, 10.0, 20.0, 100.0, 200.0, 1_000.0];

/// How late each share of the changes was at most, in milliseconds, in the order of [`TAILS`].
type Curve = [f64; TAILS.len()];

fn curve(times: &mut [Duration]) -> Curve {
    times.sort_unstable();
    TAILS.map(|tail| at_share(times, 1.0 - 1.0 / tail))
}

fn at_share(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// One side's part of a round.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
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
    raw_curve: Curve,
    gateway_curve: Curve,
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
            raw_curve: curve(&mut late.iter().map(|late| late.raw).collect::<Vec<_>>()),
            gateway_curve: curve(&mut late.iter().map(|late| late.gateway).collect::<Vec<_>>()),
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

    /// A panel a side: how late which share of the changes was, at the raw cursor and at the gateways.
    pub(super) fn plot(&self) -> String {
        let panel = |side: &str| {
            let of_side = || self.rounds.iter().filter(|round| round.side == side);
            let line = |name: &str, curve: fn(&Round) -> &Curve| {
                let point =
                    |(index, tail): (usize, &f64)| (*tail, middle(of_side().map(|round| curve(round)[index])) * 1e6);
                Line { name: name.to_owned(), points: TAILS.iter().enumerate().map(point).collect() }
            };
            Panel {
                title: format!("{side}: {} writes/s, {} gateways", self.rate, self.gateways),
                caption: "share of the changes; how late at most",
                across: Scale::Percentile,
                up: Scale::Nanos,
                lines: vec![
                    line("gateway", |round| &round.gateway_curve),
                    line("raw cursor", |round| &round.raw_curve),
                ],
            }
        };
        plot::svg(&self.sides().into_iter().map(panel).collect::<Vec<_>>())
    }

    /// Each once, in the order of the rounds.
    fn sides(&self) -> Vec<&'static str> {
        let mut seen = std::collections::HashSet::new();
        self.rounds.iter().map(|round| round.side).filter(|side| seen.insert(*side)).collect()
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
        for side in self.sides() {
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
        let machine = &self.machine;
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        format!(
            "{} writes/s of {} bytes, {} an insert, for {} s; {} subscriptions of {} gateways, one match a change\n\
             {machine}; mongod {}, streamer {}{debug}",
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
