//! Frames as messages of the contract, cut to what a client accepts.
//!
//! Owns batching, and what is left out of a message that would be too large. Knows nothing of streams.

use prost::Message;
use prost::encoding::encoded_len_varint;

use super::super::body::{Bodies, Format};
use super::super::frame::{self, Frame};
use crate::change::Flags;
use crate::cursor::CursorText;
use crate::limits;
use crate::position::{PartitionId, Position};
use crate::proto::consume_response::Message as Kind;
use crate::proto::{
    Assigned, Change, Changed, Changes, Closed, ClusterTime, ConsumeResponse, Expired, Match, Progress, Resync,
    Revoked, Scope, Transaction, Welcome,
};
use crate::subscription::SubscriptionId;

#[cfg(test)]
mod tests;

/// Turns a session's frames into messages of at most `bytes_max` bytes.
#[derive(Debug)]
pub(super) struct Packer {
    format: Format,
    bytes_max: usize,
    /// The last cursor that was sent: a message in several pieces moves it with its last piece only.
    last: Option<CursorText>,
    open: Vec<Change>,
    open_bytes: usize,
    done: Vec<ConsumeResponse>,
}

impl Packer {
    pub(super) fn new(format: Format, bytes_max: usize) -> Self {
        Self { format, bytes_max, last: None, open: Vec::new(), open_bytes: 0, done: Vec::new() }
    }

    /// The messages for these frames, in order.
    pub(super) fn pack(&mut self, frames: Vec<Frame>) -> Vec<ConsumeResponse> {
        for frame in frames {
            let cursor = frame.cursor().cloned();
            match frame {
                Frame::Change(delivery) => self.change(&delivery),
                Frame::Welcome(welcome) => self.single(Kind::Welcome(Welcome {
                    session: welcome.session,
                    node: welcome.node.to_string(),
                    cursor: welcome.cursor.to_string(),
                    positions: positions(&welcome.positions),
                    heartbeat_seconds: welcome.heartbeat_seconds,
                })),
                Frame::Progress(progress) => self.single(Kind::Progress(Progress {
                    cursor: progress.cursor.to_string(),
                    positions: positions(&progress.positions),
                    catching_up: progress.catching_up,
                })),
                Frame::Resync(resync) => self.resync(&resync),
                Frame::Expired(expired) => {
                    for some in expired.subscription_ids.chunks(self.ids_max()) {
                        self.single(Kind::Expired(Expired {
                            subscription_ids: ids(some),
                            reason: expired.reason.name().into(),
                        }));
                    }
                }
                Frame::Revoked(moved) => {
                    for some in moved.subscription_ids.chunks(self.ids_max()) {
                        self.single(Kind::Revoked(Revoked { subscription_ids: ids(some) }));
                    }
                }
                Frame::Assigned(moved) => {
                    for some in moved.subscription_ids.chunks(self.ids_max()) {
                        self.single(Kind::Assigned(Assigned { subscription_ids: ids(some) }));
                    }
                }
                Frame::Closed(frame::Closed { reason }) => self.single(Kind::Closed(Closed {
                    reason: reason.name().into(),
                    retry_after_ms: reason.retry_after_ms(),
                })),
            }
            self.last = cursor.or(self.last.take());
        }
        self.close_batch();
        std::mem::take(&mut self.done)
    }

    fn change(&mut self, delivery: &frame::Delivery) {
        let mut change = message(delivery, delivery.bodies(self.format));
        let mut bytes = framed(change.encoded_len());
        for keep_changed in [true, false] {
            if framed(bytes) <= self.bytes_max {
                break;
            }
            reduce(&mut change, delivery, keep_changed);
            bytes = framed(change.encoded_len());
        }
        // The changes lie in a `Changes`, and that in the response.
        if framed(self.open_bytes + bytes) > self.bytes_max {
            self.close_batch();
        }
        self.open_bytes += bytes;
        self.open.push(change);
    }

    fn close_batch(&mut self) {
        if !self.open.is_empty() {
            let changes = std::mem::take(&mut self.open);
            self.open_bytes = 0;
            self.done.push(ConsumeResponse { message: Some(Kind::Changes(Changes { changes })) });
        }
    }

    fn single(&mut self, message: Kind) {
        self.close_batch();
        self.done.push(ConsumeResponse { message: Some(message) });
    }

    /// A resync may concern every subscription of a large gateway.
    fn resync(&mut self, resync: &frame::Resync) {
        let no_scopes = Vec::new();
        let scopes = resync.scopes.as_ref().unwrap_or(&no_scopes);
        let mut some_ids = resync.subscription_ids.chunks(self.ids_max()).peekable();
        let mut some_scopes = scopes.chunks(self.scopes_max()).peekable();
        loop {
            let subscription_ids = ids(some_ids.next().unwrap_or_default());
            let scopes = some_scopes.next().unwrap_or_default().iter();
            let scope = |(tenant, collection): &(std::sync::Arc<str>, std::sync::Arc<str>)| Scope {
                tenant: tenant.to_string(),
                collection: collection.to_string(),
            };
            let is_last = some_ids.peek().is_none() && some_scopes.peek().is_none();
            let before = self.last.as_ref().filter(|_| !is_last);
            self.single(Kind::Resync(Resync {
                cursor: before.unwrap_or(&resync.cursor).to_string(),
                partition: resync.partition.to_string(),
                from: resync.from.map(|from| from.to_string()),
                to: resync.to.to_string(),
                reason: resync.reason.name().into(),
                scopes: scopes.map(scope).collect(),
                all: resync.scopes.is_none(),
                subscription_ids,
            }));
            if is_last {
                return;
            }
        }
    }

    /// So many names, and so many scopes, take less than half a message each.
    fn ids_max(&self) -> usize {
        (self.bytes_max / 2 - RESYNC_REST_BYTES) / (limits::name_chars_max + 3)
    }

    fn scopes_max(&self) -> usize {
        (self.bytes_max / 2) / (2 * limits::scope_name_bytes_max + 10)
    }
}

/// What a resync takes beside names and scopes: its cursor, two positions, its partition.
const RESYNC_REST_BYTES: usize = limits::cursor_text_bytes_max + 1024;
const _: () = assert!(RESYNC_REST_BYTES * 4 < limits::grpc_message_bytes_min);

/// A message as the field of another: tag, length, bytes.
fn framed(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

/// What is too large is left out: the images first, then what an update touched.
fn reduce(change: &mut Change, delivery: &frame::Delivery, keep_changed: bool) {
    change.document = None;
    change.before = None;
    if !keep_changed {
        change.changed = None;
    }
    change.flags = flag_names(delivery.flags.with(Flags::REDUCED));
}

fn flag_names(flags: Flags) -> Vec<String> {
    flags.names().map(str::to_owned).collect()
}

fn message(delivery: &frame::Delivery, bodies: Bodies) -> Change {
    let change = &delivery.change;
    let scope = delivery.scope();
    let flags = delivery.flags_with(&bodies);
    let time = change.position.time;
    Change {
        partition: delivery.partition.to_string(),
        seq: delivery.seq,
        cursor: delivery.cursor.to_string(),
        position: change.position.to_string(),
        id: delivery.id(),
        tenant: scope.tenant.as_deref().map(str::to_owned),
        collection: scope.collection.as_deref().map(str::to_owned),
        key: change.key.to_string(),
        operation: change.operation.name().into(),
        document: bodies.document,
        before: bodies.before,
        changed: bodies.changed.map(|(set, removed)| Changed { set, removed }),
        cluster_time: Some(ClusterTime { t: time.seconds(), i: time.increment() }),
        wall_time: delivery.wall_time().unwrap_or_default(),
        transaction: change.transaction.as_ref().map(|t| Transaction { id: t.id.to_string(), number: t.number }),
        matches: delivery.matches.iter().map(matched).collect(),
        flags: flag_names(flags),
    }
}

fn matched(matched: &frame::Matched) -> Match {
    Match {
        subscription_id: matched.subscription_id.to_string(),
        generation: matched.generation,
        transition: matched.transition.map_or("", |transition| transition.name()).into(),
        certainty: matched.certainty.map_or("", |certainty| certainty.name()).into(),
    }
}

fn positions(positions: &[(PartitionId, Position)]) -> std::collections::HashMap<String, String> {
    positions.iter().map(|(partition, position)| (partition.to_string(), position.to_string())).collect()
}

fn ids(ids: &[SubscriptionId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}
