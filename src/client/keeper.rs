//! The application's side of a client: from the wire's messages to what is handed over.
//!
//! Owns the order of the rules: which matches are dropped, what counts as handed over, and which
//! cursor becomes free to ack. Synchronous; knows nothing of connections but their number.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::config::BodyFormat;
use super::error::Error;
use super::item::{Body, Change, Closed, Cursor, Expired, Item, Match, Progress, Resync, Welcome};
use super::ledger::{Ledger, Place};
use super::state::State;
use crate::change::{Operation, ResyncReason};
use crate::position::Position;
use crate::proto;
use crate::proto::consume_response::Message;

/// What one client has handed over and what of it has been acked.
#[derive(Debug)]
pub(super) struct Keeper {
    client: u64,
    format: BodyFormat,
    state: State,
    ledger: Ledger,
    /// Places of earlier connections mean nothing: an operator has moved the gateway's cursor.
    void_before: u64,
}

impl Keeper {
    /// `client` tells this client's cursors from another's.
    pub(super) fn new(client: u64, format: BodyFormat, state: State) -> Self {
        Self { client, format, state, ledger: Ledger::default(), void_before: 0 }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// One change of a connection: what is left of it to hand over, if anything is.
    pub(super) fn change(&mut self, connection: u64, change: proto::Change) -> Result<Option<Item>, Error> {
        let position = position(&change.position)?;
        let redelivered = change.flags.iter().any(|flag| flag == "redelivered");
        let mut matches = change.matches;
        let (state, partition) = (&mut self.state, &change.partition);
        matches.retain(|m| state.admit(partition, &m.subscription_id, m.generation, position, redelivered));
        let place = Place { connection, text: change.cursor.into() };
        if matches.is_empty() {
            self.pass(place);
            return Ok(None);
        }
        let cursor = self.hand_over(place);
        let operation = Operation::from_name(&change.operation)
            .ok_or_else(|| Error::Contract(format!("an operation `{}`", change.operation)))?;
        let (set, removed) = match change.changed {
            Some(changed) => (self.body(Some(changed.set)), changed.removed),
            None => (None, Vec::new()),
        };
        Ok(Some(Item::Change(Box::new(Change {
            cursor,
            partition: change.partition,
            position,
            id: change.id,
            tenant: change.tenant,
            collection: change.collection,
            key: change.key,
            operation,
            document: self.body(change.document),
            before: self.body(change.before),
            set,
            removed,
            wall_time: change.wall_time,
            transaction: change.transaction.map(|transaction| (transaction.id, transaction.number)),
            matches: matches.into_iter().map(matched).collect(),
            flags: change.flags,
        }))))
    }

    /// Any message but changes.
    pub(super) fn message(&mut self, connection: u64, message: Message) -> Result<Option<Item>, Error> {
        Ok(Some(match message {
            // One by one, by `change`.
            Message::Changes(_) => return Ok(None),
            Message::Welcome(welcome) => Item::Connected(Welcome {
                session: welcome.session,
                node: welcome.node,
                positions: positions(welcome.positions)?,
            }),
            Message::Progress(progress) => {
                self.pass(Place { connection, text: progress.cursor.into() });
                Item::Progress(Progress {
                    positions: positions(progress.positions)?,
                    catching_up: progress.catching_up,
                })
            }
            Message::Resync(resync) => Item::Resync(self.resync(connection, resync)?),
            Message::Expired(expired) => {
                Item::Expired(Expired { subscription_ids: expired.subscription_ids, reason: expired.reason })
            }
            Message::Revoked(revoked) => Item::Revoked(revoked.subscription_ids),
            Message::Assigned(assigned) => Item::Assigned(assigned.subscription_ids),
            Message::Closed(closed) => {
                if closed.reason == REWOUND {
                    self.void(connection);
                }
                Item::Closed(Closed { reconnects: reconnects(&closed), reason: closed.reason })
            }
        }))
    }

    /// The application has taken everything up to this cursor, which another client's does not change.
    pub(super) fn ack(&mut self, cursor: &Cursor) {
        if cursor.client == self.client {
            self.ledger.take(cursor.number);
        }
    }

    /// The cursor to ack next, if a new one has become free. From then on it is the one to resume from.
    pub(super) fn settle(&mut self) -> Option<Place> {
        let place = self.ledger.settle()?;
        if place.connection < self.void_before {
            return None;
        }
        self.state.set_cursor(Some(Arc::clone(&place.text)));
        Some(place)
    }

    fn resync(&mut self, connection: u64, resync: proto::Resync) -> Result<Resync, Error> {
        let to = position(&resync.to)?;
        let reason = REASONS.into_iter().find(|reason| reason.name() == resync.reason);
        if reason == Some(ResyncReason::Restored) {
            self.state.restored(&resync.partition, to);
        }
        let cursor = self.hand_over(Place { connection, text: resync.cursor.into() });
        Ok(Resync {
            cursor,
            partition: resync.partition,
            from: resync.from.as_deref().map(position).transpose()?,
            to,
            reason,
            scopes: (!resync.all)
                .then(|| resync.scopes.into_iter().map(|scope| (scope.tenant, scope.collection)).collect()),
            subscription_ids: resync.subscription_ids,
        })
    }

    fn hand_over(&mut self, place: Place) -> Cursor {
        let text = Arc::clone(&place.text);
        Cursor { client: self.client, number: self.ledger.hand_over(place), text }
    }

    fn pass(&mut self, place: Place) {
        // A message that moves no cursor has none of its own.
        if !place.text.is_empty() {
            self.ledger.pass(place);
        }
    }

    /// Nothing that came by this connection or earlier ones may be presented: it would undo the
    /// operator's move.
    fn void(&mut self, connection: u64) {
        self.void_before = connection + 1;
        self.ledger.void();
        self.state.set_cursor(None);
    }

    fn body(&self, bytes: Option<Bytes>) -> Option<Body> {
        bytes.map(|bytes| Body { format: self.format, bytes })
    }
}

/// The reason with which a session ends when an operator moves the gateway's cursor.
pub(super) const REWOUND: &str = "rewound";

const REASONS: [ResyncReason; 7] = [
    ResyncReason::HistoryLost,
    ResyncReason::Invalidated,
    ResyncReason::Replaced,
    ResyncReason::Oversize,
    ResyncReason::Undecodable,
    ResyncReason::Restored,
    ResyncReason::Forgotten,
];

/// Whether a session so ended is to be followed by another. Reasons of later versions are judged by the
/// wait alone.
pub(super) fn reconnects(closed: &proto::Closed) -> bool {
    !matches!(closed.reason.as_str(), "superseded" | "removed") && closed.retry_after_ms > 0
        || closed.reason == REWOUND
        || closed.reason == "draining"
}

fn matched(m: proto::Match) -> Match {
    Match {
        subscription_id: m.subscription_id,
        generation: m.generation,
        transition: m.transition,
        certainty: m.certainty,
    }
}

fn position(text: &str) -> Result<Position, Error> {
    text.parse().map_err(|_| Error::Contract(format!("a position `{text}`")))
}

fn positions(texts: HashMap<String, String>) -> Result<Vec<(String, Position)>, Error> {
    let mut positions = Vec::with_capacity(texts.len());
    for (partition, text) in texts {
        positions.push((partition, position(&text)?));
    }
    positions.sort();
    Ok(positions)
}
