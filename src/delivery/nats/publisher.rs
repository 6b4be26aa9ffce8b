//! A publisher: one gateway's session, with the server's ack as its ack.
//!
//! Owns one session from where it begins to its end. Whatever ends it, the connection, the stream or the hub, the
//! next publisher begins from what is known then.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Publishers;
use super::mark::Mark;
use super::outlet::{Leave, Outlet, Published};
use super::pack::{Packed, Packer};
use crate::clock::every;
use crate::cursor::{Cursor, CursorText};
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{CursorTarget, Hello, Transport, Unserved};
use crate::limits;
use crate::nats::{Kept, Message, Trouble, subject};
use crate::observe::metrics as names;
use crate::position::Position;
use crate::subscription::GatewayId;

/// How long after a message was refused, or nobody answered, it is handed over again; twice as long each time.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often it is looked what a gateway has not taken yet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One gateway's.
pub(super) struct Publisher<'a> {
    of: &'a Publishers,
    outlet: Arc<Outlet>,
    gateway: &'a GatewayId,
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
    /// The number of the session's first message: what lies before it may be of sessions from before a rewind.
    welcome: u64,
    rest: Rest,
}

/// What is known of what the gateway has not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Something was published since it was last looked, or something lay there.
    Unknown,
    /// Nothing.
    Nothing,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(of: &'a Publishers, outlet: Arc<Outlet>, gateway: &'a GatewayId) -> Self {
        Self { of, outlet, gateway, subject: subject::deliveries(gateway, &of.partition) }
    }

    /// Serves one session.
    pub(super) async fn serve(&self, unserved: &Unserved, shutdown: &CancellationToken) -> End {
        match self.run(unserved, shutdown).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        }
    }

    async fn run(&self, unserved: &Unserved, shutdown: &CancellationToken) -> Result<(), End> {
        let mark = unserved.mark.as_deref().and_then(Mark::decode);
        let begun = async {
            let leave = self.outlet.leave().await?;
            let (cursor, mark) = self.beginning(mark).await?;
            Ok::<_, End>((leave, cursor, mark))
        };
        let begun = tokio::select! {
            begun = begun => begun,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (leave, cursor, mark) = match begun {
            Ok(begun) => begun,
            Err(end) => {
                self.outlet.look_again().await;
                return Err(end);
            }
        };
        let hello = Hello {
            gateway: self.gateway.clone(),
            cursor,
            transport: Transport::Nats,
            auto_ack: false,
            unacked_bytes_max: 0,
        };
        let mut session = self.of.hub.open(hello).await?;
        self.of.health.ok();
        let bytes_max = self.outlet.message_bytes_max();
        let (gateway, partition) = (self.gateway.clone(), self.of.partition.clone());
        let mut packer = Packer::new(gateway, partition, self.subject.clone(), session.number(), bytes_max);
        let mut standing = Standing { mark, cursor: None, welcome: u64::MAX, rest: Rest::Unknown };
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
                        let subject = subject::progress(self.gateway);
                        self.outlet.say(subject, standing.mark.sequence, text).await;
                        self.ack(&mut standing, progress.cursor).await?;
                    }
                    Packed::Message(message, cursor) => {
                        let is_welcome = message.name == "welcome";
                        standing.mark.sequence = self.publish(message, &session, leave, &standing.mark).await?;
                        if let (Some(cursor), true) = (&cursor, is_welcome) {
                            standing.welcome = standing.mark.sequence;
                            self.lower_floor(&mut standing.mark.floor, cursor);
                        }
                        standing.rest = Rest::Unknown;
                        if let Some(cursor) = cursor {
                            self.ack(&mut standing, cursor).await?;
                        }
                    }
                }
            }
        }
    }

    /// From where the session begins, and what its first ack notes.
    async fn beginning(&self, mark: Option<Mark>) -> Result<(Option<CursorText>, Mark), End> {
        let checks = self.outlet.checks();
        let kept = self.outlet.last(&self.subject).await?;
        let now = Mark { check: checks.id(), created: checks.created(), ..Mark::default() };
        let reaches = mark.as_ref().map_or(Some(u64::MAX), |mark| checks.reaches(mark));
        let acked = mark.as_ref().map_or(0, |mark| mark.sequence);
        let floor = mark.and_then(|mark| mark.floor);
        if reaches.is_some_and(|last| acked <= last) {
            // Nothing lies there: what its first message says it had is what it had.
            let Some(kept) = kept else { return Ok((None, Mark { sequence: acked, floor: None, ..now })) };
            let floor = match floor {
                Some(floor) => Some(floor),
                None => self.outlet.first(&self.subject).await?.and_then(|first| first.after),
            };
            let mark = Mark { sequence: kept.sequence.max(acked), floor, ..now };
            let Some(cursor) = kept.cursor.map(|text| CursorText(text.into())) else { return Ok((None, mark)) };
            // Stored, though nobody may have heard so: an ack like any other, if it says something new.
            let acked = self.of.hub.ack_kept(self.gateway.clone(), cursor.clone(), mark.encode()).await;
            return match acked {
                // Of an earlier life of the gateway: by presenting it the gateway is told that that is over.
                Err(problem) if problem.code == Code::InvalidCursor => {
                    Ok((Some(cursor), Mark { sequence: 0, floor: None, ..mark }))
                }
                Ok(()) | Err(_) => Ok((None, mark)),
            };
        }
        let (from, floor) = self.after_loss(kept, reaches, floor).await?;
        Ok((from, Mark { sequence: 0, floor, ..now }))
    }

    /// From where a session begins if the stream has lost something of this gateway, and what its floor is.
    async fn after_loss(
        &self,
        kept: Option<Kept>,
        reaches: Option<u64>,
        floor: Option<String>,
    ) -> Result<(Option<CursorText>, Option<String>), End> {
        counter!(names::NATS_REWINDS).increment(1);
        tracing::warn!(gateway = %self.gateway, "publishing again what the stream has lost");
        let stored = self.of.hub.gateway(self.gateway.clone()).await?.cursor;
        let stored = stored.as_ref().and_then(|cursor| Cursor::decode(cursor.as_str()).ok());
        let serial = stored.as_ref().map(|cursor| cursor.serial);
        let from = match kept {
            None => floor.clone(),
            Some(kept) => {
                let said = kept.cursor.as_deref().and_then(|text| Cursor::decode(text).ok());
                let is_acked = said.as_ref().is_some_and(|said| serial.is_some_and(|serial| said.serial <= serial));
                if !(is_acked && reaches.is_some_and(|last| kept.sequence <= last)) {
                    // It was stored behind the loss: what is published again lies before it.
                    return Err(self.deliver_again(floor.as_deref()).await);
                }
                kept.cursor
            }
        };
        // A later rewind than what is there goes further back.
        let place = from.as_deref().and_then(|text| self.lowest(text));
        let is_ahead = place > stored.as_ref().and_then(|cursor| Some(cursor.places.get(&self.of.partition)?.lowest()));
        let from = from.filter(|_| !is_ahead);
        Ok((from.map(|text| CursorText(text.into())), floor))
    }

    /// Where a cursor's last subscription stands.
    fn lowest(&self, cursor: &str) -> Option<Position> {
        Some(Cursor::decode(cursor).ok()?.places.get(&self.of.partition)?.lowest())
    }

    /// A session that begins further back has been rewound: the gateway has not what lies between.
    fn lower_floor(&self, floor: &mut Option<String>, welcome: &CursorText) {
        let is_lower = match floor.as_deref().and_then(|floor| self.lowest(floor)) {
            Some(floor) => self.lowest(welcome.as_str()).is_some_and(|welcome| welcome < floor),
            None => true,
        };
        if is_lower {
            *floor = Some(welcome.as_str().to_owned());
        }
    }

    fn check(&self, leave: Leave) -> Result<(), Trouble> {
        if self.outlet.allows(leave) {
            return Ok(());
        }
        Err(Trouble::Unanswered("the connection, or the stream, is another".into()))
    }

    /// Hands a message over until it is stored. Its number.
    async fn publish(&self, mut message: Message, session: &Session, leave: Leave, mark: &Mark) -> Result<u64, End> {
        let (began, mut wait) = (self.of.clock.now(), RETRY_MIN);
        let mut under_way = self.outlet.begin();
        loop {
            self.check(leave)?;
            let trouble = match self.outlet.publish(&message, &mut under_way).await {
                Published::Stored(sequence) => {
                    histogram!(names::NATS_ACK_TIME).record(self.of.clock.now().since(began).as_secs_f64());
                    return Ok(sequence);
                }
                Published::Late => return Err(self.deliver_again(mark.floor.as_deref()).await),
                Published::Known => {
                    // The same was published before a rewind, in another life, or by a process that is no more. If the
                    // gateway has it, it drops it by position; if it is to have it again, it must get it.
                    under_way = self.outlet.begin();
                    let number = self.outlet.checks().newest();
                    message.id = format!("{}/{number}", message.id);
                    continue;
                }
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
                    self.of.health.degraded(trouble.to_string());
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
    async fn deliver_again(&self, floor: Option<&str>) -> End {
        self.outlet.look_again().await;
        let Some(position) = floor.and_then(|text| self.lowest(text)) else { return End::Trouble(Trouble::NoStream) };
        tracing::error!(gateway = %self.gateway, "something was stored behind a loss: rewinding as an operator would");
        let target = CursorTarget::Positions(vec![(self.of.partition.clone(), position)]);
        match self.of.hub.set_cursor(self.gateway.clone(), target).await {
            Ok(()) => End::Closed,
            Err(problem) => End::Refused(problem),
        }
    }

    async fn ack(&self, standing: &mut Standing, cursor: CursorText) -> Result<(), Problem> {
        if standing.rest == Rest::Nothing {
            standing.mark.floor = Some(cursor.as_str().to_owned());
        }
        standing.cursor = Some(cursor.clone());
        self.of.hub.ack_kept(self.gateway.clone(), cursor, standing.mark.encode()).await
    }

    /// Looks what the gateway has taken, and notes it.
    async fn look(&self, standing: &mut Standing) -> Result<(), End> {
        let Some(cursor) = standing.cursor.clone().filter(|_| standing.rest == Rest::Unknown) else { return Ok(()) };
        let floor = match self.outlet.first(&self.subject).await {
            Ok(Some(first)) if first.sequence >= standing.welcome => first.after,
            // Of what lies before the welcome something may be from before a rewind.
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {
                standing.rest = Rest::Nothing;
                Some(cursor.as_str().to_owned())
            }
            Err(Trouble::NoStream) => {
                self.outlet.look_again().await;
                return Err(Trouble::NoStream.into());
            }
            // The next look will tell.
            Err(_) => return Ok(()),
        };
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
