//! Configuration: what an operator may choose.
//!
//! Owns every setting, its default and its rules. `config/streamer.toml` lists them all; a test keeps
//! the two equal. Knows nothing of the parts that the settings are for.

mod check;
mod fault;
mod layout;
mod load;
mod secrets;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits;

pub use fault::ConfigError;
pub use layout::{Layout, Place, Places};
pub use secrets::without_password;

/// Everything that can be set.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This process among others.
    pub node: Node,
    /// The HTTP listener.
    pub http: Http,
    /// The gRPC listener.
    pub grpc: Grpc,
    /// Who may call.
    pub auth: Auth,
    /// The certificate of both listeners.
    pub tls: Tls,
    /// Where subscriptions, cursors and checkpoints survive.
    pub store: Store,
    /// Where changes come from.
    pub backends: Backends,
    /// Delivery by NATS JetStream.
    pub nats: Nats,
    /// How many subscriptions there may be.
    pub quotas: Quotas,
    /// How changes are matched.
    pub matching: Matching,
    /// The hub-wide byte budget.
    pub memory: Memory,
    /// The recent changes kept for those slightly behind.
    pub window: Window,
    /// Connected gateways.
    pub sessions: Sessions,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What is logged, and how.
    pub log: Log,
    /// What metrics name.
    pub metrics: Metrics,
    /// Of which changes the way is told.
    pub tracing: Tracing,
    /// The embedded log of `streamer dev`.
    pub embedded: Embedded,
    /// Reports of drills.
    pub drills: Drills,
}

impl Config {
    /// This one with those settings of another that a running hub takes anew: quotas and what counts gateways.
    #[must_use]
    pub fn with_limits_of(&self, other: &Self) -> Self {
        let Sessions { park_seconds, member_grace_seconds, max, .. } = other.sessions;
        let sessions = Sessions { park_seconds, member_grace_seconds, max, ..self.sessions.clone() };
        Self { quotas: other.quotas.clone(), sessions, ..self.clone() }
    }
}

/// `[node]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Unique among nodes that share a store; the same again after a restart.
    pub id: String,
    /// Where other nodes reach this one's gRPC listener, `host:port`; else the address it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// `[http]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address and port.
    #[serde(deserialize_with = "fault::address")]
    pub listen: SocketAddr,
}

/// `[grpc]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grpc {
    /// Address and port.
    #[serde(deserialize_with = "fault::address")]
    pub listen: SocketAddr,
}

/// `[auth]`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The file of tokens; without it nobody is asked, and both listeners stay on loopback.
    pub tokens: Option<PathBuf>,
    /// The token by which this node asks others.
    pub node_token: Option<String>,
}

/// `[tls]`, for both listeners.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those that it is signed by, in PEM; without it nothing is encrypted.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Certificates that other nodes' may be signed by, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// Which store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// An etcd cluster.
    Etcd,
    /// One file on this machine.
    Redb,
}

/// `[store]`. What belongs to the other kind is not looked at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Which one.
    pub kind: StoreKind,
    /// etcd: its members' client addresses.
    pub endpoints: Vec<String>,
    /// etcd: above every key of this hub.
    pub prefix: String,
    /// etcd: how long an owner that went silent keeps its partition.
    pub lease_seconds: u32,
    /// redb: the file.
    pub path: PathBuf,
}

/// `[[backends]]`, with its own default: one MongoDB on this machine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Backends(pub Vec<Backend>);

/// One of `[[backends]]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backend {
    /// Its name in partitions and subscriptions.
    pub name: String,
    /// MongoDB connection string.
    pub uri: String,
    /// The database to watch; `None` for the whole deployment.
    pub database: Option<String>,
    /// The collections to watch; none for all.
    pub collections: Vec<String>,
    /// Where tenant, collection and body are in a document.
    pub layout: Layout,
    /// Write one small document a second while someone waits on an idle deployment.
    pub heartbeat_writes: bool,
    /// How long an answer of MongoDB may take before another connection is tried.
    pub answer_seconds: u32,
    /// Change streams into which the backend is split.
    pub partitions: u16,
    /// Name patterns of the tenants that live here, with several backends.
    pub tenants: Vec<String>,
}

/// `[nats]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    /// The server, or several of a cluster, separated by commas.
    pub url: String,
    /// Name patterns of gateways served by NATS.
    pub gateways: Vec<String>,
    /// The stream's name.
    pub stream: String,
    /// Messages that wait for one gateway at most, if the stream has to be made.
    pub subject_messages: u32,
    /// How many servers keep it, if it has to be made.
    pub replicas: u32,
    /// Connections that share the gateways.
    pub connections: u32,
    /// Who the hub is: a name with its password,
    pub user: Option<String>,
    /// which belongs to the name,
    pub password: Option<String>,
    /// or a token,
    pub token: Option<String>,
    /// or the seed of an NKey,
    pub nkey: Option<String>,
    /// or a file with a JWT and its NKey's seed.
    pub credentials: Option<PathBuf>,
    /// Certificates that the server's may be signed by, beside those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The hub's own certificate,
    pub certificate: Option<PathBuf>,
    /// and its key.
    pub key: Option<PathBuf>,
}

/// `[quotas]`: subscriptions, live and parked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Of one gateway.
    pub gateway: u32,
    /// Of one tenant.
    pub tenant: u32,
    /// Of the hub.
    pub global: u32,
}

/// `[matching]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Matching {
    /// Whether large tables of keys have a Bloom filter in front.
    pub bloom: bool,
    /// Every so manyth change is matched a second time by the reference; none if 0.
    pub shadow_every: u32,
}

/// `[memory]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// For windows, outboxes and replays together.
    pub bytes: u64,
}

/// `[window]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// Of each partition.
    pub bytes: u64,
}

/// `[sessions]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// What may wait for one slow gateway before it is served by catch-up.
    pub outbox_bytes: u64,
    /// How long a parked subscription is remembered.
    pub park_seconds: u64,
    /// How long a member of a gateway group counts as live after its last stream.
    pub member_grace_seconds: u64,
    /// Connected at once.
    pub max: u32,
}

/// `[shutdown]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long SIGTERM waits for sessions and cursors.
    pub grace_seconds: u64,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines: levels by module, as in `info,streamer::delivery=debug`.
    pub filter: String,
}

/// `[drills]`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drills {
    /// The folder with the reports that the dashboard shows.
    pub reports: Option<PathBuf>,
}

/// `[metrics]`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// So many tenants have series of their own; none if 0.
    pub tenants_max: u16,
}

/// `[tracing]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tracing {
    /// Where OTLP by gRPC is taken; without it nothing is told.
    pub endpoint: Option<String>,
    /// Of all changes this share.
    pub ratio: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { endpoint: None, ratio: 0.001 }
    }
}

/// `[embedded]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// The log's file.
    pub path: PathBuf,
    /// How much of the past is kept.
    pub retain_bytes: u64,
    /// How long it is kept; 0 for as long as there is room.
    pub retain_seconds: u64,
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Default for Node {
    fn default() -> Self {
        Self { id: "hub-1".into(), address: None }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: loopback(7700) }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { listen: loopback(7701) }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Etcd,
            endpoints: vec!["http://127.0.0.1:2379".into()],
            prefix: "/streamer".into(),
            lease_seconds: 15,
            path: "data/store.redb".into(),
        }
    }
}

impl Default for Backends {
    fn default() -> Self {
        Self(vec![Backend::default()])
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            name: "default".into(),
            uri: "mongodb://127.0.0.1:27017/?replicaSet=rs0".into(),
            database: None,
            collections: Vec::new(),
            layout: Layout::Syntrix,
            heartbeat_writes: false,
            answer_seconds: 30,
            partitions: 1,
            tenants: Vec::new(),
        }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".into(),
            gateways: Vec::new(),
            stream: "STREAMER".into(),
            subject_messages: 10_000,
            replicas: 1,
            connections: 1,
            user: None,
            password: None,
            token: None,
            nkey: None,
            credentials: None,
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self { gateway: 10_000, tenant: 50_000, global: 100_000 }
    }
}

impl Default for Matching {
    fn default() -> Self {
        Self { bloom: false, shadow_every: 10_000 }
    }
}

impl Backends {
    /// Of all backends together.
    pub fn partition_count(&self) -> usize {
        self.0.iter().map(|backend| usize::from(backend.partitions)).sum()
    }

    /// How many catch-ups a partition's part of a cursor may name, so that all parts fit together.
    pub fn catchups_max(&self) -> usize {
        let name = self.0.iter().map(|backend| backend.name.len()).max().unwrap_or_default();
        // Base64 makes four of three.
        let bytes = limits::cursor_text_bytes_max * 3 / 4 / self.partition_count().max(1);
        let left = bytes.saturating_sub(limits::cursor_part_bytes_max + name);
        (left / limits::cursor_catchup_bytes_max).min(limits::cursor_catchups_max)
    }
}

/// How the memory's bytes are shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// For the window.
    pub window: u64,
    /// Catch-ups that read the source at once.
    pub readings: usize,
    /// For all outboxes together.
    pub outboxes: u64,
}

impl Memory {
    /// Of one of so many partitions. What is left beside the window: half of it for readings at most, and the live one has
    /// its part, too. Several partitions' windows give way to the rest.
    pub fn shares(&self, window_bytes: u64, outbox_bytes: u64, partitions: usize) -> Shares {
        let bytes = self.bytes / partitions.max(1) as u64;
        let most = bytes.saturating_sub(outbox_bytes + 2 * limits::reading_bytes_max).min(bytes / 2);
        let window = if partitions > 1 { window_bytes.min(most) } else { window_bytes };
        let rest = bytes.saturating_sub(window);
        let readings = (rest / 2 / limits::reading_bytes_max).clamp(1, limits::readings_max as u64);
        Shares {
            window,
            readings: readings as usize,
            outboxes: rest.saturating_sub((readings + 1) * limits::reading_bytes_max),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { bytes: 1 << 30 }
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { bytes: 256 << 20 }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self { outbox_bytes: 16 << 20, park_seconds: 86_400, member_grace_seconds: 15, max: 10_000 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_seconds: 10 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self { path: "data/log.redb".into(), retain_bytes: 1 << 30, retain_seconds: 0 }
    }
}

#[cfg(test)]
mod tests;
