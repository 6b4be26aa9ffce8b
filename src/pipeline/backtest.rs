//! Backtests: how often a filter would have fired.
//!
//! Owns the trial of one filter over what the partition has kept, or over the past as its source tells it again. The
//! matcher is the live one's kind; nothing is delivered, and the loop gives no more than a copy of its window's list.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Partition;
use crate::change::Change;
use crate::clock::{Clock, Instant};
use crate::delivery::body::SharedChange;
use crate::error::{Code, Problem};
use crate::handle::{Backtest, BacktestPart, BacktestSource, Bucket, Sample};
use crate::limits;
use crate::matching::{Filter, Match, Matcher, SubscriptionIndex};
use crate::position::{ClusterTime, Position};
use crate::source::{ChangeSource, Event, SourceError};

/// Matched without a look at the time.
const CHUNK: usize = 512;
/// How long a trial may take; what it has come to by then is its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the loop knows.
pub(super) struct Past {
    changes: Vec<Arc<SharedChange>>,
    /// They are all after this
    start: Position,
    /// and up to `reached`, with nothing lost between.
    is_whole: bool,
    reached: Position,
    source: Arc<dyn ChangeSource>,
    oldest: Option<ClusterTime>,
    clock: Clock,
}

impl Partition {
    /// What a backtest needs.
    pub(super) fn past(&self, asked: &Backtest) -> Past {
        let reached = self.machine.reached();
        let (changes, start, is_whole) = match asked.source {
            BacktestSource::Window => self.machine.recent(asked.since(reached), limits::backtest_changes_max as usize),
            BacktestSource::Oplog => (Vec::new(), reached, true),
        };
        let (source, clock) = (Arc::clone(&self.source), self.clock.clone());
        Past { changes, start, is_whole, reached, source, oldest: self.oldest(), clock }
    }
}

/// One filter and what it has come to.
struct Trial {
    matcher: Matcher,
    found: Vec<Match>,
    part: BacktestPart,
    bucket_seconds: u32,
    until: Instant,
    clock: Clock,
    /// Of the costs seen so far, one in so many is kept.
    cost_every: u64,
    /// Whoever asked has gone.
    is_unwanted: Arc<AtomicBool>,
    /// Held until the work has really ended, which nothing can cut short but itself.
    _permit: OwnedSemaphorePermit,
}

/// Says that nobody waits any more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Trial {
    fn new(filter: Arc<Filter>, asked: &Backtest, past: &Past, permit: OwnedSemaphorePermit) -> Self {
        let mut matcher = Matcher::new();
        matcher.insert(SubscriptionIndex(0), filter);
        let bucket_seconds = asked.bucket_seconds();
        let until = past.clock.now().after(PATIENCE);
        let part = BacktestPart { to: past.reached, bucket_seconds, ..BacktestPart::default() };
        Self {
            matcher,
            found: Vec::new(),
            part,
            bucket_seconds,
            until,
            clock: past.clock.clone(),
            cost_every: 1,
            is_unwanted: Arc::default(),
            _permit: permit,
        }
    }

    fn feed(&mut self, change: &Change) {
        let began = self.clock.nanos();
        self.matcher.matches(change, &mut self.found);
        let took = self.clock.nanos() - began;
        let part = &mut self.part;
        if part.changes.is_multiple_of(self.cost_every) {
            part.costs.push(u32::try_from(took).unwrap_or(u32::MAX));
            if part.costs.len() >= limits::backtest_costs_max {
                // Every other one stands for both.
                let mut number = 0;
                part.costs.retain(|_| {
                    number += 1;
                    number % 2 == 1
                });
                self.cost_every *= 2;
            }
        }
        part.changes += 1;
        let second = change.position.time.seconds();
        let start = second - second % self.bucket_seconds;
        let bucket = part.buckets.entry(start).or_default();
        bucket.changes += 1;
        let Some(found) = self.found.first() else { return };
        part.matches += self.found.len() as u64;
        bucket.matches += self.found.len() as u64;
        if part.samples.len() == limits::backtest_samples_max {
            part.samples.remove(0);
        }
        part.samples.push(Sample::of(change, found.verdict));
    }

    fn is_over(&self) -> bool {
        self.clock.now() >= self.until
            || self.part.changes >= limits::backtest_changes_max
            || self.is_unwanted.load(Ordering::Relaxed)
    }
}

/// Runs it, aside from the loop.
pub(super) async fn run(
    asked: Backtest,
    filter: Arc<Filter>,
    past: Past,
    permit: OwnedSemaphorePermit,
) -> Result<BacktestPart, Problem> {
    let since = asked.since(past.reached);
    let trial = Trial::new(filter, &asked, &past, permit);
    let _wanted = Wanted(Arc::clone(&trial.is_unwanted));
    match asked.source {
        BacktestSource::Window => {
            let mut trial = trial;
            let (changes, start, is_whole) = (past.changes, past.start, past.is_whole);
            aside(move || {
                trial.part.from = since.max(start);
                trial.part.is_complete = start <= since && is_whole;
                for chunk in changes.chunks(CHUNK) {
                    if trial.is_over() {
                        trial.part.is_complete = false;
                        break;
                    }
                    chunk.iter().for_each(|change| trial.feed(change));
                }
                trial.part
            })
            .await
        }
        BacktestSource::Oplog => again(trial, since, &past).await,
    }
}

/// Reads the past once more.
async fn again(mut trial: Trial, since: Position, past: &Past) -> Result<BacktestPart, Problem> {
    let away = |error: SourceError| Problem::new(Code::OwnerUnknown, format!("the backend: {error}")).retry_after(1);
    let epoch = past.reached.epoch;
    (trial.part.from, trial.part.is_complete) = (since, true);
    let mut reading = past.source.read(epoch, since).await;
    loop {
        let next = match &mut reading {
            Ok(reading) => tokio::time::timeout(trial.until.since(past.clock.now()), reading.recv()).await,
            Err(error) => Ok(Some(Err(error.clone()))),
        };
        let batch = match next {
            Ok(Some(Ok(batch))) => batch,
            // What has gone is gone: the rest is told, and that it is not all.
            Ok(Some(Err(SourceError::HistoryLost(_)))) if trial.part.changes == 0 && trial.part.is_complete => {
                let oldest = past.oldest.unwrap_or(past.reached.time).seconds();
                let start = ClusterTime::new(oldest + limits::backtest_margin_seconds, 0);
                trial.part.from = Position::boundary(epoch, start);
                trial.part.is_complete = false;
                reading = past.source.read(epoch, trial.part.from).await;
                continue;
            }
            Ok(Some(Err(error))) if !matches!(error, SourceError::HistoryLost(_)) => return Err(away(error)),
            Ok(Some(Err(_)) | None) | Err(_) => {
                trial.part.is_complete = false;
                return Ok(trial.part);
            }
        };
        let (reached, end) = (batch.reached, past.reached);
        trial = aside(move || {
            for event in batch.events {
                match event {
                    Event::Change(change) if change.position <= end => trial.feed(&change),
                    Event::Change(_) => {}
                    Event::Resync(_) => trial.part.is_complete = false,
                }
            }
            trial
        })
        .await?;
        if reached >= end {
            return Ok(trial.part);
        }
        if trial.is_over() {
            trial.part.is_complete = false;
            return Ok(trial.part);
        }
    }
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let failed = |_| Problem::new(Code::Internal, "the backtest broke off");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

impl Bucket {
    /// Both.
    pub(crate) fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.matches += other.matches;
    }
}
