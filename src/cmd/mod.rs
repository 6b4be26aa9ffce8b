//! The command line: what can be asked of the program.
//!
//! Owns the arguments of every subcommand and how an outcome becomes an exit status. Each command's
//! work is in a file of its own.

pub mod admin;
pub mod bench;
pub mod check_config;
mod credentials;
pub mod dev;
pub mod drill;
pub mod explain;
pub mod rig;
pub mod serve;
mod sse;
pub mod tail;
pub mod token;
pub mod top;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::credentials::CredentialArgs;
use crate::config::{Config, ConfigError};

/// A change-stream fan-out hub for MongoDB.
#[derive(Parser, Debug)]
#[command(name = "streamer", version, about, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  streamer dev\n\nExit status: 0 done, 1 failed, 2 wrong usage or configuration.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the hub
    #[command(after_help = "Example:\n  streamer serve --config config/streamer.toml")]
    Serve(serve::ServeArgs),
    /// Run a whole hub on its embedded log, with a demo writer
    #[command(after_help = "Example:\n  streamer dev --rate 5")]
    Dev(dev::DevArgs),
    /// Register a subscription and print what matches
    #[command(
        after_help = "Example:\n  streamer tail --tenant demo --collection messages --filter 'stars >= 3' --cel \"doc.author == 'ada'\""
    )]
    Tail(tail::TailArgs),
    /// Say why a filter does or does not fire
    #[command(
        after_help = "Example:\n  streamer explain --tenant demo --collection messages --document '{\"stars\": 4}' --gateway gw-1 --subscription inbox"
    )]
    Explain(explain::ExplainArgs),
    /// Draw a running hub in the terminal
    #[command(after_help = "Example:\n  streamer top --url http://127.0.0.1:7700")]
    Top(top::TopArgs),
    /// Measure the hub
    #[command(subcommand, after_help = "Example:\n  streamer bench drain --changes 100000")]
    Bench(bench::BenchCommand),
    /// Break parts of a running system and count what was lost
    #[command(subcommand, after_help = "Example:\n  streamer drill restart --kills 20")]
    Drill(drill::DrillCommand),
    /// Make a token for somebody who calls a hub
    #[command(
        after_help = "Example:\n  streamer token --file tokens.toml --name edge --role gateway --gateways 'gw-*' --tenants '*'"
    )]
    Token(token::TokenArgs),
    /// Look whether a hub of this configuration would work, at all that it names
    #[command(after_help = "Example:\n  streamer check-config --config config/streamer.toml -o json")]
    CheckConfig(check_config::CheckConfigArgs),
    /// Export a hub's subscriptions, or import them
    #[command(subcommand, after_help = "Example:\n  streamer admin export --output subscriptions.jsonl")]
    Admin(admin::AdminCommand),
}

/// Where the configuration comes from.
#[derive(Args, Debug, Clone, Default)]
pub struct ConfigArgs {
    /// TOML file; without it the defaults. Variables STREAMER__SECTION__KEY override either
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads it, with this process's environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        load(self.config.as_deref())
    }
}

fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    // Variables that are no Unicode cannot be settings of ours.
    let env = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    Config::load(path, env)
}

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `-o`, where a command prints data.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct OutputArgs {
    /// How data is printed
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// Wrong usage or configuration, as opposed to work that failed: exit status 2.
#[derive(Debug)]
pub struct WrongUsage(pub String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Does what was asked for.
///
/// # Errors
/// What went wrong; [`exit_code`] tells its status.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Tail(args) => tail::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Bench(command) => bench::run(command).await,
        Command::Drill(command) => drill::run(command).await,
        Command::Token(args) => token::run(args),
        Command::Admin(command) => admin::run(command).await,
        Command::CheckConfig(args) => check_config::run(&args).await,
    }
}

/// 2 for wrong usage and configuration, 1 for all else.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.is::<WrongUsage>() || error.is::<ConfigError>() { 2 } else { 1 })
}

/// An error and its causes in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
