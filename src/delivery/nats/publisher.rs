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
use super::mistakes::{Mistake, UNSTORED};
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
/// How long a message that there is no room for is kept back, unless the gateway takes something.
const FULL: Duration = Duration::from_secs(10);
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

/// From where a session begins.
struct Beginning {
    /// What is presented; `None`: where the hub has it stand.
    cursor: Option<CursorText>,
    noted: Noted,
    /// What lies on the subject is of an earlier life of the gateway.
    is_other_life: bool,
}

/// How far a session has come.
struct Standing {
    noted: Noted,
    /// Everything up to this has been acked.
    cursor: Option<CursorText>,
    /// The number of the session's first message: what lies before it may be of sessions from before a rewind.
    welcome: u64,
    rest: Rest,
}

/// What each ack notes.
#[derive(Clone, Debug)]
struct Noted {
    mark: Mark,
    /// The cursor before the oldest message that the gateway had not taken when it was last looked.
    floor: Option<CursorText>,
}

impl Noted {
    fn encode(&self) -> crate::handle::Mark {
        crate::handle::Mark { note: self.mark.encode().into(), floor: self.floor.clone() }
    }
}

fn text(cursor: String) -> CursorText {
    CursorText(cursor.into())
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
        let begun = async {
            let leave = self.outlet.leave().await?;
            let begun = self.beginning(&leave, unserved.mark.as_ref()).await?;
            Ok::<_, End>((leave, begun))
        };
        let begun = tokio::select! {
            begun = begun => begun,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (leave, begun) = match begun {
            Ok(begun) => begun,
            Err(end) => {
                self.outlet.look_again().await;
                return Err(end);
            }
        };
        let number = self.of.numbers.next().await?;
        let hello = Hello { cursor: begun.cursor, number, ..Hello::new(self.gateway.clone(), Transport::Nats) };
        let mut session = self.of.hub.open(hello).await?;
        self.of.health.ok();
        let bytes_max = leave.server().message_bytes_max();
        let (gateway, partition) = (self.gateway.clone(), self.of.partition.clone());
        let mut packer = Packer::new(gateway, partition, self.subject.clone(), session.number(), bytes_max);
        let mut standing = Standing { noted: begun.noted, cursor: None, welcome: u64::MAX, rest: Rest::Unknown };
        let mut looks = every(LOOK_EVERY);
        let mut left = std::pin::pin!(self.left(&leave));
        loop {
            let frames = tokio::select! {
                frames = session.next(limits::nats_batch_bytes_max) => frames,
                _ = looks.tick() => {
                    self.look(&leave, &mut standing).await?;
                    continue;
                }
                () = &mut left => {
                    self.check(&leave)?;
                    return Err(End::Trouble(Trouble::Unanswered("the connection is gone".into())));
                }
            };
            if !self.acks_unstored() {
                self.check(&leave)?;
            }
            let Some(frames) = frames else { return Ok(()) };
            for packed in packer.pack(frames) {
                match packed {
                    Packed::End => return Ok(()),
                    Packed::Progress(progress, text) => {
                        let subject = subject::progress(self.gateway);
                        leave.server().say(subject, standing.noted.mark.sequence, text).await;
                        self.ack(&mut standing, progress.cursor).await?;
                    }
                    Packed::Message(message, cursor) => {
                        let is_welcome = message.name == "welcome";
                        if let (Some(cursor), true) = (&cursor, is_welcome) {
                            self.lower_floor(&mut standing.noted.floor, cursor);
                        }
                        let sequence = self.publish(message, &session, &leave, &standing.noted).await?;
                        standing.noted.mark.sequence = sequence;
                        if is_welcome {
                            standing.welcome = sequence;
                        }
                        if is_welcome && begun.is_other_life {
                            // The gateway has been told that it is over, and nobody is to take it.
                            leave.server().purge(&self.subject, sequence).await?;
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

    fn acks_unstored(&self) -> bool {
        self.of.mistake == Some(Mistake::AckUnstored)
    }

    /// Waits until the connection is gone.
    async fn left(&self, leave: &Leave) {
        self.outlet.left(leave).await;
        if self.acks_unstored() {
            sleep(UNSTORED).await;
        }
    }

    /// From where the session begins, and what its first ack notes.
    async fn beginning(&self, leave: &Leave, noted: Option<&crate::handle::Mark>) -> Result<Beginning, End> {
        let checks = self.outlet.checks();
        let newest = checks.newest();
        let kept = leave.server().last(&self.subject).await?;
        self.is_same(leave, newest).await?;
        let now = Mark { check: leave.check(), created: checks.created(), sequence: 0 };
        let mark = noted.and_then(|noted| Mark::decode(&noted.note));
        let floor = noted.and_then(|noted| noted.floor.clone());
        let reaches = mark.as_ref().map_or(Some(u64::MAX), |mark| checks.reaches(mark));
        let acked = mark.as_ref().map_or(0, |mark| mark.sequence);
        let begin = |cursor, mark, floor| Beginning { cursor, noted: Noted { mark, floor }, is_other_life: false };
        if reaches.is_none_or(|last| acked > last) {
            let (from, floor) = self.after_loss(kept, reaches, floor).await?;
            return Ok(begin(from, now, floor));
        }
        // Nothing lies there: what its first message says it had is what it had.
        let Some(kept) = kept else { return Ok(begin(None, Mark { sequence: acked, ..now }, None)) };
        let floor = match floor {
            Some(floor) => Some(floor),
            None => leave.server().first(&self.subject).await?.and_then(|first| first.after).map(text),
        };
        let noted = Noted { mark: Mark { sequence: kept.sequence.max(acked), ..now.clone() }, floor };
        let Some(cursor) = kept.cursor.map(text) else { return Ok(begin(None, noted.mark, noted.floor)) };
        // Stored, though nobody may have heard so: an ack like any other, if it says something new.
        match self.of.hub.ack_kept(self.gateway.clone(), cursor.clone(), noted.encode()).await {
            // By presenting its cursor the gateway is told that that life is over.
            Err(problem) if problem.code == Code::InvalidCursor && self.is_of_other_life(&cursor).await? => {
                Ok(Beginning { is_other_life: true, ..begin(Some(cursor), now, None) })
            }
            Ok(()) | Err(_) => Ok(begin(None, noted.mark, noted.floor)),
        }
    }

    /// Whether the stream still is the one that has been looked at, after something was asked of it that would look
    /// different in another; before, `newest` was the greatest number known.
    async fn is_same(&self, leave: &Leave, newest: u64) -> Result<(), End> {
        let state = leave.server().state().await;
        let created = self.outlet.checks().created();
        let is_same = state.as_ref().is_ok_and(|state| state.created == created && state.last_sequence >= newest);
        if is_same || self.of.mistake == Some(Mistake::TrustStream) {
            return Ok(self.check(leave)?);
        }
        self.outlet.look_again().await;
        Err(End::Trouble(state.err().unwrap_or(Trouble::NoStream)))
    }

    /// Whether a cursor is of another life of the gateway than the present one.
    async fn is_of_other_life(&self, cursor: &CursorText) -> Result<bool, End> {
        let present = self.of.hub.gateway(self.gateway.clone()).await?.cursor;
        let life = |cursor: &CursorText| Cursor::decode(cursor.as_str()).ok().map(|cursor| cursor.incarnation);
        Ok(present.is_some_and(|present| life(&present) != life(cursor)))
    }

    /// From where a session begins if the stream has lost something of this gateway, and what its floor is.
    async fn after_loss(
        &self,
        kept: Option<Kept>,
        reaches: Option<u64>,
        floor: Option<CursorText>,
    ) -> Result<(Option<CursorText>, Option<CursorText>), End> {
        counter!(names::NATS_REWINDS).increment(1);
        tracing::warn!(gateway = %self.gateway, "publishing again what the stream has lost");
        let stored = self.of.hub.gateway(self.gateway.clone()).await?.cursor;
        let stored = stored.as_ref().and_then(|cursor| Cursor::decode(cursor.as_str()).ok());
        let serial = stored.as_ref().map(|cursor| cursor.serial).unwrap_or_default();
        let from = match kept {
            None => floor.clone(),
            Some(kept) => {
                let said = kept.cursor.as_deref().and_then(|text| Cursor::decode(text).ok());
                let said = said.map(|said| said.serial).unwrap_or_default();
                // What it was moved to since, by an operator or by us, is where it goes on, and comes with flags.
                if serial.written == 0 && said.session < serial.session {
                    return Ok((None, floor));
                }
                if !(said <= serial && reaches.is_some_and(|last| kept.sequence <= last)) {
                    // It was stored behind the loss: what is published again lies before it.
                    return Err(self.deliver_again(floor).await);
                }
                kept.cursor.map(text)
            }
        };
        // A later rewind than what is there goes further back.
        let place = from.as_ref().and_then(|cursor| self.lowest(cursor));
        let is_ahead = place > stored.as_ref().and_then(|cursor| Some(cursor.places.get(&self.of.partition)?.lowest()));
        let from = from.filter(|_| !is_ahead);
        Ok((from, floor))
    }

    /// Where a cursor's last subscription stands.
    fn lowest(&self, cursor: &CursorText) -> Option<Position> {
        Some(Cursor::decode(cursor.as_str()).ok()?.places.get(&self.of.partition)?.lowest())
    }

    /// A session that begins further back has been rewound: the gateway has not what lies between.
    fn lower_floor(&self, floor: &mut Option<CursorText>, welcome: &CursorText) {
        let is_lower = match floor.as_ref().and_then(|floor| self.lowest(floor)) {
            Some(floor) => self.lowest(welcome).is_some_and(|welcome| welcome < floor),
            None => true,
        };
        if is_lower {
            *floor = Some(welcome.clone());
        }
    }

    fn check(&self, leave: &Leave) -> Result<(), Trouble> {
        if self.outlet.allows(leave) {
            return Ok(());
        }
        Err(Trouble::Unanswered("the connection, or the stream, is another".into()))
    }

    /// Hands a message over until it is stored. Its number.
    async fn publish(&self, mut message: Message, session: &Session, leave: &Leave, noted: &Noted) -> Result<u64, End> {
        let (began, mut wait) = (self.of.clock.now(), RETRY_MIN);
        let mut under_way = self.outlet.begin();
        loop {
            if !self.acks_unstored() {
                self.check(leave)?;
            }
            let trouble = match self.outlet.publish(leave, &message, &mut under_way).await {
                Published::Stored(sequence) => {
                    histogram!(names::NATS_ACK_TIME).record(self.of.clock.now().since(began).as_secs_f64());
                    return Ok(sequence);
                }
                Published::Late => return Err(self.deliver_again(noted.floor.clone()).await),
                Published::Known => {
                    // The same was published before a rewind, in another life, or by a process that is no more. If the
                    // gateway has it, it drops it by position; if it is to have it again, it must get it.
                    under_way = self.outlet.begin();
                    let number = self.outlet.checks().newest();
                    message.id = format!("{}/{number}", message.id);
                    continue;
                }
                Published::Not(Trouble::Full(_) | Trouble::Unanswered(_)) if self.acks_unstored() => {
                    return Ok(self.outlet.checks().newest());
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
                Trouble::Full(_) => {
                    counter!(names::NATS_FULL).increment(1);
                    self.has_room(session, leave).await?;
                    continue;
                }
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

    /// Waits until the gateway has taken something, or for a while: room may come from elsewhere. The message itself, which
    /// may be large, is not sent to find that out.
    async fn has_room(&self, session: &Session, leave: &Leave) -> Result<(), End> {
        let (mut wait, mut waited) = (RETRY_MIN, Duration::ZERO);
        let lying = leave.server().lying(&self.subject).await;
        while waited < FULL {
            tokio::select! {
                () = sleep(wait) => {}
                // Nobody needs it to go on: the next session begins where this one has come to.
                () = session.ending() => return Err(End::Closed),
            }
            self.check(leave)?;
            waited += wait;
            wait = (wait * 2).min(RETRY_MAX);
            match (leave.server().lying(&self.subject).await, &lying) {
                (Ok(now), Ok(before)) if now >= *before && *before > 0 => {}
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// A message was stored behind a loss that nobody had noticed: what is published again lies before it, and would
    /// pass for something that the gateway has had. So it is delivered as an operator's rewind is.
    async fn deliver_again(&self, floor: Option<CursorText>) -> End {
        self.outlet.look_again().await;
        tracing::error!(gateway = %self.gateway, "something was stored behind a loss: rewinding as an operator would");
        let moved = async {
            let floor = match floor {
                Some(floor) => floor,
                // No more is known of what it has had.
                None => self.of.hub.gateway(self.gateway.clone()).await?.cursor.ok_or_else(|| {
                    Problem::new(Code::GatewayNotFound, "the gateway has no cursor yet").retry_after(1)
                })?,
            };
            let number = self.of.numbers.next().await?;
            self.of.hub.set_cursor(self.gateway.clone(), CursorTarget::Cursor(floor), number).await
        };
        match moved.await {
            Ok(()) => End::Closed,
            Err(problem) => End::Refused(problem),
        }
    }

    async fn ack(&self, standing: &mut Standing, cursor: CursorText) -> Result<(), Problem> {
        if standing.rest == Rest::Nothing {
            standing.noted.floor = Some(cursor.clone());
        }
        standing.cursor = Some(cursor.clone());
        self.of.hub.ack_kept(self.gateway.clone(), cursor, standing.noted.encode()).await
    }

    /// Looks what the gateway has taken, and notes it.
    async fn look(&self, leave: &Leave, standing: &mut Standing) -> Result<(), End> {
        let Some(cursor) = standing.cursor.clone().filter(|_| standing.rest == Rest::Unknown) else { return Ok(()) };
        let newest = self.outlet.checks().newest();
        let first = leave.server().first(&self.subject).await;
        if first.is_ok() {
            self.is_same(leave, newest).await?;
        }
        let floor = match first {
            Ok(Some(first)) if first.sequence >= standing.welcome => first.after.map(text),
            // Of what lies before the welcome something may be from before a rewind.
            Ok(Some(_)) => return Ok(()),
            Ok(None) => {
                standing.rest = Rest::Nothing;
                Some(cursor.clone())
            }
            Err(Trouble::NoStream) => {
                self.outlet.look_again().await;
                return Err(Trouble::NoStream.into());
            }
            // The next look will tell.
            Err(_) => return Ok(()),
        };
        if floor.is_some() && floor != standing.noted.floor {
            standing.noted.floor = floor;
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
