//! `streamer bench`: measurements.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

/// What can be measured.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// How fast a backlog is delivered, beside a raw driver cursor on the same data
    #[command(after_help = "Example:\n  streamer bench drain --changes 100000 -o json")]
    Drain(DrainArgs),
}

/// Arguments of `streamer bench drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The backlog's length
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub changes: u64,
    /// The size of each document's body
    #[arg(long, default_value_t = 900, value_name = "N")]
    pub body_bytes: usize,
    /// Subscriptions registered while it is delivered
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub subscriptions: u32,
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
    /// How the table is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Measures and prints a table.
///
/// # Errors
/// A server that cannot be started or a run that did not end.
pub async fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Drain(_args) => anyhow::bail!("not built yet"),
    }
}
