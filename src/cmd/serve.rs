//! `streamer serve`: the hub.

use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use metrics::counter;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArgs, WrongUsage};
use crate::clock::Clock;
use crate::config::Config;
use crate::hub::{Backend, Hub, LimitsSetter, StartError, signalled};
use crate::observe;
use crate::observe::metrics::{CONFIG_RELOADS, Metrics};
use crate::sabotage::Sabotage;
use crate::tasks::Tasks;

/// Between one start that failed and the next, of a hub that has served before.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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

/// Runs the hub until it is told to end, anew wherever SIGHUP finds settings that a running one cannot take.
///
/// # Errors
/// A bad configuration, or a part that failed for good.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let mut config = args.config.load()?;
    observe::log::init(config.log.format, &config.log.filter).map_err(WrongUsage)?;
    if let Some(sabotage) = args.sabotage {
        tracing::error!(?sabotage, "SABOTAGE: this hub makes a mistake on purpose and must not serve anybody");
    }
    if let Some(endpoint) = &config.tracing.endpoint {
        let installed = observe::trace::install(endpoint, config.tracing.ratio, &config.node.id);
        installed.map_err(|error| WrongUsage(format!("tracing.endpoint: {error}")))?;
    }
    // From here on a SIGHUP does not end the process.
    let mut reloads = signal(SignalKind::hangup())?;
    let mut told = pin!(signalled());
    let metrics = Metrics::install();
    // The configuration to go back to should the present one turn out to be no good.
    let mut served = None;
    loop {
        let (tasks, grace) = (Tasks::new(), Duration::from_secs(config.shutdown.grace_seconds));
        let starting =
            Hub::start(&config, Backend::Mongo, tasks.clone(), Clock::system(), metrics.clone(), args.sabotage);
        // A backend or a store that does not answer is waited for, as long as nobody says otherwise.
        let started = tokio::select! {
            hub = starting => Ok(hub),
            new = another(&mut reloads, &args.config, &config) => Err(Some(new)),
            () = &mut told => Err(None),
        };
        let hub = match started {
            Ok(Ok(hub)) => hub,
            Ok(Err(error)) => {
                tasks.drain(grace).await;
                // One that has never served has nothing to go back to.
                let Some(before) = &served else { return Err(for_exit(error)) };
                if config == *before {
                    tracing::error!(%error, "the hub does not start again; it tries once more");
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
                tracing::error!(%error, "the hub does not start with the new configuration; it goes back to the last one");
                counter!(CONFIG_RELOADS, "what" => "config", "outcome" => "refused").increment(1);
                config = before.clone();
                continue;
            }
            Err(new) => {
                tasks.drain(grace).await;
                let Some(new) = new else {
                    tracing::info!("told to end before it had started");
                    return Ok(());
                };
                config = new;
                continue;
            }
        };
        tracing::info!(http = %hub.http, grpc = %hub.grpc, "listening");
        let (limits, mut next) = (hub.limits(), None);
        let ended = async {
            let mut current = config.clone();
            tokio::select! {
                () = &mut told => {}
                new = needing_a_restart(&mut reloads, &args.config, &mut current, &limits) => next = Some(new),
            }
            config = current;
        };
        let ran = hub.run(ended).await;
        observe::trace::flush().await;
        ran.map_err(for_exit)?;
        let Some(new) = next else { return Ok(()) };
        served = Some(std::mem::replace(&mut config, new));
    }
}

/// Takes with each SIGHUP what a running hub can take. The first configuration with other differences.
async fn needing_a_restart(
    told: &mut Signal,
    from: &ConfigArgs,
    current: &mut Config,
    limits: &LimitsSetter,
) -> Config {
    loop {
        let new = another(told, from, current).await;
        let changed = limits.set(&new);
        *current = current.with_limits_of(&new);
        let needs_restart = *current != new;
        tracing::info!(changed, needs_restart, "the configuration has been read again");
        if needs_restart {
            tracing::info!("sessions are ended in order and the hub begins anew with it");
            return new;
        }
    }
}

/// The next configuration that can be read, with the present one's log and traces: where they go is settled once.
async fn another(told: &mut Signal, from: &ConfigArgs, current: &Config) -> Config {
    loop {
        if told.recv().await.is_none() {
            return pending().await;
        }
        let (new, outcome) = match from.load() {
            Ok(new) => (Some(new), "taken"),
            Err(error) => {
                tracing::error!(%error, "the configuration is not taken; the hub goes on with the one it has");
                (None, "refused")
            }
        };
        counter!(CONFIG_RELOADS, "what" => "config", "outcome" => outcome).increment(1);
        let Some(new) = new else { continue };
        if (&new.log, &new.tracing) != (&current.log, &current.tracing) {
            tracing::warn!("what differs in [log] and [tracing] is taken with the next start of the process");
        }
        return Config { log: current.log.clone(), tracing: current.tracing.clone(), ..new };
    }
}

/// What the operator must change ends with status 2.
pub(super) fn for_exit(error: StartError) -> anyhow::Error {
    match error {
        StartError::Misconfigured(detail) => WrongUsage(detail).into(),
        StartError::Failed(_) => error.into(),
    }
}
