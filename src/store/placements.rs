//! Where an operator wants a partition: `placements/{partition}`.
//!
//! Owns the family's layout and codec.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Key};
use crate::position::PartitionId;

/// Every key begins so.
pub const PREFIX: &str = "placements/";

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementRecord {
    /// On this node, while it lives.
    pub node: Arc<str>,
}

/// Where it is stored.
pub fn key(partition: &PartitionId) -> Key {
    Key(format!("{PREFIX}{partition}"))
}

/// The partition, as text, and what is wanted; `None` if nobody can read it.
pub fn read(entry: &Entry) -> Option<(Arc<str>, PlacementRecord)> {
    Some((entry.key.0.strip_prefix(PREFIX)?.into(), serde_json::from_slice(&entry.value).ok()?))
}

impl PlacementRecord {
    /// The stored value.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }
}
