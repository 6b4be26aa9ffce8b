//! Sources: where changes come from.
//!
//! Owns the trait behind which a MongoDB deployment and the embedded log look the same: numbered
//! changes in order, from any position. Knows nothing of subscriptions and sessions.

pub mod layout;
pub mod log;
pub mod mongo;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::change::{Change, ResyncReason, Scope};
use crate::position::{ClusterTime, Epoch, Position};

/// What a source says in place of, or between, changes.
#[derive(Clone, Debug)]
pub enum Event {
    /// A document changed.
    Change(Arc<Change>),
    /// What lies at this position cannot be told as a change: those whom the scope concerns must
    /// read for themselves.
    Resync(Gap),
}

impl Event {
    /// Where it is.
    pub fn position(&self) -> Position {
        match self {
            Self::Change(change) => change.position,
            Self::Resync(gap) => gap.position,
        }
    }
}

/// Something that happened to a scope and cannot be delivered as changes.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Its place: its own, if it stands for a change, else that of the last change at its time or the
    /// boundary there. A reading that begins at such a place tells it again.
    pub position: Position,
    /// Whom it concerns; a part that is `None` concerns all.
    pub scope: Scope,
    /// Why.
    pub reason: ResyncReason,
}

impl Gap {
    /// What lies after this, up to its position, is what cannot be delivered. Below the position even where that is a
    /// boundary, and the same in every reading.
    pub fn from(&self) -> Position {
        let Position { epoch, time, .. } = self.position;
        let before = ClusterTime(time.0.saturating_sub(1));
        if self.position.is_boundary() { Position::boundary(epoch, before) } else { self.position.floor_boundary() }
    }
}

/// Some events in order, and how far the source has read with them.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In ascending position; strictly, but for a [`Event::Resync`] of something that is no change (a
    /// drop, a rename): it shares the position of the change before it, or of `reached`.
    pub events: Vec<Event>,
    /// Everything up to and including this is in this batch or one before it. At or past the last
    /// event; past it only by boundaries.
    pub reached: Position,
}

impl Event {
    /// When it was made, by the backend's clock, where that says.
    pub fn wall_time_ms(&self) -> Option<i64> {
        match self {
            Self::Change(change) => change.wall_time_ms,
            Self::Resync(_) => None,
        }
    }
}

impl Batch {
    /// The last position in it at which there was a change, told as one or not: in this history there always will be.
    pub fn witness(&self) -> Option<Position> {
        self.events.iter().rev().map(Event::position).find(|position| !position.is_boundary())
    }
}

/// What a deployment is and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// What stays the same over a deployment's life and differs for another or a restored one's;
    /// `None` where privileges hide it.
    pub identity: Option<String>,
    /// The latest cluster time of which the server knows: nothing in future carries an earlier one.
    pub now: ClusterTime,
    /// The oldest cluster time that can still be read, where it can be told.
    pub oldest: Option<ClusterTime>,
    /// What registrations should warn of, such as `POSTIMAGES_OFF` for a scope.
    pub warnings: Vec<SourceWarning>,
}

/// A weakness of the source's configuration, said at registration and by `check-config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceWarning {
    /// Updates without recorded post-image are looked up, and so converge instead of being exact.
    PostImagesOff,
    /// Without pre-images a leave may go unseen and deletes are broadcast.
    PreImagesOff,
    /// Images expire before the oplog does.
    ImagesExpireEarly,
}

impl SourceWarning {
    /// The code on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PostImagesOff => "POSTIMAGES_OFF",
            Self::PreImagesOff => "PREIMAGES_OFF",
            Self::ImagesExpireEarly => "IMAGES_EXPIRE_EARLY",
        }
    }
}

/// What the caller can do about a source that fails.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum SourceError {
    /// The position can no longer be read from: say so, start at a later one, never ask for it again.
    #[error("history lost: {0}")]
    HistoryLost(String),
    /// Try again from the last position that was reached, after a pause.
    #[error("{0}")]
    Unavailable(String),
    /// A change that was read before is not in the source's history: it was restored, or is another.
    #[error("another history: {0}")]
    Exchanged(String),
    /// Trying again will not help before an operator changes something.
    #[error("{0}")]
    Misconfigured(String),
}

/// A partition's stream of changes.
#[async_trait]
pub trait ChangeSource: Send + Sync + 'static {
    /// Digest (hex) of what positions depend on: scope, `$match` and split. If it changes, the epoch
    /// rises.
    fn definition(&self) -> String;

    /// Asks the server who it is and how far it has come.
    async fn describe(&self) -> Result<Description, SourceError>;

    /// Writes something that concerns nobody, so that readings of an idle source move on.
    async fn nudge(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Makes sure that the history is still the one in which there was a change at this position.
    ///
    /// # Errors
    /// `Exchanged` if it is another; none where history does not reach back so far.
    async fn prove(&self, witness: Position) -> Result<(), SourceError> {
        let _ = witness;
        Ok(())
    }

    /// Reads everything strictly after `after`, in order and without end, all positions in `epoch`
    /// (`after`'s own epoch is not looked at). The reading runs in a task of its own, which nothing
    /// cancels; it ends by itself, between two batches, once the returned end is dropped.
    async fn read(&self, epoch: Epoch, after: Position) -> Result<Reading, SourceError>;
}

/// The receiving end of one reading. After an error there is nothing more.
pub type Reading = mpsc::Receiver<Result<Batch, SourceError>>;
