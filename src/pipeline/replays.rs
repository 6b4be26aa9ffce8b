//! The readings of catch-ups.
//!
//! Owns how many read at once, and that a batch is brought only when it is asked for. Knows nothing of
//! who catches up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::delivery::machine::ReplayId;
use crate::position::Position;
use crate::source::{Batch, ChangeSource, SourceError};
use crate::tasks::{Kind, Tasks};

/// Readings at once a partition; others wait their turn.
const READINGS_MAX: usize = 8;
/// Before a reading that failed is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(500);
/// Batches that the loop has not taken yet.
const BATCHES_MAX: usize = 8;

type Told = (ReplayId, Result<Batch, SourceError>);

/// All readings of one partition's catch-ups. Dropping it ends them.
pub(super) struct Replays {
    source: Arc<dyn ChangeSource>,
    tasks: Tasks,
    places: Arc<Semaphore>,
    wanted: HashMap<ReplayId, mpsc::Sender<()>>,
    batches: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
}

impl Replays {
    pub(super) fn new(source: Arc<dyn ChangeSource>, tasks: Tasks) -> Self {
        Self {
            source,
            tasks,
            places: Arc::new(Semaphore::new(READINGS_MAX)),
            wanted: HashMap::new(),
            batches: mpsc::channel(BATCHES_MAX),
        }
    }

    /// Starts a reading strictly after a position, or starts one anew that has failed.
    pub(super) fn open(&mut self, id: ReplayId, after: Position) {
        let (wanted, wants) = mpsc::channel(1);
        let failed_before = self.wanted.insert(id, wanted).is_some();
        let pause = if failed_before { REOPEN_AFTER } else { Duration::ZERO };
        let reading =
            read(id, after, pause, wants, Arc::clone(&self.source), Arc::clone(&self.places), self.batches.0.clone());
        self.tasks.spawn(Kind::Reading, format!("catch-up {}", id.0), reading);
    }

    /// Asks for the next batch.
    pub(super) fn fetch(&mut self, id: ReplayId) {
        if let Some(wanted) = self.wanted.get(&id) {
            // One request at a time is under way, so there is room.
            let _ = wanted.try_send(());
        }
    }

    /// Ends a reading.
    pub(super) fn close(&mut self, id: ReplayId) {
        self.wanted.remove(&id);
    }

    /// The next batch of any reading. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Told> {
        self.batches.1.recv().await
    }
}

async fn read(
    id: ReplayId,
    after: Position,
    pause: Duration,
    mut wants: mpsc::Receiver<()>,
    source: Arc<dyn ChangeSource>,
    places: Arc<Semaphore>,
    told: mpsc::Sender<Told>,
) {
    if wants.recv().await.is_none() {
        return;
    }
    tokio::time::sleep(pause).await;
    let Ok(_place) = places.acquire().await else { return };
    let mut reading = match source.read(after.epoch, after).await {
        Ok(reading) => reading,
        Err(error) => {
            let _ = told.send((id, Err(error))).await;
            return;
        }
    };
    loop {
        let ended = || Err(SourceError::Unavailable("the reading ended".into()));
        let result = reading.recv().await.unwrap_or_else(ended);
        let failed = result.is_err();
        if told.send((id, result)).await.is_err() || failed {
            return;
        }
        if wants.recv().await.is_none() {
            return;
        }
    }
}
