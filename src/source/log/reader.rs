//! The embedded log as a source of changes.
//!
//! Owns a reading: from any place retained to the end, then along with the writer. Readers wait for
//! the writer to say that there is more; nobody polls the file.

use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};

use super::disk::{Disk, DiskError, Page};
use super::{EventLog, Head, Place};
use crate::limits;
use crate::position::{ClusterTime, Epoch, Position};
use crate::source::{Batch, ChangeSource, Description, Event, Reading, SourceError};
use crate::tasks::Kind;

/// Reads an [`EventLog`].
#[derive(Debug)]
pub struct LogSource {
    log: Arc<EventLog>,
}

impl LogSource {
    /// The source that reads this log.
    pub fn new(log: Arc<EventLog>) -> Self {
        Self { log }
    }
}

#[async_trait]
impl ChangeSource for LogSource {
    fn definition(&self) -> String {
        // A log has one scope and one way to be read, whatever is configured.
        Sha256::digest(b"streamer embedded log 1").iter().map(|byte| format!("{byte:02x}")).collect()
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        let now = self.log.head.borrow().boundary;
        let disk = Arc::clone(&self.log.disk);
        let oldest = blocking(move || disk.oldest()).await?;
        let identity = Some(self.log.disk.identity.clone());
        Ok(Description { identity, now, oldest: Some(oldest), warnings: Vec::new() })
    }

    async fn read(&self, epoch: Epoch, after: Position) -> Result<Reading, SourceError> {
        let disk = Arc::clone(&self.log.disk);
        let place = (after.time, after.ordinal);
        // Tells at once what is lost, and reads nothing.
        page(&disk, epoch, place, ClusterTime(0)).await?;
        let (batches, reading) = mpsc::channel(limits::reading_batches_max);
        let tail = Tail { disk, head: self.log.head.clone(), epoch, at: place, batches };
        self.log.tasks.spawn(Kind::Reading, format!("embedded log after {after}"), tail.run());
        Ok(reading)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| SourceError::Unavailable(error.to_string()))?;
    done.map_err(|error| SourceError::Unavailable(format!("the embedded log cannot be read: {error}")))
}

async fn page(
    disk: &Arc<Disk>,
    epoch: Epoch,
    after: Place,
    until: ClusterTime,
) -> Result<(Vec<Event>, bool), SourceError> {
    let disk = Arc::clone(disk);
    match blocking(move || disk.read(epoch, after, until)).await? {
        Page::Events { changes, end } => {
            Ok((changes.into_iter().map(|change| Event::Change(Arc::new(change))).collect(), end))
        }
        Page::Lost((time, ordinal)) => Err(SourceError::HistoryLost(format!(
            "the embedded log no longer holds changes up to {}",
            Position::new(epoch, time, ordinal)
        ))),
    }
}

struct Tail {
    disk: Arc<Disk>,
    head: watch::Receiver<Head>,
    epoch: Epoch,
    at: Place,
    batches: mpsc::Sender<Result<Batch, SourceError>>,
}

impl Tail {
    /// Ends when nobody takes its batches, or with the log.
    async fn run(mut self) {
        loop {
            let head = self.head.borrow_and_update().clone();
            let batch = match self.next(&head).await {
                Ok(batch) => batch,
                Err(error) => return self.end(error).await,
            };
            if let Some(batch) = batch {
                self.at = (batch.reached.time, batch.reached.ordinal);
                if self.batches.send(Ok(batch)).await.is_err() {
                    return;
                }
                continue;
            }
            if let Some(reason) = head.broken {
                return self.end(SourceError::Unavailable(format!("the embedded log failed: {reason}"))).await;
            }
            // Both are cancel-safe.
            let open = tokio::select! {
                changed = self.head.changed() => changed.is_ok(),
                () = self.batches.closed() => return,
            };
            if !open {
                return self.end(SourceError::Unavailable("the embedded log is closed".to_owned())).await;
            }
        }
    }

    /// What there is between here and the head; `None` at the head.
    async fn next(&self, head: &Head) -> Result<Option<Batch>, SourceError> {
        let boundary = (head.boundary, 0);
        if self.at >= boundary {
            return Ok(None);
        }
        let reached = Position::boundary(self.epoch, head.boundary);
        // On an idle log only the boundary moves: no need to look at the disk.
        if self.at.0 > head.written {
            return Ok(Some(Batch { events: Vec::new(), reached }));
        }
        let (events, end) = page(&self.disk, self.epoch, self.at, head.boundary).await?;
        let reached = match events.last() {
            Some(Event::Change(change)) if !end => change.position,
            _ => reached,
        };
        Ok(Some(Batch { events, reached }))
    }

    async fn end(self, error: SourceError) {
        // If nobody is there to hear it, nobody needs to.
        let _ = self.batches.send(Err(error)).await;
    }
}
