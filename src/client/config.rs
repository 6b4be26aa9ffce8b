//! What a client is told at its start.
//!
//! Owns the settings and their defaults.

use std::time::Duration;

use super::backoff::Backoff;
use super::credentials::Credentials;
use crate::nats::Endpoint;

/// How bodies travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BodyFormat {
    /// Relaxed Extended JSON v2, as text.
    ExtendedJson,
    /// BSON as stored: the cheapest for the hub and for the wire.
    #[default]
    Bson,
}

/// The settings of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The hub's gRPC address, such as `http://127.0.0.1:7701`.
    pub endpoint: String,
    /// The same of other nodes of its cluster: each connection is made to the next one, so that the loss of a node costs
    /// one attempt.
    pub other_endpoints: Vec<String>,
    /// Whose deliveries are consumed. One client a gateway: the newest session wins.
    pub gateway_id: String,
    /// The group that it is a member of; `gateway_id` is then the member's name.
    pub group: Option<String>,
    /// How bodies travel; BSON by default.
    pub body: BodyFormat,
    /// Deliveries pause while more than this is unacked; 0 (the default) for no limit.
    pub max_unacked_bytes: u64,
    /// The greatest message accepted; 16 MiB + 64 KiB by default, so that no document is too large.
    pub max_message_bytes: usize,
    /// Who it is, where the hub asks, and whom it trusts.
    pub credentials: Credentials,
    /// Waits between connections.
    pub backoff: Backoff,
    /// How long a connection may take to be made and to be welcomed.
    pub connect_timeout: Duration,
    /// A session is given up when nothing has come for so long. The hub says `progress` each second.
    pub silence_timeout: Duration,
    /// Seeds the jitter; `None` takes a seed from the operating system.
    pub seed: Option<u64>,
    /// Consume from NATS JetStream instead: the hub has to serve this gateway by it. Bodies are Extended JSON, and the
    /// stream keeps the place, so no cursor is presented.
    pub nats: Option<NatsConfig>,
}

/// Where a gateway's stream is.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The server.
    pub endpoint: Endpoint,
    /// The stream's name; `STREAMER` by default.
    pub stream: String,
    /// The hub's HTTP address, to which heartbeats go. Without it the application sends them.
    pub http: Option<String>,
}

impl NatsConfig {
    /// The defaults, for this server.
    pub fn new(url: impl Into<String>) -> Self {
        let endpoint = Endpoint { url: url.into(), ..Endpoint::default() };
        Self { endpoint, stream: "STREAMER".into(), http: None }
    }
}

impl ClientConfig {
    /// The defaults, for this hub and this gateway.
    pub fn new(endpoint: impl Into<String>, gateway_id: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            other_endpoints: Vec::new(),
            gateway_id: gateway_id.into(),
            group: None,
            body: BodyFormat::default(),
            max_unacked_bytes: 0,
            max_message_bytes: (16 << 20) + (64 << 10),
            credentials: Credentials::default(),
            backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(30),
            seed: None,
            nats: None,
        }
    }
}
