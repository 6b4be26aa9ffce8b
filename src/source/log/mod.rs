//! The embedded log: a change stream that needs no server.
//!
//! Owns published changes on disk, their positions and their retention. Knows nothing of HTTP, of
//! subscriptions or of who reads.
//!
//! A call to [`EventLog::publish`] is like a transaction: what it publishes shares one cluster time,
//! with ordinals from 1 in the order given, and is on disk either whole or not at all. Calls that wait
//! at the same time are written in one group commit, with one fsync. Cluster times are the wall
//! clock's seconds, with the millisecond as increment, pushed forward where they would repeat or go
//! back: they are unique and ascend over restarts, whatever the clock does (`writer.rs`).

mod codec;
mod demo;
mod disk;
mod publication;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use demo::{Demo, DemoConfig};
pub use publication::Publication;
pub use reader::LogSource;

use crate::clock::Clock;
use crate::error::{Code, Problem};
use crate::limits;
use crate::position::ClusterTime;
use crate::tasks::{Kind, Tasks};
use disk::{Disk, Start};
use writer::{Request, Writer};

/// Where a log is and how much of the past it keeps.
#[derive(Clone, Debug)]
pub struct EventLogConfig {
    /// Its file; made, with its folder, if absent.
    pub path: PathBuf,
    /// The oldest group commits go when all together are larger. The newest stays in any case.
    pub retain_bytes: u64,
    /// Group commits older than this go as well; `None`: only the size counts.
    pub retain_seconds: Option<u64>,
}

/// The place of a published change: cluster time, and ordinal from 1 within it.
pub type Place = (ClusterTime, u32);

/// Why nothing was opened.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("the embedded log {path} cannot be opened: {reason}")]
pub struct OpenError {
    /// Its file.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

/// Why a publication was not confirmed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The log is shutting down: nothing was written.
    #[error("the log is closed")]
    Closed,
    /// The disk failed: it may or may not have been written, and the log takes nothing more before a
    /// restart.
    #[error("the log cannot be written: {0}")]
    Broken(String),
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        Self::new(Code::StoreUnavailable, error.to_string()).retry_after(1)
    }
}

/// How far the log has come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    /// Time of the latest change on disk.
    written: ClusterTime,
    /// Everything before this is on disk, and nothing published later gets an earlier time.
    boundary: ClusterTime,
    /// Set once the disk has failed: nothing moves any more.
    broken: Option<String>,
}

/// A durable, numbered log of changes in one file.
pub struct EventLog {
    disk: Arc<Disk>,
    head: watch::Receiver<Head>,
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
    tasks: Tasks,
}

impl EventLog {
    /// Opens a log, or makes one, and starts its writer, which `tasks` ends.
    ///
    /// # Errors
    /// If the file cannot be used, because another process has it open for example.
    pub async fn open(config: EventLogConfig, tasks: &Tasks, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let path = config.path.display().to_string();
        let fault = |reason: String| OpenError { path: path.clone(), reason };
        let now = writer::wall_time(&clock);
        // Opening may repair what a crash left behind, which takes as long as reading the file.
        let opened = tokio::task::spawn_blocking(move || Disk::open(&config, now)).await;
        let (disk, start) = opened.map_err(|error| fault(error.to_string()))?.map_err(|error| fault(error.0))?;
        Ok(Self::start(disk, start, tasks, clock))
    }

    fn start(disk: Disk, start: Start, tasks: &Tasks, clock: Clock) -> Arc<Self> {
        let disk = Arc::new(disk);
        let (head_tx, head) = watch::channel(Head { written: start.written, boundary: start.reserved, broken: None });
        let (requests, queue) = mpsc::channel(limits::log_queue_requests_max);
        let writer = Writer::new(Arc::clone(&disk), start, head_tx, clock);
        tasks.spawn(Kind::StoreWriter, "embedded log", writer.run(queue, tasks.shutdown_token()));
        let room = Arc::new(Semaphore::new(limits::log_queue_bytes_max / ROOM_UNIT_BYTES));
        Arc::new(Self { disk, head, requests, room, tasks: tasks.clone() })
    }

    /// Writes changes that belong together and answers with their places, in order, once they are on
    /// disk. Waits while the queue is full.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, publications: Vec<Publication>) -> Result<Vec<Place>, PublishError> {
        if publications.is_empty() {
            return Ok(Vec::new());
        }
        let bytes: usize = publications.iter().map(Publication::size_bytes).sum();
        // One call larger than the whole queue takes all of it.
        let units = bytes.div_ceil(ROOM_UNIT_BYTES).clamp(1, limits::log_queue_bytes_max / ROOM_UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await.map_err(|_| PublishError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request { publications, bytes, answer, _room: room };
        self.requests.send(request).await.map_err(|_| self.refusal())?;
        answered.await.unwrap_or_else(|_| Err(self.refusal()))
    }

    /// For health: what is wrong, if anything.
    pub fn trouble(&self) -> Option<String> {
        self.head.borrow().broken.clone()
    }

    fn refusal(&self) -> PublishError {
        self.trouble().map_or(PublishError::Closed, PublishError::Broken)
    }
}

impl std::fmt::Debug for EventLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLog").field("head", &*self.head.borrow()).finish_non_exhaustive()
    }
}

/// The queue's bytes are counted in units, for a semaphore counts in 32 bits.
const ROOM_UNIT_BYTES: usize = 1 << 10;
