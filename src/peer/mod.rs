//! Other nodes: who owns a partition, and asking that node.
//!
//! Owns the way from a node that a caller or a gateway is connected to (the *edge*) to the partition's owner: a
//! command of the interfaces becomes a question to the owner (`question.rs`), a session one whose frames are asked for
//! (`session.rs`). Knows nothing of what they mean (`docs/decisions/0007-several-hubs.md`).
//!
//! - `directory.rs`: who owns which partition, followed in the store; `members.rs`: which nodes there are, and which of them
//!   should own it;
//! - `forward.rs`: the edge's end; `server.rs`: the owner's.

mod directory;
mod forward;
mod members;
mod question;
mod server;
mod session;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::directory::{Dial, Directory};
pub use self::forward::Forward;
pub use self::members::{Choice, Members, View};
pub use self::server::Answers;
pub use self::session::Remote;
use crate::error::{Code, Problem};

/// BSON has documents only at its top.
#[derive(Serialize, Deserialize)]
struct Wrapped<T> {
    it: T,
}

fn encode<T: Serialize>(it: &T) -> Result<Vec<u8>, Problem> {
    bson::serialize_to_vec(&Wrapped { it }).map_err(|error| garbled(&error))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    bson::deserialize_from_slice::<Wrapped<T>>(bytes).map(|wrapped| wrapped.it).map_err(|error| garbled(&error))
}

fn garbled(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::Internal, format!("between nodes: {error}"))
}

fn unreachable(detail: impl std::fmt::Display) -> Problem {
    Problem::new(Code::OwnerUnknown, format!("the partition's owner does not answer: {detail}")).retry_after(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bson::rawdoc;

    use super::*;
    use crate::change::{Change, Changed, Flags, Operation, ResyncReason, Scope, Transaction};
    use crate::cursor::CursorText;
    use crate::delivery::body::SharedChange;
    use crate::delivery::frame::{
        CloseReason, Closed, Delivery, Expired, ExpiredReason, Frame, Matched, Progress, Resync, Welcome,
    };
    use crate::handle::CursorTarget;
    use crate::matching::{Certainty, Transition};
    use crate::position::{ClusterTime, Epoch, PartitionId, Position};
    use crate::subscription::{Name, Path};

    fn travelled<T: Serialize + DeserializeOwned>(it: &T) -> T {
        decode(&encode(it).unwrap()).unwrap()
    }

    fn full() -> Change {
        Change {
            position: Position::new(Epoch(u32::MAX), ClusterTime(u64::MAX), u32::MAX),
            scope: Scope { tenant: Some("täñant/1".into()), collection: None },
            left: Some(Scope::known("t", "c")),
            key: "\u{1f600}\n\0".into(),
            operation: Operation::Update,
            document: Some(
                rawdoc! { "": i64::MIN, "$odd": { "a.b": [f64::NAN, -0.0, bson::RawBson::Null] }, "big": "x".repeat(70_000) },
            ),
            before: Some(rawdoc! { "at": bson::DateTime::MAX, "id": bson::oid::ObjectId::new() }),
            changed: Some(Changed { set: rawdoc! { "a.b": 1.5 }, removed: vec!["c.d".into()] }),
            wall_time_ms: Some(i64::MAX),
            transaction: Some(Transaction { id: "uuid".into(), number: i64::MIN }),
            flags: Flags::LOOKUP.with(Flags::REDUCED),
        }
    }

    #[test]
    fn frames_come_over_as_they_are() {
        let partition = PartitionId::new("a/b", 7);
        let bare = Change {
            scope: Scope::default(),
            left: None,
            document: None,
            before: None,
            changed: None,
            wall_time_ms: None,
            transaction: None,
            flags: Flags::none(),
            ..full()
        };
        let cursor = || CursorText("cursor".into());
        let id = || Name::new("sub:1").unwrap();
        let delivery = |change: Change, fields: Option<Arc<[Path]>>| {
            Frame::Change(Delivery {
                partition: partition.clone(),
                seq: 3,
                cursor: cursor(),
                change: Arc::new(SharedChange::new(change)),
                matches: vec![
                    Matched {
                        subscription_id: id(),
                        generation: i64::MAX as u64,
                        transition: Some(Transition::Leave),
                        certainty: Some(Certainty::Unknown),
                    },
                    Matched { subscription_id: id(), generation: 0, transition: None, certainty: None },
                ],
                flags: Flags::BROADCAST.with(Flags::REDELIVERED),
                left_scope: true,
                fields,
                with_before: true,
            })
        };
        let position = full().position;
        let frames = vec![
            Frame::Welcome(Welcome {
                session: 9,
                node: "hub-1".into(),
                cursor: cursor(),
                positions: vec![(partition.clone(), position)],
                heartbeat_seconds: 20,
            }),
            delivery(full(), Some([Path::parse("a.b").unwrap()].into())),
            delivery(bare, None),
            Frame::Progress(Progress { cursor: cursor(), positions: Vec::new(), catching_up: 5 }),
            Frame::Resync(Resync {
                cursor: cursor(),
                partition: partition.clone(),
                from: None,
                to: position,
                reason: ResyncReason::HistoryLost,
                scopes: Some(vec![("t".into(), "c".into())]),
                subscription_ids: vec![id()],
            }),
            Frame::Expired(Expired { subscription_ids: vec![id()], reason: ExpiredReason::TooCostly }),
            Frame::Closed(Closed { reason: CloseReason::Rewound }),
        ];
        assert_eq!(format!("{:?}", travelled(&frames)), format!("{frames:?}"));
    }

    #[test]
    fn problems_and_targets_come_over_as_they_are() {
        let problem = Problem::new(Code::FilterTooComplex, "too deep").at("filters[2].op").retry_after(3);
        assert_eq!(travelled(&Err::<(), _>(problem.clone())), Err(problem));
        let malformed = Problem::malformed("no JSON");
        assert_eq!(travelled(&Err::<u8, _>(malformed.clone())), Err(malformed));
        for target in
            [CursorTarget::OperationTime(ClusterTime(u64::MAX)), CursorTarget::Second(u32::MAX), CursorTarget::Now]
        {
            assert_eq!(format!("{:?}", travelled(&target)), format!("{target:?}"));
        }
    }

    #[test]
    fn nonsense_is_a_problem() {
        for bytes in [&b""[..], b"\x05\0\0\0\0", b"nonsense", &[0xff; 40]] {
            assert_eq!(decode::<Vec<Frame>>(bytes).unwrap_err().code, Code::Internal);
        }
    }
}
