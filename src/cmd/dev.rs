//! `streamer dev`: a whole hub on the embedded log.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigArgs, OutputArgs};

/// Arguments of `streamer dev`.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Keep the log and the store here; without it in a new temporary folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Changes the demo writer makes a second; 0 for no demo writer
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    pub rate: f64,
    /// The same seed writes the same changes; without it each run writes others
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How matches are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Runs the hub, the demo writer and a printing subscriber until it is told to end.
///
/// # Errors
/// A bad configuration, or a part that failed for good.
pub async fn run(_args: DevArgs) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
