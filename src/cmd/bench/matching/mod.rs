//! `streamer bench match`: finding whom a change concerns, by several ways over the same changes.
//!
//! Owns the measurement's arguments and course. The workloads (`workload` and a file for each kind) are known
//! by number alone; the contenders take them as they can. `benches/matching.rs` runs the same with crates
//! beside the engine that the product does not need. All matches are counted, and who counts
//! otherwise than the engine fails the run.

mod alone;
mod cel_set;
mod chat;
mod churn;
mod compare;
mod contender;
mod document;
mod engine;
mod floor;
mod intervals;
mod measure;
mod mixed;
mod naive;
mod plot;
mod random;
mod report;
mod walk;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

pub use contender::{Contender, Entry, Upkeep};
pub use document::BODY_BYTES;
pub use floor::ends;
pub use workload::{Event, Plan, Workload};

use self::measure::{Limits, Outcome};
use self::report::{Report, Row};
use super::super::{OutputArgs, WrongUsage};
use crate::clock::Clock;

/// Arguments of `streamer bench match`.
#[derive(Args, Debug)]
pub struct MatchArgs {
    /// What is measured; without it all but `mixed-without-prefix`
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub workload: Vec<Workload>,
    /// Numbers of subscriptions
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "1000,10000,100000,1000000",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub subscriptions: Vec<u32>,
    /// Numbers of CEL programs, for the workload `cel`
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "10,100,1000",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub programs: Vec<u32>,
    /// Different changes
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub changes: u64,
    /// How long each contender may look up, in processor time
    #[arg(long, default_value_t = 2.0, value_name = "S", value_parser = seconds)]
    pub seconds: f64,
    /// How long each may take to be built; what takes longer is skipped
    #[arg(long, default_value_t = 120, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub build_seconds: u64,
    /// Only these contenders, and the engine
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub contender: Vec<String>,
    /// Leaves out memory, and measures inserts beside all else: spares building everything once more in a
    /// process of its own
    #[arg(long)]
    pub together: bool,
    /// Draws the cost of a change against the number of subscriptions
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Builds this contender, prints what that took, and does nothing else
    #[arg(long, hide = true, value_name = "NAME")]
    pub alone: Option<String>,
    /// How the table is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("between 0.01 and 3600 seconds".to_owned()),
    }
}

/// The contenders of the product's own binary.
pub fn contenders() -> Vec<Entry> {
    vec![
        Entry::of::<engine::Engine<{ engine::BATCHES }>>(),
        Entry::of::<walk::BareWalk>(),
        Entry::of::<floor::HashLookUp>(),
        Entry::of::<floor::Grid>(),
        Entry::of::<naive::NaiveCel>(),
        Entry::of::<engine::Engine<{ engine::BLOOM }>>(),
        Entry::of::<engine::Engine<{ engine::SINGLY }>>(),
    ]
}

/// Who measures, and what where nothing is named.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The first is the one that the others are compared with.
    pub entries: &'a [Entry],
    /// Measured where none is named.
    pub usual: &'a [Workload],
    /// What stands in front of this process's own arguments.
    pub before: &'a [&'a str],
}

/// Measures and prints.
///
/// # Errors
/// Contenders that disagree, and what any of them cannot do.
pub fn run(args: &MatchArgs, setting: Setting<'_>) -> anyhow::Result<()> {
    let limits = Limits {
        clock: Clock::system(),
        seconds: Duration::from_secs_f64(args.seconds),
        build_seconds: Duration::from_secs(args.build_seconds),
    };
    let entries = chosen(args, setting.entries)?;
    let plans = plans(args, setting.usual);
    if let Some(name) = &args.alone {
        let (Some(entry), Some(plan)) = (entries.iter().find(|entry| entry.name == name), plans.first()) else {
            return Err(WrongUsage(format!("no contender is called `{name}`")).into());
        };
        println!("{}", serde_json::to_string(&(entry.alone)(plan, &limits)?)?);
        return Ok(());
    }
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build; its figures say nothing about the product");
    }
    let mut report = Report::new(args.changes, args.seconds, args.build_seconds);
    let course = Course { args, limits: &limits, entries: &entries, before: setting.before };
    for plan in &plans {
        course.measure(plan, &mut report)?;
    }
    report.print(args.output.output);
    if let Some(file) = &args.plot {
        std::fs::write(file, plot::svg(report.rows()))?;
    }
    report.verdict()
}

fn chosen(args: &MatchArgs, entries: &[Entry]) -> anyhow::Result<Vec<Entry>> {
    if let Some(unknown) = args.contender.iter().find(|name| !entries.iter().any(|entry| entry.name == **name)) {
        let known = entries.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
        return Err(WrongUsage(format!("no contender is called `{unknown}`; there are {known}")).into());
    }
    let is_chosen = |(place, entry): &(usize, &Entry)| {
        *place == 0 || args.contender.is_empty() || args.contender.iter().any(|name| name == entry.name)
    };
    Ok(entries.iter().enumerate().filter(is_chosen).map(|(_, entry)| *entry).collect())
}

fn plans(args: &MatchArgs, usual: &[Workload]) -> Vec<Plan> {
    let workloads = if args.workload.is_empty() { usual } else { &args.workload };
    let sizes = |workload| if workload == Workload::Cel { &args.programs } else { &args.subscriptions };
    let of = |workload: &Workload| {
        let workload = *workload;
        sizes(workload).iter().map(move |subscriptions| Plan { workload, subscriptions: *subscriptions })
    };
    workloads.iter().flat_map(of).collect()
}

/// What all measurements of a run share.
struct Course<'a> {
    args: &'a MatchArgs,
    limits: &'a Limits,
    entries: &'a [Entry],
    before: &'a [&'a str],
}

impl Course<'_> {
    /// Lets everyone who can express it have a go, one after the other.
    fn measure(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let events = (0..self.args.changes).map(|number| plan.event(number)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut counts = Vec::new();
        for entry in self.entries.iter().filter(|entry| (entry.fits)(plan.workload)) {
            let spinner = spinner(format!("{} {} {}", plan.workload.name(), plan.subscriptions, entry.name));
            let mut measured = (entry.measure)(plan, &events, self.limits)?;
            if let Outcome::Measured(figures) = &mut measured.outcome
                && !self.args.together
                && let Some(alone) = alone::ask(self.before, entry.name, plan, self.limits)?
            {
                figures.learn(&alone, plan.workload.is_churn());
            }
            spinner.finish_and_clear();
            report.push(Row::new(plan, entry, measured.outcome), measured.fault);
            counts.push((entry.name, measured.counts));
        }
        let counts: Vec<(&str, &[u32])> = counts.iter().map(|(name, counts)| (*name, counts.as_slice())).collect();
        // Not built, or only a part of the work: nothing to compare.
        let counts: Vec<_> = counts.into_iter().filter(|(_, counts)| !counts.is_empty()).collect();
        report.disagree(plan, compare::disagreements(&counts));
        Ok(())
    }
}

/// Drawn on standard error, and only on a terminal.
fn spinner(what: String) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
