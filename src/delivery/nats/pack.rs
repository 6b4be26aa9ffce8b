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
                out.push(self.other(frame));
            }
        }
        self.close(&mut batch, &mut out);
        out
    }

    /// What a message may have beside its headers.
    fn payload_bytes_max(&self, cursor: &CursorText) -> usize {
        let after = self.after.as_ref().map_or(cursor.as_str().len(), |after| after.as_str().len());
        let headers = HEADER_BYTES + self.gateway.as_str().len() + cursor.as_str().len() + after;
        limits::nats_batch_bytes_max.min(self.message_bytes_max.saturating_sub(headers))
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
        if batch.text.len() + 1 + text.len() > bytes_max {
            self.close(batch, out);
        }
        batch.add(&delivery, &text);
    }

    /// One that is too large for its matches: half of them each, and only the last moves the cursor. One that is too
    /// large for anything is said to be.
    fn add_in_parts(&mut self, batch: &mut Batch, mut delivery: Delivery, out: &mut Vec<Packed>) {
        if delivery.matches.len() < 2 {
            self.close(batch, out);
            let resync = Frame::Resync(oversize(delivery));
            return out.push(self.other(resync));
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
        out.push(self.message("changes", id, text, Some(cursor)));
    }

    fn other(&mut self, frame: Frame) -> Packed {
        let mut text = Vec::new();
        json::write_frame(&mut text, &frame);
        match frame {
            Frame::Progress(progress) => return Packed::Progress(progress, text.into()),
            Frame::Closed(Closed { reason: CloseReason::Superseded | CloseReason::Draining }) => {
                return Packed::End;
            }
            _ => {}
        }
        self.others += 1;
        let id = format!("{}/{}/{}/{}", self.gateway, frame.name(), self.session, self.others);
        let cursor = frame.cursor().cloned();
        self.message(frame.name(), id, text, cursor)
    }

    fn message(&mut self, name: &'static str, id: String, text: Vec<u8>, cursor: Option<CursorText>) -> Packed {
        let after = self.after.clone();
        self.after = cursor.clone().or(after.clone());
        let text_of = |cursor: Option<&CursorText>| cursor.map(|cursor| cursor.as_str().to_owned());
        let message = Message {
            subject: self.subject.clone(),
            id,
            name,
            // What has none of its own acks what was before it.
            cursor: text_of(self.after.as_ref()),
            after: text_of(after.as_ref()),
            payload: text.into(),
        };
        Packed::Message(message, cursor)
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
