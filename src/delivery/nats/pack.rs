//! Frames as messages for the stream.
//!
//! Owns batches, ids, and what becomes of a change that is larger than the server takes.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::frame::{CloseReason, Closed, Delivery, Frame, Matched, Progress, Resync};
use super::super::json::{self, Numbered};
use crate::change::ResyncReason;
use crate::cursor::CursorText;
use crate::limits;
use crate::nats::Message;
use crate::position::{PartitionId, Position};
use crate::subscription::GatewayId;

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Packed {
    /// It is published, and acked by this cursor once the server has it.
    Message(Message, Option<CursorText>),
    /// It is said to whoever listens, and acked.
    Progress(Progress, Bytes),
    /// The session ends; nobody has to be told.
    End,
}

/// Packs the frames of one session.
#[derive(Debug)]
pub(super) struct Packer {
    gateway: GatewayId,
    partition: PartitionId,
    subject: String,
    session: u64,
    /// The server takes no larger message, headers included.
    message_bytes_max: usize,
    /// Messages that are not batches.
    others: u64,
    /// What the gateway has had before the next message.
    after: Option<CursorText>,
}

/// A batch that is being filled.
#[derive(Debug, Default)]
struct Batch {
    text: Vec<u8>,
    lines: Sha256,
    ends: Option<(Position, Position)>,
    cursor: Option<CursorText>,
}

const OPENING: &[u8] = br#"{"changes":["#;
const CLOSING: &[u8] = b"]}";
/// What names, the message's name and its id take in a message's headers beside two cursors and the gateway's name.
const HEADER_BYTES: usize = 512;

impl Packer {
    pub(super) fn new(
        gateway: GatewayId,
        partition: PartitionId,
        subject: String,
        session: u64,
        message_bytes_max: usize,
    ) -> Self {
        Self { gateway, partition, subject, session, message_bytes_max, others: 0, after: None }
    }

    /// The messages that these frames make, in order.
    pub(super) fn pack(&mut self, frames: Vec<Frame>) -> Vec<Packed> {
        let mut out = Vec::new();
        let mut batch = Batch::default();
        for frame in frames {
            if let Frame::Change(delivery) = frame {
                self.add(&mut batch, delivery, &mut out);
            } else {
                self.close(&mut batch, &mut out);
                self.other(frame, &mut out);
            }
        }
        self.close(&mut batch, &mut out);
        out
    }

    /// What a message may have beside its headers.
    fn payload_bytes_max(&self, cursor: &CursorText) -> usize {
        let after = self.after.as_ref().map_or(cursor.as_str().len(), |after| after.as_str().len());
        let headers = HEADER_BYTES + self.gateway.as_str().len() + cursor.as_str().len() + after;
        self.message_bytes_max.saturating_sub(headers)
    }

    fn add(&mut self, batch: &mut Batch, delivery: Delivery, out: &mut Vec<Packed>) {
        let bytes_max = self.payload_bytes_max(&delivery.cursor).saturating_sub(OPENING.len() + CLOSING.len());
        let mut text = Vec::new();
        json::write_change(&mut text, &delivery, Numbered::No);
        if text.len() > bytes_max {
            text.clear();
            json::write_reduced(&mut text, &delivery, Numbered::No);
        }
        if text.len() > bytes_max {
            return self.add_in_parts(batch, delivery, out);
        }
        if batch.text.len() + 1 + text.len() > bytes_max.min(limits::nats_batch_bytes_max) {
            self.close(batch, out);
        }
        batch.add(&delivery, &text);
    }

    /// One that is too large for its matches: half of them each, and only the last moves the cursor. One that is too
    /// large for anything is said to be.
    fn add_in_parts(&mut self, batch: &mut Batch, mut delivery: Delivery, out: &mut Vec<Packed>) {
        if delivery.matches.len() < 2 {
            self.close(batch, out);
            return self.other(Frame::Resync(oversize(delivery)), out);
        }
        let rest = delivery.matches.split_off(delivery.matches.len() / 2);
        let before = batch.cursor.as_ref().or(self.after.as_ref()).unwrap_or(&delivery.cursor).clone();
        let part = |matches: Vec<Matched>, cursor| Delivery { matches, cursor, ..delivery.clone() };
        let (first, second) = (part(delivery.matches.clone(), before), part(rest, delivery.cursor.clone()));
        self.add(batch, first, out);
        self.add(batch, second, out);
    }

    /// Makes a message of what the batch holds.
    fn close(&mut self, batch: &mut Batch, out: &mut Vec<Packed>) {
        let Batch { mut text, lines, ends, cursor } = std::mem::take(batch);
        let (Some((first, last)), Some(cursor)) = (ends, cursor) else { return };
        text.extend_from_slice(CLOSING);
        let digest: String = lines.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let id = format!("{}/{}/{first}-{last}/{digest}", self.gateway, self.partition);
        let message = self.message("changes", id, text, Some(&cursor));
        out.push(Packed::Message(message, Some(cursor)));
    }

    fn other(&mut self, frame: Frame, out: &mut Vec<Packed>) {
        let mut text = Vec::new();
        json::write_frame(&mut text, &frame);
        match frame {
            Frame::Progress(progress) => return out.push(Packed::Progress(progress, text.into())),
            Frame::Closed(Closed { reason: CloseReason::Superseded | CloseReason::Draining }) => {
                return out.push(Packed::End);
            }
            _ => {}
        }
        let cursor = frame.cursor().cloned();
        let bytes_max = cursor.as_ref().or(self.after.as_ref()).map(|cursor| self.payload_bytes_max(cursor));
        if bytes_max.is_some_and(|bytes_max| text.len() > bytes_max)
            && let Some((first, second)) = self.halves(&frame)
        {
            self.other(first, out);
            return self.other(second, out);
        }
        if matches!(frame, Frame::Welcome(_)) {
            // What came before it is had by whoever takes it.
            self.after.clone_from(&cursor);
        }
        self.others += 1;
        let id = format!("{}/{}/{}/{}", self.gateway, frame.name(), self.session, self.others);
        let message = self.message(frame.name(), id, text, cursor.as_ref());
        out.push(Packed::Message(message, cursor));
    }

    /// A message for very many in two parts, of which only the second moves the cursor.
    fn halves(&self, frame: &Frame) -> Option<(Frame, Frame)> {
        match frame {
            Frame::Expired(expired) if expired.subscription_ids.len() > 1 => {
                let (mut first, mut second) = (expired.clone(), expired.clone());
                second.subscription_ids = first.subscription_ids.split_off(expired.subscription_ids.len() / 2);
                Some((Frame::Expired(first), Frame::Expired(second)))
            }
            Frame::Resync(resync) => {
                let (mut first, mut second) = (resync.clone(), resync.clone());
                first.cursor.clone_from(self.after.as_ref()?);
                let scopes = resync.scopes.as_ref().map_or(0, Vec::len);
                if resync.subscription_ids.len().max(scopes) < 2 {
                    return None;
                }
                second.subscription_ids = first.subscription_ids.split_off(resync.subscription_ids.len() / 2);
                if let Some(scopes) = &mut first.scopes {
                    second.scopes = Some(scopes.split_off(scopes.len() / 2));
                }
                Some((Frame::Resync(first), Frame::Resync(second)))
            }
            _ => None,
        }
    }

    fn message(&mut self, name: &'static str, id: String, text: Vec<u8>, cursor: Option<&CursorText>) -> Message {
        let after = self.after.clone();
        self.after = cursor.cloned().or(after.clone());
        let text_of = |cursor: Option<&CursorText>| cursor.map(|cursor| cursor.as_str().to_owned());
        Message {
            subject: self.subject.clone(),
            id,
            name,
            // What has none of its own acks what was before it.
            cursor: text_of(self.after.as_ref()),
            after: text_of(after.as_ref()),
            payload: text.into(),
        }
    }
}

impl Batch {
    fn add(&mut self, delivery: &Delivery, text: &[u8]) {
        self.text.extend_from_slice(if self.text.is_empty() { OPENING } else { b"," });
        self.text.extend_from_slice(text);
        let position = delivery.change.position;
        for matched in &delivery.matches {
            self.lines.update(format!("{position} {} {}\n", matched.subscription_id, matched.generation));
        }
        self.ends = Some((self.ends.map_or(position, |(first, _)| first), position));
        self.cursor = Some(delivery.cursor.clone());
    }
}

/// What is said in the place of a change whose key alone is larger than the server takes.
fn oversize(delivery: Delivery) -> Resync {
    let scope = delivery.scope();
    let scopes = scope.tenant.clone().zip(scope.collection.clone()).map(|scope| vec![scope]);
    Resync {
        from: Some(delivery.change.position.before_change()),
        to: delivery.change.position,
        reason: ResyncReason::Oversize,
        scopes,
        subscription_ids: delivery.matches.into_iter().map(|matched| matched.subscription_id).collect(),
        cursor: delivery.cursor,
        partition: delivery.partition,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::frame::{Expired, ExpiredReason};
    use super::super::super::testing::{change, cursor, delivery, partition, position, progress, raw, welcome};
    use super::*;
    use crate::change::Change;
    use crate::subscription::Name;
    use bson::doc;
    use serde_json::Value;

    fn packer(message_bytes_max: usize) -> Packer {
        let mut packer = Packer::new(Name::new("gw").unwrap(), partition(), "s".into(), 7, message_bytes_max);
        assert_eq!(packer.pack(vec![Frame::Welcome(welcome())]).len(), 1);
        packer
    }

    fn messages(packed: Vec<Packed>) -> Vec<(Message, Option<CursorText>)> {
        let message = |packed| match packed {
            Packed::Message(message, cursor) => (message, cursor),
            other => panic!("{other:?}"),
        };
        packed.into_iter().map(message).collect()
    }

    fn json_of(message: &Message) -> Value {
        serde_json::from_slice(&message.payload).unwrap()
    }

    fn with_body(ordinal: u32, bytes: usize) -> Frame {
        let document = Some(raw(&doc! { "text": "x".repeat(bytes) }));
        Frame::Change(delivery(ordinal.into(), Change { document, ..change(ordinal) }))
    }

    #[test]
    fn messages_say_what_was_had_before_and_what_is_had_with_them() {
        let mut packer = Packer::new(Name::new("gw").unwrap(), partition(), "s".into(), 7, 1 << 20);
        let frames = vec![
            Frame::Welcome(welcome()),
            with_body(1, 10),
            with_body(2, 10),
            Frame::Expired(Expired { subscription_ids: vec![Name::new("a").unwrap()], reason: ExpiredReason::Lease }),
            with_body(3, 10),
        ];
        let packed = messages(packer.pack(frames));
        let said: Vec<_> = packed
            .iter()
            .map(|(it, acks)| (it.name, it.after.as_deref(), it.cursor.as_deref(), acks.is_some()))
            .collect();
        let at = |number| Some(["cursor-0", "cursor-1", "cursor-2", "cursor-3"][number]);
        assert_eq!(
            said,
            [
                ("welcome", at(0), at(0), true),
                ("changes", at(0), at(2), true),
                ("expired", at(2), at(2), false),
                ("changes", at(2), at(3), true)
            ]
        );
        assert_eq!(packed[0].0.id, "gw/welcome/7/1");
        let ends = format!("{}-{}", position(1), position(2));
        assert!(packed[1].0.id.starts_with(&format!("gw/default/0/{ends}/")), "{}", packed[1].0.id);
        let packed =
            packer.pack(vec![Frame::Progress(progress(4)), Frame::Closed(Closed { reason: CloseReason::Draining })]);
        assert!(matches!(packed.as_slice(), [Packed::Progress(..), Packed::End]), "{packed:?}");
    }

    #[test]
    fn a_batch_ends_at_half_a_megabyte_and_a_body_is_left_out_only_where_the_server_takes_none_so_large() {
        let mut packer = packer(1 << 20);
        let packed = messages(packer.pack((1..=3).map(|n| with_body(n, 300_000)).collect()));
        assert_eq!(
            packed.iter().map(|(it, _)| json_of(it)["changes"].as_array().unwrap().len()).collect::<Vec<_>>(),
            [1, 1, 1]
        );
        let packed = messages(packer.pack(vec![with_body(4, 700_000), with_body(5, 1_100_000)]));
        let changes: Vec<Value> =
            packed.iter().flat_map(|(it, _)| json_of(it)["changes"].as_array().unwrap().clone()).collect();
        assert_eq!(changes[0]["document"]["text"].as_str().map(str::len), Some(700_000));
        assert_eq!((&changes[1]["document"], changes[1]["flags"][0].as_str()), (&Value::Null, Some("reduced")));
    }

    #[test]
    fn what_is_for_very_many_comes_in_parts_of_which_the_last_moves_the_cursor() {
        let mut packer = packer(8_000);
        let ids =
            |count: usize| (0..count).map(|n| Name::new(&format!("subscription-{n:04}")).unwrap()).collect::<Vec<_>>();
        let mut many = delivery(1, change(1));
        many.matches =
            ids(500).into_iter().map(|id| Matched { subscription_id: id, ..many.matches[0].clone() }).collect();
        let resync = Resync {
            cursor: cursor(2),
            partition: partition(),
            from: None,
            to: position(1),
            reason: ResyncReason::HistoryLost,
            scopes: Some((0..500).map(|n| (format!("t{n}").into(), "c".into())).collect()),
            subscription_ids: ids(500),
        };
        let expired = Expired { subscription_ids: ids(900), reason: ExpiredReason::Lease };
        let packed = messages(packer.pack(vec![Frame::Change(many), Frame::Resync(resync), Frame::Expired(expired)]));
        let (mut matched, mut lost, mut scopes, mut parked) = (0, 0, 0, 0);
        for (message, _) in &packed {
            assert!(message.payload.len() < 8_000, "{}", message.payload.len());
            let text = json_of(message);
            let count = |value: &Value| value.as_array().unwrap().len();
            match message.name {
                "changes" => {
                    matched +=
                        text["changes"].as_array().unwrap().iter().map(|it| count(&it["matches"])).sum::<usize>();
                    let expected = if matched == 500 { "cursor-1" } else { "cursor-0" };
                    assert_eq!(message.cursor.as_deref(), Some(expected));
                }
                "resync" => {
                    lost += count(&text["subscriptionIds"]);
                    scopes += count(&text["scopes"]);
                    let expected = if (lost, scopes) == (500, 500) { "cursor-2" } else { "cursor-1" };
                    assert_eq!((message.cursor.as_deref(), text["cursor"].as_str()), (Some(expected), Some(expected)));
                }
                _ => parked += count(&text["subscriptionIds"]),
            }
        }
        assert_eq!((matched, lost, scopes, parked), (500, 500, 500, 900));
        let all: std::collections::HashSet<&str> = packed.iter().map(|(it, _)| it.id.as_str()).collect();
        assert_eq!(all.len(), packed.len(), "no two have the same id");
    }

    #[test]
    fn a_key_that_is_too_large_for_any_message_is_said_to_be_lost() {
        let mut packer = packer(8_000);
        let large = delivery(1, Change { key: "k".repeat(9_000).into(), ..change(1) });
        let packed = messages(packer.pack(vec![Frame::Change(large)]));
        let text = json_of(&packed[0].0);
        assert_eq!((packed.len(), packed[0].0.name, &text["reason"]), (1, "resync", &"oversize".into()));
        assert_eq!((&text["subscriptionIds"][0], packed[0].1.as_ref()), (&"inbox-42".into(), Some(&cursor(1))));
    }
}
