//! A session of several partitions: one of each, merged.
//!
//! Owns the order in which their frames are taken, and the cursor of each, which is that of all partitions side by
//! side. A partition that does not answer joins when it does; one that leaves ends the session, for the gateway resumes
//! with its cursor. Numbers (`seq`) are each partition's own.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, select_all};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};

use super::unowned;
use crate::cursor::CursorText;
use crate::delivery::frame::{CloseReason, Closed, Frame, Progress, Welcome};
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{Hello, PartitionHandle};
use crate::limits;
use crate::position::{PartitionId, Position};

/// How long a session waits for partitions before it begins without them, once it has one.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one of them may take to be opened; its owner may be frozen.
const OPENING: Duration = Duration::from_secs(15);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A partition's session, and the frames that it began with.
struct Opened {
    partition: PartitionId,
    session: Session,
    frames: Vec<Frame>,
}

/// Several partitions' sessions as one. Dropping it ends them all.
pub(crate) struct Merged {
    number: u64,
    members: Vec<Member>,
    /// Partitions that are still to join. Never locked: a session is shared, though only its owner takes from it.
    joining: Mutex<FuturesUnordered<BoxFuture<'static, Result<Opened, Problem>>>>,
    /// By partition: what a cursor says of each, and how far each has come.
    cursors: BTreeMap<PartitionId, CursorText>,
    positions: BTreeMap<PartitionId, Position>,
    /// Said before all else.
    first: Vec<Frame>,
    /// Whose frames were taken last.
    last: usize,
}

struct Member {
    session: Session,
    catching_up: u64,
    /// Has come on since progress was said last.
    has_news: bool,
}

/// Opens a session at each partition. Waits for all that answer soon, and for one at least.
pub(super) async fn open(partitions: Vec<PartitionHandle>, hello: Hello) -> Result<Session, Problem> {
    let presented = match &hello.cursor {
        Some(cursor) => cursor.parts().map_err(|error| Problem::new(Code::InvalidCursor, error.to_string()))?,
        None => BTreeMap::new(),
    };
    // A cursor of another hub is each partition's to refuse.
    let is_foreign = !partitions.iter().any(|partition| presented.contains_key(partition.id()));
    let own = partitions.iter().map(PartitionHandle::id);
    let own = own.filter_map(|id| Some((id.clone(), presented.get(id)?.clone()))).collect();
    // Of one that has not joined nothing has been sent.
    let positions = partitions.iter().map(|partition| (partition.id().clone(), Position::default())).collect();
    let mut opening: FuturesUnordered<BoxFuture<'static, _>> = FuturesUnordered::new();
    for partition in partitions {
        let cursor = presented.get(partition.id()).or_else(|| presented.values().next().filter(|_| is_foreign));
        let hello = Hello { cursor: cursor.cloned(), ..hello.clone() };
        let attempt = async move {
            let opened = open_one(&partition, hello.clone()).await;
            (partition, hello, opened)
        };
        opening.push(attempt.boxed());
    }
    let mut merged = Merged {
        number: hello.number,
        members: Vec::new(),
        joining: Mutex::default(),
        cursors: own,
        positions,
        first: Vec::new(),
        last: 0,
    };
    let (mut welcome, mut late, mut problem) = (None, Vec::new(), None);
    // What comes after a partition's welcome is said after that of all, whose cursor must not ack it.
    let mut following = Vec::new();
    let mut patience = std::pin::pin!(sleep(OPENING));
    loop {
        let (partition, hello, opened) = tokio::select! {
            biased;
            next = opening.next() => match next {
                Some(next) => next,
                None => break,
            },
            () = &mut patience => break,
        };
        match opened {
            Ok(opened) => {
                // The others have that long, and no longer.
                if merged.members.is_empty() {
                    patience.set(sleep(PATIENCE));
                }
                let (said, frames) = merged.join(opened);
                following.push(frames);
                welcome = welcome.or(said);
            }
            Err(refusal) if !is_passing(&refusal) => return Err(refusal),
            Err(refusal) => {
                problem.get_or_insert(refusal);
                late.push((partition, hello));
            }
        }
    }
    if merged.members.is_empty() {
        return Err(problem.unwrap_or_else(unowned));
    }
    let joining = merged.joining.get_mut().unwrap_or_else(PoisonError::into_inner);
    joining.extend(late.into_iter().map(|(partition, hello)| keep_opening(partition, hello).boxed()));
    joining.extend(opening.into_iter().map(|attempt| {
        let joined = async move {
            match attempt.await {
                (_, _, Ok(opened)) => Ok(opened),
                (_, _, Err(problem)) if !is_passing(&problem) => Err(problem),
                (partition, hello, Err(_)) => keep_opening(partition, hello).await,
            }
        };
        joined.boxed()
    }));
    if let Some(welcome) = welcome {
        let (cursor, positions) = (merged.cursor(), merged.said_positions());
        merged.first.push(Frame::Welcome(Welcome { cursor, positions, ..welcome }));
    }
    for (member, frames) in following.into_iter().enumerate() {
        merged.say(member, frames);
    }
    Ok(Session::merged(merged.number, merged))
}

/// Whether another attempt may be answered otherwise.
fn is_passing(problem: &Problem) -> bool {
    problem.status >= 500 || problem.code == Code::RateLimited
}

async fn open_one(partition: &PartitionHandle, hello: Hello) -> Result<Opened, Problem> {
    let opening = async {
        let mut session = partition.open(hello).await?;
        let frames = session.next(limits::transport_chunk_bytes).await.ok_or_else(unowned)?;
        Ok(Opened { partition: partition.id().clone(), session, frames })
    };
    timeout(OPENING, opening).await.unwrap_or_else(|_| Err(unowned()))
}

/// Until it is open, or refused for good.
async fn keep_opening(partition: PartitionHandle, hello: Hello) -> Result<Opened, Problem> {
    let mut wait = RETRY_MIN;
    loop {
        sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
        match open_one(&partition, hello.clone()).await {
            Err(problem) if is_passing(&problem) => {}
            opened => return opened,
        }
    }
}

impl Merged {
    /// Takes a partition's session in. Returns its own welcome, which is not said, and what came after it.
    fn join(&mut self, opened: Opened) -> (Option<Welcome>, Vec<Frame>) {
        let Opened { partition, session, frames } = opened;
        self.members.push(Member { session, catching_up: 0, has_news: false });
        let mut frames = frames.into_iter().peekable();
        let welcome = match frames.next_if(|frame| matches!(frame, Frame::Welcome(_))) {
            Some(Frame::Welcome(welcome)) => {
                self.cursors.insert(partition, welcome.cursor.clone());
                self.positions.extend(welcome.positions.iter().cloned());
                Some(welcome)
            }
            _ => None,
        };
        (welcome, frames.collect())
    }

    /// Has the gateway told what a member has said.
    fn say(&mut self, member: usize, frames: Vec<Frame>) {
        for frame in frames {
            if let Some(frame) = self.said(member, frame) {
                self.first.push(frame);
            }
        }
    }

    /// Takes in a partition that was away when the session began.
    fn join_late(&mut self, joined: Result<Opened, Problem>) {
        let draining = || Frame::Closed(Closed { reason: CloseReason::Draining });
        match joined {
            Ok(mut opened) => {
                // If another session is newer than this one its other partitions will say so.
                for frame in opened.frames.iter_mut().filter(|frame| matches!(frame, Frame::Closed(_))) {
                    *frame = draining();
                }
                let (_, frames) = self.join(opened);
                self.say(self.members.len() - 1, frames);
            }
            Err(problem) => {
                tracing::warn!(%problem, "a partition refuses a session that others serve");
                self.first.push(draining());
            }
        }
    }

    fn cursor(&self) -> CursorText {
        CursorText::joined(self.cursors.values())
    }

    fn said_positions(&self) -> Vec<(PartitionId, Position)> {
        self.positions.iter().map(|(partition, position)| (partition.clone(), *position)).collect()
    }

    /// Takes the cursor of one partition; what is said is that of all.
    fn advance(&mut self, partition: &PartitionId, cursor: CursorText) -> CursorText {
        if let Some(own) = self.cursors.get_mut(partition) {
            *own = cursor;
        } else {
            self.cursors.insert(partition.clone(), cursor);
        }
        self.cursor()
    }

    /// A member's frame as the gateway gets it.
    fn said(&mut self, member: usize, frame: Frame) -> Option<Frame> {
        Some(match frame {
            Frame::Change(mut delivery) => {
                delivery.cursor = self.advance(&delivery.partition, delivery.cursor);
                Frame::Change(delivery)
            }
            Frame::Resync(mut resync) => {
                resync.cursor = self.advance(&resync.partition, resync.cursor);
                Frame::Resync(resync)
            }
            Frame::Progress(progress) => return self.progressed(member, progress),
            Frame::Welcome(_) => return None,
            Frame::Expired(_) | Frame::Revoked(_) | Frame::Assigned(_) | Frame::Closed(_) => frame,
        })
    }

    /// Progress of all is said once all have come on, or one of them twice: another may be silent.
    fn progressed(&mut self, member: usize, progress: Progress) -> Option<Frame> {
        for (partition, position) in &progress.positions {
            self.advance(partition, progress.cursor.clone());
            self.positions.insert(partition.clone(), *position);
        }
        let own = &mut self.members[member];
        own.catching_up = progress.catching_up;
        let is_second = std::mem::replace(&mut own.has_news, true);
        if !is_second && !self.members.iter().all(|member| member.has_news) {
            return None;
        }
        for other in &mut self.members {
            other.has_news = false;
        }
        self.members[member].has_news = is_second;
        let away = self.joining.get_mut().unwrap_or_else(PoisonError::into_inner).len() as u64;
        let behind: u64 = self.members.iter().map(|member| member.catching_up).sum();
        // Of who is away at least one is behind.
        let catching_up = behind + away;
        Some(Frame::Progress(Progress { cursor: self.cursor(), positions: self.said_positions(), catching_up }))
    }

    /// The next frames, at least one; after `Closed` there are none. Cancel-safe.
    pub(crate) fn next(&mut self, bytes_max: usize) -> BoxFuture<'_, Vec<Frame>> {
        async move { self.take(bytes_max).await }.boxed()
    }

    async fn take(&mut self, bytes_max: usize) -> Vec<Frame> {
        loop {
            if !self.first.is_empty() {
                return ended(std::mem::take(&mut self.first));
            }
            let joining = self.joining.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Whose turn it was last is asked last.
            let (mut after, mut before) = (Vec::new(), Vec::new());
            for (index, member) in self.members.iter_mut().enumerate() {
                let taking = async move { (index, member.session.next(bytes_max).await) }.boxed();
                if index <= self.last { before.push(taking) } else { after.push(taking) }
            }
            after.extend(before);
            let next = tokio::select! {
                ((index, frames), ..) = select_all(after) => Next::Frames(index, frames),
                Some(joined) = joining.next() => Next::Joined(joined),
            };
            let (index, frames) = match next {
                Next::Frames(index, frames) => (index, frames),
                Next::Joined(joined) => {
                    self.join_late(joined);
                    continue;
                }
            };
            self.last = index;
            // Without a last word it is over all the same.
            let frames = frames.unwrap_or_else(|| vec![Frame::Closed(Closed { reason: CloseReason::Draining })]);
            self.say(index, frames);
        }
    }

    /// Waits until the end of one of them has been decided.
    pub(crate) fn ending(&self) -> BoxFuture<'_, ()> {
        let endings = self.members.iter().map(|member| member.session.ending().boxed());
        select_all(endings).map(|_| ()).boxed()
    }
}

enum Next {
    Frames(usize, Option<Vec<Frame>>),
    Joined(Result<Opened, Problem>),
}

/// What comes after the end of one of the partitions' sessions is not said: its gateway comes back with its cursor.
fn ended(mut frames: Vec<Frame>) -> Vec<Frame> {
    if let Some(at) = frames.iter().position(|frame| matches!(frame, Frame::Closed(_))) {
        frames.truncate(at + 1);
    }
    frames
}

impl std::fmt::Debug for Merged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merged").field("number", &self.number).field("members", &self.members.len()).finish()
    }
}
