//! `streamer bench`: measurements.
//!
//! Owns the measurements' arguments. Each measurement has a file of its own.

mod consumer;
mod drain;
mod latency;
pub mod matching;
mod nats;
mod partitions;
mod plot;
mod scale;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::OutputArgs;
use crate::client::BodyFormat;

/// What can be measured.
#[derive(Subcommand, Debug)]
pub enum BenchCommand {
    /// How fast a backlog is delivered, beside a raw driver cursor on the same data
    #[command(after_help = "Example:\n  streamer bench drain --changes 100000 -o json")]
    Drain(DrainArgs),
    /// How much later a gateway has a change than a raw driver cursor
    #[command(
        after_help = "Example:\n  streamer bench latency --gateways 1000 --subscriptions 1000 --side hub,stalled"
    )]
    Latency(latency::LatencyArgs),
    /// How fast changes for many gateways come into NATS JetStream, beside a bare publisher of the same messages
    #[command(after_help = "Example:\n  streamer bench nats --changes 20000 --gateways 20 -o json")]
    Nats(nats::NatsArgs),
    /// How fast a backlog is delivered by hubs whose backend is split into more and fewer partitions
    #[command(after_help = "Example:\n  streamer bench partitions --partitions 1,2,4 --changes 100000")]
    Partitions(partitions::PartitionsArgs),
    /// How a great installation lies on its nodes, and what its store has to bear
    #[command(after_help = "Example:\n  streamer bench scale --clients 100000 --gateways 10 --seconds 1")]
    Scale(scale::ScaleArgs),
    /// How fast it is found whom a change concerns, beside other ways of finding out
    #[command(
        after_help = "Example:\n  streamer bench match --workload chat,mixed --subscriptions 1000,100000 -o json"
    )]
    Match(matching::MatchArgs),
}

/// How bodies travel to the consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BodyChoice {
    /// As stored
    Bson,
    /// Relaxed Extended JSON
    Json,
}

impl From<BodyChoice> for BodyFormat {
    fn from(choice: BodyChoice) -> Self {
        match choice {
            BodyChoice::Bson => Self::Bson,
            BodyChoice::Json => Self::ExtendedJson,
        }
    }
}

/// Arguments of `streamer bench drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// The backlog's length
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub changes: u64,
    /// The size of each document
    #[arg(long, default_value_t = 900, value_name = "N")]
    pub body_bytes: usize,
    /// Subscriptions registered while it is delivered
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscriptions: u32,
    /// Subscriptions that each change matches
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub matches: u32,
    /// How bodies travel to the consumer
    #[arg(long, value_enum, default_value_t = BodyChoice::Bson, value_name = "FORMAT")]
    pub body: BodyChoice,
    /// How often each side drains it, one after the other
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Draws how far each side came in time
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
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
/// A server that cannot be started, a run that did not end, or contenders that disagree.
pub async fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Drain(args) => drain::run(args).await,
        BenchCommand::Latency(args) => latency::run(args).await,
        BenchCommand::Nats(args) => nats::run(args).await,
        BenchCommand::Partitions(args) => partitions::run(args).await,
        BenchCommand::Scale(args) => scale::run(args).await,
        // It waits for nothing, and nothing else runs in this process.
        BenchCommand::Match(args) => {
            let (entries, usual) = (&matching::contenders()[..], &matching::Workload::USUAL[..]);
            matching::run(&args, matching::Setting { entries, usual, before: &["bench", "match"] })
        }
    }
}
