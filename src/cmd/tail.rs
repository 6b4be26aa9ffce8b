//! `streamer tail`: register a subscription and print what matches.

use clap::Args;

use super::OutputArgs;

/// Arguments of `streamer tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// The hub's HTTP address
    #[arg(long, default_value = "http://127.0.0.1:7700", value_name = "URL")]
    pub http: String,
    /// The hub's gRPC address
    #[arg(long, default_value = "http://127.0.0.1:7701", value_name = "URL")]
    pub grpc: String,
    /// Whose changes
    #[arg(long, value_name = "NAME")]
    pub tenant: String,
    /// Of which collection
    #[arg(long, value_name = "NAME")]
    pub collection: String,
    /// A comparison such as 'stars >= 3'; all that are given must hold
    #[arg(long, value_name = "TERM")]
    pub filter: Vec<String>,
    /// A CEL expression that must hold
    #[arg(long, value_name = "EXPRESSION")]
    pub cel: Option<String>,
    /// Say enter, update or leave
    #[arg(long)]
    pub transitions: bool,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// How matches are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Prints matches until it is told to end.
///
/// # Errors
/// A filter that the hub refuses, or a hub that cannot be reached.
pub async fn run(_args: TailArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
