//! What a client hands over.
//!
//! Owns the application's view of the stream's messages. Knows the wire's types, to be made from them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocument};
use bytes::Bytes;

use super::config::BodyFormat;
use crate::change::{Operation, ResyncReason};
use crate::position::Position;

/// What comes out of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub enum Item {
    /// A session has begun.
    Connected(Welcome),
    /// A change that concerns subscriptions of this gateway, and was not handed over before.
    Change(Box<Change>),
    /// How far everything has been sent.
    Progress(Progress),
    /// A range of changes that can no longer be produced: read the present state, then ack.
    Resync(Resync),
    /// Subscriptions that were parked.
    Expired(Expired),
    /// Groups: subscriptions that are moving to another member.
    Revoked(Vec<String>),
    /// Groups: subscriptions that have moved here.
    Assigned(Vec<String>),
    /// The hub ended the session, and said why.
    Closed(Closed),
    /// The session is over or could not be made; the client tries again by itself.
    Disconnected(Disconnected),
}

/// Where a change stands in what this client has handed over; for [`Client::ack`](super::Client::ack).
#[derive(Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(super) client: u64,
    pub(super) number: u64,
    pub(super) text: Arc<str>,
}

impl Cursor {
    /// The hub's text, as other interfaces take it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The beginning of a session.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The session's number.
    pub session: u64,
    /// The node that serves it.
    pub node: String,
    /// Where each partition is resumed.
    pub positions: Vec<(String, Position)>,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Acks this and everything before.
    pub cursor: Cursor,
    /// Such as `default/0`.
    pub partition: String,
    /// Its place in the partition.
    pub position: Position,
    /// `<partition>/<position>`: the same for every gateway.
    pub id: String,
    /// `None` where it could not be told.
    pub tenant: Option<String>,
    /// `None` where it could not be told.
    pub collection: Option<String>,
    /// The document's key.
    pub key: String,
    /// What happened.
    pub operation: Operation,
    /// The document after the change.
    pub document: Option<Body>,
    /// The document before it.
    pub before: Option<Body>,
    /// For an update: the new values by dotted path.
    pub set: Option<Body>,
    /// For an update: dotted paths that are gone.
    pub removed: Vec<String>,
    /// The server's wall clock, RFC 3339; empty where unknown.
    pub wall_time: String,
    /// The transaction that it was part of: session and number.
    pub transaction: Option<(String, i64)>,
    /// The subscriptions that it concerns; those that had it before are left out.
    pub matches: Vec<Match>,
    /// `lookup`, `reduced`, `replayed`, `redelivered`, `broadcast`.
    pub flags: Vec<String>,
}

impl Change {
    /// Whether it carries this flag.
    pub fn is(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }
}

/// A subscription that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Which.
    pub subscription_id: String,
    /// Which of its filters: rises with each PUT.
    pub generation: u64,
    /// `enter`, `update`, `leave`; empty where the subscription asks for no transitions.
    pub transition: String,
    /// `exact`, `unknown`; empty where not said.
    pub certainty: String,
}

/// A document as it travelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// How it is encoded.
    pub format: BodyFormat,
    /// Shared with the message that it came in.
    pub bytes: Bytes,
}

/// A body that is not what its format says.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a body that cannot be read: {0}")]
pub struct BadBody(String);

impl Body {
    /// Read as BSON.
    ///
    /// # Errors
    /// Bytes that are no document.
    pub fn document(&self) -> Result<Document, BadBody> {
        let bad = |error: &dyn fmt::Display| BadBody(error.to_string());
        match self.format {
            BodyFormat::Bson => {
                let raw = RawDocument::from_bytes(&self.bytes).map_err(|error| bad(&error))?;
                Document::try_from(raw).map_err(|error| bad(&error))
            }
            BodyFormat::ExtendedJson => serde_json::from_slice::<Document>(&self.bytes).map_err(|error| bad(&error)),
        }
    }

    /// As relaxed Extended JSON.
    ///
    /// # Errors
    /// Bytes that are no document.
    pub fn json(&self) -> Result<serde_json::Value, BadBody> {
        match self.format {
            BodyFormat::Bson => Ok(bson::Bson::Document(self.document()?).into_relaxed_extjson()),
            BodyFormat::ExtendedJson => serde_json::from_slice(&self.bytes).map_err(|error| BadBody(error.to_string())),
        }
    }
}

/// How far everything has been sent.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Boundaries: everything before them has been handed over for subscriptions that are live.
    pub positions: Vec<(String, Position)>,
    /// Subscriptions still behind.
    pub catching_up: u64,
}

/// A range of changes that can no longer be produced. Said again after each reconnect until acked.
#[derive(Clone, Debug)]
pub struct Resync {
    /// Acks this and everything before.
    pub cursor: Cursor,
    /// Of which partition.
    pub partition: String,
    /// The last position that was served, if known.
    pub from: Option<Position>,
    /// Serving goes on after this.
    pub to: Position,
    /// Why; `None` for a reason that this version does not know.
    pub reason: Option<ResyncReason>,
    /// Tenants and collections concerned; `None` for all.
    pub scopes: Option<Vec<(String, String)>>,
    /// The subscriptions concerned.
    pub subscription_ids: Vec<String>,
}

/// Subscriptions that were parked.
#[derive(Clone, Debug)]
pub struct Expired {
    /// Which.
    pub subscription_ids: Vec<String>,
    /// `lease`: a heartbeat or a registration revives them; `too_costly`: only another filter does.
    pub reason: String,
}

/// The last message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// `superseded`, `draining`, `removed`, `overloaded`, `rewound`.
    pub reason: String,
    /// Whether the client connects again; if not, its stream ends.
    pub reconnects: bool,
}

/// A session that is over, or could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnected {
    /// Why, in one line.
    pub reason: String,
    /// When the client tries again.
    pub retry_in: Duration,
}
