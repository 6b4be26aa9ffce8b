//! Who owns a partition, `owners/{partition}`, and which nodes there are, `nodes/{node}`.
//!
//! Owns the families' layout and codec. The key lives under its owner's lease, and its creation is the ownership
//! (`Fence`); what it says tells other nodes whom to ask.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Key;
use crate::position::PartitionId;

/// What either key says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The node's name: a node that was restarted knows what it left behind by it.
    pub node: Arc<str>,
    /// Where other nodes reach its gRPC listener, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Arc<str>>,
    /// Its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Arc<str>>,
    /// When it was started: it tells a node from the one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
}

/// Every node's key begins so.
pub const NODES: &str = "nodes/";

/// The key that a node has while it lives.
pub fn node_key(node: &str) -> Key {
    Key(format!("{NODES}{node}"))
}

/// Every ownership key begins so.
pub const OWNERS: &str = "owners/";

/// The key whose creation is a partition's ownership.
pub fn key(partition: &PartitionId) -> Key {
    Key(format!("{OWNERS}{partition}"))
}

impl Holder {
    /// A node that nobody else asks.
    pub fn named(node: impl Into<Arc<str>>) -> Self {
        Self { node: node.into(), address: None, version: None, started_at: None }
    }
}

super::stored_as_json!(Holder);
