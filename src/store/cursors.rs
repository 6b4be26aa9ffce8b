//! Stored cursors: `cursors/{partition}/{page}`, many gateways to a page.
//!
//! Owns the family's layout and codec, and which page a gateway is on. Pages keep the number of
//! writes independent of the number of gateways.

use std::collections::BTreeMap;
use std::hash::Hasher;

use serde::{Deserialize, Serialize};

use super::{Key, Revision};
use crate::cursor::{Place, Serial};
use crate::limits;
use crate::position::{PartitionId, Position};
use crate::subscription::GatewayId;

/// One gateway's cursor as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CursorRecord {
    /// Of which life of the gateway.
    pub incarnation: Revision,
    /// The session of the last acked message.
    pub session: u64,
    /// The number of that message in its session.
    pub written: u64,
    /// Everything up to here has been taken.
    pub position: Position,
    /// By subscriptions that started up to here.
    pub known: Revision,
    /// But for these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfinished: BTreeMap<u64, Position>,
    /// The operator's move that this knows of: the number of the session it took.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moved: u64,
    /// Nothing was unacked when this was written: up to the checkpoint, if that is later, there was
    /// nothing for this gateway, or the page would have been written anew before the checkpoint.
    pub quiet: bool,
    /// What a transport that keeps messages noted with its last ack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The cursor up to which the gateway is known to have taken what that transport has kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<String>,
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CursorPage {
    /// Its gateways.
    pub cursors: BTreeMap<String, CursorRecord>,
    /// Tells one write from every other with the same content.
    pub write: u64,
}

impl CursorRecord {
    /// From its parts.
    pub fn new(incarnation: Revision, serial: Serial, place: &Place, quiet: bool, moved: u64) -> Self {
        Self {
            incarnation,
            moved,
            session: serial.session,
            written: serial.written,
            position: place.position,
            known: place.known,
            unfinished: place.unfinished.iter().map(|(revision, position)| (revision.0, *position)).collect(),
            quiet,
            mark: None,
            floor: None,
        }
    }

    /// The message it acks.
    pub fn serial(&self) -> Serial {
        Serial { session: self.session, written: self.written }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        let unfinished = self.unfinished.iter().map(|(revision, position)| (Revision(*revision), *position)).collect();
        Place { position: self.position, known: self.known, unfinished }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The prefix of a partition's pages.
pub fn prefix(partition: &PartitionId) -> String {
    format!("cursors/{partition}/")
}

/// Where a page is stored.
pub fn key(partition: &PartitionId, page: u16) -> Key {
    Key(format!("{}{page:02}", prefix(partition)))
}

/// The page that a gateway's cursor is on: the same for every build.
pub fn page_of(gateway: &GatewayId) -> u16 {
    let mut hasher = rustc_hash::FxHasher::default();
    for byte in gateway.as_str().bytes() {
        hasher.write_u8(byte);
    }
    ((hasher.finish() >> 40) % u64::from(limits::cursor_pages)) as u16
}

super::stored_as_json!(CursorPage);
