//! `streamer drill restart`: SIGKILL the hub at random moments while numbered writes go through it.
//!
//! Owns the drill's course. The kills are random by a seed; the end is not a matter of time but of
//! progress: when every gateway has been told that everything up to the last write was sent, what has not
//! come is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::super::rig::{self, Database, Etcd, Hub, HubPlan, Mongod, MongodSize};
use super::gateway::{Gateway, Outcome, Recovery};
use super::report::Report;
use super::verdict::{Verdict, judge};
use super::writer::{Write, Writer};
use super::{RestartArgs, StoreChoice, rules};
use crate::client::Registration;
use crate::config::{Config, StoreKind};
use crate::position::ClusterTime;
use crate::tasks::{Kind, Tasks};

/// Longer than a hub needs until it is ready, so that most kills hit one that delivers.
const ALIVE_MS: std::ops::Range<u64> = 300..2_500;
/// And some that is still starting.
const STARTING_MS: std::ops::Range<u64> = 0..300;
/// How long it stays away.
const AWAY_MS: std::ops::Range<u64> = 0..400;

/// Runs the drill and prints its report.
pub(super) async fn run(args: RestartArgs) -> anyhow::Result<()> {
    let folder = rig::folder()?;
    let stage = Stage::set(&args, folder.path()).await?;
    let report = tokio::select! {
        report = stage.play(&args) => report,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    let cleared = stage.clear().await;
    let report = match report {
        Ok(report) => report,
        Err(error) => return Err(error.context(rig::keep_logs(folder.path()))),
    };
    report.print(args.output.output);
    cleared?;
    match report.fault() {
        None => Ok(()),
        Some(fault) => anyhow::bail!("drill restart: {fault}; {}", rig::keep_logs(folder.path())),
    }
}

/// The servers, and the hub's plan.
struct Stage {
    database: Database,
    plan: HubPlan,
    folder: PathBuf,
    borrowed: bool,
    _mongod: Option<Mongod>,
    _etcd: Option<Etcd>,
}

impl Stage {
    async fn set(args: &RestartArgs, folder: &Path) -> anyhow::Result<Self> {
        let name = format!("streamer_drill_{:08x}", rand::random::<u32>());
        let mongod = match &args.mongodb {
            Some(_) => None,
            None => {
                let binary = rig::find("mongod", args.mongod.as_deref(), "STREAMER_MONGOD")?;
                Some(Mongod::start(&binary, folder, MongodSize::default()).await?)
            }
        };
        let etcd = match (args.store, &args.etcd) {
            (StoreChoice::Etcd, None) => {
                let binary = rig::find("etcd", args.etcd_program.as_deref(), "STREAMER_ETCD")?;
                Some(Etcd::start(&binary, folder).await?)
            }
            _ => None,
        };
        let uri = args.mongodb.clone().or_else(|| mongod.as_ref().map(Mongod::uri)).context("a MongoDB")?;
        let database = Database::connect(&uri, &name, rules::TENANT, rules::COLLECTION).await?;
        database.create(true).await?;

        let mut config = Config::default();
        config.node.id = "drill-hub".into();
        config.backends.0[0].uri = uri;
        config.backends.0[0].database = Some(name.clone());
        config.store.path = folder.join("store.redb");
        config.store.kind = match args.store {
            StoreChoice::Etcd => StoreKind::Etcd,
            StoreChoice::Redb => StoreKind::Redb,
        };
        if let Some(url) = args.etcd.clone().or_else(|| etcd.as_ref().map(Etcd::url)) {
            config.store.endpoints = vec![url];
            config.store.prefix = format!("/{name}");
        }
        let plan = HubPlan::new(folder, config)?;
        let borrowed = args.mongodb.is_some();
        Ok(Self { database, plan, folder: folder.to_owned(), borrowed, _mongod: mongod, _etcd: etcd })
    }

    /// A borrowed MongoDB is left as it was found.
    async fn clear(&self) -> anyhow::Result<()> {
        if self.borrowed { self.database.drop_all().await } else { Ok(()) }
    }

    async fn play(&self, args: &RestartArgs) -> anyhow::Result<Report> {
        let mut random = ChaCha8Rng::seed_from_u64(args.seed);
        let began = Instant::now();
        let mut hub = self.plan.start(false)?;
        hub.ready().await?;
        let names: Vec<String> = (1..=args.gateways).map(|n| format!("drill-gw-{n}")).collect();
        self.register(&names).await?;

        let cast = Cast::enter(self, &names, args, &mut random).await?;
        let killed = tokio::select! {
            killed = self.kill_and_restart(hub, args, &cast.recovery, &mut random) => killed,
            () = cast.failed.cancelled() => Err(anyhow::anyhow!("a writer or a gateway gave up")),
        };
        // Whoever failed first says why; the hub stays up until the gateways have ended.
        let Finale { written, outcomes, recovery, behind } = cast.leave(self, args.patience).await?;
        let mut hub = killed?;
        hub.check()?;
        hub.terminate().await?;

        let mut verdict = Verdict::default();
        outcomes.iter().for_each(|outcome| verdict.add(&judge(&written, &outcome.seen)));
        Ok(Report::new(args, verdict, written.len(), &outcomes, behind, recovery, began.elapsed()))
    }

    async fn register(&self, gateways: &[String]) -> anyhow::Result<()> {
        let registration = Registration::new(self.plan.http_url())?;
        for gateway in gateways {
            for answer in registration.register_batch(&rules::subscriptions(gateway)).await? {
                answer.map_err(|rejection| anyhow::anyhow!("a registration is refused: {rejection}"))?;
            }
        }
        Ok(())
    }

    async fn kill_and_restart(
        &self,
        mut hub: Hub,
        args: &RestartArgs,
        recovery: &Recovery,
        random: &mut ChaCha8Rng,
    ) -> anyhow::Result<Hub> {
        let bar = bar(args);
        for _ in 0..args.kills {
            let early = random.random_ratio(1, 5);
            let alive = random.random_range(if early { STARTING_MS } else { ALIVE_MS });
            if !early {
                hub.ready().await?;
            }
            sleep(Duration::from_millis(alive)).await;
            hub.kill().await?;
            sleep(Duration::from_millis(random.random_range(AWAY_MS))).await;
            recovery.started();
            hub = self.plan.start(args.sabotage)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        hub.ready().await?;
        Ok(hub)
    }
}

fn bar(args: &RestartArgs) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}");
    // Drawn on standard error, and only on a terminal.
    let bar = indicatif::ProgressBar::new(args.kills.into()).with_message("kills");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

type Ended<T> = oneshot::Receiver<anyhow::Result<T>>;

/// Those who act: one writer, some gateways.
struct Cast {
    tasks: Tasks,
    stop_writing: CancellationToken,
    stop_taking: CancellationToken,
    /// Somebody gave up.
    failed: CancellationToken,
    writer: Ended<Vec<Write>>,
    gateways: Vec<(Ended<Outcome>, watch::Receiver<ClusterTime>)>,
    recovery: Arc<Recovery>,
}

impl Cast {
    async fn enter(
        stage: &Stage,
        names: &[String],
        args: &RestartArgs,
        random: &mut ChaCha8Rng,
    ) -> anyhow::Result<Self> {
        let (tasks, failed) = (Tasks::new(), CancellationToken::new());
        let (stop_writing, stop_taking) = (CancellationToken::new(), CancellationToken::new());
        let recovery = Arc::new(Recovery::default());
        let mut gateways = Vec::new();
        for name in names {
            let (progress, progressed) = watch::channel(ClusterTime::default());
            let gateway = Gateway {
                name: name.clone(),
                endpoint: stage.plan.grpc_url(),
                file: stage.folder.join(format!("{name}.json")),
                random: ChaCha8Rng::from_rng(random),
                recovery: Arc::clone(&recovery),
                progress,
                stop: stop_taking.clone(),
            };
            gateways.push((act(&tasks, name, &failed, gateway.run()), progressed));
        }
        let writer = Writer::begin(stage.database.clone(), ChaCha8Rng::from_rng(random)).await?;
        let writer = act(&tasks, "writer", &failed, writer.run(args.rate, stop_writing.clone()));
        Ok(Self { tasks, stop_writing, stop_taking, failed, writer, gateways, recovery })
    }

    /// Stops writing, waits until every gateway has been told that all of it was sent, and stops taking.
    async fn leave(self, stage: &Stage, patience_seconds: u64) -> anyhow::Result<Finale> {
        self.stop_writing.cancel();
        let written = self.writer.await.context("the writer is gone")?.context("the writer")?;
        let last = stage.database.now().await?;
        stage.database.mark().await?;
        let deadline = Instant::now() + Duration::from_secs(patience_seconds);
        let (mut outcomes, mut behind) = (Vec::new(), 0);
        for (_, progressed) in &self.gateways {
            if self.failed.is_cancelled() {
                break;
            }
            let mut progressed = progressed.clone();
            let passed = progressed.wait_for(|boundary| *boundary > last);
            // A gateway that is gone says why below.
            behind += u64::from(timeout_at(deadline, passed).await.is_err());
        }
        self.stop_taking.cancel();
        for (gateway, _) in self.gateways {
            outcomes.push(gateway.await.context("a gateway is gone")??);
        }
        self.tasks.drain(Duration::from_secs(5)).await;
        Ok(Finale { written, outcomes, recovery: self.recovery.took(), behind })
    }
}

/// What there is to judge.
struct Finale {
    written: Vec<Write>,
    outcomes: Vec<Outcome>,
    recovery: Vec<Duration>,
    /// Gateways that were never told that everything was sent.
    behind: u64,
}

/// Starts an actor; its result comes when it ends, and a failure is told at once.
fn act<T: Send + 'static>(
    tasks: &Tasks,
    name: &str,
    failed: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> Ended<T> {
    let (sender, receiver) = oneshot::channel();
    let failed = failed.clone();
    tasks.spawn(Kind::Rig, name, async move {
        let result = work.await;
        if result.is_err() {
            failed.cancel();
        }
        let _ = sender.send(result);
    });
    receiver
}
