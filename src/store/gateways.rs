//! Stored gateways: `gateways/{partition}/{gateway}`; a member of a group is `{group}/{member}`.
//!
//! Owns the family's layout and codec. Written when a gateway is born, when it connects and when an
//! operator changes how it is served. A cursor that it presents is stored with the session that
//! presents it, for a page of cursors that is older would take a rewind back, and likewise an operator's
//! move; so is a loss that this
//! session has to be told of, for only it has seen why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Key, Revision};
use crate::change::ResyncReason;
use crate::cursor::Place;
use crate::position::{PartitionId, Position};
use crate::subscription::{DeliveryMode, GatewayId};

/// A gateway as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayRecord {
    /// The revision of its birth; `None`: the record's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Revision>,
    /// The number of its newest session.
    pub sessions: u64,
    /// The cursor from which it was last served, until a page of cursors says as much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presented: Option<String>,
    /// What its sessions are told was lost, until one of them has acked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Owed>,
    /// Where an operator last moved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// How it is served, where an operator has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryMode>,
    /// Tells one write from every other with the same content.
    pub write: u64,
}

/// A loss of everything before where a gateway goes on. A later one takes an earlier one's place, for
/// it says as much. That it was acked is for the gateway's cursor to tell: this may outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Owed {
    /// The first session that is told.
    pub since: u64,
    /// Why it was lost.
    pub reason: ResyncReason,
}

/// An operator's rewind or skip. It outlives what it led to, for cursors from before it may turn up at any time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Moved {
    /// The session's number that it took: cursors of earlier ones are from before it.
    pub since: u64,
    /// What comes after this is served next,
    pub position: Position,
    /// to subscriptions that started up to here,
    pub known: Revision,
    /// but for these, which are served from further back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfinished: BTreeMap<u64, Position>,
    /// What comes again up to here may have been delivered before.
    pub redelivered_until: Position,
}

/// The prefix of a partition's gateways.
pub fn prefix(partition: &PartitionId) -> String {
    format!("gateways/{partition}/")
}

/// Where a gateway is stored.
pub fn key(partition: &PartitionId, gateway: &GatewayId) -> Key {
    Key(format!("{}{gateway}", prefix(partition)))
}

/// The reverse of [`key`].
pub fn parse_key(partition: &PartitionId, key: &Key) -> Option<GatewayId> {
    GatewayId::stored(key.0.strip_prefix(&prefix(partition))?).ok()
}

impl Moved {
    /// Where it leads.
    pub fn place(&self) -> Place {
        let unfinished = self.unfinished.iter().map(|(revision, position)| (Revision(*revision), *position)).collect();
        Place { position: self.position, known: self.known, unfinished }
    }
}

super::stored_as_json!(GatewayRecord);
