//! The messages that NATS carries, read.
//!
//! Owns the JSON of `docs/delivery.md` from the reader's side; what comes of it is what gRPC would have brought.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::proto;
use crate::proto::consume_response::Message;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    changes: Vec<Change<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    partition: String,
    cursor: String,
    position: String,
    id: String,
    tenant: Option<String>,
    collection: Option<String>,
    key: String,
    operation: String,
    #[serde(borrow)]
    document: Option<&'a RawValue>,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    changed: Option<Changed<'a>>,
    cluster_time: ClusterTime,
    wall_time: Option<String>,
    transaction: Option<Transaction>,
    matches: Vec<Match>,
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Changed<'a> {
    #[serde(borrow)]
    set: &'a RawValue,
    removed: Vec<String>,
}

#[derive(Deserialize)]
struct ClusterTime {
    t: u32,
    i: u32,
}

#[derive(Deserialize)]
struct Transaction {
    id: String,
    number: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    subscription_id: String,
    generation: u64,
    #[serde(default)]
    transition: String,
    #[serde(default)]
    certainty: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Welcome {
    session: u64,
    node: String,
    cursor: String,
    positions: HashMap<String, String>,
    heartbeat_seconds: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    cursor: String,
    positions: HashMap<String, String>,
    catching_up: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resync {
    cursor: String,
    partition: String,
    from: Option<String>,
    to: String,
    reason: String,
    scopes: Scopes,
    subscription_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scopes {
    Some(Vec<Scope>),
    All(IgnoredAny),
}

#[derive(Deserialize)]
struct Scope {
    tenant: String,
    collection: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    subscription_ids: Vec<String>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Closed {
    reason: String,
    retry_after_ms: u64,
}

/// A message by its name; `None` for one that this version does not know.
pub(super) fn read(name: &str, payload: &[u8]) -> Result<Option<Message>, serde_json::Error> {
    Ok(Some(match name {
        "changes" => {
            let batch: Batch<'_> = serde_json::from_slice(payload)?;
            Message::Changes(proto::Changes { changes: batch.changes.into_iter().map(change).collect() })
        }
        "welcome" => {
            let Welcome { session, node, cursor, positions, heartbeat_seconds } = serde_json::from_slice(payload)?;
            Message::Welcome(proto::Welcome { session, node, cursor, positions, heartbeat_seconds })
        }
        "progress" => {
            let Progress { cursor, positions, catching_up } = serde_json::from_slice(payload)?;
            Message::Progress(proto::Progress { cursor, positions, catching_up })
        }
        "resync" => Message::Resync(resync(serde_json::from_slice(payload)?)),
        "expired" => {
            let Ids { subscription_ids, reason } = serde_json::from_slice(payload)?;
            Message::Expired(proto::Expired { subscription_ids, reason })
        }
        "closed" => {
            let Closed { reason, retry_after_ms } = serde_json::from_slice(payload)?;
            Message::Closed(proto::Closed { reason, retry_after_ms })
        }
        _ => return Ok(None),
    }))
}

fn change(change: Change<'_>) -> proto::Change {
    let bytes = |raw: &RawValue| Bytes::copy_from_slice(raw.get().as_bytes());
    proto::Change {
        partition: change.partition,
        seq: 0,
        cursor: change.cursor,
        position: change.position,
        id: change.id,
        tenant: change.tenant,
        collection: change.collection,
        key: change.key,
        operation: change.operation,
        document: change.document.map(bytes),
        before: change.before.map(bytes),
        changed: change.changed.map(|changed| proto::Changed { set: bytes(changed.set), removed: changed.removed }),
        cluster_time: Some(proto::ClusterTime { t: change.cluster_time.t, i: change.cluster_time.i }),
        wall_time: change.wall_time.unwrap_or_default(),
        transaction: change.transaction.map(|it| proto::Transaction { id: it.id, number: it.number }),
        matches: change
            .matches
            .into_iter()
            .map(|it| proto::Match {
                subscription_id: it.subscription_id,
                generation: it.generation,
                transition: it.transition,
                certainty: it.certainty,
            })
            .collect(),
        flags: change.flags,
    }
}

fn resync(resync: Resync) -> proto::Resync {
    let scope = |scope: Scope| proto::Scope { tenant: scope.tenant, collection: scope.collection };
    let (scopes, all) = match resync.scopes {
        Scopes::Some(scopes) => (scopes.into_iter().map(scope).collect(), false),
        Scopes::All(_) => (Vec::new(), true),
    };
    proto::Resync {
        cursor: resync.cursor,
        partition: resync.partition,
        from: resync.from,
        to: resync.to,
        reason: resync.reason,
        scopes,
        all,
        subscription_ids: resync.subscription_ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Changed, Flags, ResyncReason, Transaction};
    use crate::delivery::frame::{CloseReason, Closed, Expired, ExpiredReason, Frame, Resync};
    use crate::delivery::json::{self, Numbered};
    use crate::delivery::testing::{change, cursor, delivery, partition, position, progress, raw, welcome};
    use crate::matching::{Certainty, Transition};
    use crate::subscription::Name;
    use bson::doc;

    fn read_frame(frame: &Frame) -> Message {
        let mut text = Vec::new();
        json::write_frame(&mut text, frame);
        read(frame.name(), &text).unwrap().unwrap()
    }

    #[test]
    fn a_batch_is_read_as_it_was_written() {
        let mut full = delivery(1, change(2));
        let mut update = change(3);
        update.changed = Some(Changed { set: raw(&doc! { "a": 1 }), removed: vec!["b".into()] });
        update.before = Some(raw(&doc! { "b": 2 }));
        update.transaction = Some(Transaction { id: "t".into(), number: 7 });
        full.change = delivery(1, update).change;
        full.with_before = true;
        full.flags = Flags::REPLAYED;
        full.matches[0].transition = Some(Transition::Leave);
        full.matches[0].certainty = Some(Certainty::Exact);
        let mut text = br#"{"changes":["#.to_vec();
        json::write_change(&mut text, &delivery(1, change(1)), Numbered::No);
        text.push(b',');
        json::write_change(&mut text, &full, Numbered::No);
        text.extend_from_slice(b"]}");
        let Some(Message::Changes(batch)) = read("changes", &text).unwrap() else { panic!("changes") };
        let [first, second] = batch.changes.as_slice() else { panic!("{batch:?}") };
        assert_eq!((first.seq, &*first.position, &*first.cursor), (0, &*position(1).to_string(), "cursor-1"));
        assert_eq!((first.before.as_ref(), first.changed.as_ref(), first.transaction.as_ref()), (None, None, None));
        assert_eq!(first.document.as_deref(), Some(&br#"{"chatId":"c1","stars":4}"#[..]));
        assert_eq!((&*first.matches[0].transition, first.matches[0].generation), ("", 1204));
        let changed = second.changed.as_ref().unwrap();
        assert_eq!((&changed.set[..], &changed.removed[..]), (&br#"{"a":1}"#[..], &["b".to_owned()][..]));
        assert_eq!(second.before.as_deref(), Some(&br#"{"b":2}"#[..]));
        assert_eq!(second.transaction.as_ref().unwrap().number, 7);
        assert_eq!((&*second.matches[0].transition, &*second.matches[0].certainty), ("leave", "exact"));
        assert_eq!(second.flags, ["replayed"]);
        assert_eq!(second.wall_time, "2025-11-21T01:53:20.120Z");
    }

    #[test]
    fn the_other_messages_are_read_as_they_were_written() {
        let Message::Welcome(read) = read_frame(&Frame::Welcome(welcome())) else { panic!("welcome") };
        assert_eq!((read.session, read.heartbeat_seconds, read.positions.len()), (7, 20, 1));
        let Message::Progress(read) = read_frame(&Frame::Progress(progress(3))) else { panic!("progress") };
        assert_eq!((&*read.cursor, read.catching_up), ("cursor-3", 0));
        let ids = vec![Name::new("a").unwrap()];
        let resync = Resync {
            cursor: cursor(4),
            partition: partition(),
            from: None,
            to: position(0),
            reason: ResyncReason::HistoryLost,
            scopes: None,
            subscription_ids: ids.clone(),
        };
        let Message::Resync(read) = read_frame(&Frame::Resync(resync.clone())) else { panic!("resync") };
        assert_eq!((read.all, read.from, &*read.reason, read.subscription_ids.len()), (true, None, "history_lost", 1));
        let scopes = Some(vec![("t".into(), "c".into())]);
        let scoped = Resync { scopes, from: Some(position(1)), ..resync };
        let Message::Resync(read) = read_frame(&Frame::Resync(scoped)) else { panic!("resync") };
        assert_eq!((read.all, &*read.scopes[0].collection, read.from), (false, "c", Some(position(1).to_string())));
        let expired = Expired { subscription_ids: ids, reason: ExpiredReason::Lease };
        let Message::Expired(read) = read_frame(&Frame::Expired(expired)) else { panic!("expired") };
        assert_eq!((&*read.reason, read.subscription_ids.len()), ("lease", 1));
        let closed = Closed { reason: CloseReason::Overloaded };
        let Message::Closed(read) = read_frame(&Frame::Closed(closed)) else { panic!("closed") };
        assert_eq!((&*read.reason, read.retry_after_ms), ("overloaded", 5_000));
        assert!(super::read("something new", b"{}").unwrap().is_none());
        assert!(super::read("changes", b"{}").is_err());
    }
}
