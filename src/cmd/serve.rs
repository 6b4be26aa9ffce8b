//! `streamer serve`: the hub.

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, WrongUsage};
use crate::clock::Clock;
use crate::config::Config;
use crate::hub::{Backend, Hub, LimitsSetter, StartError, signalled};
use crate::observe;
use crate::observe::metrics::Metrics;
use crate::sabotage::Sabotage;
use crate::tasks::{Kind, Tasks};

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
    // From here on a SIGHUP does not end the process.
    let reloads = signal(SignalKind::hangup())?;
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
    let reloading = reload(reloads, args.config, config, hub.limits(), tasks.shutdown_token());
    tasks.spawn(Kind::Housekeeping, "configuration", reloading);
    hub.run(told).await.map_err(for_exit)
}

/// Reads the configuration again with each SIGHUP and takes what may change while the hub runs.
async fn reload(
    mut told: Signal,
    from: ConfigArgs,
    mut current: Config,
    limits: LimitsSetter,
    shutdown: CancellationToken,
) {
    while shutdown.run_until_cancelled(told.recv()).await.flatten().is_some() {
        let new = match from.load() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "the configuration is not taken; the hub goes on with the one it has");
                continue;
            }
        };
        let changed = limits.set(&new);
        current = current.with_limits_of(&new);
        let needs_restart = current != new;
        tracing::info!(changed, needs_restart, "the configuration has been read again");
        if needs_restart {
            tracing::warn!("what differs beside quotas and sessions is taken with the next start only");
        }
    }
}

/// What the operator must change ends with status 2.
pub(super) fn for_exit(error: StartError) -> anyhow::Error {
    match error {
        StartError::Misconfigured(detail) => WrongUsage(detail).into(),
        StartError::Failed(_) => error.into(),
    }
}
