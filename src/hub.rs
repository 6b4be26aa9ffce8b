//! Composition: config -> parts -> run -> drain.
//!
//! Owns which parts a hub is made of and the order in which they start and end. Knows nothing of what
//! any of them does.

mod partitions;
mod places;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wildmatch::WildMatch;

use self::partitions::Starting;
pub(crate) use self::partitions::mongo_config;
pub(crate) use self::places::{etcd_config, nats_config};
use crate::access::{self, Door, Tls};
use crate::api::{self, ApiState};
use crate::clock::Clock;
use crate::config::{Config, StoreKind};
use crate::delivery::grpc::{Grpc, SubscriptionTexts};
use crate::delivery::machine::{Limits, MachineConfig};
use crate::delivery::nats::{Publishers, StreamWatch};
use crate::edge::{HubHandle, Numbers};
use crate::error::Problem;
use crate::handle::PartitionHandle;
use crate::limits;
use crate::matching::BloomUse;
use crate::observe::health::{Component, Health};
use crate::observe::metrics::Metrics;
use crate::peer::{Answers, Dial, Directory, Forward, Members};
use crate::pipeline::PartitionConfig;
use crate::position::{Epoch, PartitionId, Position};
use crate::sabotage::Sabotage;
use crate::source::log::{EventLog, EventLogConfig, Publication};
use crate::store::Store;
use crate::store::etcd::EtcdStore;
use crate::store::metered::MeteredStore;
use crate::store::owners::Holder;
use crate::store::redb::RedbStore;
use crate::subscription::Spec;
use crate::tasks::{Kind, Tasks};

/// Changes that one turn takes from the window for catch-ups: about a millisecond's work.
const TURN_CHANGES_MAX: usize = 1_000;

/// Why a hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator must change something.
    #[error("{0}")]
    Misconfigured(String),
    /// Something that the hub needs is not there.
    #[error("{0}")]
    Failed(String),
}

/// What a hub reads.
pub enum Backend {
    /// The MongoDB deployment that the configuration names.
    Mongo,
    /// An embedded log.
    Log(Arc<EventLog>),
}

/// A running hub.
pub struct Hub {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Asks the hub.
    pub handle: HubHandle,
    tasks: Tasks,
    health: Health,
    grace: Duration,
    limits: watch::Sender<Limits>,
}

impl Hub {
    /// Starts every part. `sabotage` makes it do something wrong, for a drill to notice.
    ///
    /// # Errors
    /// An address that is taken, a backend or a store that refuses. One that does not answer yet is
    /// waited for.
    pub async fn start(
        config: &Config,
        backend: Backend,
        tasks: Tasks,
        clock: Clock,
        metrics: Metrics,
        sabotage: Option<Sabotage>,
    ) -> Result<Self, StartError> {
        let health = Health::new(clock.clone());
        let http = bind(config.http.listen, "http.listen").await?;
        let grpc = bind(config.grpc.listen, "grpc.listen").await?;
        let address = |listener: &TcpListener| listener.local_addr().map_err(|e| StartError::Failed(e.to_string()));
        let (http_address, grpc_address) = (address(&http)?, address(&grpc)?);
        let access = Access::of(config, &tasks, &clock)?;
        let log = match &backend {
            Backend::Log(log) => Some(Arc::clone(log)),
            Backend::Mongo => None,
        };
        let numbers = Numbers::stored();
        let (handle, mut seats) = partitions::seats(config, &backend, numbers.clone(), &health, sabotage)?;
        let ended = || StartError::Failed("told to end before it had started".into());
        let joined: Arc<OnceLock<Members>> = Arc::default();
        let interfaces =
            Interfaces { handle: &handle, config, access: &access, health: &health, clock: &clock, tasks: &tasks };
        interfaces.serve(http, grpc, metrics, log, Arc::clone(&joined));
        let store = {
            // Dropping a command answers it: nobody can be asked yet.
            let unanswered = seats.iter_mut().map(|seat| async { while seat.commands.recv().await.is_some() {} });
            tokio::select! {
                store = open_store(config, &tasks, &clock) => store?,
                _ = join_all(unanswered) => return Err(ended()),
            }
        };
        let store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, clock.clone()));
        numbers.open(&store);
        watch_store(Arc::clone(&store), &health, &tasks);
        let ids: Vec<PartitionId> = seats.iter().map(|seat| seat.id.clone()).collect();
        let cluster = Cluster::join(config, access, grpc_address, &ids, &store, &tasks, &clock);
        if let Some(members) = &cluster.members {
            let _ = joined.set(members.clone());
        }
        let of_nats = health.component("nats");
        // Nobody waits for it yet.
        of_nats.ok();
        let watch = StreamWatch::new(sabotage.and_then(Sabotage::of_nats));
        let grace = Duration::from_secs(config.shutdown.grace_seconds);
        let limits = watch::Sender::new(limits(config));
        let mut tried = Vec::new();
        for (number, seat) in seats.into_iter().enumerate() {
            let mut publishers = publishers(config, &seat.handle, &tasks, &clock, &numbers, &watch, of_nats.clone());
            publishers.mistake = sabotage.and_then(Sabotage::of_nats);
            let forward = cluster.directories.as_ref().map(|all| Forward::new(all[number].clone()));
            // One write moves all streams of a deployment on.
            let heartbeat_writes = seat.origin.heartbeat_writes() && seat.id.number() == 0;
            let begin = {
                let (machine, store) = (machine_config(config, seat.id.clone(), sabotage), Arc::clone(&store));
                let (tasks, clock, forward) = (tasks.clone(), clock.clone(), forward.clone());
                let (holder, members) = (cluster.holder.clone(), cluster.members.clone());
                let (handle, health, partitions) = (seat.handle, seat.health.clone(), seat.partitions);
                let sabotage = sabotage == Some(Sabotage::Forget);
                let limits = limits.subscribe();
                let tenants_named_max = usize::from(config.metrics.tenants_max);
                move |source| PartitionConfig {
                    machine,
                    limits,
                    source,
                    store,
                    tasks,
                    clock,
                    handle,
                    forward,
                    partitions,
                    holder,
                    members,
                    health,
                    grace,
                    heartbeat_writes,
                    tenants_named_max,
                    sabotage,
                }
            };
            let starting = Starting {
                id: seat.id,
                origin: seat.origin,
                partition: Box::new(begin),
                publishers,
                commands: seat.commands,
                forward,
                health: seat.health,
                tasks: tasks.clone(),
            };
            tried.push(starting.spawn());
        }
        // A backend that is away is waited for; one that refuses is the operator's business, and at once.
        for tried in join_all(tried).await {
            tried.map_err(|_| ended())??;
        }
        Ok(Self { http: http_address, grpc: grpc_address, handle, tasks, health, grace, limits })
    }

    /// Takes what of a configuration may be changed while it runs: quotas and what counts gateways.
    pub fn limits(&self) -> LimitsSetter {
        LimitsSetter(self.limits.clone())
    }

    /// Whether all parts serve.
    pub fn is_ready(&self) -> bool {
        self.health.is_ready()
    }

    /// Runs until it is told to end or until a part fails for good; then drains.
    ///
    /// # Errors
    /// A part that failed.
    pub async fn run(self, told: impl Future<Output = ()>) -> Result<(), StartError> {
        let failed = self.tasks.failed_token();
        let is_failure = tokio::select! {
            () = told => false,
            () = failed.cancelled() => true,
        };
        if is_failure {
            self.health.condemn("a vital part has failed");
        } else {
            tracing::info!("draining");
        }
        let stragglers = self.drain().await;
        if !stragglers.is_empty() {
            tracing::warn!(?stragglers, "still running when the time for draining was over");
        }
        if is_failure { Err(StartError::Failed("a vital part has failed; see the log".into())) } else { Ok(()) }
    }

    /// Ends everything in order. Returns the names of what did not end in time.
    pub async fn drain(self) -> Vec<String> {
        self.tasks.drain(self.grace).await
    }
}

/// Changes a running hub's limits.
#[derive(Clone, Debug)]
pub struct LimitsSetter(watch::Sender<Limits>);

impl LimitsSetter {
    /// To those of this configuration. Whether they are other ones.
    pub fn set(&self, config: &Config) -> bool {
        let new = limits(config);
        self.0.send_if_modified(|limits| std::mem::replace(limits, new) != new)
    }
}

/// Until SIGTERM or Ctrl-C. From the first poll on neither ends the process by itself.
pub async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| StartError::Failed(format!("{setting}: cannot listen on {address}: {error}")))
}

/// This node among others, where its store can have several.
struct Cluster {
    holder: Holder,
    members: Option<Members>,
    /// Of each partition.
    directories: Option<Vec<Directory>>,
}

impl Cluster {
    fn join(
        config: &Config,
        access: Access,
        grpc: SocketAddr,
        partitions: &[PartitionId],
        store: &Arc<dyn Store>,
        tasks: &Tasks,
        clock: &Clock,
    ) -> Self {
        let mut address = config.node.address.clone().unwrap_or_else(|| grpc.to_string());
        if access.tls.is_on() {
            address.insert_str(0, "https://");
        }
        let holder = Holder {
            node: config.node.id.as_str().into(),
            address: Some(address.into()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            started_at: Some(clock.wall()),
        };
        if config.store.kind != StoreKind::Etcd {
            return Self { holder, members: None, directories: None };
        }
        let members = Members::join(holder.clone(), Arc::clone(store), tasks);
        let directories = Directory::follow(partitions, &holder.node, &access.dial, Arc::clone(store), tasks);
        Self { holder, members: Some(members), directories: Some(directories) }
    }
}

/// Who may call this node, and how it calls others.
struct Access {
    door: Door,
    tls: Tls,
    dial: Dial,
}

impl Access {
    fn of(config: &Config, tasks: &Tasks, clock: &Clock) -> Result<Self, StartError> {
        let (auth, tls) = (&config.auth, &config.tls);
        let door = match &auth.tokens {
            None => Ok(Door::open(clock.clone())),
            Some(file) => Door::with_tokens(file.clone(), clock.clone(), tasks),
        };
        let door = door.map_err(|error| StartError::Misconfigured(format!("auth.tokens: {error}")))?;
        let tls = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Tls::with_certificate(certificate.clone(), key.clone(), tasks),
            _ => Ok(Tls::default()),
        };
        let tls = tls.map_err(StartError::Misconfigured)?;
        let ca = config.tls.ca.as_deref().map(access::trusted).transpose();
        let ca = ca.map_err(|error| StartError::Misconfigured(format!("tls.ca: {error}")))?;
        let dial = Dial::new(auth.node_token.as_deref(), ca);
        let dial = dial.ok_or_else(|| StartError::Misconfigured("auth.node_token: is no token".into()))?;
        let is_open = |address: SocketAddr| !address.ip().is_loopback();
        if !tls.is_on() && (is_open(config.http.listen) || is_open(config.grpc.listen)) {
            tracing::warn!("tokens and documents go over the network in clear: [tls] is not set");
        }
        Ok(Self { door, tls, dial })
    }
}

/// What the interfaces are put together from.
struct Interfaces<'a> {
    handle: &'a HubHandle,
    config: &'a Config,
    access: &'a Access,
    health: &'a Health,
    clock: &'a Clock,
    tasks: &'a Tasks,
}

impl Interfaces<'_> {
    fn serve(
        self,
        http: TcpListener,
        grpc: TcpListener,
        metrics: Metrics,
        log: Option<Arc<EventLog>>,
        joined: Arc<OnceLock<Members>>,
    ) {
        let Self { handle, config, access, health, clock, tasks } = self;
        metrics.start_upkeep(tasks);
        let publish = log.clone().map(|log| -> api::Publish {
            Arc::new(move |events: Vec<Value>| {
                let log = Arc::clone(&log);
                Box::pin(async move { publish_all(&log, &events).await })
            })
        });
        let node: Arc<str> = config.node.id.as_str().into();
        let state = ApiState::new(handle.clone(), node, health.clone(), metrics, clock.clone(), publish)
            .among(joined)
            .behind(access.door.clone())
            .showing(config.drills.reports.clone())
            .until(tasks.shutdown_token());
        let router = api::router(state);
        let (of_http, tls) = (tasks.clone(), access.tls.clone());
        tasks.spawn(Kind::Listener, "http", async move { api::serve(http, tls, router, &of_http).await });

        let publish = log.map(|log| -> crate::delivery::grpc::Publish {
            Arc::new(move |events: Vec<Value>| {
                let log = Arc::clone(&log);
                Box::pin(async move { publish_all(&log, &events).await?.into_iter().collect() })
            })
        });
        let texts = SubscriptionTexts { read: Spec::from_json, write: api::answer::subscription };
        let peers = (config.store.kind == StoreKind::Etcd).then(|| Answers { hub: handle.clone() });
        let (door, tls) = (access.door.clone(), access.tls.clone());
        let services = Grpc { hub: handle.clone(), tasks: tasks.clone(), texts, publish, peers, door, tls };
        let shutdown = tasks.shutdown_token();
        tasks.spawn(Kind::Listener, "grpc", async move {
            if let Err(error) = services.serve(grpc, shutdown.cancelled_owned()).await {
                panic!("the gRPC listener failed: {error}");
            }
        });
    }
}

async fn publish_all(log: &EventLog, events: &[Value]) -> Result<Vec<Result<String, Problem>>, Problem> {
    let mut good = Vec::new();
    let mut results = Vec::new();
    for event in events {
        results.push(Publication::from_json(event).map(|publication| good.push(publication)));
    }
    let places = if good.is_empty() { Vec::new() } else { log.publish(good).await.map_err(Problem::from)? };
    let mut places = places.into_iter();
    // The embedded log's definition does not change, so its epoch is the first one.
    let mut position = || {
        let (time, ordinal) = places.next().expect("one place for each publication");
        Position::new(Epoch(1), time, ordinal).to_string()
    };
    Ok(results.into_iter().map(|result| result.map(|()| position())).collect())
}

fn publishers(
    config: &Config,
    hub: &PartitionHandle,
    tasks: &Tasks,
    clock: &Clock,
    numbers: &Numbers,
    watch: &StreamWatch,
    health: Component,
) -> Publishers {
    let (endpoint, stream) = nats_config(&config.nats);
    Publishers {
        hub: hub.clone(),
        numbers: numbers.clone(),
        tasks: tasks.clone(),
        clock: clock.clone(),
        health,
        endpoint,
        stream,
        connections: config.nats.connections as usize,
        watch: watch.clone(),
        partition: hub.id().clone(),
        mistake: None,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        quota_gateway: config.quotas.gateway as usize,
        quota_tenant: config.quotas.tenant as usize,
        quota_global: config.quotas.global as usize,
        sessions_max: config.sessions.max as usize,
        park_seconds: config.sessions.park_seconds,
        member_grace_seconds: config.sessions.member_grace_seconds,
    }
}

fn machine_config(config: &Config, partition: PartitionId, sabotage: Option<Sabotage>) -> MachineConfig {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let shares =
        config.memory.shares(config.window.bytes, config.sessions.outbox_bytes, config.backends.partition_count());
    MachineConfig {
        partition,
        node: config.node.id.as_str().into(),
        window_bytes_max: bytes(shares.window),
        outbox_bytes_max: bytes(config.sessions.outbox_bytes),
        hold_bytes_max: limits::checkpoint_hold_bytes,
        rides_max: shares.readings,
        memory_bytes_max: bytes(shares.outboxes),
        outbox_bytes_soft: bytes(config.sessions.outbox_bytes / 4),
        turn_changes_max: TURN_CHANGES_MAX,
        quota_gateway: config.quotas.gateway as usize,
        quota_tenant: config.quotas.tenant as usize,
        quota_global: config.quotas.global as usize,
        catchups_max: config.backends.catchups_max(),
        sessions_max: config.sessions.max as usize,
        park_seconds: config.sessions.park_seconds,
        member_grace_seconds: config.sessions.member_grace_seconds,
        nats_gateways: config.nats.gateways.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        bloom: if config.matching.bloom { BloomUse::From(1) } else { BloomUse::Off },
        shadow_every: config.matching.shadow_every,
        seed: rand::random(),
        mistake: sabotage.and_then(Sabotage::of_machine),
    }
}

async fn open_store(config: &Config, tasks: &Tasks, clock: &Clock) -> Result<Arc<dyn Store>, StartError> {
    let store = &config.store;
    match store.kind {
        StoreKind::Redb => {
            let opened = RedbStore::open(&store.path, tasks);
            Ok(opened.map_err(|error| StartError::Failed(format!("store.path: {error}")))?)
        }
        StoreKind::Etcd => {
            let connected = EtcdStore::connect(etcd_config(store), tasks.clone(), clock.clone()).await;
            Ok(connected.map_err(|error| StartError::Failed(format!("store.endpoints: {error}")))?)
        }
    }
}

/// Says in `/health` how the store fares.
fn watch_store(store: Arc<dyn Store>, health: &Health, tasks: &Tasks) {
    let component = health.component("store");
    component.ok();
    let shutdown = tasks.shutdown_token();
    tasks.spawn(Kind::Housekeeping, "store health", async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match store.trouble() {
                None => component.ok(),
                Some(reason) => component.degraded(reason),
            }
        }
    });
}

/// The embedded log of the configuration.
///
/// # Errors
/// A file that cannot be opened.
pub async fn open_log(config: &Config, tasks: &Tasks, clock: &Clock) -> Result<Arc<EventLog>, StartError> {
    let embedded = &config.embedded;
    let log = EventLogConfig {
        path: embedded.path.clone(),
        retain_bytes: embedded.retain_bytes,
        retain_seconds: (embedded.retain_seconds > 0).then_some(embedded.retain_seconds),
    };
    let opened = EventLog::open(log, tasks, clock.clone()).await;
    opened.map_err(|error| StartError::Failed(format!("embedded.path: {error}")))
}
