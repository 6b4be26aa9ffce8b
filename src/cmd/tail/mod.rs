//! `streamer tail`: register a subscription and print what matches.
//!
//! Owns the command's life: register, print until told to end, unregister. It is a gateway like any
//! other, and uses the client library.

mod print;
mod term;

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::sse::{self, Acks};
use super::{CredentialArgs, Output, OutputArgs, WrongUsage};
use crate::client::{
    BodyFormat, Client, ClientConfig, Item, NatsConfig, Registered, Registration, RegistrationError, Rejection, State,
    Subscription,
};
use crate::position::{ClusterTime, Position};
use crate::subscription::DeliveryMode;
use print::Shown;

/// By what matches come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum By {
    /// Delivery.Consume
    #[default]
    Grpc,
    /// Server-Sent Events
    Sse,
}

/// Arguments of `streamer tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// The hub's HTTP address
    #[arg(long, visible_alias = "url", default_value = "http://127.0.0.1:7700", value_name = "URL")]
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
    /// Be this gateway, and go on where it was; without it a new one that is deleted at the end
    #[arg(long, value_name = "NAME")]
    pub gateway: Option<String>,
    /// By what matches come
    #[arg(long, value_enum, default_value_t, value_name = "TRANSPORT")]
    pub transport: By,
    /// By NATS JetStream, from this server: the hub is told to serve the gateway by it
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "nats://127.0.0.1:4222", conflicts_with = "transport")]
    pub nats: Option<String>,
    /// End after so many changes
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End when everything up to this operation time, `<seconds>.<increment>` as a session or `hello` tells it, has been
    /// printed and nothing is left to catch up with
    #[arg(long, value_name = "TIME")]
    pub until_operation_time: Option<ClusterTime>,
    /// Who asks.
    #[command(flatten)]
    pub credentials: CredentialArgs,
    /// How matches are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Prints matches until it is told to end.
///
/// # Errors
/// A filter that the hub refuses, or a hub that cannot be reached.
pub async fn run(args: TailArgs) -> anyhow::Result<()> {
    let hub =
        Registration::with(&args.http, &args.credentials.read()?).map_err(|error| WrongUsage(error.to_string()))?;
    let gateway = args.gateway.clone().unwrap_or_else(|| format!("tail-{:08x}", rand::random::<u32>()));
    let asked = subscription(&args, &gateway)?;
    if args.nats.is_some() {
        hub.serve(&gateway, DeliveryMode::Nats).await.map_err(refused)?;
    }
    let registered = hub.register(&asked).await.map_err(refused)?;
    announce(&asked, &registered);
    let printed = tokio::select! {
        printed = print_all(&args, &gateway) => printed,
        () = told_to_end() => Ok(()),
    };
    // The hub may be what failed: the first error is the one to tell.
    let cleared = match &args.gateway {
        Some(_) => hub.unregister(&gateway, &asked.subscription_id).await,
        None => hub.delete_gateway(&gateway).await,
    };
    printed?;
    cleared.context("matches were printed, but the subscription could not be removed; its lease ends by itself")?;
    Ok(())
}

fn subscription(args: &TailArgs, gateway: &str) -> Result<Subscription, WrongUsage> {
    let mut asked = Subscription::new(gateway, "tail", &args.tenant, &args.collection);
    for text in &args.filter {
        asked.filters.push(term::parse(text).map_err(WrongUsage)?);
    }
    asked.cel.clone_from(&args.cel);
    asked.transitions = args.transitions;
    Ok(asked)
}

/// A filter that means nothing is the caller's mistake; all else is not.
fn refused(error: RegistrationError) -> anyhow::Error {
    match &error {
        RegistrationError::Refused(Rejection { status: 400 | 422, .. }) => WrongUsage(error.to_string()).into(),
        _ => error.into(),
    }
}

fn announce(asked: &Subscription, registered: &Registered) {
    eprintln!("{}/{} as gateway {}; Ctrl-C ends", asked.tenant, asked.collection, asked.gateway_id);
    for warning in &registered.warnings {
        eprintln!("warning: {warning}");
    }
}

/// SIGINT or SIGTERM.
async fn told_to_end() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn print_all(args: &TailArgs, gateway: &str) -> anyhow::Result<()> {
    let config = ClientConfig {
        body: BodyFormat::ExtendedJson,
        credentials: args.credentials.read()?,
        ..ClientConfig::new(&args.grpc, gateway)
    };
    match (&args.nats, args.transport) {
        (Some(url), _) => {
            let nats = NatsConfig { http: Some(args.http.clone()), ..NatsConfig::new(url) };
            by_client(args, ClientConfig { nats: Some(nats), ..config }).await
        }
        (None, By::Grpc) => by_client(args, config).await,
        (None, By::Sse) => by_sse(args, gateway).await,
    }
}

async fn by_client(args: &TailArgs, config: ClientConfig) -> anyhow::Result<()> {
    let mut client = Client::connect(config, State::default()).map_err(|error| WrongUsage(error.to_string()))?;
    let mut printer = Printer::new(args);
    while let Some(item) = client.next().await {
        match item? {
            Item::Change(change) => {
                let more = printer.print(&Shown::of(&change)?)?;
                client.ack(&change.cursor);
                if !more {
                    break;
                }
            }
            Item::Resync(resync) => {
                let reason = resync.reason.map_or("unknown", |reason| reason.name());
                eprintln!("resync ({reason}): changes of {} up to {} were missed", resync.partition, resync.to);
                client.ack(&resync.cursor);
            }
            Item::Expired(expired) => eprintln!("parked ({})", expired.reason),
            Item::Closed(closed) => eprintln!("the hub ended the session: {}", closed.reason),
            Item::Disconnected(gone) => {
                eprintln!("disconnected ({}); again in {} ms", gone.reason, gone.retry_in.as_millis());
            }
            Item::Connected(welcome) => eprintln!("connected to {}", welcome.node),
            Item::Progress(progress) => {
                let positions = progress.positions.iter().map(|(_, position)| *position);
                if is_past(args.until_operation_time, positions, progress.catching_up) {
                    break;
                }
            }
            Item::Revoked(_) | Item::Assigned(_) => {}
        }
    }
    client.close().await;
    Ok(())
}

async fn by_sse(args: &TailArgs, gateway: &str) -> anyhow::Result<()> {
    let mut events = sse::open(&args.http, &args.credentials.read()?, gateway, Acks::Auto).await?;
    let mut printer = Printer::new(args);
    while let Some(event) = events.next().await? {
        match event.name.as_str() {
            "change" => {
                let change: Value = serde_json::from_str(&event.data).context("a change that is no JSON")?;
                if !printer.print(&Shown::of_json(change))? {
                    return Ok(());
                }
            }
            "progress" => {
                let progress: Progress = serde_json::from_str(&event.data).context("a progress that is no JSON")?;
                if is_past(args.until_operation_time, progress.positions.into_values(), progress.catching_up) {
                    return Ok(());
                }
            }
            "welcome" => {}
            name => eprintln!("{name}: {}", event.data),
        }
    }
    anyhow::bail!("the hub ended the stream")
}

/// How far everything has been sent, as an event says it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    positions: BTreeMap<String, Position>,
    catching_up: u64,
}

/// Whether everything up to a time has been sent: in each partition, and to all who catch up.
fn is_past(until: Option<ClusterTime>, positions: impl IntoIterator<Item = Position>, catching_up: u64) -> bool {
    // At a boundary, what carries its very time is still to come.
    until.is_some_and(|until| catching_up == 0 && positions.into_iter().all(|position| position.time > until))
}

/// Writes lines until there have been enough.
struct Printer {
    output: Output,
    left: Option<u64>,
}

impl Printer {
    fn new(args: &TailArgs) -> Self {
        Self { output: args.output.output, left: args.count }
    }

    /// Whether more are wanted. A reader that has gone away (`| head`) wants no more.
    fn print(&mut self, shown: &Shown) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        let written = match self.output {
            Output::Text => writeln!(out, "{shown}"),
            Output::Json => writeln!(out, "{}", shown.json()),
        };
        match written.and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            other => other?,
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(self.left != Some(0))
    }
}
