//! Changes and frames for the tests of this room.
//!
//! Owns nothing that is delivered.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};

use super::body::SharedChange;
use super::frame::{Delivery, Matched, Progress, Welcome};
use crate::change::{Change, Flags, Operation, Scope};
use crate::cursor::CursorText;
use crate::position::{ClusterTime, Epoch, PartitionId, Position};
use crate::subscription::Name;

pub(super) fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(bson::serialize_to_vec(document).unwrap()).unwrap()
}

pub(super) fn cursor(number: u64) -> CursorText {
    CursorText(format!("cursor-{number}").into())
}

pub(super) fn partition() -> PartitionId {
    PartitionId::new("default", 0)
}

pub(super) fn position(ordinal: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(1_763_690_000, 3), ordinal)
}

pub(super) fn change(ordinal: u32) -> Change {
    Change {
        position: position(ordinal),
        scope: Scope::known("acme", "messages"),
        left: None,
        key: "m-9".into(),
        operation: Operation::Insert,
        document: Some(raw(&doc! {"chatId": "c1", "stars": 4})),
        before: None,
        changed: None,
        wall_time_ms: Some(1_763_690_000_120),
        transaction: None,
        flags: Flags::none(),
    }
}

pub(super) fn delivery(seq: u64, change: Change) -> Delivery {
    Delivery {
        partition: partition(),
        seq,
        cursor: cursor(seq),
        flags: change.flags,
        change: Arc::new(SharedChange::new(change)),
        matches: vec![Matched {
            subscription_id: Name::new("inbox-42").unwrap(),
            generation: 1204,
            transition: None,
            certainty: None,
        }],
        left_scope: false,
        fields: None,
        with_before: false,
    }
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        session: 7,
        node: "hub-1".into(),
        cursor: cursor(0),
        positions: vec![(partition(), position(0))],
        heartbeat_seconds: 20,
    }
}

pub(super) fn progress(number: u64) -> Progress {
    Progress { cursor: cursor(number), positions: vec![(partition(), position(0))], catching_up: 0 }
}
