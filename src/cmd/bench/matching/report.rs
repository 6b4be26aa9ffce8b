//! The tables of a run.
//!
//! Owns how figures are put beside one another and printed.

use anyhow::bail;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::json;

use super::super::super::Output;
use super::super::super::rig::Machine;
use super::contender::Entry;
use super::document::BODY_BYTES;
use super::measure::{Figures, Outcome};
use super::workload::{Plan, Workload};

/// A contender on a workload of a size.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(skip)]
    kind: Workload,
    workload: String,
    pub(super) subscriptions: u32,
    pub(super) contender: &'static str,
    /// Raw documents, as opposed to the values in them.
    reads_documents: bool,
    #[serde(flatten)]
    outcome: Outcome,
    nanos_per_change: Option<f64>,
    /// Where every subscription is evaluated on every change.
    nanos_per_evaluation: Option<f64>,
    /// Its rate by the bare walk's, where it reads documents.
    of_walk: Option<f64>,
}

impl Row {
    pub(super) fn new(plan: &Plan, entry: &Entry, outcome: Outcome) -> Self {
        let nanos = match outcome {
            Outcome::Measured(figures) => Some(1e9 / figures.rate),
            Outcome::NotBuilt { .. } => None,
        };
        // No index takes any of `cel`'s programs, so the engine evaluates them all.
        let evaluates = entry.evaluates_all || plan.workload == Workload::Cel && entry.name == "engine";
        let each = nanos.filter(|_| evaluates).map(|nanos| nanos / f64::from(plan.subscriptions));
        Self {
            kind: plan.workload,
            workload: plan.workload.name(),
            subscriptions: plan.subscriptions,
            contender: entry.name,
            reads_documents: entry.reads,
            outcome,
            nanos_per_change: nanos,
            nanos_per_evaluation: each,
            of_walk: None,
        }
    }

    pub(super) fn workload(&self) -> Workload {
        self.kind
    }

    pub(super) fn nanos_per_change(&self) -> Option<f64> {
        self.nanos_per_change
    }

    fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::NotBuilt { .. } => None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let name = |cells: [String; 2]| cells.to_vec();
        let head = name([grouped(self.subscriptions.into()), self.contender.to_owned()]);
        let figures = match self.outcome {
            Outcome::Measured(figures) => figures,
            Outcome::NotBuilt { inserted } => {
                return [head, vec![format!("not built ({} in time)", grouped(inserted.into()))]].concat();
            }
        };
        let rest = [
            grouped(figures.rate as u64),
            self.nanos_per_change.map_or_else(String::new, nanos),
            self.nanos_per_evaluation.map_or_else(String::new, nanos),
            self.of_walk.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            if self.contender == "bare walk" { String::new() } else { format!("{:.2}", figures.matches_per_change) },
            figures.bytes_per_subscription.map_or_else(String::new, |bytes| format!("{bytes:.0}")),
            rate(figures.insert_rate.or(figures.build_insert_rate)),
            rate(figures.remove_rate),
            micros(figures.longest_insert_micros),
            micros(figures.longest_remove_micros),
            format!("{:.1} s", figures.build_seconds),
            grouped(figures.changes as u64),
        ];
        [head, rest.to_vec()].concat()
    }
}

const HEADER: [&str; 14] = [
    "subscriptions",
    "contender",
    "changes/s",
    "a change",
    "an evaluation",
    "of the walk",
    "matches",
    "bytes each",
    "inserts/s",
    "removals/s",
    "longest insert",
    "removal",
    "build",
    "changes",
];

/// A whole run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    bench: &'static str,
    changes: u64,
    seconds: f64,
    build_seconds: u64,
    body_bytes: usize,
    rows: Vec<Row>,
    disagreements: Vec<String>,
    machine: Machine,
    streamer: &'static str,
    debug_build: bool,
}

impl Report {
    pub(super) fn new(changes: u64, seconds: f64, build_seconds: u64) -> Self {
        Self {
            bench: "match",
            changes,
            seconds,
            build_seconds,
            body_bytes: BODY_BYTES,
            rows: Vec::new(),
            disagreements: Vec::new(),
            machine: Machine::here(),
            streamer: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(super) fn push(&mut self, row: Row, fault: Option<String>) {
        let place = format!("{} at {}", row.workload, row.subscriptions);
        self.disagreements.extend(fault.map(|fault| format!("{place}: {fault}")));
        self.rows.push(row);
    }

    /// A size of a workload is complete.
    pub(super) fn disagree(&mut self, plan: &Plan, disagreements: Vec<String>) {
        let place = format!("{} at {}", plan.workload.name(), plan.subscriptions);
        self.disagreements.extend(disagreements.into_iter().map(|said| format!("{place}: {said}")));
        let is_here = |row: &&mut Row| row.kind == plan.workload && row.subscriptions == plan.subscriptions;
        let walk = self.rows.iter_mut().filter(is_here).find(|row| row.contender == "bare walk");
        let Some(walk) = walk.and_then(|row| row.figures().map(|figures| figures.rate)) else { return };
        for row in self.rows.iter_mut().filter(is_here).filter(|row| row.reads_documents) {
            row.of_walk = row.figures().map(|figures| figures.rate / walk);
        }
    }

    pub(super) fn print(&self, output: Output) {
        match output {
            Output::Json => println!("{}", json!(self)),
            Output::Text => {
                for workload in self.workloads() {
                    println!("\n{}\n{}", workload.name(), self.table(workload));
                }
                println!("{}", self.circumstances());
            }
        }
    }

    /// Whether everybody counted the same.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        if !self.disagreements.is_empty() {
            bail!("contenders disagree: {}", self.disagreements.join("; "));
        }
        Ok(())
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut all: Vec<Workload> = self.rows.iter().map(|row| row.kind).collect();
        all.dedup();
        all
    }

    /// Without the columns in which nobody has a figure.
    fn table(&self, workload: Workload) -> Table {
        let rows: Vec<Vec<String>> = self.rows.iter().filter(|row| row.kind == workload).map(Row::cells).collect();
        let is_used = |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()));
        let used: Vec<usize> = (0..HEADER.len()).filter(|column| is_used(*column)).collect();
        let pick = |row: &[String]| used.iter().map(|column| row.get(*column).cloned().unwrap_or_default()).collect();
        let mut table = Table::new();
        let header: Vec<String> = pick(&HEADER.map(str::to_owned));
        table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
        for row in &rows {
            let cells: Vec<String> = pick(row);
            table.add_row(cells);
        }
        for (place, column) in table.column_iter_mut().enumerate() {
            if place != 1 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn circumstances(&self) -> String {
        let machine = &self.machine;
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        format!(
            "\nup to {} changes of {} bytes (light ones: their time only), one thread, best round of {} s by its processor \
             time\n{machine}; streamer {}{debug}",
            grouped(self.changes),
            self.body_bytes,
            self.seconds,
            self.streamer,
        )
    }
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(String::new, |rate| grouped(rate as u64))
}

fn micros(micros: Option<f64>) -> String {
    micros.map_or_else(String::new, |micros| format!("{micros:.0} µs"))
}

fn nanos(nanos: f64) -> String {
    match nanos {
        nanos if nanos < 1e4 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e7 => format!("{:.0} µs", nanos / 1e3),
        nanos => format!("{:.0} ms", nanos / 1e6),
    }
}

/// Thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::contenders;
    use super::*;

    fn row(contender: usize, rate: f64) -> Row {
        let plan = Plan { workload: Workload::Chat, subscriptions: 1_000 };
        Row::new(&plan, &contenders()[contender], Outcome::Measured(Figures { rate, ..Figures::default() }))
    }

    #[test]
    fn rates_are_set_against_the_walks() {
        let mut report = Report::new(1, 1.0, 1);
        report.push(row(0, 500.0), None);
        report.push(row(1, 2_000.0), None);
        report.disagree(&Plan { workload: Workload::Chat, subscriptions: 1_000 }, Vec::new());
        assert_eq!(report.rows[0].of_walk, Some(0.25));
        assert!(report.verdict().is_ok());
        assert_eq!(report.table(Workload::Chat).row_count(), 2);
    }

    #[test]
    fn a_disagreement_or_a_fault_fails_the_run() {
        let plan = Plan { workload: Workload::Chat, subscriptions: 1_000 };
        let mut report = Report::new(1, 1.0, 1);
        report.disagree(&plan, vec!["change 1 differs".to_owned()]);
        assert_eq!(report.verdict().unwrap_err().to_string(), "contenders disagree: chat at 1000: change 1 differs");
        let mut report = Report::new(1, 1.0, 1);
        report.push(row(0, 1.0), Some("lost one".to_owned()));
        assert!(report.verdict().is_err());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12.3, 45_678.0, 3e8].map(nanos), ["12 ns", "46 µs", "300 ms"]);
    }
}
