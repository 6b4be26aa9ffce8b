//! The connection's side of a client: sessions one after the other.
//!
//! Owns reconnecting, gap detection, heartbeats and when acks are sent. It runs as a task of its own, so
//! that leases are renewed while the application is busy. Knows nothing of which matches are dropped.

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::config::ClientConfig;
use super::connection::{Connection, Ended, Route};
use super::error::Error;
use super::item::Disconnected;
use super::keeper::{REWOUND, reconnects};
use super::ledger::Place;
use super::seq::Sequence;
use crate::clock::every;
use crate::proto::consume_response::Message;

/// The next thing for the application's side.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A message of the connection of that number.
    Message(u64, Message),
    /// No connection for a while.
    Disconnected(Disconnected),
    /// No connection ever again.
    Failed(Error),
}

/// What the application has acked.
#[derive(Clone, Debug, Default)]
pub(super) struct Acked {
    /// The newest cursor that is free.
    pub(super) place: Option<Place>,
    /// Counts the acks that are to be sent at once; the others wait for the next heartbeat.
    pub(super) urgent: u64,
}

pub(super) struct Runner {
    pub(super) route: Route,
    pub(super) config: ClientConfig,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) acks: watch::Receiver<Acked>,
    pub(super) random: ChaCha8Rng,
    pub(super) shutdown: CancellationToken,
    pub(super) connection: u64,
    /// Cursors of earlier connections are not presented any more.
    pub(super) void_before: u64,
    pub(super) failures: u32,
}

/// How a session ended.
enum End {
    /// By the application: there is nobody to tell.
    Dropped,
    /// The hub says that no other is to follow.
    ForGood,
    /// Another is to follow.
    Again { reason: String, after: Option<Duration> },
    /// Another would fare no better.
    Failed(Error),
}

impl Runner {
    /// Until the client is dropped, or reconnecting is pointless.
    pub(super) async fn run(mut self) {
        loop {
            self.connection += 1;
            match self.session().await {
                End::Dropped | End::ForGood => return,
                End::Failed(error) => {
                    let _ = self.inbound.send(Inbound::Failed(error)).await;
                    return;
                }
                End::Again { reason, after } => {
                    let retry_in = self.config.backoff.wait(self.failures, after, &mut self.random);
                    self.failures = self.failures.saturating_add(1);
                    tracing::debug!(gateway = %self.config.gateway_id, %reason, ?retry_in, "disconnected");
                    let waiting = Instant::now() + retry_in;
                    let told = Inbound::Disconnected(Disconnected { reason, retry_in });
                    tokio::select! {
                        sent = self.inbound.send(told) => if sent.is_err() { return },
                        () = self.shutdown.cancelled() => return,
                    }
                    tokio::select! {
                        () = sleep_until(waiting) => {}
                        () = self.shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn session(&mut self) -> End {
        let cursor = self.presentable();
        let shutdown = self.shutdown.clone();
        let opened = tokio::select! {
            opened = Connection::open(&self.route, &self.config, cursor) => opened,
            () = shutdown.cancelled() => return End::Dropped,
        };
        match opened {
            Ok(connection) => self.consume(connection).await,
            Err(Ended::Retry { reason, after }) => End::Again { reason, after },
            Err(Ended::Refused(error)) => End::Failed(error),
        }
    }

    async fn consume(&mut self, mut connection: Connection) -> End {
        let mut sequence = Sequence::default();
        let (inbound, shutdown, mut acks) = (self.inbound.clone(), self.shutdown.clone(), self.acks.clone());
        let mut said = Said { urgent: acks.borrow_and_update().urgent, text: None };
        let mut beats = beats(FIRST_HEARTBEAT);
        let mut held: Option<Message> = None;
        let silence = sleep(self.config.silence_timeout);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.say_ack(&mut connection, &mut said, true);
                    connection.close().await;
                    return End::Dropped;
                }
                // While the application has no room nothing is read: that is the back-pressure.
                room = inbound.reserve(), if held.is_some() => {
                    let (Ok(room), Some(message)) = (room, held.take()) else { return End::Dropped };
                    let end = self.after(&message);
                    room.send(Inbound::Message(self.connection, message));
                    if let Some(end) = end { return end }
                    silence.as_mut().reset(Instant::now() + self.config.silence_timeout);
                }
                next = connection.next(), if held.is_none() => match next {
                    Ok(response) => {
                        let Some(message) = response.message else { continue };
                        if let Err(reason) = check(&mut sequence, &message) {
                            return End::Again { reason, after: None };
                        }
                        if let Message::Welcome(welcome) = &message {
                            beats = self::beats(Duration::from_secs(welcome.heartbeat_seconds.max(1).into()));
                        }
                        held = Some(message);
                        self.say_ack(&mut connection, &mut said, false);
                    }
                    Err(Ended::Retry { reason, after }) => return End::Again { reason, after },
                    Err(Ended::Refused(error)) => return End::Failed(error),
                },
                changed = acks.changed() => match changed {
                    Ok(()) => { self.say_ack(&mut connection, &mut said, false); }
                    // The client is gone, and its shutdown is on its way.
                    Err(_) => shutdown.cancelled().await,
                },
                _ = beats.tick() => if !self.say_ack(&mut connection, &mut said, true) || !connection.acks_renew() {
                    connection.heartbeat();
                },
                () = &mut silence, if held.is_none() => {
                    return End::Again { reason: "nothing came for too long".to_owned(), after: None };
                }
            }
        }
    }

    /// What a message means for the connection itself.
    fn after(&mut self, message: &Message) -> Option<End> {
        match message {
            Message::Changes(_) | Message::Progress(_) => self.failures = 0,
            Message::Closed(closed) => {
                if closed.reason == REWOUND {
                    self.void_before = self.connection + 1;
                }
                if !reconnects(closed) {
                    return Some(End::ForGood);
                }
                let after = (closed.retry_after_ms > 0).then(|| Duration::from_millis(closed.retry_after_ms));
                return Some(End::Again { reason: format!("closed: {}", closed.reason), after });
            }
            _ => {}
        }
        None
    }

    /// The cursor to resume from. Absent, the hub takes the last ack it knows.
    fn presentable(&self) -> Option<String> {
        let acked = self.acks.borrow();
        let place = acked.place.as_ref().filter(|place| place.connection >= self.void_before)?;
        Some(place.text.to_string())
    }

    /// Sends the newest free cursor of this connection if it is urgent, or if `all`. Cursors of earlier
    /// connections are not sent: the hub ignores them, and what they stood for comes again.
    fn say_ack(&self, connection: &mut Connection, said: &mut Said, all: bool) -> bool {
        let acked = self.acks.borrow();
        let Some(place) = &acked.place else { return false };
        let new = said.text.as_ref() != Some(&place.text);
        let due = all || acked.urgent > said.urgent;
        if place.connection != self.connection || !new || !due || !connection.ack(place.text.to_string()) {
            return false;
        }
        *said = Said { urgent: acked.urgent, text: Some(Arc::clone(&place.text)) };
        true
    }
}

/// What has been acked in a session.
struct Said {
    urgent: u64,
    text: Option<Arc<str>>,
}

/// Until `welcome` says otherwise.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(10);

fn beats(period: Duration) -> tokio::time::Interval {
    let mut beats = every(period);
    // The first tick of an interval is at once; the hello has just been said.
    beats.reset();
    beats
}

fn check(sequence: &mut Sequence, message: &Message) -> Result<(), String> {
    if let Message::Changes(changes) = message {
        // Where the transport has numbers of its own these have none.
        for change in changes.changes.iter().filter(|change| change.seq > 0) {
            sequence.check(&change.partition, change.seq).map_err(|hole| {
                format!("a hole in {}: change {} came instead of {}", change.partition, hole.got, hole.expected)
            })?;
        }
    }
    Ok(())
}
