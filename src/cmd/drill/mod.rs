//! `streamer drill`: break a running system and count what was lost.
//!
//! Owns the drills' arguments and their list. What each drill does stands in `catalogue`, in the words of
//! `script`; `course` plays it on a `stage` with a `cast`, `verdict` judges, `report` tells.

mod cast;
mod catalogue;
mod conclusion;
mod consumer;
mod course;
mod gateway;
mod guests;
mod memory;
mod report;
mod rules;
mod schedule;
mod script;
mod soak;
mod sse;
mod stage;
mod suite;
mod verdict;
mod writer;

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};
use serde_json::json;

use self::catalogue::DRILLS;
use self::report::Report;
use self::schedule::{SOAK, Schedule};
use self::script::Drill;
pub use self::soak::SoakArgs;
use super::{Output, OutputArgs, WrongUsage, rig};

/// The drills, each a subcommand by its name, and what is done with all of them.
#[derive(Debug)]
pub enum DrillCommand {
    /// The one of this name.
    One(&'static str, DrillArgs),
    /// One after the other.
    All(AllArgs),
    /// Many faults, for long.
    Soak(SoakArgs),
    /// Name them.
    List(OutputArgs),
}

/// Where the hub keeps its state during a drill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StoreChoice {
    /// An etcd
    Etcd,
    /// One file
    Redb,
}

/// Arguments of each drill.
#[derive(Args, Debug)]
pub struct DrillArgs {
    /// How often it is done; each drill has a number of its own
    #[arg(long, visible_alias = "kills", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Numbered writes a second [default: 500, of `cluster` 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Gateways that receive them: the first by gRPC, the second by SSE, and so on; of drills of NATS the first by NATS
    /// [default: 2, of `cluster` 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub gateways: Option<u32>,
    /// The same seed breaks things at the same moments
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Make a mistake, to see that the drill notices
    #[arg(long)]
    pub sabotage: bool,
    /// Where the hub keeps its state
    #[arg(long, value_enum, default_value_t = StoreChoice::Etcd, value_name = "STORE")]
    pub store: StoreChoice,
    /// Give up on what has not come so long after it could
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub patience: u64,
    /// What it runs on.
    #[command(flatten)]
    pub servers: ServerArgs,
    /// Leave the result in this folder, too, for a hub's dashboard (its `drills.reports`)
    #[arg(long, value_name = "FOLDER")]
    pub report_dir: Option<PathBuf>,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What a drill runs on.
#[derive(Args, Debug)]
pub struct ServerArgs {
    /// Use this MongoDB, in a database of the drill's own, instead of starting one
    #[arg(long, value_name = "URI")]
    pub mongodb: Option<String>,
    /// Use this etcd, under a prefix of the drill's own, instead of starting one
    #[arg(long, value_name = "URL")]
    pub etcd: Option<String>,
    /// The programs to start.
    #[command(flatten)]
    pub programs: ProgramArgs,
}

/// The programs that drills start.
#[derive(Args, Clone, Debug)]
pub struct ProgramArgs {
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
    /// The etcd to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_ETCD", value_name = "FILE")]
    pub etcd_program: Option<PathBuf>,
    /// The nats-server to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_NATS", value_name = "FILE")]
    pub nats_server: Option<PathBuf>,
}

/// Arguments of `streamer drill all`.
#[derive(Args, Debug)]
pub struct AllArgs {
    /// Only these
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// All but these
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub skip: Vec<String>,
    /// Sabotage each, to see that each notices: then those are at fault that pass
    #[arg(long)]
    pub sabotage: bool,
    /// Numbered writes a second [default: each drill's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Gateways that receive them [default: each drill's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub gateways: Option<u32>,
    /// The same seed breaks things at the same moments
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Give up on what has not come so long after it could
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub patience: u64,
    /// Write what became of each as JUnit XML, too
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// The programs to start.
    #[command(flatten)]
    pub programs: ProgramArgs,
    /// How the results are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Subcommand for DrillCommand {
    fn augment_subcommands(command: Command) -> Command {
        let command = DRILLS.iter().fold(command, |command, drill| {
            let example = format!("Example:\n  streamer drill {} --rounds 3 -o json", drill.name);
            let one = DrillArgs::augment_args(Command::new(drill.name)).about(first_upper(drill.does));
            command.subcommand(one.after_help(example))
        });
        let all = AllArgs::augment_args(Command::new("all")).about("One after the other, each on servers of its own");
        let all = all.after_help("Example:\n  streamer drill all --skip mongod-freeze --junit drills.xml");
        let soak = SoakArgs::augment_args(Command::new(SOAK.name)).about(first_upper(SOAK.does));
        let soak = soak.after_help("Example:\n  streamer drill soak --minutes 30 --seed 7 --junit soak.xml");
        let list = OutputArgs::augment_args(Command::new("list")).about("Name the drills there are");
        let list = list.after_help("Example:\n  streamer drill list -o json");
        command.subcommand(all).subcommand(soak).subcommand(list).subcommand_required(true)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        matches!(name, "all" | "soak" | "list") || find(name).is_ok()
    }
}

impl FromArgMatches for DrillCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some(("all", matches)) => Ok(Self::All(AllArgs::from_arg_matches(matches)?)),
            Some(("soak", matches)) => Ok(Self::Soak(SoakArgs::from_arg_matches(matches)?)),
            Some(("list", matches)) => Ok(Self::List(OutputArgs::from_arg_matches(matches)?)),
            Some((name, matches)) => {
                let unknown = |error: WrongUsage| clap::Error::raw(clap::error::ErrorKind::InvalidSubcommand, error.0);
                Ok(Self::One(find(name).map_err(unknown)?.name, DrillArgs::from_arg_matches(matches)?))
            }
            None => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs a drill, or all; it has failed if anything was lost, duplicated or misordered, or if its fault was none.
///
/// # Errors
/// What the drill found, or what kept it from running.
pub async fn run(command: DrillCommand) -> anyhow::Result<()> {
    match command {
        DrillCommand::One(name, args) => one(find(name)?, args).await,
        DrillCommand::All(args) => suite::run(args).await,
        DrillCommand::Soak(args) => soak::run(args).await,
        DrillCommand::List(output) => {
            list(output.output);
            Ok(())
        }
    }
}

async fn one(drill: &'static Drill, args: DrillArgs) -> anyhow::Result<()> {
    let (report, logs) = play(drill, &args, None).await?;
    report.print(args.output.output);
    match (report.fault(), logs) {
        (None, _) => Ok(()),
        (Some(fault), logs) => anyhow::bail!("drill {}: {fault}; {logs}", drill.name),
    }
}

/// Plays it in a folder of its own. Says where the logs are of what went wrong.
async fn play(drill: &'static Drill, args: &DrillArgs, schedule: Option<Schedule>) -> anyhow::Result<(Report, String)> {
    let folder = rig::folder()?;
    let played = course::play(drill, args, schedule, folder.path()).await;
    if let (Ok(report), Some(kept)) = (&played, &args.report_dir) {
        report.leave(kept)?;
    }
    match played {
        Err(error) if error.is::<WrongUsage>() => Err(error),
        Err(error) => Err(error.context(rig::keep_logs(folder.path()))),
        Ok(report) if report.passed => Ok((report, String::new())),
        Ok(report) => Ok((report, rig::keep_logs(folder.path()))),
    }
}

fn find(name: &str) -> Result<&'static Drill, WrongUsage> {
    DRILLS.iter().find(|drill| drill.name == name).ok_or_else(|| {
        let names: Vec<&str> = DRILLS.iter().map(|drill| drill.name).collect();
        WrongUsage(format!("there is no drill {name}; there are {}", names.join(", ")))
    })
}

fn list(output: Output) {
    match output {
        Output::Text => {
            let line = |drill: &Drill| println!("{:<23} {:>4} s  {}", drill.name, drill.seconds, drill.does);
            DRILLS.iter().chain([&SOAK]).for_each(line);
        }
        Output::Json => {
            let drill = |drill: &Drill| {
                let Drill { name, does, seconds, .. } = drill;
                json!({ "name": name, "does": does, "aboutSeconds": seconds, "sabotage": drill.sabotage.does })
            };
            println!("{}", json!({ "drills": DRILLS.iter().chain([&SOAK]).map(drill).collect::<Vec<_>>() }));
        }
    }
}

/// As the other commands' descriptions begin.
fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
