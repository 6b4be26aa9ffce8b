//! `streamer serve`: the hub.

use clap::Args;

use super::{ConfigArgs, WrongUsage};
use crate::clock::Clock;
use crate::hub::{Backend, Hub, StartError};
use crate::observe;
use crate::observe::metrics::Metrics;
use crate::tasks::Tasks;

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
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    observe::log::init(config.log.format, &config.log.filter).map_err(WrongUsage)?;
    // For the restart drill's own test: a hub that forgets must make the drill fail.
    let sabotage = std::env::var("STREAMER_SABOTAGE").is_ok_and(|what| what == "forget");
    let (tasks, clock) = (Tasks::new(), Clock::system());
    let hub = Hub::start(&config, Backend::Mongo, tasks, clock, Metrics::install(), sabotage).await;
    let hub = hub.map_err(for_exit)?;
    tracing::info!(http = %hub.http, grpc = %hub.grpc, "listening");
    hub.run().await.map_err(for_exit)
}

/// What the operator must change ends with status 2.
pub(super) fn for_exit(error: StartError) -> anyhow::Error {
    match error {
        StartError::Misconfigured(detail) => WrongUsage(detail).into(),
        StartError::Failed(_) => error.into(),
    }
}
