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

/// Before a reading that failed is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(500);
/// A reading that nobody has asked for this long gives up its place, lest a gateway that takes
/// nothing hold up the catch-ups of others. Asked again, it queues and goes on where it was.
const PLACE_KEPT: Duration = Duration::from_secs(2);
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
    pub(super) fn new(source: Arc<dyn ChangeSource>, tasks: Tasks, readings_max: usize) -> Self {
        Self {
            source,
            tasks,
            places: Arc::new(Semaphore::new(readings_max)),
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
    mut after: Position,
    pause: Duration,
    mut wants: mpsc::Receiver<()>,
    source: Arc<dyn ChangeSource>,
    places: Arc<Semaphore>,
    told: mpsc::Sender<Told>,
) {
    let mut wanted = wants.recv().await;
    tokio::time::sleep(pause).await;
    while wanted.is_some() {
        let Ok(place) = places.acquire().await else { return };
        let mut reading = match source.read(after.epoch, after).await {
            Ok(reading) => reading,
            Err(error) => {
                let _ = told.send((id, Err(error))).await;
                return;
            }
        };
        while wanted.is_some() {
            let ended = || Err(SourceError::Unavailable("the reading ended".into()));
            let result = tokio::select! {
                result = reading.recv() => result.unwrap_or_else(ended),
                // Nothing is asked while something is awaited; so this is the end.
                _ = wants.recv() => return,
            };
            after = result.as_ref().map_or(after, |batch| batch.reached.max(after));
            let failed = result.is_err();
            if told.send((id, result)).await.is_err() || failed {
                return;
            }
            match tokio::time::timeout(PLACE_KEPT, wants.recv()).await {
                Ok(again) => wanted = again,
                Err(_) => break,
            }
        }
        drop(reading);
        drop(place);
        if wanted.is_some() {
            wanted = wants.recv().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;

    use crate::position::{ClusterTime, Epoch};
    use crate::source::{Description, Reading};

    /// Each batch reaches one tick further.
    struct Ticking(Tasks);

    fn at(time: u64) -> Position {
        Position::boundary(Epoch(1), ClusterTime(time))
    }

    #[async_trait]
    impl ChangeSource for Ticking {
        fn definition(&self) -> String {
            String::new()
        }

        async fn describe(&self) -> Result<Description, SourceError> {
            Err(SourceError::Unavailable("nobody asks".into()))
        }

        async fn read(&self, _: Epoch, after: Position) -> Result<Reading, SourceError> {
            let (sender, reading) = mpsc::channel(1);
            self.0.spawn(Kind::Reading, "ticking", async move {
                for time in after.time.0 + 1.. {
                    if sender.send(Ok(Batch { events: Vec::new(), reached: at(time) })).await.is_err() {
                        return;
                    }
                }
            });
            Ok(reading)
        }
    }

    async fn next(replays: &mut Replays) -> (u64, u64) {
        let told = tokio::time::timeout(Duration::from_secs(60), replays.next()).await;
        let (id, batch) = told.expect("a reading that was asked brings a batch").expect("it lives");
        (id.0, batch.expect("the source never fails").reached.time.0)
    }

    #[tokio::test(start_paused = true)]
    async fn readings_that_nobody_asks_hold_up_no_other_and_go_on_where_they_were() {
        let tasks = Tasks::new();
        let mut replays = Replays::new(Arc::new(Ticking(tasks.clone())), tasks, 8);
        for id in 0..8 {
            replays.open(ReplayId(id), at(100 * id));
            replays.fetch(ReplayId(id));
            assert_eq!(next(&mut replays).await, (id, 100 * id + 1));
        }
        // Their gateways take nothing any more.
        replays.open(ReplayId(77), at(5));
        for reached in 6..9 {
            replays.fetch(ReplayId(77));
            assert_eq!(next(&mut replays).await, (77, reached));
        }
        replays.fetch(ReplayId(3));
        assert_eq!(next(&mut replays).await, (3, 302));
    }
}
