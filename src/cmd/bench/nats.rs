//! `streamer bench nats`: changes for many gateways through the hub into JetStream, beside a bare publisher.
//!
//! Owns the measurement's course. Both sides publish the same messages to the same server, emptied before each turn,
//! one unacked message for each gateway at a time. The hub reads, matches and packs them meanwhile; the bare publisher
//! has them ready, for they are what the hub has published.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bson::{Document, doc};
use clap::Args;
use comfy_table::{Table, presets};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::super::rig::{self, Database, HubPlan, Machine, Mongod, MongodSize, Nats, OperationTime};
use super::super::{Output, OutputArgs};
use super::table::middle;
use crate::client::{Registration, Subscription};
use crate::clock::Clock;
use crate::config::{Config, StoreKind};
use crate::cursor::Cursor;
use crate::nats::{Consumer, Endpoint, Message, Server, StreamConfig, Taken, subject};
use crate::position::PartitionId;
use crate::subscription::GatewayId;

const TENANT: &str = "bench";
const COLLECTION: &str = "messages";
const STREAM: &str = "STREAMER";
/// Nothing is taken while it is measured.
const SUBJECT_MESSAGES: u32 = 1_000_000;
/// The hub's leases must outlive the measurement.
const TTL_SECONDS: u32 = 3_600;
/// Documents in one insert.
const BATCH_DOCUMENTS: u64 = 2_000;
/// Longer than any turn.
const PATIENCE: Duration = Duration::from_secs(300);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Arguments of `streamer bench nats`.
#[derive(Args, Debug)]
pub struct NatsArgs {
    /// Changes, each of which goes to every gateway
    #[arg(long, default_value_t = 20_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub changes: u64,
    /// Gateways that NATS serves
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub gateways: u32,
    /// The size of each document
    #[arg(long, default_value_t = 900, value_name = "N")]
    pub body_bytes: usize,
    /// Changes a second while the hub looks on; 0: all of them are there when it starts
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub rate: u32,
    /// How often each side has its turn
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<PathBuf>,
    /// The nats-server to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_NATS", value_name = "FILE")]
    pub nats_server: Option<PathBuf>,
    /// How the table is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Measures and prints.
pub(super) async fn run(args: NatsArgs) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build; its figures say nothing about the product");
    }
    let folder = rig::folder()?;
    let mut bench = Bench::set(&args, folder.path()).await?;
    let report = tokio::select! {
        report = bench.measure(&args) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    match args.output.output {
        Output::Json => println!("{}", json!(report)),
        Output::Text => println!("{}\n{}", report.table(), report.circumstances()),
    }
    Ok(())
}

struct Bench {
    _mongod: Mongod,
    nats: Nats,
    database: Database,
    plan: HubPlan,
    config: Config,
    store: PathBuf,
    /// The store as it was before anything was written.
    kept: PathBuf,
    gateways: Vec<GatewayId>,
    clock: Clock,
}

/// What one turn of a side came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    /// Deliveries a second: changes, once for each gateway.
    rate: f64,
    /// From the first message to the last.
    seconds: f64,
    /// Of the hub: from the write in MongoDB to where NATS has it, if changes were paced; of the bare publisher: from
    /// handing a message over to its ack. In seconds: the half, and all but one in a hundred.
    latency: Option<(f64, f64)>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    hub: Side,
    bare: Side,
    messages: usize,
    bytes: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bench: &'static str,
    changes: u64,
    gateways: u32,
    body_bytes: usize,
    rate: u32,
    rounds: Vec<Round>,
    hub_rate: f64,
    bare_rate: f64,
    ratio: f64,
    machine: Machine,
    mongod: String,
    streamer: &'static str,
    debug_build: bool,
}

/// What the hub published to one gateway.
#[derive(Default)]
struct Published {
    messages: Vec<Message>,
    deliveries: u64,
    /// When the server had the first and the last, since 1970.
    span: Option<(Duration, Duration)>,
    latencies: Vec<f64>,
}

impl Bench {
    async fn set(args: &NatsArgs, folder: &Path) -> anyhow::Result<Self> {
        let mongod = rig::find("mongod", args.mongod.as_deref(), "STREAMER_MONGOD")?;
        let mongod = Mongod::start(&mongod, folder, MongodSize { cache_gib: 1.0, ..MongodSize::default() }).await?;
        let nats = rig::find("nats-server", args.nats_server.as_deref(), "STREAMER_NATS")?;
        let nats = Nats::start(&nats, folder, "").await?;
        let database = Database::connect(&mongod.uri(), "streamer_bench", TENANT, COLLECTION).await?;
        database.create(false).await?;
        let store = folder.join("store.redb");
        let mut config = Config::default();
        config.node.id = "bench-hub".into();
        config.backends.0[0].uri = mongod.uri();
        config.backends.0[0].database = Some(database.name().to_owned());
        config.store.kind = StoreKind::Redb;
        config.store.path.clone_from(&store);
        config.nats.url = nats.url();
        config.nats.subject_messages = SUBJECT_MESSAGES;
        let plan = HubPlan::new(folder, config.clone())?;
        let gateways = (1..=args.gateways).map(|n| GatewayId::new(&format!("bench-{n}"))).collect::<Result<_, _>>()?;
        let kept = folder.join("store.before");
        Ok(Self { _mongod: mongod, nats, database, plan, config, store, kept, gateways, clock: Clock::system() })
    }

    async fn measure(&mut self, args: &NatsArgs) -> anyhow::Result<Report> {
        if args.rate == 0 {
            self.register().await?;
            self.write(args, 0).await?;
        }
        let mut rounds = Vec::new();
        for round in 1..=args.rounds {
            let (hub, published) = self.hub(args, round).await?;
            let bare = self.bare(args, &published).await?;
            let all = || published.iter().flat_map(|published| &published.messages);
            let (messages, bytes) = (all().count(), all().map(|message| message.payload.len()).sum());
            rounds.push(Round { hub, bare, messages, bytes });
        }
        let (hub_rate, bare_rate) =
            (middle(rounds.iter().map(|it| it.hub.rate)), middle(rounds.iter().map(|it| it.bare.rate)));
        Ok(Report {
            bench: "nats",
            changes: args.changes,
            gateways: args.gateways,
            body_bytes: args.body_bytes,
            rate: args.rate,
            rounds,
            hub_rate,
            bare_rate,
            ratio: hub_rate / bare_rate,
            machine: Machine::here(),
            mongod: self.database.version().await?,
            streamer: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        })
    }

    /// A hub that has all subscriptions and has published nothing yet, stopped again, and its store kept.
    async fn register(&mut self) -> anyhow::Result<()> {
        if self.store.exists() {
            tokio::fs::remove_file(&self.store).await?;
        }
        self.config.nats.gateways.clear();
        self.plan.configure(self.config.clone())?;
        let mut hub = self.plan.start(None)?;
        hub.ready().await?;
        let registration = Registration::new(self.plan.http_url())?;
        let asked = |gateway: &GatewayId| Subscription {
            ttl_seconds: Some(TTL_SECONDS),
            ..Subscription::new(gateway.as_str(), "all", TENANT, COLLECTION)
        };
        for answer in registration.register_batch(&self.gateways.iter().map(asked).collect::<Vec<_>>()).await? {
            answer.map_err(|rejection| anyhow::anyhow!("a registration is refused: {rejection}"))?;
        }
        hub.terminate().await?;
        tokio::fs::copy(&self.store, &self.kept).await.context("the hub's store")?;
        self.config.nats.gateways = vec!["bench-*".into()];
        self.plan.configure(self.config.clone())
    }

    /// All of them, as fast as they go, or at their times. What is written says when.
    async fn write(&self, args: &NatsArgs, round: u32) -> anyhow::Result<()> {
        let document = |number| document(round, number, args.body_bytes, self.clock.wall().timestamp_micros());
        if args.rate == 0 {
            let mut next = 0;
            while next < args.changes {
                let end = args.changes.min(next + BATCH_DOCUMENTS);
                self.database.insert((next..end).map(document)).await?;
                next = end;
            }
            return Ok(());
        }
        let mut ticks = interval(Duration::from_secs(1) / args.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..args.changes {
            ticks.tick().await;
            self.database.insert([document(number)]).await?;
        }
        Ok(())
    }

    async fn hub(&mut self, args: &NatsArgs, round: u32) -> anyhow::Result<(Side, Vec<Published>)> {
        if args.rate > 0 {
            self.register().await?;
        }
        tokio::fs::copy(&self.kept, &self.store).await?;
        self.empty().await?;
        let mut hub = self.plan.start(None)?;
        hub.ready().await?;
        if args.rate > 0 {
            self.caught_up().await?;
            self.write(args, round).await?;
        }
        self.caught_up().await?;
        hub.terminate().await?;
        let published = try_join_all(self.gateways.iter().map(|gateway| self.published(gateway, round, args))).await?;
        let first = published.iter().filter_map(|it| Some(it.span?.0)).min().unwrap_or_default();
        let last = published.iter().filter_map(|it| Some(it.span?.1)).max().unwrap_or_default();
        let deliveries: u64 = published.iter().map(|it| it.deliveries).sum();
        ensure!(deliveries == args.changes * u64::from(args.gateways), "{deliveries} deliveries");
        let latencies = published.iter().flat_map(|it| it.latencies.iter().copied()).collect();
        let latency = (args.rate > 0).then(|| percentiles(latencies));
        let seconds = last.saturating_sub(first).as_secs_f64();
        Ok((Side { rate: deliveries as f64 / seconds, seconds, latency }, published))
    }

    /// Waits until everything that has been written is in the stream.
    async fn caught_up(&self) -> anyhow::Result<()> {
        let end = self.database.now().await?;
        self.database.mark().await?;
        let waiting = async {
            while !self.is_past(end).await? {
                sleep(ASK_AGAIN).await;
            }
            Ok(())
        };
        timeout(PATIENCE, waiting).await.context("the hub does not come to an end")?
    }

    async fn is_past(&self, end: OperationTime) -> anyhow::Result<bool> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let answer: Value = client.get(format!("{}/v1/gateways", self.plan.http_url())).send().await?.json().await?;
        let is_past = |view: &Value| {
            // Without a publisher it is quiet, and everything is behind it.
            let is_served = view["session"]["transport"] == "nats" || self.config.nats.gateways.is_empty();
            let cursor = Cursor::decode(view["cursor"].as_str().unwrap_or_default()).ok();
            is_served && cursor.is_some_and(|cursor| cursor.places.values().all(|place| place.lowest().time > end))
        };
        let views = answer["gateways"].as_array().context("gateways")?;
        Ok(views.len() == self.gateways.len() && views.iter().all(is_past))
    }

    /// What the stream has for a gateway.
    async fn published(&self, gateway: &GatewayId, round: u32, args: &NatsArgs) -> anyhow::Result<Published> {
        let mut consumer = Consumer::open(&self.endpoint(), STREAM, gateway, PATIENCE).await?;
        let mut published = Published::default();
        while published.deliveries < args.changes {
            let taken =
                timeout(PATIENCE, consumer.next()).await.context("the stream has less than was published")??;
            let Taken::Message(message) = taken else { continue };
            if message.name != "changes" {
                continue;
            }
            let text: Value = serde_json::from_slice(&message.payload)?;
            for change in text["changes"].as_array().context("changes")? {
                let sent = change["document"]["sent"].as_i64().context("when it was sent")?;
                published.latencies.push(message.stored_at.as_secs_f64() - sent as f64 / 1e6);
                published.deliveries += 1;
            }
            let first = published.span.map_or(message.stored_at, |(first, _)| first);
            published.span = Some((first, message.stored_at));
            published.messages.push(Message {
                subject: subject::deliveries(gateway, &PartitionId::new("default", 0)),
                id: format!("{gateway}/{round}/{}", message.sequence),
                name: "changes",
                after: message.cursor.clone(),
                cursor: message.cursor,
                payload: message.payload,
            });
        }
        Ok(published)
    }

    async fn bare(&mut self, args: &NatsArgs, published: &[Published]) -> anyhow::Result<Side> {
        self.empty().await?;
        let config = StreamConfig { name: STREAM.into(), subject_messages_max: SUBJECT_MESSAGES, replicas: 1 };
        let server = Server::connect(&self.endpoint(), config).await?;
        server.ensure().await?;
        let pause = Duration::from_secs(1).checked_div(args.rate).filter(|_| args.rate > 0);
        let began = Instant::now();
        let publish = async |messages: &[Message]| {
            let mut latencies = Vec::with_capacity(messages.len());
            let mut ticks = interval(pause.unwrap_or(Duration::from_secs(1)));
            for message in messages {
                if pause.is_some() {
                    ticks.tick().await;
                }
                let handed_over = Instant::now();
                server.publish(message).await?;
                latencies.push(handed_over.elapsed().as_secs_f64());
            }
            anyhow::Ok(latencies)
        };
        let latencies = try_join_all(published.iter().map(|it| publish(&it.messages))).await?.concat();
        let seconds = began.elapsed().as_secs_f64();
        let deliveries: u64 = published.iter().map(|it| it.deliveries).sum();
        Ok(Side { rate: deliveries as f64 / seconds, seconds, latency: Some(percentiles(latencies)) })
    }

    /// Nothing is in the stream, and there is none.
    async fn empty(&mut self) -> anyhow::Result<()> {
        self.nats.kill().await?;
        self.nats.lose_storage()?;
        self.nats.restart().await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { url: self.nats.url(), ..Endpoint::default() }
    }
}

impl Report {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_header(["median", "bare publisher", "hub"]);
        table.add_row(["deliveries/s", &format!("{:.0}", self.bare_rate), &format!("{:.0}", self.hub_rate)]);
        // Of changes that come at their own pace both sides publish as many.
        if self.rate == 0 {
            table.add_row(["ratio", "1", &format!("{:.2}", self.ratio)]);
        }
        let of = |side: fn(&Round) -> &Side| {
            let half = |pick: fn((f64, f64)) -> f64| {
                middle(self.rounds.iter().filter_map(|round| side(round).latency).map(pick)) * 1e3
            };
            let (half, most) = (half(|it| it.0), half(|it| it.1));
            if half.is_nan() { String::new() } else { format!("{half:.2} / {most:.2} ms") }
        };
        table.add_row(["time to ack; from write to stored, p50 / p99", &of(|it| &it.bare), &of(|it| &it.hub)]);
        for (number, Round { hub, bare, messages, bytes }) in (1..).zip(&self.rounds) {
            let what = format!("round {number}: {messages} messages, {:.1} MB", *bytes as f64 / 1e6);
            table.add_row([what, format!("{:.0}/s", bare.rate), format!("{:.0}/s", hub.rate)]);
        }
        table
    }

    fn circumstances(&self) -> String {
        let machine = &self.machine;
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        let pace = if self.rate > 0 { format!("{} a second", self.rate) } else { "a backlog".to_owned() };
        format!(
            "{} changes of {} bytes, {pace}, each to {} gateways\n\
             {machine}; mongod {}, streamer {}{debug}",
            self.changes, self.body_bytes, self.gateways, self.mongod, self.streamer,
        )
    }
}

/// The half, and all but one in a hundred.
fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values.get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1)));
    (at(0.5).copied().unwrap_or(f64::NAN), at(0.99).copied().unwrap_or(f64::NAN))
}

/// It says when it was sent, in microseconds since 1970.
fn document(round: u32, number: u64, bytes: usize, sent: i64) -> (String, Document) {
    let mut body = doc! { "author": format!("user-{}", number % 997), "sent": sent };
    // A string costs its type, name, length and two closing zeros besides its characters.
    let text = "text";
    let so_far = bson::serialize_to_vec(&body).map_or(0, |bytes| bytes.len()) + text.len() + 7;
    body.insert(text, "x".repeat(bytes.saturating_sub(so_far)));
    (format!("m-{round}-{number}"), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_there_is() {
        assert_eq!(percentiles((0..1_000).rev().map(f64::from).collect()), (500.0, 990.0));
        assert_eq!(percentiles(vec![3.0]), (3.0, 3.0));
        assert!(percentiles(Vec::new()).0.is_nan());
    }

    #[test]
    fn bodies_are_as_large_as_was_said() {
        let (_, body) = document(1, 996, 900, 1_763_690_000_000_000);
        assert_eq!(bson::serialize_to_vec(&body).unwrap().len(), 900);
    }
}
