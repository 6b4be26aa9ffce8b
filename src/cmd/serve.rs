//! `streamer serve`: the hub.

use clap::Args;

use super::ConfigArgs;

/// Arguments of `streamer serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Runs the hub until it is told to end.
///
/// # Errors
/// A bad configuration, or a part that failed for good.
pub async fn run(_args: ServeArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
