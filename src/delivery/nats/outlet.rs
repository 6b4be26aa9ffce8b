//! One connection to the server, and whether something may be published on it.
//!
//! Owns the order of things after a connection has been made: first the stream is looked at, then publishers begin.
//! What is found then is compared with what is known over all connections (`mark`).

use std::sync::Arc;

use metrics::counter;
use tokio::sync::{Mutex, watch};

use super::mark::Checks;
use crate::nats::{Kept, Message, Server, Trouble};
use crate::observe::metrics as names;

/// One connection.
#[derive(Debug)]
pub(super) struct Outlet {
    server: Server,
    checks: Arc<Checks>,
    /// The connection for which the stream has been looked at.
    looked: Mutex<Option<u64>>,
}

/// Leave to publish: for as long as the connection lasts, and the stream is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leave {
    connection: u64,
    check: u64,
}

/// A message that is under way: what was known when it was handed over for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    newest: u64,
    is_retry: bool,
}

/// What came of publishing.
#[derive(Debug)]
pub(super) enum Published {
    /// It is stored, with this number.
    Stored(u64),
    /// It is stored in a stream that has gone back: what was there before it is not.
    Late,
    /// Another one is known by this id, from before this one was made: it may have been taken long ago.
    Known,
    /// It is not, or nobody can say.
    Not(Trouble),
}

impl Outlet {
    pub(super) fn new(server: Server, checks: Arc<Checks>) -> Self {
        Self { server, checks, looked: Mutex::default() }
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Changes whenever the connection is made or lost.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.server.changes()
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.server.message_bytes_max()
    }

    /// Leave to publish, once the stream has been looked at on this connection.
    pub(super) async fn leave(&self) -> Result<Leave, Trouble> {
        let mut looked = self.looked.lock().await;
        let connection = *self.server.changes().borrow();
        let gone = || Trouble::Unanswered("there is no connection".into());
        if !self.server.is_connected() {
            return Err(gone());
        }
        if *looked != Some(connection) {
            // Of what is stored while it is asked nothing can be said.
            let newest = self.checks.newest();
            let state = self.server.ensure().await?;
            if *self.server.changes().borrow() != connection {
                return Err(gone());
            }
            if self.checks.look(&state, newest) {
                counter!(names::NATS_STREAM_LOSSES).increment(1);
                tracing::error!(
                    ?state,
                    "the NATS stream has lost messages: publishing again what gateways have not had"
                );
            }
            *looked = Some(connection);
        }
        Ok(Leave { connection, check: self.checks.id() })
    }

    /// Whether a leave still holds.
    pub(super) fn allows(&self, leave: Leave) -> bool {
        let connection = *self.server.changes().borrow();
        self.server.is_connected() && leave == Leave { connection, check: self.checks.id() }
    }

    /// The stream is not what it was: it is looked at before anything else is published.
    pub(super) async fn look_again(&self) {
        *self.looked.lock().await = None;
    }

    /// A message is about to be handed over.
    pub(super) fn begin(&self) -> UnderWay {
        UnderWay { newest: self.checks.newest(), is_retry: false }
    }

    pub(super) async fn publish(&self, message: &Message, under_way: &mut UnderWay) -> Published {
        counter!(names::NATS_PUBLISHES).increment(1);
        if std::mem::replace(&mut under_way.is_retry, true) {
            counter!(names::NATS_RETRIES).increment(1);
        }
        match self.server.publish(message).await {
            Ok(stored) if stored.is_duplicate => {
                counter!(names::NATS_DUPLICATES).increment(1);
                let is_own = stored.sequence > under_way.newest;
                if is_own { Published::Stored(stored.sequence) } else { Published::Known }
            }
            Ok(stored) if self.checks.stored(stored.sequence, under_way.newest) => Published::Stored(stored.sequence),
            Ok(stored) => {
                counter!(names::NATS_STREAM_LOSSES).increment(1);
                tracing::error!(stored.sequence, "the NATS stream has gone back");
                Published::Late
            }
            Err(trouble) => Published::Not(trouble),
        }
    }

    pub(super) async fn last(&self, subject: &str) -> Result<Option<Kept>, Trouble> {
        self.server.last(subject).await
    }

    pub(super) async fn first(&self, subject: &str) -> Result<Option<Kept>, Trouble> {
        self.server.first(subject).await
    }

    pub(super) async fn say(&self, subject: String, sequence: u64, payload: bytes::Bytes) {
        self.server.say(subject, sequence, payload).await;
    }
}
