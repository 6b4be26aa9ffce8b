//! Composition: config -> parts -> run -> drain.
//!
//! Owns which parts a hub is made of and the order in which they start and end. Knows nothing of what
//! any of them does.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use wildmatch::WildMatch;

use crate::api::{self, ApiState};
use crate::clock::Clock;
use crate::config::{Config, StoreKind};
use crate::delivery::grpc::{Grpc, SubscriptionTexts};
use crate::delivery::machine::MachineConfig;
use crate::delivery::nats::Publishers;
use crate::error::Problem;
use crate::handle::HubHandle;
use crate::limits;
use crate::matching::BloomUse;
use crate::nats::{Endpoint, Login, StreamConfig};
use crate::observe::health::{Component, Health};
use crate::observe::metrics::Metrics;
use crate::peer::{Answers, Directory, DirectoryConfig, Forward, Members};
use crate::pipeline::{self, PartitionConfig};
use crate::position::{Epoch, PartitionId, Position};
use crate::sabotage::Sabotage;
use crate::source::log::{EventLog, EventLogConfig, LogSource, Publication};
use crate::source::mongo::{MongoConfig, MongoSource};
use crate::source::{ChangeSource, SourceError};
use crate::store::Store;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::store::owners::Holder;
use crate::store::redb::RedbStore;
use crate::subscription::Spec;
use crate::tasks::{Kind, Tasks};

/// Commands that wait for a partition's loop; callers past that wait themselves.
const COMMANDS_MAX: usize = 1024;
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
        let log = match &backend {
            Backend::Log(log) => Some(Arc::clone(log)),
            Backend::Mongo => None,
        };
        let (handle, mut commands) = HubHandle::new(COMMANDS_MAX);
        let joined = Arc::default();
        let interfaces = Interfaces { handle: &handle, config, health: &health, clock: &clock, tasks: &tasks };
        interfaces.serve(http, grpc, metrics, log, Arc::clone(&joined));
        let of_partition = health.component(format!("partition {}", partition_id(config)));
        let ended = || StartError::Failed("told to end before it had started".into());
        let store = tokio::select! {
            store = open_store(config, &tasks, &clock) => store?,
            // Dropping a command answers it: nobody can be asked yet.
            () = async { while commands.recv().await.is_some() {} } => return Err(ended()),
        };
        watch_store(Arc::clone(&store), &health, &tasks);
        let cluster = Cluster::join(config, grpc_address, &store, &tasks, &clock, &joined);
        // A node that cannot read the backend serves it through others meanwhile.
        let source = tokio::select! {
            source = open_source(config, backend, &tasks, &of_partition, sabotage) => source?,
            () = pipeline::meanwhile(cluster.forward.as_ref(), &of_partition, &mut commands) => return Err(ended()),
        };
        let mut publishers = publishers(config, &handle, &tasks, &clock, &health);
        publishers.mistake = sabotage.and_then(Sabotage::of_nats);
        tasks.spawn(Kind::Housekeeping, "publishers", publishers.run());
        let grace = Duration::from_secs(config.shutdown.grace_seconds);
        let partition = PartitionConfig {
            machine: machine_config(config, sabotage),
            source,
            store,
            tasks: tasks.clone(),
            clock,
            handle: handle.clone(),
            forward: cluster.forward,
            holder: cluster.holder,
            members: cluster.members,
            health: of_partition,
            grace,
            heartbeat_writes: config.backends.0.first().is_some_and(|backend| backend.heartbeat_writes),
            sabotage: sabotage == Some(Sabotage::Forget),
        };
        tasks.spawn(Kind::Partition, partition_id(config).to_string(), pipeline::run(partition, commands));
        Ok(Self { http: http_address, grpc: grpc_address, handle, tasks, health, grace })
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
    forward: Option<Forward>,
}

impl Cluster {
    fn join(
        config: &Config,
        grpc: SocketAddr,
        store: &Arc<dyn Store>,
        tasks: &Tasks,
        clock: &Clock,
        joined: &OnceLock<Members>,
    ) -> Self {
        let address = config.node.address.clone().unwrap_or_else(|| grpc.to_string());
        let holder = Holder {
            node: config.node.id.as_str().into(),
            address: Some(address.into()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            started_at: Some(clock.wall()),
        };
        if config.store.kind != StoreKind::Etcd {
            return Self { holder, members: None, forward: None };
        }
        let members = Members::join(holder.clone(), Arc::clone(store), tasks);
        let _ = joined.set(members.clone());
        let (partition, node) = (partition_id(config), Arc::clone(&holder.node));
        let (store, tasks) = (Arc::clone(store), tasks.clone());
        let forward = Forward::new(Directory::follow(DirectoryConfig { partition, node, store, tasks }));
        Self { holder, members: Some(members), forward: Some(forward) }
    }
}

/// What the interfaces are put together from.
struct Interfaces<'a> {
    handle: &'a HubHandle,
    config: &'a Config,
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
        let Self { handle, config, health, clock, tasks } = self;
        metrics.start_upkeep(tasks);
        let publish = log.clone().map(|log| -> api::Publish {
            Arc::new(move |events: Vec<Value>| {
                let log = Arc::clone(&log);
                Box::pin(async move { publish_all(&log, &events).await })
            })
        });
        let node: Arc<str> = config.node.id.as_str().into();
        let state = ApiState::new(handle.clone(), node, health.clone(), metrics, clock.clone(), publish).among(joined);
        let router = api::router(state);
        let of_http = tasks.clone();
        tasks.spawn(Kind::Listener, "http", async move { api::serve(http, router, &of_http).await });

        let publish = log.map(|log| -> crate::delivery::grpc::Publish {
            Arc::new(move |events: Vec<Value>| {
                let log = Arc::clone(&log);
                Box::pin(async move { publish_all(&log, &events).await?.into_iter().collect() })
            })
        });
        let texts = SubscriptionTexts { read: Spec::from_json, write: api::answer::subscription };
        let peers = (config.store.kind == StoreKind::Etcd)
            .then(|| Answers { hub: handle.clone(), partition: partition_id(config) });
        let services = Grpc { hub: handle.clone(), tasks: tasks.clone(), texts, publish, peers };
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

fn publishers(config: &Config, hub: &HubHandle, tasks: &Tasks, clock: &Clock, health: &Health) -> Publishers {
    let nats = config.nats.clone();
    let login = match (nats.user, nats.password, nats.token, nats.nkey, nats.credentials) {
        (Some(name), Some(password), ..) => Login::User { name, password },
        (.., Some(token), _, _) => Login::Token(token),
        (.., Some(seed), _) => Login::NKey(seed),
        (.., Some(file)) => Login::Credentials(file),
        _ => Login::Nobody,
    };
    // Nobody waits for it yet.
    let of_nats = health.component("nats");
    of_nats.ok();
    Publishers {
        hub: hub.clone(),
        tasks: tasks.clone(),
        clock: clock.clone(),
        health: of_nats,
        endpoint: Endpoint { url: nats.url, login, ca_file: nats.ca, certificate: nats.certificate.zip(nats.key) },
        stream: StreamConfig {
            name: nats.stream,
            subject_messages_max: nats.subject_messages,
            replicas: nats.replicas,
        },
        connections: nats.connections as usize,
        partition: partition_id(config),
        mistake: None,
    }
}

fn partition_id(config: &Config) -> PartitionId {
    let name = config.backends.0.first().map_or("default", |backend| backend.name.as_str());
    PartitionId::new(name, 0)
}

fn machine_config(config: &Config, sabotage: Option<Sabotage>) -> MachineConfig {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let shares = config.memory.shares(config.window.bytes);
    MachineConfig {
        partition: partition_id(config),
        node: config.node.id.as_str().into(),
        window_bytes_max: bytes(config.window.bytes),
        outbox_bytes_max: bytes(config.sessions.outbox_bytes),
        hold_bytes_max: limits::checkpoint_hold_bytes,
        rides_max: shares.readings,
        memory_bytes_max: bytes(shares.outboxes),
        outbox_bytes_soft: bytes(config.sessions.outbox_bytes / 4),
        turn_changes_max: TURN_CHANGES_MAX,
        quota_gateway: config.quotas.gateway as usize,
        quota_tenant: config.quotas.tenant as usize,
        quota_global: config.quotas.global as usize,
        sessions_max: config.sessions.max as usize,
        park_seconds: config.sessions.park_seconds,
        nats_gateways: config.nats.gateways.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        bloom: if config.matching.bloom { BloomUse::From(1) } else { BloomUse::Off },
        shadow_every: config.matching.shadow_every,
        seed: rand::random(),
        mistake: sabotage.and_then(Sabotage::of_machine),
    }
}

async fn open_source(
    config: &Config,
    backend: Backend,
    tasks: &Tasks,
    health: &Component,
    sabotage: Option<Sabotage>,
) -> Result<Arc<dyn ChangeSource>, StartError> {
    if let Backend::Log(log) = backend {
        return Ok(Arc::new(LogSource::new(log)));
    }
    let backend = config.backends.0.first().ok_or_else(|| StartError::Misconfigured("backends: none".into()))?;
    let mut mongo = MongoConfig::new(backend.uri.clone());
    mongo.database.clone_from(&backend.database);
    mongo.collections = (!backend.collections.is_empty()).then(|| backend.collections.clone());
    let layout = serde_json::to_value(&backend.layout).and_then(serde_json::from_value);
    mongo.layout = layout.map_err(|error| StartError::Misconfigured(format!("backends.layout: {error}")))?;
    mongo.patience = Duration::from_secs(backend.answer_seconds.into());
    mongo.mistake = sabotage.and_then(Sabotage::of_source);
    let mut wait = Duration::from_millis(500);
    loop {
        match MongoSource::connect(mongo.clone(), tasks.clone()).await {
            Ok(source) => return Ok(Arc::new(source)),
            Err(SourceError::Unavailable(detail)) => {
                tracing::warn!(backend = %backend.name, %detail, "the backend does not answer; trying again");
                health.failing(detail);
            }
            Err(error) => return Err(StartError::Misconfigured(format!("backend {}: {error}", backend.name))),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(10));
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
            let etcd = EtcdConfig {
                endpoints: store.endpoints.clone(),
                prefix: store.prefix.clone(),
                lease_seconds: u64::from(store.lease_seconds),
            };
            let connected = EtcdStore::connect(etcd, tasks.clone(), clock.clone()).await;
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
