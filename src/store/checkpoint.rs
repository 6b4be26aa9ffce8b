//! The stored checkpoint: `checkpoint/{partition}`.
//!
//! Owns the family's layout and codec: where the live reader restarts and what its positions mean.

use serde::{Deserialize, Serialize};

use super::Key;
use crate::position::{PartitionId, Position};

/// A partition's checkpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointRecord {
    /// The live reader restarts after this.
    pub position: Position,
    /// Digest of the stream's definition; if it changes, the epoch rises.
    pub definition: String,
    /// The deployment's identity, where it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Where the last break with an earlier history lies: cursors of an earlier epoch than this
    /// position's have lost everything before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Position>,
    /// The source's present when the epoch rose: what happened before may have been delivered under
    /// another position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risen: Option<Position>,
    /// The last change that was read: if the source does not have it any more, its history is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<Position>,
    /// Tells one write from every other with the same content.
    pub write: u64,
}

/// Where a partition's checkpoint is stored.
pub fn key(partition: &PartitionId) -> Key {
    Key(format!("checkpoint/{partition}"))
}

super::stored_as_json!(CheckpointRecord);
