//! Changes and frames for the tests of this room.
//!
//! Owns nothing that is delivered.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use tokio::sync::mpsc;

use super::body::SharedChange;
use super::frame::{Delivery, Frame, Matched, Progress, Welcome};
use super::session::Session;
use crate::change::{Change, Flags, Operation, Scope};
use crate::cursor::CursorText;
use crate::edge::HubHandle;
use crate::error::{Code, Problem};
use crate::handle::{Command, Hello};
use crate::position::{ClusterTime, Epoch, PartitionId, Position};
use crate::subscription::Name;

pub(crate) fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(bson::serialize_to_vec(document).unwrap()).unwrap()
}

pub(crate) fn cursor(number: u64) -> CursorText {
    CursorText(format!("cursor-{number}").into())
}

pub(crate) fn partition() -> PartitionId {
    PartitionId::new("default", 0)
}

pub(crate) fn position(ordinal: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(1_763_690_000, 3), ordinal)
}

pub(crate) fn change(ordinal: u32) -> Change {
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

pub(crate) fn delivery(seq: u64, change: Change) -> Delivery {
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

pub(crate) fn welcome() -> Welcome {
    Welcome {
        session: 7,
        node: "hub-1".into(),
        cursor: cursor(0),
        positions: vec![(partition(), position(0))],
        heartbeat_seconds: 20,
    }
}

pub(crate) fn progress(number: u64) -> Progress {
    Progress { cursor: cursor(number), positions: vec![(partition(), position(0))], catching_up: 0 }
}

/// A hub of which the test answers the commands.
pub(super) struct FakeHub {
    pub(super) handle: HubHandle,
    commands: mpsc::Receiver<Command>,
}

impl FakeHub {
    pub(super) fn new() -> Self {
        let (handle, commands) = HubHandle::single(16);
        Self { handle, commands }
    }

    pub(super) async fn command(&mut self) -> Command {
        // Longer than anything here takes: a test that waits in vain fails instead of hanging.
        let waited = tokio::time::timeout(Duration::from_secs(30), self.commands.recv()).await;
        waited.expect("a command in time").unwrap()
    }

    /// Whether nothing has been asked.
    pub(super) fn is_idle(&mut self) -> bool {
        self.commands.try_recv().is_err()
    }

    /// Opens a session for the next `hello`, which it returns with the session's other end.
    pub(super) async fn open(&mut self) -> (Hello, mpsc::Sender<Vec<Frame>>) {
        match self.command().await {
            Command::Open(hello, reply) => {
                let (frames, session) = Session::scripted(7);
                reply.send(Ok(session)).unwrap();
                (hello, frames)
            }
            other => panic!("expected a hello, got {other:?}"),
        }
    }

    /// Takes the next ack and answers it.
    pub(super) async fn ack(&mut self, answer: Result<(), Problem>) -> (String, String) {
        match self.command().await {
            Command::Ack(gateway, cursor, _, reply) => {
                reply.send(answer).unwrap();
                (gateway.to_string(), cursor.to_string())
            }
            other => panic!("expected an ack, got {other:?}"),
        }
    }

    /// Takes the next renewal of a gateway's leases and answers it.
    pub(super) async fn renewal(&mut self) -> String {
        match self.command().await {
            Command::RenewGateway(gateway, _, reply) => {
                reply.send(Err(Problem::new(Code::GatewayNotFound, "no such gateway"))).unwrap();
                gateway.to_string()
            }
            other => panic!("expected a renewal, got {other:?}"),
        }
    }
}

pub(crate) fn changes(seqs: std::ops::RangeInclusive<u64>) -> Vec<Frame> {
    seqs.map(|seq| Frame::Change(delivery(seq, change(seq as u32)))).collect()
}
