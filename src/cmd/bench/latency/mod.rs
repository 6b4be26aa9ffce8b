//! `streamer bench latency`: how much later a gateway has a change than a raw driver cursor beside it.
//!
//! Owns the measurement's course. One writer writes numbered documents at a steady rate; a raw cursor and the
//! side that is measured read them at the same time, so that each change has both its arrivals in one run.

mod arrivals;
mod readers;
mod report;
mod sides;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bson::{Document, doc};
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use self::arrivals::Arrivals;
use self::readers::Readers;
use self::report::{Report, Round};
use super::super::OutputArgs;
use super::super::rig::{self, Database, HubPlan, Mongod, MongodSize};
use crate::client::{Registration, Subscription};
use crate::config::{Config, StoreKind};

const TENANT: &str = "bench";
const COLLECTION: &str = "messages";
/// Registrations in one call.
const BATCH_SUBSCRIPTIONS: usize = 5_000;
/// The hub's leases must outlive the measurement.
const TTL_SECONDS: u32 = 3_600;
/// What has not come by then is missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Written before anything counts: connections, caches and code are warm by then.
const WARM_UP: Duration = Duration::from_secs(1);

/// Who reads beside the raw cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Side {
    /// Gateways of a hub
    Hub,
    /// The same, and one more that is sent everything and reads nothing
    Stalled,
    /// No hub: a filtered change stream for each gateway
    Streams,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Stalled => "hub, one stalled",
            Self::Streams => "filtered streams",
        }
    }
}

/// Arguments of `streamer bench latency`.
#[derive(Args, Debug)]
pub struct LatencyArgs {
    /// Writes a second
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Documents in one insert
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// How long each round is written
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Subscriptions of all gateways together; each change matches one
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub subscriptions: u32,
    /// Gateways that read
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub gateways: u32,
    /// Who reads beside the raw cursor, one after the other in each round
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hub", value_name = "SIDE")]
    pub side: Vec<Side>,
    /// How often each side is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// The size of each document
    #[arg(long, default_value_t = 900, value_name = "N")]
    pub body_bytes: usize,
    /// Draws how late which share of the changes was
    #[arg(long, value_name = "FILE")]
    pub plot: Option<std::path::PathBuf>,
    /// The mongod to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_MONGOD", value_name = "FILE")]
    pub mongod: Option<std::path::PathBuf>,
    /// How the table is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Measures and prints.
pub(super) async fn run(args: LatencyArgs) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is a debug build; its figures say nothing about the product");
    }
    let folder = rig::folder()?;
    let report = tokio::select! {
        report = measure(&args, folder.path()) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    report.print(args.output.output);
    if let Some(file) = &args.plot {
        std::fs::write(file, report.plot())?;
    }
    Ok(())
}

async fn measure(args: &LatencyArgs, folder: &Path) -> anyhow::Result<Report> {
    let binary = rig::find("mongod", args.mongod.as_deref(), "STREAMER_MONGOD")?;
    let size = MongodSize { oplog_mib: 4_000, cache_gib: 1.0, ..MongodSize::default() };
    let mongod = Mongod::start(&binary, folder, size).await?;
    let database = Database::connect(&mongod.uri(), "streamer_bench", TENANT, COLLECTION).await?;
    database.create(false).await?;
    let plan = HubPlan::new(folder, config(args, &mongod, &database, folder))?;
    register(args, &plan).await?;
    let mut rounds = Vec::new();
    let mut next = 0;
    for _ in 0..args.rounds {
        for side in &args.side {
            rounds.push(round(args, *side, &plan, &database, &mut next).await?);
        }
    }
    Ok(Report::new(args, database.version().await?, rounds))
}

fn config(args: &LatencyArgs, mongod: &Mongod, database: &Database, folder: &Path) -> Config {
    let mut config = Config::default();
    config.node.id = "bench-hub".into();
    config.backends.0[0].uri = mongod.uri();
    config.backends.0[0].database = Some(database.name().to_owned());
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.join("store.redb");
    // And the one that is sent everything.
    let subscriptions = args.subscriptions + 1;
    config.quotas.gateway = subscriptions;
    config.quotas.tenant = subscriptions;
    config.quotas.global = subscriptions;
    config
}

async fn register(args: &LatencyArgs, plan: &HubPlan) -> anyhow::Result<()> {
    if args.side.iter().all(|side| *side == Side::Streams) {
        return Ok(());
    }
    let mut hub = plan.start(None)?;
    hub.ready().await?;
    let registration = Registration::new(plan.http_url())?;
    let all: Vec<Subscription> = (0..args.subscriptions).map(|number| subscription(number, args)).collect();
    for batch in all.chunks(BATCH_SUBSCRIPTIONS) {
        for answer in registration.register_batch(batch).await? {
            answer.map_err(|rejection| anyhow::anyhow!("a registration is refused: {rejection}"))?;
        }
    }
    hub.terminate().await?;
    Ok(())
}

/// Writes for a while, with everyone reading.
async fn round(
    args: &LatencyArgs,
    side: Side,
    plan: &HubPlan,
    database: &Database,
    next: &mut u64,
) -> anyhow::Result<Round> {
    let counted = u64::from(args.rate) * u64::from(args.seconds);
    let warm_up = (u64::from(args.rate) * WARM_UP.as_secs()).next_multiple_of(args.batch.into());
    let arrivals = Arc::new(Arrivals::new(*next, warm_up + counted));
    let mut hub = None;
    if side != Side::Streams {
        let started = hub.insert(plan.start(None)?);
        started.ready().await?;
    }
    let readers = Readers::default();
    let stalled = match side {
        Side::Streams => sides::by_streams(args.gateways, database, &readers, &arrivals).await.map(|()| None)?,
        Side::Hub | Side::Stalled => {
            sides::of_hub(args.gateways, plan, &readers, &arrivals, side == Side::Stalled).await?
        }
    };
    let of_raw = Arc::clone(&arrivals);
    let raw = rig::watch_raw(database, None, move |number, now| of_raw.raw(number, now)).await?;
    readers.start("raw cursor", raw);
    let inserts = write(args, database, &arrivals).await?;
    let all = async {
        while !arrivals.all_there() {
            readers.check()?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    let waited = timeout(PATIENCE, all).await;
    waited.ok().with_context(|| format!("{}: {}", side.name(), arrivals.missing()))??;
    drop(stalled);
    readers.end().await?;
    if let Some(mut hub) = hub {
        hub.check()?;
        hub.terminate().await?;
    }
    *next = arrivals.end();
    Ok(Round::new(side, &arrivals, warm_up, &inserts))
}

/// At a steady rate, each insert when it is due, whether or not those before it were slow. How long each took.
async fn write(args: &LatencyArgs, database: &Database, arrivals: &Arrivals) -> anyhow::Result<Vec<Duration>> {
    let began = Instant::now();
    let (mut took, mut under_way) = (Vec::new(), FuturesUnordered::new());
    let mut number = arrivals.begin();
    while number < arrivals.end() || !under_way.is_empty() {
        let due = began + Duration::from_secs_f64((number - arrivals.begin()) as f64 / f64::from(args.rate));
        tokio::select! {
            Some(done) = under_way.next(), if !under_way.is_empty() => took.push(done?),
            () = sleep_until(due), if number < arrivals.end() => {
                let last = arrivals.end().min(number + u64::from(args.batch));
                let documents: Vec<_> = (number..last).map(|number| document(number, args)).collect();
                arrivals.sent(number..last);
                under_way.push(async move {
                    let began = Instant::now();
                    database.insert(documents).await.map(|()| began.elapsed())
                });
                number = last;
            }
        }
    }
    Ok(took)
}

/// Which gateway and which subscription a change is for.
fn addressee(number: u64, args: &LatencyArgs) -> u32 {
    // Knuth's multiplicative hash: they follow one another without a pattern.
    ((number.wrapping_mul(2_654_435_761) >> 7) % u64::from(args.subscriptions)) as u32
}

fn subscription(number: u32, args: &LatencyArgs) -> Subscription {
    let gateway = sides::gateway(number % args.gateways);
    let asked = Subscription::new(gateway, format!("s{number}"), TENANT, COLLECTION).filter(
        "chatId",
        "==",
        format!("c{number}"),
    );
    Subscription { ttl_seconds: Some(TTL_SECONDS), ..asked }
}

fn document(number: u64, args: &LatencyArgs) -> (String, Document) {
    let chat = addressee(number, args);
    let mut body =
        doc! { "number": number as i64, "gateway": (chat % args.gateways) as i32, "chatId": format!("c{chat}") };
    let so_far = bson::serialize_to_vec(&body).map_or(0, |bytes| bytes.len());
    body.insert("text", "x".repeat(args.body_bytes.saturating_sub(so_far + 11)));
    (format!("m-{number}"), body)
}
