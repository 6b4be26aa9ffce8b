//! Frames as JSON, for every transport that carries text.
//!
//! Owns the field names, their order and their nulls (`docs/delivery.md`). Bodies are spliced in as
//! they were encoded once for all. Knows nothing of SSE or NATS.

use chrono::{DateTime, SecondsFormat};

use super::body::{Bodies, Format};
use super::ejson::{put, write_json, write_string};
use super::frame::{Delivery, Frame, Matched, Progress, Resync, Welcome};
use crate::cursor::CursorText;
use crate::position::{PartitionId, Position};
use crate::subscription::SubscriptionId;

impl Frame {
    /// The message's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Welcome(_) => "welcome",
            Self::Change(_) => "change",
            Self::Progress(_) => "progress",
            Self::Resync(_) => "resync",
            Self::Expired(_) => "expired",
            Self::Revoked(_) => "revoked",
            Self::Assigned(_) => "assigned",
            Self::Closed(_) => "closed",
        }
    }

    /// What acks this message and everything before, for those that can be acked.
    pub const fn cursor(&self) -> Option<&CursorText> {
        match self {
            Self::Welcome(Welcome { cursor, .. })
            | Self::Change(Delivery { cursor, .. })
            | Self::Progress(Progress { cursor, .. })
            | Self::Resync(Resync { cursor, .. }) => Some(cursor),
            Self::Expired(_) | Self::Revoked(_) | Self::Assigned(_) | Self::Closed(_) => None,
        }
    }
}

/// Appends a message as one line of JSON.
pub fn write_frame(out: &mut Vec<u8>, frame: &Frame) {
    match frame {
        Frame::Change(delivery) => write_change(out, delivery, Numbered::Yes),
        Frame::Welcome(welcome) => {
            put(out, format_args!(r#"{{"session":{},"node":"#, welcome.session));
            write_string(out, &welcome.node);
            text_member(out, "cursor", welcome.cursor.as_str());
            positions(out, &welcome.positions);
            put(out, format_args!(r#","heartbeatSeconds":{}}}"#, welcome.heartbeat_seconds));
        }
        Frame::Progress(progress) => {
            out.extend_from_slice(br#"{"cursor":"#);
            write_string(out, progress.cursor.as_str());
            positions(out, &progress.positions);
            put(out, format_args!(r#","catchingUp":{}}}"#, progress.catching_up));
        }
        Frame::Resync(resync) => write_resync(out, resync),
        Frame::Expired(expired) => {
            out.extend_from_slice(br#"{"subscriptionIds":"#);
            ids(out, &expired.subscription_ids);
            put(out, format_args!(r#","reason":"{}"}}"#, expired.reason.name()));
        }
        Frame::Revoked(moved) | Frame::Assigned(moved) => {
            out.extend_from_slice(br#"{"subscriptionIds":"#);
            ids(out, &moved.subscription_ids);
            out.push(b'}');
        }
        Frame::Closed(closed) => {
            let reason = closed.reason;
            put(out, format_args!(r#"{{"reason":"{}","retryAfterMs":{}}}"#, reason.name(), reason.retry_after_ms()));
        }
    }
}

/// Whether `change` messages say their `seq`: where the transport has numbers of its own, not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbered {
    /// gRPC and SSE.
    Yes,
    /// JetStream.
    No,
}

/// Appends a change as one line of JSON.
pub fn write_change(out: &mut Vec<u8>, delivery: &Delivery, numbered: Numbered) {
    write_with(out, delivery, &delivery.bodies(Format::Json), numbered);
}

/// Likewise, without its bodies.
pub fn write_reduced(out: &mut Vec<u8>, delivery: &Delivery, numbered: Numbered) {
    write_with(out, delivery, &Bodies { reduced: true, ..Bodies::default() }, numbered);
}

fn write_with(out: &mut Vec<u8>, delivery: &Delivery, bodies: &Bodies, numbered: Numbered) {
    let change = &delivery.change;
    let scope = delivery.scope();
    out.extend_from_slice(br#"{"partition":"#);
    partition(out, &delivery.partition);
    if numbered == Numbered::Yes {
        put(out, format_args!(r#","seq":{}"#, delivery.seq));
    }
    text_member(out, "cursor", delivery.cursor.as_str());
    put(out, format_args!(r#","position":"{}""#, change.position));
    text_member(out, "id", &delivery.id());
    optional_text(out, "tenant", scope.tenant.as_deref());
    optional_text(out, "collection", scope.collection.as_deref());
    text_member(out, "key", &change.key);
    put(out, format_args!(r#","operation":"{}""#, change.operation));
    for (name, body) in [("document", &bodies.document), ("before", &bodies.before)] {
        put(out, format_args!(r#","{name}":"#));
        out.extend_from_slice(body.as_deref().unwrap_or(b"null"));
    }
    match &bodies.changed {
        None => out.extend_from_slice(br#","changed":null"#),
        Some((set, removed)) => {
            out.extend_from_slice(br#","changed":{"set":"#);
            out.extend_from_slice(set);
            out.extend_from_slice(br#","removed":"#);
            write_json(out, removed);
            out.push(b'}');
        }
    }
    let time = change.position.time;
    put(out, format_args!(r#","clusterTime":{{"t":{},"i":{}}}"#, time.seconds(), time.increment()));
    optional_text(out, "wallTime", delivery.wall_time().as_deref());
    match &change.transaction {
        None => out.extend_from_slice(br#","transaction":null"#),
        Some(transaction) => {
            out.extend_from_slice(br#","transaction":{"id":"#);
            write_string(out, &transaction.id);
            put(out, format_args!(r#","number":{}}}"#, transaction.number));
        }
    }
    out.extend_from_slice(br#","matches":"#);
    list(out, &delivery.matches, write_match);
    out.extend_from_slice(br#","flags":["#);
    for (index, name) in delivery.flags_with(bodies).names().enumerate() {
        put(out, format_args!("{}\"{name}\"", if index > 0 { "," } else { "" }));
    }
    out.extend_from_slice(b"]}");
}

impl Delivery {
    /// `<partition>/<position>`
    pub fn id(&self) -> String {
        format!("{}/{}", self.partition, self.change.position)
    }

    /// The server's wall clock at the change, by RFC 3339 with milliseconds, where it is known.
    pub fn wall_time(&self) -> Option<String> {
        let time = DateTime::from_timestamp_millis(self.change.wall_time_ms?)?;
        Some(time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

fn write_match(out: &mut Vec<u8>, matched: &Matched) {
    // Names need no escapes.
    put(out, format_args!(r#"{{"subscriptionId":"{}","generation":{}"#, matched.subscription_id, matched.generation));
    if let Some(transition) = matched.transition {
        put(out, format_args!(r#","transition":"{}""#, transition.name()));
    }
    if let Some(certainty) = matched.certainty {
        put(out, format_args!(r#","certainty":"{}""#, certainty.name()));
    }
    out.push(b'}');
}

fn write_resync(out: &mut Vec<u8>, resync: &Resync) {
    out.extend_from_slice(br#"{"cursor":"#);
    write_string(out, resync.cursor.as_str());
    out.extend_from_slice(br#","partition":"#);
    partition(out, &resync.partition);
    optional_text(out, "from", resync.from.map(|from| from.to_string()).as_deref());
    put(out, format_args!(r#","to":"{}","reason":"{}","scopes":"#, resync.to, resync.reason.name()));
    match &resync.scopes {
        None => out.extend_from_slice(br#""all""#),
        Some(scopes) => list(out, scopes, |out, (tenant, collection)| {
            out.extend_from_slice(br#"{"tenant":"#);
            write_string(out, tenant);
            text_member(out, "collection", collection);
            out.push(b'}');
        }),
    }
    out.extend_from_slice(br#","subscriptionIds":"#);
    ids(out, &resync.subscription_ids);
    out.push(b'}');
}

fn positions(out: &mut Vec<u8>, positions: &[(PartitionId, Position)]) {
    out.extend_from_slice(br#","positions":{"#);
    for (index, (id, position)) in positions.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        partition(out, id);
        put(out, format_args!(r#":"{position}""#));
    }
    out.push(b'}');
}

fn partition(out: &mut Vec<u8>, partition: &PartitionId) {
    write_json(out, partition);
}

fn ids(out: &mut Vec<u8>, ids: &[SubscriptionId]) {
    list(out, ids, |out, id| write_string(out, id.as_str()));
}

fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn text_member(out: &mut Vec<u8>, name: &str, text: &str) {
    put(out, format_args!(r#","{name}":"#));
    write_string(out, text);
}

fn optional_text(out: &mut Vec<u8>, name: &str, text: Option<&str>) {
    match text {
        Some(text) => text_member(out, name, text),
        None => put(out, format_args!(r#","{name}":null"#)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{CloseReason, Closed, Expired, ExpiredReason};
    use super::super::testing::{change, cursor, delivery, partition as default_0, position, progress, raw, welcome};
    use super::*;
    use crate::change::{Change, Changed, Flags, Operation, ResyncReason, Scope, Transaction};
    use crate::matching::{Certainty, Transition};
    use crate::subscription::Name;
    use bson::doc;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text(frame: &Frame) -> String {
        let mut out = Vec::new();
        write_frame(&mut out, frame);
        String::from_utf8(out).unwrap()
    }

    fn value(frame: &Frame) -> Value {
        serde_json::from_str(&text(frame)).unwrap()
    }

    const AT: &str = "00000001691fc610000000030000";

    fn update() -> Change {
        Change {
            operation: Operation::Update,
            before: Some(raw(&doc! {"chatId": "c1", "stars": 3})),
            changed: Some(Changed { set: raw(&doc! {"stars": 4}), removed: vec!["a.b".into()] }),
            transaction: Some(Transaction { id: "0190-id".into(), number: 7 }),
            ..change(2)
        }
    }

    #[test]
    fn a_change_reads_as_documented() {
        let mut delivery = delivery(17, update());
        delivery.with_before = true;
        delivery.matches[0].transition = Some(Transition::Update);
        delivery.matches[0].certainty = Some(Certainty::Exact);
        delivery.flags = Flags::REPLAYED.with(Flags::LOOKUP);
        let expected = [
            r#"{"partition":"default/0","seq":17,"cursor":"cursor-17","position":"{AT}0002","id":"default/0/{AT}0002","#,
            r#""tenant":"acme","collection":"messages","key":"m-9","operation":"update","#,
            r#""document":{"chatId":"c1","stars":4},"before":{"chatId":"c1","stars":3},"#,
            r#""changed":{"set":{"stars":4},"removed":["a.b"]},"clusterTime":{"t":1763690000,"i":3},"#,
            r#""wallTime":"2025-11-21T01:53:20.120Z","transaction":{"id":"0190-id","number":7},"#,
            r#""matches":[{"subscriptionId":"inbox-42","generation":1204,"transition":"update","certainty":"exact"}],"#,
            r#""flags":["lookup","replayed"]}"#,
        ];
        assert_eq!(text(&Frame::Change(delivery)), expected.concat().replace("{AT}", AT));
    }

    #[test]
    fn what_is_not_known_is_null_and_what_is_not_asked_for_absent() {
        let gone = Change {
            operation: Operation::Delete,
            document: None,
            scope: Scope::default(),
            wall_time_ms: None,
            ..change(1)
        };
        let value = value(&Frame::Change(delivery(1, gone)));
        for name in ["tenant", "collection", "document", "before", "changed", "wallTime", "transaction"] {
            assert_eq!(value.get(name), Some(&Value::Null), "{name}");
        }
        assert_eq!(value["matches"], json!([{"subscriptionId": "inbox-42", "generation": 1204}]));
        assert_eq!(value["flags"], json!([]));
    }

    #[test]
    fn numbers_are_left_out_where_the_transport_has_its_own() {
        let mut out = Vec::new();
        write_change(&mut out, &delivery(1, change(1)), Numbered::No);
        let value: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((value.get("seq"), &value["partition"]), (None, &json!("default/0")));
    }

    #[test]
    fn the_other_messages_read_as_documented() {
        let at = |ordinal: u32| format!("{AT}{ordinal:04}");
        assert_eq!(
            value(&Frame::Welcome(welcome())),
            json!({"session": 7, "node": "hub-1", "cursor": "cursor-0", "positions": {"default/0": at(0)}, "heartbeatSeconds": 20})
        );
        assert_eq!(
            value(&Frame::Progress(progress(3))),
            json!({"cursor": "cursor-3", "positions": {"default/0": at(0)}, "catchingUp": 0})
        );
        let ids = vec![Name::new("a").unwrap(), Name::new("b").unwrap()];
        let resync = Resync {
            cursor: cursor(4),
            partition: default_0(),
            from: None,
            to: position(0),
            reason: ResyncReason::HistoryLost,
            scopes: None,
            subscription_ids: ids.clone(),
        };
        assert_eq!(
            value(&Frame::Resync(resync.clone())),
            json!({"cursor": "cursor-4", "partition": "default/0", "from": null, "to": at(0), "reason": "history_lost",
                "scopes": "all", "subscriptionIds": ["a", "b"]})
        );
        let scopes = Some(vec![("t".into(), "c".into())]);
        let scoped = value(&Frame::Resync(Resync { from: Some(position(1)), scopes, ..resync }));
        assert_eq!((&scoped["from"], &scoped["scopes"]), (&json!(at(1)), &json!([{"tenant": "t", "collection": "c"}])));
        assert_eq!(
            value(&Frame::Expired(Expired { subscription_ids: ids, reason: ExpiredReason::TooCostly })),
            json!({"subscriptionIds": ["a", "b"], "reason": "too_costly"})
        );
        assert_eq!(
            value(&Frame::Closed(Closed { reason: CloseReason::Superseded })),
            json!({"reason": "superseded", "retryAfterMs": 0})
        );
    }

    proptest! {
        #[test]
        fn any_text_stays_one_line_of_json(key in any::<String>(), tenant in any::<String>(), body in any::<String>()) {
            let change = Change {
                key: key.clone().into(),
                scope: Scope::known(tenant.clone(), "c"),
                document: Some(raw(&doc! {"x": &body})),
                ..change(1)
            };
            let text = text(&Frame::Change(delivery(1, change)));
            prop_assert!(!text.contains(['\n', '\r']));
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&value["key"], &json!(key));
            prop_assert_eq!(&value["tenant"], &json!(tenant));
            prop_assert_eq!(&value["document"]["x"], &json!(body));
        }
    }
}
