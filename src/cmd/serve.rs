//! `streamer serve`: the hub.

use std::pin::pin;
use std::time::Duration;

use clap::Args;

use super::{ConfigArgs, WrongUsage};
use crate::clock::Clock;
use crate::hub::{Backend, Hub, StartError, signalled};
use crate::observe;
use crate::observe::metrics::Metrics;
use crate::sabotage::Sabotage;
use crate::tasks::Tasks;

/// Arguments of `streamer serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Make this mistake, for a drill to notice
    #[arg(long, hide = true, value_name = "NAME")]
    pub sabotage: Option<Sabotage>,
}

/// Runs the hub until it is told to end.
///
/// # Errors
/// A bad configuration, or a part that failed for good.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    observe::log::init(config.log.format, &config.log.filter).map_err(WrongUsage)?;
    if let Some(sabotage) = args.sabotage {
        tracing::error!(?sabotage, "SABOTAGE: this hub makes a mistake on purpose and must not serve anybody");
    }
    let (tasks, clock) = (Tasks::new(), Clock::system());
    let mut told = pin!(signalled());
    let starting = Hub::start(&config, Backend::Mongo, tasks.clone(), clock, Metrics::install(), args.sabotage);
    // A backend or a store that does not answer is waited for, as long as nobody says otherwise.
    let hub = tokio::select! {
        hub = starting => hub.map_err(for_exit)?,
        () = &mut told => {
            tracing::info!("told to end before it had started");
            tasks.drain(Duration::from_secs(config.shutdown.grace_seconds)).await;
            return Ok(());
        }
    };
    tracing::info!(http = %hub.http, grpc = %hub.grpc, "listening");
    hub.run(told).await.map_err(for_exit)
}

/// What the operator must change ends with status 2.
pub(super) fn for_exit(error: StartError) -> anyhow::Error {
    match error {
        StartError::Misconfigured(detail) => WrongUsage(detail).into(),
        StartError::Failed(_) => error.into(),
    }
}
