//! How many partitions a backend is split into: `splits/{backend}`.
//!
//! Owns the family's layout and codec. Without a record it is one.

use serde::{Deserialize, Serialize};

use super::Key;

/// What the records of the backend's partitions belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SplitRecord {
    /// How many partitions there are.
    pub partitions: u16,
}

/// Where it is stored.
pub fn key(backend: &str) -> Key {
    Key(format!("splits/{backend}"))
}

super::stored_as_json!(SplitRecord);
