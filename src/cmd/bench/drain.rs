//! `streamer bench drain`: a backlog through the hub to one consumer, beside a raw driver cursor.
//!
//! Owns the measurement's course. Both sides read the same backlog from the same server, in turns, so
//! that a noisy machine is noisy for both. Before each of the hub's turns its store is put back to where it
//! was before the backlog, so every turn is the same work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bson::{Document, doc};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::super::rig::{self, Database, HubPlan, Mongod, MongodSize, OperationTime, cpu_seconds};
use super::DrainArgs;
use super::consumer;
use super::table::{HubSide, RawSide, Report, Round};
use crate::client::{Registration, Subscription};
use crate::config::{Config, StoreKind};

const GATEWAY: &str = "bench-gw";
const TENANT: &str = "bench";
const COLLECTION: &str = "messages";
/// Registrations in one call.
const BATCH_SUBSCRIPTIONS: u32 = 5_000;
/// Documents in one insert: 1.8 MB of the usual size.
const BATCH_DOCUMENTS: u64 = 2_000;
/// What an insert of a document costs in the oplog beside it, generously.
const OPLOG_EXTRA_BYTES: u64 = 500;
/// The hub's leases must outlive the measurement.
const TTL_SECONDS: u32 = 3_600;

/// Measures and prints.
pub(super) async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let folder = rig::folder()?;
    let bench = Bench::set(&args, folder.path(), &[1]).await?;
    let report = tokio::select! {
        report = bench.measure(&args) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    report.print(args.output.output);
    if let Some(file) = &args.plot {
        std::fs::write(file, report.plot())?;
    }
    Ok(())
}

/// A server with the backlog, and the hubs that drain it.
pub(super) struct Bench {
    mongod: Mongod,
    database: Database,
    pub(super) hubs: Vec<Side>,
}

/// One of the hubs.
pub(super) struct Side {
    /// Into how many its backend is split.
    pub(super) partitions: u16,
    plan: HubPlan,
    store: PathBuf,
    /// The store as it was before the backlog.
    kept: PathBuf,
}

impl Side {
    fn set(partitions: u16, args: &DrainArgs, folder: &Path, backend: (&str, &str)) -> anyhow::Result<Self> {
        let folder = folder.join(format!("hub-{partitions}"));
        std::fs::create_dir_all(&folder)?;
        let store = folder.join("store.redb");
        let mut config = Config::default();
        config.node.id = "bench-hub".into();
        config.backends.0[0].uri = backend.0.to_owned();
        config.backends.0[0].database = Some(backend.1.to_owned());
        config.backends.0[0].partitions = partitions;
        config.store.kind = StoreKind::Redb;
        config.store.path.clone_from(&store);
        config.quotas.gateway = args.subscriptions;
        config.quotas.tenant = args.subscriptions;
        config.quotas.global = args.subscriptions;
        let plan = HubPlan::new(&folder, config)?;
        Ok(Self { partitions, plan, store, kept: folder.join("store.before") })
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.plan.log()).unwrap_or_default();
        text.lines().next_back().unwrap_or("(empty)").to_owned()
    }
}

impl Bench {
    pub(super) async fn set(args: &DrainArgs, folder: &Path, partitions: &[u16]) -> anyhow::Result<Self> {
        if cfg!(debug_assertions) {
            eprintln!("warning: this is a debug build; its figures say nothing about the product");
        }
        let binary = rig::find("mongod", args.mongod.as_deref(), "STREAMER_MONGOD")?;
        let oplog_bytes = args.changes * (args.body_bytes as u64 + OPLOG_EXTRA_BYTES);
        let size = MongodSize { oplog_mib: (oplog_bytes >> 20) + 990, cache_gib: 1.0, ..MongodSize::default() };
        let mongod = Mongod::start(&binary, folder, size).await?;
        let database = Database::connect(&mongod.uri(), "streamer_bench", TENANT, COLLECTION).await?;
        database.create(false).await?;

        let uri = mongod.uri();
        let hubs = partitions.iter().map(|partitions| Side::set(*partitions, args, folder, (&uri, database.name())));
        let hubs = hubs.collect::<anyhow::Result<_>>()?;
        Ok(Self { mongod, database, hubs })
    }

    async fn measure(&self, args: &DrainArgs) -> anyhow::Result<Report> {
        let from = self.prepare(args).await?;
        let mut rounds = Vec::new();
        for round in 1..=args.rounds {
            let raw = self.raw(args, from, round).await?;
            let hub = self.hub(args, &self.hubs[0], &format!("round {round}, hub")).await?;
            rounds.push(Round { raw, hub });
        }
        Ok(Report::new(args, self.version().await?, rounds))
    }

    /// The server's.
    pub(super) async fn version(&self) -> anyhow::Result<String> {
        self.database.version().await
    }

    /// All subscriptions, and then the backlog, which begins here.
    pub(super) async fn prepare(&self, args: &DrainArgs) -> anyhow::Result<OperationTime> {
        for side in &self.hubs {
            self.register(args, side).await?;
        }
        let from = self.database.now().await?;
        self.write(args).await?;
        Ok(from)
    }

    /// A hub that has all subscriptions, stopped again, and its store kept.
    async fn register(&self, args: &DrainArgs, side: &Side) -> anyhow::Result<()> {
        let mut hub = side.plan.start(None)?;
        hub.ready().await?;
        let registration = Registration::new(side.plan.http_url())?;
        let bar = bar(args.subscriptions.into(), "subscriptions");
        let all: Vec<u32> = (0..args.subscriptions).collect();
        for some in all.chunks(BATCH_SUBSCRIPTIONS as usize) {
            let batch: Vec<Subscription> = some.iter().map(|number| subscription(*number, args)).collect();
            for answer in registration.register_batch(&batch).await? {
                answer.map_err(|rejection| anyhow::anyhow!("a registration is refused: {rejection}"))?;
            }
            bar.inc(some.len() as u64);
        }
        bar.finish_and_clear();
        hub.terminate().await?;
        tokio::fs::copy(&side.store, &side.kept).await.context("the hub's store")?;
        Ok(())
    }

    async fn write(&self, args: &DrainArgs) -> anyhow::Result<()> {
        let bar = bar(args.changes, "backlog");
        let mut next = 0;
        while next < args.changes {
            let end = args.changes.min(next + BATCH_DOCUMENTS);
            self.database.insert((next..end).map(|number| document(number, args))).await?;
            bar.inc(end - next);
            next = end;
        }
        bar.finish_and_clear();
        Ok(())
    }

    async fn raw(&self, args: &DrainArgs, from: OperationTime, round: u32) -> anyhow::Result<RawSide> {
        let bar = bar(args.changes, &format!("round {round}, raw"));
        let (own, server) = (cpu_seconds(None), cpu_seconds(Some(self.mongod.pid())));
        let mut course = Course::new(bar, args.changes);
        let drained = rig::drain_raw(&self.database, from, args.changes, |seen| course.at(seen)).await?;
        Ok(RawSide {
            course: course.end(drained.took),
            seconds: drained.took.as_secs_f64(),
            rate: rate(args.changes, drained.took),
            reader_cpu_seconds: cpu_seconds(None) - own,
            mongod_cpu_seconds: cpu_seconds(Some(self.mongod.pid())) - server,
        })
    }

    /// One turn of one hub.
    pub(super) async fn hub(&self, args: &DrainArgs, side: &Side, what: &str) -> anyhow::Result<HubSide> {
        tokio::fs::copy(&side.kept, &side.store).await?;
        let bar = bar(args.changes, what);
        let server = cpu_seconds(Some(self.mongod.pid()));
        let mut hub = side.plan.start(None)?;
        let wanted = (args.changes, args.matches);
        let endpoint = side.plan.grpc_url();
        let mut course = Course::new(bar, args.changes);
        let drained = consumer::drain(&endpoint, GATEWAY, args.body.into(), wanted, |seen| course.at(seen)).await;
        let drained = drained.with_context(|| format!("the hub's log ends: {}", side.last_words()))?;
        let (hub_cpu, mongod_cpu) = (cpu_seconds(Some(hub.pid())), cpu_seconds(Some(self.mongod.pid())) - server);
        hub.terminate().await?;
        Ok(HubSide {
            course: course.end(drained.took),
            startup_seconds: drained.welcomed_after.as_secs_f64(),
            seconds: drained.took.as_secs_f64(),
            rate: rate(args.changes, drained.took),
            consumer_cpu_seconds: drained.cpu_seconds,
            hub_cpu_seconds: hub_cpu,
            mongod_cpu_seconds: mongod_cpu,
            body_bytes: drained.bytes,
        })
    }
}

/// How far a side has come, shown while it is on its way and kept for a picture.
struct Course {
    bar: ProgressBar,
    points: Vec<(Instant, u64)>,
    step: u64,
}

impl Course {
    fn new(bar: ProgressBar, changes: u64) -> Self {
        Self { bar, points: Vec::new(), step: (changes / 20).max(1) }
    }

    fn at(&mut self, seen: u64) {
        self.bar.set_position(seen);
        if self.points.last().is_none_or(|(_, last)| seen >= last + self.step) {
            self.points.push((Instant::now(), seen));
        }
    }

    /// In seconds and thousands of changes; it began so long ago.
    fn end(mut self, took: Duration) -> Vec<(f64, f64)> {
        self.bar.finish_and_clear();
        let last = (Instant::now(), self.bar.position());
        self.points.push(last);
        let seconds = |at: Instant| (took.as_secs_f64() - (last.0 - at).as_secs_f64()).max(0.0);
        self.points.into_iter().map(|(at, seen)| (seconds(at), seen as f64 / 1e3)).collect()
    }
}

fn rate(changes: u64, took: Duration) -> f64 {
    changes as f64 / took.as_secs_f64()
}

/// Drawn on standard error, and only on a terminal.
fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(what.to_owned());
    match ProgressStyle::with_template("{msg:>16} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// So many different values that each is asked for by `matches` subscriptions.
fn chats(args: &DrainArgs) -> u64 {
    u64::from((args.subscriptions / args.matches).max(1))
}

fn subscription(number: u32, args: &DrainArgs) -> Subscription {
    // What does not divide evenly asks for a value that no document has.
    let chat = u64::from(number / args.matches);
    let chat = if chat < chats(args) { format!("c{chat}") } else { "nobody".to_owned() };
    let asked = Subscription::new(GATEWAY, format!("s{number}"), TENANT, COLLECTION).filter("chatId", "==", chat);
    Subscription { ttl_seconds: Some(TTL_SECONDS), ..asked }
}

fn document(number: u64, args: &DrainArgs) -> (String, Document) {
    // Knuth's multiplicative hash: chats follow one another without a pattern.
    let chat = (number.wrapping_mul(2_654_435_761) >> 7) % chats(args);
    let mut body = doc! {
        "author": format!("user-{}", number % 997), "stars": (number % 5) as i32,
        "at": bson::DateTime::from_millis(1_763_690_000_000 + number as i64), "chatId": format!("c{chat}"),
    };
    // A string costs its type, name, length and two closing zeros besides its characters.
    let text = "text";
    let so_far = bson::serialize_to_vec(&body).map_or(0, |bytes| bytes.len()) + text.len() + 7;
    body.insert(text, "x".repeat(args.body_bytes.saturating_sub(so_far)));
    (format!("m-{number}"), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::bench::BodyChoice;
    use std::collections::HashMap;

    fn args(subscriptions: u32, matches: u32) -> DrainArgs {
        DrainArgs {
            changes: 1000,
            body_bytes: 900,
            subscriptions,
            matches,
            body: BodyChoice::Bson,
            rounds: 1,
            plot: None,
            mongod: None,
            output: Default::default(),
        }
    }

    #[test]
    fn every_change_matches_as_many_as_was_said() {
        for (subscriptions, matches) in [(100, 2), (101, 2), (7, 3), (1, 1), (100, 1)] {
            let args = args(subscriptions, matches);
            let mut by_chat: HashMap<String, u32> = HashMap::new();
            for number in 0..subscriptions {
                let asked = subscription(number, &args);
                *by_chat.entry(asked.filters[0].value.as_str().unwrap().to_owned()).or_default() += 1;
            }
            for number in 0..args.changes {
                let (_, body) = document(number, &args);
                assert_eq!(by_chat.get(body.get_str("chatId").unwrap()), Some(&matches), "{subscriptions}/{matches}");
            }
        }
    }

    #[test]
    fn bodies_are_as_large_as_was_said() {
        for number in [0, 77, 996] {
            let (_, body) = document(number, &args(100, 2));
            assert_eq!(bson::serialize_to_vec(&body).unwrap().len(), 900);
        }
    }
}
