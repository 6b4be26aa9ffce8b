//! `streamer drill soak`: everything at once, for long.
//!
//! Owns its arguments, who is there beside the cast of a drill, and what is found beside the verdict of one.
//! The course is drawn by `schedule` and played by `course`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::{OutputArgs, one_line};
use super::cast::{Cast, Ended, act};
use super::guests::{Guest, Guests};
use super::memory::{Memory, Sample, sample};
use super::schedule::{SOAK, Schedule};
use super::stage::Stage;
use super::suite::{Row, write_junit};
use super::{DrillArgs, ProgramArgs, ServerArgs, StoreChoice, play};
use crate::client::Registration;
use crate::tasks::Tasks;

/// Arguments of `streamer drill soak`.
#[derive(Args, Debug)]
pub struct SoakArgs {
    /// How long it takes
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub minutes: u32,
    /// Numbered writes a second
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Gateways that receive them: the first by gRPC, the second by SSE, the third by NATS, and so on
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub gateways: u32,
    /// The same seed has the same faults at the same seconds, and the same random subscriptions
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Make a mistake, to see that the soak notices
    #[arg(long)]
    pub sabotage: bool,
    /// Give up on what has not come so long after it could
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub patience: u64,
    /// Write what became of it as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// The programs to start.
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Draws the course, prints it, plays it, and prints what it found.
pub(super) async fn run(args: SoakArgs) -> anyhow::Result<()> {
    let schedule = Schedule::draw(args.seed, args.minutes, args.gateways);
    eprintln!("soak of {} minutes, seed {}, {} faults:", args.minutes, args.seed, schedule.acts.len());
    schedule.lines().iter().for_each(|line| eprintln!("{line}"));
    let of_drill = DrillArgs {
        report_dir: None,
        rounds: None,
        rate: Some(args.rate),
        gateways: Some(args.gateways),
        seed: args.seed,
        sabotage: args.sabotage,
        store: StoreChoice::Etcd,
        patience: args.patience,
        servers: ServerArgs { mongodb: None, etcd: None, programs: args.programs },
        output: args.output,
    };
    let played = play(&SOAK, &of_drill, Some(schedule)).await;
    let complaint = match &played {
        Err(error) => Some(one_line(error)),
        Ok((report, _)) => report.fault(),
    };
    if let Some(path) = &args.junit {
        let result = played.as_ref().map(|(report, _)| report.clone()).map_err(one_line);
        write_junit(path, &[Row { drill: &SOAK, result, complaint: complaint.clone() }])?;
    }
    let (report, logs) = played?;
    report.print(args.output.output);
    match complaint {
        None => Ok(()),
        Some(fault) => anyhow::bail!("soak: {fault}; {logs}"),
    }
}

/// Who is there beside the cast: those who let random subscriptions come and go, and who looks at the memory.
pub(super) struct Company {
    tasks: Tasks,
    stop: CancellationToken,
    guests: Ended<Vec<Guest>>,
    memory: Ended<Vec<Sample>>,
}

/// What they leave.
pub(super) struct Legacy {
    pub(super) guests: Vec<Guest>,
    samples: Vec<Sample>,
}

impl Company {
    pub(super) fn join(stage: &Stage, cast: &Cast, names: &[String], schedule: &Schedule) -> anyhow::Result<Self> {
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let guests = Guests {
            registration: Registration::new(stage.http_url())?,
            database: stage.database.clone(),
            gateways: names.iter().cloned().zip(cast.watches()).collect(),
            visits: schedule.visits.clone(),
            stop: stop.clone(),
        };
        let memory = act(&tasks, "memory", &cast.failed, sample(stage.hub_pid(), stop.clone()));
        let guests = act(&tasks, "guests", &cast.failed, guests.run());
        Ok(Self { tasks, stop, guests, memory })
    }

    /// They finish what they are at.
    pub(super) async fn leave(self, patience: Duration) -> anyhow::Result<Legacy> {
        self.stop.cancel();
        let guests = timeout(patience, self.guests).await.context("random subscriptions are not answered")?;
        let guests = guests.context("nobody lets subscriptions come and go")?.context("random subscriptions")?;
        let samples = self.memory.await.context("nobody looks at the memory")??;
        self.tasks.drain(Duration::from_secs(1)).await;
        Ok(Legacy { guests, samples })
    }
}

/// What a soak found, beside the counts of a drill.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    schedule: Vec<Value>,
    /// Random subscriptions that came,
    guests: usize,
    /// that went again,
    guests_gone: usize,
    /// and what was owed to them, which is counted among the rest too.
    guests_expected: u64,
    memory: Memory,
}

impl Found {
    pub(super) fn new(schedule: &Schedule, legacy: &Legacy, guests_expected: u64, took: Duration) -> Self {
        let line = |act: &super::schedule::Act| json!({ "second": act.second, "fault": act.fault });
        Self {
            schedule: schedule.acts.iter().map(line).collect(),
            guests: legacy.guests.len(),
            guests_gone: legacy.guests.iter().filter(|guest| guest.is_gone()).count(),
            guests_expected,
            memory: Memory::of(&legacy.samples, took),
        }
    }

    pub(super) fn fault(&self) -> Option<String> {
        self.memory.fault()
    }

    /// For the table.
    pub(super) fn rows(&self) -> [(&'static str, String); 3] {
        [
            ("random subscriptions", format!("{}, of which {} were removed", self.guests, self.guests_gone)),
            ("matches expected by them", self.guests_expected.to_string()),
            ("resident memory of the hub", self.memory.text()),
        ]
    }
}
