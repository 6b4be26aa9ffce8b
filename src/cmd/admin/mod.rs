//! `streamer admin`: a hub's subscriptions as a file, and back; a store after a restore.
//!
//! Owns the form of a line: `{"subscription": …, "delivery": …}`, where the subscription is what `POST
//! /v1/subscriptions` takes and `delivery` how its gateway is served. Each line stands for itself, so a file may be
//! cut, joined, sorted and edited by any tool for lines. Positions and cursors are not in it.

mod bump;
mod caller;
mod export;
mod import;

use clap::Subcommand;

pub use bump::BumpArgs;
pub use caller::HubArgs;
pub use export::ExportArgs;
pub use import::ImportArgs;

/// What can be administered.
#[derive(Subcommand, Debug)]
pub enum AdminCommand {
    /// Write a hub's subscriptions as JSON Lines
    #[command(
        after_help = "Example:\n  streamer admin export --url http://127.0.0.1:7700 --output subscriptions.jsonl"
    )]
    Export(ExportArgs),
    /// Register the subscriptions of such a file; the same again changes nothing
    #[command(
        after_help = "Example:\n  streamer admin import --url http://127.0.0.1:7700 --input subscriptions.jsonl --dry-run"
    )]
    Import(ImportArgs),
    /// Make a store in a file ready to be served from after it was restored from a copy
    #[command(after_help = "Example:\n  streamer admin bump-revision --store /var/lib/streamer/store.redb")]
    BumpRevision(BumpArgs),
}

/// Does what was asked for.
///
/// # Errors
/// A hub that does not answer or refuses, a file that cannot be read or written, or a line that was refused.
pub async fn run(command: AdminCommand) -> anyhow::Result<()> {
    match command {
        AdminCommand::Export(args) => export::run(args).await,
        AdminCommand::Import(args) => import::run(args).await,
        AdminCommand::BumpRevision(args) => bump::run(&args),
    }
}
