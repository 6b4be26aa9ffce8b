//! `streamer drill`: break a running system and count what was lost.
//!
//! Owns the drills' arguments and their list. Each drill has a file of its own.

mod gateway;
mod report;
mod restart;
mod rules;
mod verdict;
mod writer;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Output, OutputArgs};

/// The drills.
#[derive(Subcommand, Debug)]
pub enum DrillCommand {
    /// Kill the hub again and again while numbered writes go through it
    #[command(after_help = "Example:\n  streamer drill restart --kills 20")]
    Restart(RestartArgs),
    /// Name the drills there are
    #[command(after_help = "Example:\n  streamer drill list -o json")]
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

/// Arguments of `streamer drill restart`.
#[derive(Args, Debug)]
pub struct RestartArgs {
    /// How often the hub is killed
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub kills: u32,
    /// Numbered writes a second
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Gateways that receive them
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub gateways: u32,
    /// The same seed kills at the same moments
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Make the hub forget, to see that the drill notices
    #[arg(long)]
    pub sabotage: bool,
    /// Use this MongoDB, in a database of the drill's own, instead of starting one
    #[arg(long, value_name = "URI")]
    pub mongodb: Option<String>,
    /// Use this etcd, under a prefix of the drill's own, instead of starting one
    #[arg(long, value_name = "URL")]
    pub etcd: Option<String>,
    /// Where the hub keeps its state
    #[arg(long, value_enum, default_value_t = StoreChoice::Etcd, value_name = "STORE")]
    pub store: StoreChoice,
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
    /// The etcd to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_ETCD", value_name = "FILE")]
    pub etcd_program: Option<PathBuf>,
    /// Give up on what has not come so long after the last write
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub patience: u64,
    /// How the result is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Runs a drill; it has failed if anything was lost, duplicated or misordered.
///
/// # Errors
/// What the drill found, or what kept it from running.
pub async fn run(command: DrillCommand) -> anyhow::Result<()> {
    match command {
        DrillCommand::Restart(args) => restart::run(args).await,
        DrillCommand::List(output) => {
            list(output.output);
            Ok(())
        }
    }
}

/// Name and what it does.
const DRILLS: [(&str, &str); 1] =
    [("restart", "kills the hub with SIGKILL at random moments while numbered writes go through it")];

fn list(output: Output) {
    match output {
        Output::Text => DRILLS.iter().for_each(|(name, does)| println!("{name:<10} {does}")),
        Output::Json => {
            let drills: Vec<_> = DRILLS.iter().map(|(name, does)| json!({ "name": name, "does": does })).collect();
            println!("{}", json!({ "drills": drills }));
        }
    }
}
