//! What the embedded log promises.

use std::path::Path;
use std::time::Duration;

use bson::rawdoc;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::change::{Change, Operation};
use crate::position::{Epoch, Position};
use crate::source::{Batch, ChangeSource, Event, Reading, SourceError};

mod failing;
mod retention;

const EPOCH: Epoch = Epoch(2);
const START: Position = Position::boundary(EPOCH, ClusterTime(0));

fn config(folder: &Path) -> EventLogConfig {
    EventLogConfig { path: folder.join("log.redb"), retain_bytes: 1 << 30, retain_seconds: None }
}

fn publication(n: i64, body_bytes: usize) -> Publication {
    Publication {
        tenant: "t".into(),
        collection: "c".into(),
        key: n.to_string().into(),
        operation: Operation::Update,
        document: Some(rawdoc! { "n": n, "body": "x".repeat(body_bytes) }),
        before: Some(rawdoc! { "n": n - 1 }),
    }
}

struct Opened {
    log: Arc<EventLog>,
    tasks: Tasks,
}

impl Opened {
    async fn with(config: EventLogConfig, clock: Clock) -> Self {
        let tasks = Tasks::new();
        Self { log: EventLog::open(config, &tasks, clock).await.unwrap(), tasks }
    }

    async fn at(folder: &TempDir) -> Self {
        Self::with(config(folder.path()), Clock::system()).await
    }

    fn source(&self) -> LogSource {
        LogSource::new(Arc::clone(&self.log))
    }

    async fn close(self) {
        let Self { log, tasks } = self;
        drop(log);
        assert!(tasks.drain(Duration::from_secs(60)).await.is_empty());
    }

    /// Everything after `after` that is in the log now.
    async fn rest(&self, after: Position) -> Vec<Arc<Change>> {
        let until = self.source().describe().await.unwrap().now;
        let mut reading = self.source().read(EPOCH, after).await.unwrap();
        read_to(&mut reading, until).await
    }
}

async fn read_to(reading: &mut Reading, until: ClusterTime) -> Vec<Arc<Change>> {
    let mut changes = Vec::new();
    let mut reached = START;
    while reached.time < until {
        let batch = reading.recv().await.unwrap().unwrap();
        assert!(batch.reached > reached, "a batch goes on");
        take(&mut changes, reached, &batch);
        reached = batch.reached;
    }
    changes
}

/// Checks what every batch promises.
fn take(changes: &mut Vec<Arc<Change>>, reached: Position, batch: &Batch) {
    let mut last = reached;
    for event in &batch.events {
        let Event::Change(change) = event else { panic!("{event:?}") };
        assert!(change.position > last && !change.position.is_boundary(), "{:?} after {last:?}", change.position);
        last = change.position;
        changes.push(Arc::clone(change));
    }
    assert!(batch.reached >= last && (batch.reached == last || batch.reached.is_boundary()));
}

fn place(change: &Change) -> Place {
    (change.position.time, change.position.ordinal)
}

#[tokio::test]
async fn what_is_published_is_read_in_order_at_the_places_answered() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let mut answered = opened.log.publish(vec![publication(1, 0)]).await.unwrap();
    answered.extend(opened.log.publish((2..5).map(|n| publication(n, 0)).collect()).await.unwrap());
    assert_eq!(opened.log.publish(Vec::new()).await, Ok(Vec::new()));
    // One call, one cluster time; ordinals in its order.
    assert_eq!(answered.iter().map(|(_, ordinal)| *ordinal).collect::<Vec<_>>(), [1, 1, 2, 3]);
    assert!(answered[0].0 < answered[1].0 && answered[1].0 == answered[3].0);
    let read = opened.rest(START).await;
    assert_eq!(read.iter().map(|change| place(change)).collect::<Vec<_>>(), answered);
    let second = &read[1];
    assert_eq!((&*second.key, second.operation, second.position.epoch), ("2", Operation::Update, EPOCH));
    assert_eq!(second.document.as_ref().unwrap().get_i64("n").unwrap(), 2);
    assert_eq!(second.before.as_ref().unwrap().get_i64("n").unwrap(), 1);
    assert!(second.wall_time_ms.is_some());
    opened.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_reading_from_any_place_yields_the_rest(
        rounds in prop::collection::vec(prop::collection::vec((1usize..6, 0usize..2_000), 1..5), 1..6),
        reopen in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut opened = Opened::at(&folder).await;
            let mut answered = Vec::new();
            for calls in &rounds {
                // The calls of a round wait together and so share a group commit.
                let calls = calls.iter().map(|&(n, bytes)| {
                    opened.log.publish((0..n as i64).map(|n| publication(n, bytes)).collect())
                });
                for places in futures::future::join_all(calls).await {
                    answered.extend(places.unwrap());
                }
            }
            if reopen {
                opened.close().await;
                opened = Opened::at(&folder).await;
            }
            let whole = opened.rest(START).await;
            assert_eq!(whole.iter().map(|change| place(change)).collect::<Vec<_>>(), answered);
            for &(time, ordinal) in &answered {
                for after in [
                    Position::boundary(EPOCH, time),
                    Position::new(EPOCH, time, ordinal),
                    Position::boundary(EPOCH, time.next()),
                ] {
                    let expected: Vec<_> = whole.iter().map(|c| c.position).filter(|p| *p > after).collect();
                    let rest: Vec<_> = opened.rest(after).await.iter().map(|change| change.position).collect();
                    assert_eq!(rest, expected, "after {after:?}");
                }
            }
            opened.close().await;
        });
    }
}

#[tokio::test]
async fn calls_that_wait_together_are_one_group_commit() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let calls = (0..20).map(|n| opened.log.publish(vec![publication(n, 0)]));
    let places: Vec<_> = futures::future::join_all(calls).await.into_iter().map(Result::unwrap).collect();
    // In the order in which they were asked for, each with a time of its own.
    assert!(places.windows(2).all(|pair| pair[0][0].0 < pair[1][0].0));
    assert!(opened.log.disk.groups() <= 2, "{} groups", opened.log.disk.groups());
    opened.close().await;
}

#[tokio::test]
async fn more_than_a_batch_is_read_in_several() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let bytes = limits::source_batch_bytes_max / 4;
    opened.log.publish((0..10).map(|n| publication(n, bytes)).collect()).await.unwrap();
    opened.log.publish((0..2_500).map(|n| publication(n, 0)).collect()).await.unwrap();
    let until = opened.source().describe().await.unwrap().now;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    let (mut changes, mut reached, mut batches) = (Vec::new(), START, 0);
    while reached.time < until {
        let batch = reading.recv().await.unwrap().unwrap();
        let already = changes.len();
        take(&mut changes, reached, &batch);
        let bytes: usize = changes[already..].iter().map(|change| change.size_bytes()).sum();
        assert!(batch.events.len() <= limits::source_batch_changes_max && bytes <= limits::source_batch_bytes_max);
        reached = batch.reached;
        batches += 1;
    }
    assert_eq!(changes.len(), 2_510);
    assert!(batches >= 6, "{batches}");
    drop(reading);
    opened.close().await;
}

#[tokio::test]
async fn a_tail_is_told_at_once_and_of_passing_time() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    let mut reached = START;
    for n in 0..20 {
        let (time, ordinal) = opened.log.publish(vec![publication(n, 0)]).await.unwrap()[0];
        let mut changes = Vec::new();
        while reached < Position::new(EPOCH, time, ordinal) {
            let batch = reading.recv().await.unwrap().unwrap();
            take(&mut changes, reached, &batch);
            reached = batch.reached;
        }
        assert_eq!(changes.last().map(|change| place(change)), Some((time, ordinal)));
    }
    // Nothing is published: boundaries come all the same, and ascend.
    for _ in 0..3 {
        let batch = reading.recv().await.unwrap().unwrap();
        assert!(batch.events.is_empty() && batch.reached.is_boundary() && batch.reached > reached);
        reached = batch.reached;
    }
    drop(reading);
    opened.close().await;
}

#[tokio::test]
async fn no_change_ever_appears_before_an_announced_boundary() {
    let folder = tempfile::tempdir().unwrap();
    // A clock that stands still is the hard case: only the log itself moves time on.
    let opened = Opened::with(config(folder.path()), Clock::manual()).await;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    let log = Arc::clone(&opened.log);
    let publishing = async move {
        let mut answered = Vec::new();
        for n in 0..60 {
            answered.extend(log.publish(vec![publication(n, 0), publication(n, 0)]).await.unwrap());
            if n % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(250)).await; // lets idle boundaries in between
            }
        }
        answered
    };
    let reading = async {
        let (mut changes, mut reached) = (Vec::new(), START);
        while changes.len() < 120 {
            let batch = reading.recv().await.unwrap().unwrap();
            take(&mut changes, reached, &batch);
            reached = batch.reached;
        }
        changes
    };
    let (answered, changes) = futures::join!(publishing, reading);
    assert_eq!(changes.iter().map(|change| place(change)).collect::<Vec<_>>(), answered);
}

#[tokio::test]
async fn times_ascend_over_a_restart_with_the_clock_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let before = opened.log.publish(vec![publication(1, 0)]).await.unwrap()[0];
    opened.close().await;
    // The manual clock stands in the past.
    assert!(Clock::manual().wall() < Clock::system().wall());
    let opened = Opened::with(config(folder.path()), Clock::manual()).await;
    let after = opened.log.publish(vec![publication(2, 0)]).await.unwrap()[0];
    assert!(after.0 > before.0, "{before:?} {after:?}");
    assert_eq!(opened.rest(START).await.len(), 2);
    opened.close().await;
}

#[test]
fn an_announced_boundary_holds_over_a_crash_with_the_clock_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let crashing = runtime();
    let announced = crashing.block_on(async {
        let opened = Opened::at(&folder).await;
        let mut reading = opened.source().read(EPOCH, START).await.unwrap();
        let mut last = START;
        for _ in 0..3 {
            last = reading.recv().await.unwrap().unwrap().reached;
        }
        last
    });
    // The runtime goes down without a word to the writer.
    drop(crashing);
    runtime().block_on(async {
        let opened = Opened::with(config(folder.path()), Clock::manual()).await;
        let (time, _) = opened.log.publish(vec![publication(1, 0)]).await.unwrap()[0];
        assert!(time >= announced.time, "{time:?} {announced:?}");
        opened.close().await;
    });
}

#[tokio::test]
async fn a_log_keeps_its_identity_and_differs_from_others() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let opened = Opened::at(&folder).await;
    let first = opened.source().describe().await.unwrap();
    let definition = opened.source().definition();
    opened.close().await;
    let opened = Opened::at(&folder).await;
    let again = opened.source().describe().await.unwrap();
    assert_eq!(again.identity, first.identity);
    assert!(again.now >= first.now && again.warnings.is_empty());
    assert_eq!((definition.len(), opened.source().definition()), (64, definition));
    opened.close().await;
    let opened = Opened::at(&other).await;
    assert_ne!(opened.source().describe().await.unwrap().identity, first.identity);
    opened.close().await;
}

#[tokio::test]
async fn the_demo_writes_what_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    let config = DemoConfig { rate_per_second: 500.0, seed: 3 };
    Demo::start(Arc::clone(&opened.log), config, &opened.tasks, Clock::system());
    let (mut changes, mut reached) = (Vec::new(), START);
    while changes.len() < 100 {
        let batch = reading.recv().await.unwrap().unwrap();
        take(&mut changes, reached, &batch);
        reached = batch.reached;
    }
    let mut world = Demo::new(3);
    for change in &changes {
        let expected = world.next(0);
        assert_eq!((&change.key, change.operation), (&expected.key, expected.operation));
    }
    drop(reading);
    opened.close().await;
}
