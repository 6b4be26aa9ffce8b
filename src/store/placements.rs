//! What an operator wants of a partition: `placements/{partition}`.
//!
//! Owns the family's layout and codec.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Key};
use crate::position::PartitionId;

/// Every key begins so.
pub const PREFIX: &str = "placements/";

/// What an operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementRecord {
    /// To be on this node, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Arc<str>>,
    /// Not to be read, whoever owns it.
    #[serde(default)]
    pub paused: bool,
}

/// Where it is stored.
pub fn key(partition: &PartitionId) -> Key {
    Key(format!("{PREFIX}{partition}"))
}

/// The partition, as text, and what is wanted; `None` if nobody can read it.
pub fn read(entry: &Entry) -> Option<(Arc<str>, PlacementRecord)> {
    Some((entry.key.0.strip_prefix(PREFIX)?.into(), PlacementRecord::decode(&entry.value).ok()?))
}

super::stored_as_json!(PlacementRecord);
