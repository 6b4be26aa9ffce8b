//! A way to the server: one connection after the other, and when something may be published on them.
//!
//! Owns the order of things after a connection has been made: first the stream is looked at and what is found is
//! written down, then publishers begin. What is found is compared with what is known over all connections (`mark`).

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;

use super::Publishers;
use super::mark::{Checks, Knowledge, Mark};
use crate::clock::Clock;
use crate::handle::PartitionHandle;
use crate::nats::{Endpoint, Message, Server, StreamConfig, Trouble};
use crate::observe::metrics as names;
use crate::store::streams::{self, StreamRecord};
use crate::store::{Expect, Key, Write};
use crate::tasks::Kind;

/// Between one attempt to connect and the next; twice as long each time.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What is known of the stream, and where it is written down.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) checks: Arc<Checks>,
    hub: PartitionHandle,
    key: Key,
}

impl Ledger {
    /// With what has been written down.
    pub(super) async fn open(hub: PartitionHandle, stream: &str, checks: &Arc<Checks>) -> Result<Self, Trouble> {
        let ledger = Self { checks: Arc::clone(checks), hub, key: streams::key(stream) };
        ledger.read().await?;
        let marks = ledger.hub.marks().await.map_err(|problem| Trouble::Unanswered(problem.to_string()))?;
        let marks: Vec<Mark> = marks.iter().filter_map(|mark| Mark::decode(&mark.note)).collect();
        ledger.checks.raise(marks.iter());
        Ok(ledger)
    }

    async fn read(&self) -> Result<(), Trouble> {
        let unreadable = |detail: String| Trouble::Unanswered(format!("the stream's record: {detail}"));
        let entry = self.hub.record(self.key.clone()).await.map_err(|problem| unreadable(problem.to_string()))?;
        match entry {
            Some(entry) => {
                let record = StreamRecord::decode(&entry.value).map_err(|error| unreadable(error.to_string()))?;
                self.checks.adopt(record, entry.revision);
            }
            None => self.checks.adopt_nothing(),
        }
        Ok(())
    }

    /// Others must know what has been found before anything is published that would hide it.
    async fn write(&self) -> Result<(), Trouble> {
        let Some((record, revision)) = self.checks.unsaved() else { return Ok(()) };
        let write = Write {
            key: self.key.clone(),
            expect: revision.map_or(Expect::Absent, Expect::At),
            value: Some(record.encode()),
        };
        let unwritten = |detail: String| Trouble::Unanswered(format!("what the stream has cannot be stored: {detail}"));
        let written = self.hub.put_record(write).await.map_err(|problem| unwritten(problem.to_string()))?;
        let revision = written.map_err(|error| unwritten(error.to_string()))?;
        self.checks.saved(&record, revision);
        Ok(())
    }
}

/// A connection that has been made.
#[derive(Clone, Debug)]
struct Link {
    number: u64,
    server: Arc<Server>,
}

/// One connection after the other, as long as it is needed.
#[derive(Debug)]
pub(super) struct Outlet {
    link: watch::Receiver<Result<Link, Trouble>>,
    ledger: Arc<Ledger>,
    /// The connection on which the stream has been looked at.
    looked: Mutex<Option<u64>>,
}

/// Leave to publish: on this connection, as long as the stream is the same.
#[derive(Clone, Debug)]
pub(super) struct Leave {
    link: Link,
    check: u64,
}

/// A message that is under way: what was known when it was handed over for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    before: Knowledge,
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
    /// Connects from now on until it is dropped.
    pub(super) fn new(of: &Publishers, ledger: Arc<Ledger>) -> Self {
        let (told, link) = watch::channel(Err(Trouble::Unanswered("there is no connection yet".into())));
        let (endpoint, config, clock) = (of.endpoint.clone(), of.stream.clone(), of.clock.clone());
        // Not at shutdown: sessions that end in order publish nothing more, and say nothing of a connection.
        of.tasks.spawn(Kind::Session, "connection to NATS", async move {
            tokio::select! {
                () = told.closed() => {}
                () = connect(&endpoint, &config, &told, &clock) => {}
            }
        });
        Self { link, ledger, looked: Mutex::default() }
    }

    pub(super) fn checks(&self) -> &Checks {
        &self.ledger.checks
    }

    /// Waits until the connection is another than that of this leave.
    pub(super) async fn left(&self, leave: &Leave) {
        let mut link = self.link.clone();
        // Whoever makes connections outlives all that use them.
        let _ = link.wait_for(|link| !matches!(link, Ok(link) if link.number == leave.link.number)).await;
    }

    /// Leave to publish, once the stream has been looked at on this connection.
    pub(super) async fn leave(&self) -> Result<Leave, Trouble> {
        let mut looked = self.looked.lock().await;
        let link = self.link.borrow().clone()?;
        if *looked != Some(link.number) {
            self.ledger.read().await?;
            // Of what is stored while it is asked nothing can be said.
            let newest = self.checks().newest();
            let state = link.server.ensure().await?;
            if self.checks().look(&state, newest) {
                counter!(names::NATS_STREAM_LOSSES).increment(1);
                tracing::error!(
                    ?state,
                    "the NATS stream has lost messages: publishing again what gateways have not had"
                );
            }
            *looked = Some(link.number);
        }
        // Another connection may have found something, too.
        self.ledger.write().await?;
        Ok(Leave { link, check: self.checks().id() })
    }

    /// Whether a leave still holds.
    pub(super) fn allows(&self, leave: &Leave) -> bool {
        leave.link.server.is_connected() && leave.check == self.checks().id()
    }

    /// The stream is not what it was: it is looked at before anything else is published.
    pub(super) async fn look_again(&self) {
        *self.looked.lock().await = None;
    }

    /// A message is about to be handed over.
    pub(super) fn begin(&self) -> UnderWay {
        UnderWay { before: self.checks().now(), is_retry: false }
    }

    pub(super) async fn publish(&self, leave: &Leave, message: &Message, under_way: &mut UnderWay) -> Published {
        counter!(names::NATS_PUBLISHES).increment(1);
        if std::mem::replace(&mut under_way.is_retry, true) {
            counter!(names::NATS_RETRIES).increment(1);
        }
        match leave.link.server.publish(message).await {
            Ok(stored) if stored.is_duplicate => {
                counter!(names::NATS_DUPLICATES).increment(1);
                let is_own = stored.sequence > under_way.before.newest;
                if is_own { Published::Stored(stored.sequence) } else { Published::Known }
            }
            Ok(stored) if self.checks().stored(stored.sequence, under_way.before) => Published::Stored(stored.sequence),
            Ok(stored) => {
                counter!(names::NATS_STREAM_LOSSES).increment(1);
                tracing::error!(stored.sequence, "the NATS stream has gone back");
                Published::Late
            }
            Err(trouble) => Published::Not(trouble),
        }
    }
}

impl Leave {
    /// The server, on this connection.
    pub(super) fn server(&self) -> &Server {
        &self.link.server
    }

    /// The last look at the stream.
    pub(super) fn check(&self) -> u64 {
        self.check
    }
}

/// Makes one connection after the other and tells what becomes of them.
async fn connect(
    endpoint: &Endpoint,
    config: &StreamConfig,
    told: &watch::Sender<Result<Link, Trouble>>,
    clock: &Clock,
) {
    let (mut wait, mut number) = (RETRY_MIN, 0);
    loop {
        match Server::connect(endpoint, config.clone()).await {
            Ok(server) => {
                tracing::info!("connected to NATS");
                number += 1;
                let (server, made) = (Arc::new(server), clock.now());
                told.send_modify(|told| *told = Ok(Link { number, server: Arc::clone(&server) }));
                server.gone().await;
                // One that is thrown out at once need not hurry.
                if clock.now().since(made) > RETRY_MAX {
                    wait = RETRY_MIN;
                }
                tracing::warn!("the connection to NATS is gone");
                told.send_modify(|told| *told = Err(Trouble::Unanswered("the connection is gone".into())));
            }
            Err(trouble) => {
                if told.borrow().as_ref().err() != Some(&trouble) {
                    tracing::warn!(%trouble, "cannot connect to NATS; trying again");
                }
                told.send_modify(|told| *told = Err(trouble));
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
