//! A publisher: one gateway's session, with the server's ack as its ack.
//!
//! Owns one session from where it begins to its end. Whatever ends it, the connection, the stream or the hub, the
//! next publisher begins from what is known then.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use super::mark::Mark;
use super::outlet::{Leave, Outlet, Published};
use super::pack::{Packed, Packer};
use crate::clock::Clock;
use crate::cursor::CursorText;
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{CursorTarget, Hello, HubHandle, Transport, Unserved};
use crate::limits;
use crate::nats::{Message, Trouble, subject};
use crate::observe::health::Component;
use crate::observe::metrics as names;
use crate::position::PartitionId;
use crate::subscription::GatewayId;

/// How long after a message was refused, or nobody answered, it is handed over again; twice as long each time.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often it is looked what a gateway has not taken yet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One gateway's.
pub(super) struct Publisher {
    hub: HubHandle,
    outlet: Arc<Outlet>,
    clock: Clock,
    health: Component,
    gateway: GatewayId,
    partition: PartitionId,
    subject: String,
}

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// The hub says so.
    Closed,
    /// The server cannot be published to now, or is not what it was.
    Trouble(Trouble),
    /// The hub refuses.
    Refused(Problem),
}

impl From<Trouble> for End {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

/// How far a session has come.
struct Standing {
    mark: Mark,
    /// Everything up to this has been acked.
    cursor: Option<CursorText>,
    /// Something may lie on the subject that was not there when it was last looked.
    is_fresh: bool,
}

impl Publisher {
    pub(super) fn new(
        hub: HubHandle,
        outlet: Arc<Outlet>,
        clock: Clock,
        health: Component,
        gateway: GatewayId,
        partition: PartitionId,
    ) -> Self {
        let subject = subject::deliveries(&gateway, &partition);
        Self { hub, outlet, clock, health, gateway, partition, subject }
    }

    /// Serves one session.
    pub(super) async fn serve(&self, unserved: &Unserved) -> End {
        match self.run(unserved).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }

    async fn run(&self, unserved: &Unserved) -> Result<(), End> {
        let leave = self.outlet.leave().await?;
        let mark = unserved.mark.as_deref().and_then(Mark::decode);
        let (cursor, mark) = self.beginning(mark).await?;
        let hello = Hello {
            gateway: self.gateway.clone(),
            cursor,
            transport: Transport::Nats,
            auto_ack: false,
            unacked_bytes_max: 0,
        };
        let mut session = self.hub.open(hello).await?;
        self.health.ok();
        let bytes_max = self.outlet.message_bytes_max();
        let (gateway, partition) = (self.gateway.clone(), self.partition.clone());
        let mut packer = Packer::new(gateway, partition, self.subject.clone(), session.number(), bytes_max);
        let mut standing = Standing { mark, cursor: None, is_fresh: true };
        let (mut looks, mut changes) = (every(LOOK_EVERY), self.outlet.changes());
        loop {
            let frames = tokio::select! {
                frames = session.next(limits::nats_batch_bytes_max) => frames,
                _ = looks.tick() => {
                    self.look(&mut standing).await?;
                    continue;
                }
                // The sender lives as long as the connection's driver, which outlives all.
                _ = changes.changed() => Some(Vec::new()),
            };
            self.check(leave)?;
            let Some(frames) = frames else { return Ok(()) };
            for packed in packer.pack(frames) {
                match packed {
                    Packed::End => return Ok(()),
                    Packed::Progress(progress, text) => {
                        let subject = subject::progress(&self.gateway);
                        self.outlet.say(subject, standing.mark.sequence, text).await;
                        self.ack(&mut standing, progress.cursor).await?;
                    }
                    Packed::Message(message, cursor) => {
                        standing.mark.sequence = self.publish(&message, &session, leave, &standing.mark).await?;
                        standing.is_fresh = true;
                        if let Some(cursor) = cursor {
                            self.ack(&mut standing, cursor).await?;
                        }
                    }
                }
            }
        }
    }

    /// From where the session begins, and what its first ack notes.
    async fn beginning(&self, mark: Option<Mark>) -> Result<(Option<CursorText>, Mark), Trouble> {
        let checks = self.outlet.checks();
        let kept = self.outlet.last(&self.subject).await?;
        let now = Mark { check: checks.id(), created: checks.created(), ..Mark::default() };
        let reaches = mark.as_ref().map_or(Some(u64::MAX), |mark| checks.reaches(mark));
        let stored = mark.as_ref().map_or(0, |mark| mark.sequence);
        let floor = mark.and_then(|mark| mark.floor);
        if reaches.is_some_and(|last| stored <= last) {
            let Some(kept) = kept else { return Ok((None, Mark { sequence: stored, floor, ..now })) };
            // Stored, though nobody may have heard so: an ack like any other, if it says something new.
            let floor = floor.or(kept.after);
            let mark = Mark { sequence: kept.sequence.max(stored), floor, ..now };
            if let Some(cursor) = kept.cursor {
                let acked = self.hub.ack_kept(self.gateway.clone(), CursorText(cursor.into()), mark.encode()).await;
                if let Err(problem) = acked {
                    tracing::debug!(gateway = %self.gateway, %problem, "what the stream has last is of another life");
                }
            }
            return Ok((None, mark));
        }
        // What is there of what was there goes on from there; else from what the gateway is known to have had.
        let survivor = kept.filter(|kept| reaches.is_some_and(|last| kept.sequence <= last));
        let (sequence, cursor) = survivor.map_or((0, None), |kept| (kept.sequence, kept.cursor));
        let from = cursor.or_else(|| floor.clone());
        counter!(names::NATS_REWINDS).increment(1);
        tracing::warn!(gateway = %self.gateway, survives = sequence, "publishing again what the stream has lost");
        Ok((from.map(|text| CursorText(text.into())), Mark { sequence, floor, ..now }))
    }

    fn check(&self, leave: Leave) -> Result<(), Trouble> {
        if self.outlet.allows(leave) {
            return Ok(());
        }
        Err(Trouble::Unanswered("the connection, or the stream, is another".into()))
    }

    /// Hands a message over until it is stored. Its number.
    async fn publish(&self, message: &Message, session: &Session, leave: Leave, mark: &Mark) -> Result<u64, End> {
        let (began, mut wait) = (self.clock.now(), RETRY_MIN);
        let mut under_way = self.outlet.begin();
        loop {
            self.check(leave)?;
            let trouble = match self.outlet.publish(message, &mut under_way).await {
                Published::Stored(sequence) => {
                    histogram!(names::NATS_ACK_TIME).record(self.clock.now().since(began).as_secs_f64());
                    return Ok(sequence);
                }
                Published::Late => return Err(self.deliver_again(mark).await),
                Published::Not(trouble) => trouble,
            };
            match trouble {
                Trouble::NoStream => {
                    self.outlet.look_again().await;
                    return Err(trouble.into());
                }
                Trouble::TooLarge => {
                    tracing::error!(gateway = %self.gateway, id = message.id, "the server takes less than it said");
                    return Err(trouble.into());
                }
                Trouble::Full(_) => counter!(names::NATS_FULL).increment(1),
                Trouble::Unanswered(_) | Trouble::Misconfigured(_) => {
                    tracing::debug!(gateway = %self.gateway, %trouble, "publishing again");
                }
            }
            tokio::select! {
                () = sleep(wait) => {}
                // Nobody needs it to go on: the next session begins where this one has come to.
                () = session.ending() => return Err(End::Closed),
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// A message was stored behind a loss that nobody had noticed: what is published again lies before it, and would
    /// pass for something that the gateway has had. So it is delivered as an operator's rewind is.
    async fn deliver_again(&self, mark: &Mark) -> End {
        self.outlet.look_again().await;
        let from = mark.floor.as_deref().and_then(|text| crate::cursor::Cursor::decode(text).ok());
        let Some(place) = from.as_ref().and_then(|cursor| cursor.places.get(&self.partition)) else {
            return End::Trouble(Trouble::NoStream);
        };
        let target = CursorTarget::Positions(vec![(self.partition.clone(), place.lowest())]);
        match self.hub.set_cursor(self.gateway.clone(), target).await {
            Ok(()) => End::Closed,
            Err(problem) => End::Refused(problem),
        }
    }

    async fn ack(&self, standing: &mut Standing, cursor: CursorText) -> Result<(), Problem> {
        let floor = &mut standing.mark.floor;
        if floor.is_none() {
            *floor = Some(cursor.as_str().to_owned());
        }
        standing.cursor = Some(cursor.clone());
        self.hub.ack_kept(self.gateway.clone(), cursor, standing.mark.encode()).await
    }

    /// Looks what the gateway has taken, and notes it.
    async fn look(&self, standing: &mut Standing) -> Result<(), End> {
        let Some(cursor) = standing.cursor.clone().filter(|_| standing.is_fresh) else { return Ok(()) };
        let first = self.outlet.first(&self.subject).await?;
        standing.is_fresh = first.is_some();
        let floor = first.map_or_else(|| Some(cursor.as_str().to_owned()), |kept| kept.after);
        if floor.is_some() && floor != standing.mark.floor {
            standing.mark.floor = floor;
            self.ack(standing, cursor).await?;
        }
        Ok(())
    }

    /// What is to be said of an end.
    pub(super) fn report(&self, end: &End) {
        match end {
            End::Closed => tracing::debug!(gateway = %self.gateway, "the publisher's session is over"),
            End::Refused(problem) if problem.code == Code::OwnerUnknown => {}
            End::Refused(problem) => tracing::warn!(gateway = %self.gateway, %problem, "the publisher is refused"),
            End::Trouble(trouble) => tracing::warn!(gateway = %self.gateway, %trouble, "cannot publish"),
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
