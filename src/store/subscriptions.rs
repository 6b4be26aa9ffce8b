//! Stored subscriptions: `subs/{partition}/g/{gateway}/{subscription}`, those of groups
//! `subs/{partition}/m/{group}/{subscription}`.
//!
//! Owns the family's layout and codec. The value is JSON, so that an operator can read it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Key, Revision};
use crate::position::{PartitionId, Position};
use crate::subscription::SubscriptionKey;

/// A subscription as stored. A revision that is `None` is the record's own: it is not known before it
/// has been written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubscriptionRecord {
    /// `Spec::to_stored`.
    pub spec: Value,
    /// The revision of its creation or last PUT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Revision>,
    /// Matches of this generation after this position are delivered.
    pub active_from: Position,
    /// Cursors that do not know `start_revision` serve it from here.
    pub start: Position,
    /// The revision of its creation or revival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_revision: Option<Revision>,
    /// Its earlier revivals, oldest first: their revisions, and where each began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revivals: Vec<(Revision, Position)>,
    /// Position and revision of its creation, once a PUT has changed the generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub birth: Option<(Position, Revision)>,
    /// Filters that were replaced, oldest first, as long as the gateway has not acked past them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<SupersededRecord>,
    /// Set while it is parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<ParkedRecord>,
    /// Which member has it; `None`: no group's, or nobody's yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<AssignedRecord>,
    /// Tells one write from every other with the same content.
    pub write: u64,
}

/// A filter that was replaced by PUT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SupersededRecord {
    /// `Spec::to_stored`.
    pub spec: Value,
    /// Its generation.
    pub generation: Revision,
    /// It applies to changes after this.
    pub from: Position,
    /// And up to this.
    pub until: Position,
}

/// Which member of its group has a subscription.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignedRecord {
    /// The member's name.
    pub member: String,
    /// What lies before this is none of its business.
    pub from: Position,
    /// The revision of the assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// Another member may have been handed what lies up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redelivered_until: Option<Position>,
    /// By which revisions cursors of earlier members may name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names_before: Vec<Revision>,
    /// What came after this is lost up to `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_from: Option<Position>,
}

/// Where and why a subscription was parked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParkedRecord {
    /// It must be served from here when it comes back.
    pub floor: Position,
    /// Why.
    pub reason: ParkedReason,
    /// When, in milliseconds since 1970; after `park_seconds` it is forgotten.
    pub at_ms: i64,
}

/// Why a subscription was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkedReason {
    /// Its lease ran out.
    Lease,
    /// An operator parked it.
    Operator,
    /// Its filter cost too much.
    TooCostly,
}

impl ParkedReason {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Operator => "operator",
            Self::TooCostly => "too_costly",
        }
    }
}

/// The prefix of a partition's subscriptions.
pub fn prefix(partition: &PartitionId) -> String {
    format!("subs/{partition}/")
}

/// Where a subscription is stored.
pub fn key(partition: &PartitionId, subscription: &SubscriptionKey) -> Key {
    Key(format!("{}{}", prefix(partition), subscription.to_text()))
}

/// The reverse of [`key`].
pub fn parse_key(partition: &PartitionId, key: &Key) -> Option<SubscriptionKey> {
    SubscriptionKey::parse(key.0.strip_prefix(&prefix(partition))?)
}

super::stored_as_json!(SubscriptionRecord);
