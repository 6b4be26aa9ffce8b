//! Frames: the messages of a session, before any transport has encoded them.
//!
//! Owns the set of messages that every transport carries (`docs/delivery.md`). Knows nothing of JSON,
//! gRPC or sockets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::body::SharedChange;
use crate::change::{Flags, ResyncReason};
use crate::cursor::CursorText;
use crate::matching::{Certainty, Transition};
use crate::position::{PartitionId, Position};
use crate::subscription::{Path, SubscriptionId};

/// One message to a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// The first message of a session.
    Welcome(Welcome),
    /// A change that concerns some of the gateway's subscriptions.
    Change(Delivery),
    /// How far everything has been sent.
    Progress(Progress),
    /// A range that can no longer be produced.
    Resync(Resync),
    /// Subscriptions that were parked.
    Expired(Expired),
    /// Subscriptions of a group that this member has no longer.
    Revoked(Reassigned),
    /// Subscriptions of a group that this member has from now on.
    Assigned(Reassigned),
    /// The last message of a session.
    Closed(Closed),
}

/// The first message of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The session's number.
    pub session: u64,
    /// The node that serves it.
    pub node: Arc<str>,
    /// The cursor resumed from.
    pub cursor: CursorText,
    /// Where each partition is resumed.
    pub positions: Vec<(PartitionId, Position)>,
    /// How often the gateway should renew its leases.
    pub heartbeat_seconds: u32,
}

/// One change for one gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// Where it comes from.
    pub partition: PartitionId,
    /// Counts the session's changes of the partition from 1.
    pub seq: u64,
    /// Acks this and everything before.
    pub cursor: CursorText,
    /// The change itself, shared.
    pub change: Arc<SharedChange>,
    /// Whom it concerns.
    pub matches: Vec<Matched>,
    /// The change's own flags and the delivery's.
    pub flags: Flags,
    /// Said under the scope that the document left, without body (`Change::left`).
    pub left_scope: bool,
    /// The fields to deliver: the union of what the matches ask for; `None` for all.
    pub fields: Option<Arc<[Path]>>,
    /// Whether `before` is delivered though the operation is no delete.
    pub with_before: bool,
}

/// One subscription that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    /// Which.
    pub subscription_id: SubscriptionId,
    /// Its generation.
    pub generation: u64,
    /// For those that ask for transitions.
    pub transition: Option<Transition>,
    /// For those that ask for transitions, and in broadcasts.
    pub certainty: Option<Certainty>,
}

/// How far everything has been sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// Acks everything sent so far.
    pub cursor: CursorText,
    /// Boundaries: everything before them has been sent for live subscriptions.
    pub positions: Vec<(PartitionId, Position)>,
    /// Subscriptions still behind.
    pub catching_up: u64,
}

/// A range of changes that can no longer be produced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resync {
    /// Acks this message.
    pub cursor: CursorText,
    /// Of which partition.
    pub partition: PartitionId,
    /// The last position that was served, if known.
    pub from: Option<Position>,
    /// Serving goes on after this.
    pub to: Position,
    /// Why.
    pub reason: ResyncReason,
    /// Tenant and collection of what is concerned; `None` is `"all"`.
    pub scopes: Option<Vec<(Arc<str>, Arc<str>)>>,
    /// The subscriptions concerned.
    pub subscription_ids: Vec<SubscriptionId>,
}

/// Why subscriptions were parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExpiredReason {
    /// Their lease ran out, or an operator parked them.
    Lease,
    /// Their filter cost too much.
    TooCostly,
}

impl ExpiredReason {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::TooCostly => "too_costly",
        }
    }
}

/// Subscriptions that were parked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Expired {
    /// Which.
    pub subscription_ids: Vec<SubscriptionId>,
    /// Why.
    pub reason: ExpiredReason,
}

/// Subscriptions that go from one member of a group to another, as one partition has decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reassigned {
    /// Which.
    pub subscription_ids: Vec<SubscriptionId>,
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseReason {
    /// A newer session of the gateway has begun: do not reconnect.
    Superseded,
    /// The hub is going down or is not certain to own the partition.
    Draining,
    /// The gateway was deleted.
    Removed,
    /// The hub has more to do than it can.
    Overloaded,
    /// An operator moved the cursor.
    Rewound,
}

impl CloseReason {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::Draining => "draining",
            Self::Removed => "removed",
            Self::Overloaded => "overloaded",
            Self::Rewound => "rewound",
        }
    }

    /// When to reconnect; 0 where that is pointless.
    pub const fn retry_after_ms(self) -> u64 {
        match self {
            Self::Superseded | Self::Removed => 0,
            Self::Draining => 500,
            Self::Overloaded => 5_000,
            Self::Rewound => 1,
        }
    }
}

/// The last message of a session.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// Why.
    pub reason: CloseReason,
}
