//! `streamer drill`: break a running system and count what was lost.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

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

/// Arguments of `streamer drill restart`.
#[derive(Args, Debug)]
pub struct RestartArgs {
    /// How often the hub is killed
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub kills: u32,
    /// Numbered writes a second
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub rate: u32,
    /// The same seed kills at the same moments
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Make the hub forget, to see that the drill notices
    #[arg(long)]
    pub sabotage: bool,
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
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
        DrillCommand::Restart(_) | DrillCommand::List(_) => anyhow::bail!("not built yet"),
    }
}
