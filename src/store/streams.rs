//! What is known of a NATS stream: `streams/{stream}`.
//!
//! Owns the family's layout and codec. One record for all hubs that publish to the stream: what one of them has
//! found, that it is another or has lost messages, the others and their successors must know.

use serde::{Deserialize, Serialize};

use super::Key;

/// What has been found, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRecord {
    /// Looks at the stream that found it to be another or to have gone back; first, when it was first seen.
    pub checks: Vec<Check>,
}

/// What the stream had at such a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// Its name.
    pub id: u64,
    /// When the stream had been made.
    pub created: String,
    /// The number of its last message.
    pub last_sequence: u64,
}

/// Where a stream's record is stored. A stream's name holds no `/`.
pub fn key(stream: &str) -> Key {
    Key(format!("streams/{stream}"))
}

super::stored_as_json!(StreamRecord);
