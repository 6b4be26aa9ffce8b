//! The data path: source -> matcher -> sessions, one loop a partition.
//!
//! Owns the loop in which everything that a partition does takes effect in one order: changes,
//! registrations, acks, connects, the outcomes of writes and the batches of catch-ups. What any of
//! them means is the machine's business (`delivery::machine`); how a change is read, the source's.

mod answers;
mod backtest;
mod gauges;
mod openings;
mod replays;
mod split;
mod tenure;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::answers::Waiting;
use self::openings::Openings;
use self::replays::Replays;
pub use self::tenure::{PartitionConfig, meanwhile, run};
use self::turns::Turns;
use crate::clock::{Clock, Instant, every};
use crate::delivery::frame::CloseReason;
use crate::delivery::machine::{Effect, Limits, Machine, Outcome, WriteId};
use crate::delivery::outbox::Outbox;
use crate::handle::{Command, PartitionHandle, Word};
use crate::observe::health::Component;
use crate::position::{ClusterTime, Position};
use crate::source::{ChangeSource, Description, Reading, SourceError};
use crate::store::placements::PlacementRecord;
use crate::store::{CommitError, Fence, Ownership, Store, Write};
use crate::tasks::{Kind, Tasks};

/// How often progress is said; the contract allows a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How often the source is asked how far it is.
const DESCRIBE_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const DESCRIBE_PATIENCE: Duration = Duration::from_secs(10);
/// How often leases are looked at and cursors written.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);
/// Outcomes of writes that the loop has not taken yet.
const OUTCOMES_MAX: usize = 1024;
/// Turns for catch-ups before the loop looks for anything else.
const TURNS_TOGETHER: usize = 8;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How a tenure ended.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    /// The hub is going down.
    Shutdown,
    /// Ownership was lost.
    Lost,
    /// Another node should have it.
    HandOver(Arc<str>),
    /// The source is not what it was when more had been read of it than a checkpoint may say.
    Anew,
}

/// The live reading, or why there is none.
enum Live {
    Reading(Reading),
    /// A task of its own opens it: a server that does not answer must not hold up the loop.
    Opening(oneshot::Receiver<Opened>),
    /// Try again at this time.
    Backoff(tokio::time::Instant),
}

/// What came of opening the live reading.
enum Opened {
    Reading(Reading),
    Failed(SourceError),
    /// The source no longer reaches back that far; this is what it is now.
    HistoryLost(String, Description),
}

/// What the live side of the source has for the loop.
enum FromSource {
    Batch(Result<crate::source::Batch, SourceError>),
    Opened(Opened),
    /// It is to be opened.
    Due,
}

/// Both ends of the queue of writes' outcomes.
type Outcomes = (mpsc::Sender<(WriteId, Outcome)>, mpsc::Receiver<(WriteId, Outcome)>);

/// What the source says of itself, and the command that waited for it.
struct Told {
    described: Option<Description>,
    /// Where the loop stood when it was asked.
    reached: Position,
    waiting: Option<Command>,
}

/// When the source was last written to by the hub itself.
#[derive(Default)]
struct Heartbeats {
    /// Changes that had come by the last look.
    changes: u64,
    under_way: Arc<AtomicBool>,
}

struct Partition {
    machine: Machine,
    /// What may be changed while it runs.
    limits: watch::Receiver<Limits>,
    handle: PartitionHandle,
    source: Arc<dyn ChangeSource>,
    store: Arc<dyn Store>,
    fence: Fence,
    tasks: Tasks,
    clock: Clock,
    live: Live,
    /// How long to wait if reading fails once more.
    backoff: Duration,
    /// The source's idleness, where it is to be written to.
    heartbeats: Option<Heartbeats>,
    /// What an operator wants, and whether that is being stored.
    placement: PlacementRecord,
    placing: Arc<AtomicBool>,
    waiting: Waiting,
    /// Those of transports, and those of publishers, which may all come at once and must hold up nobody else.
    openings: [Openings; 2],
    /// What counters have been told of this tenure.
    told: HashMap<(&'static str, Option<Arc<str>>), u64>,
    tenants_named_max: usize,
    /// How many more backtests there may be.
    backtests: Arc<Semaphore>,
    replays: Replays,
    outcomes: Outcomes,
    /// What the source last said of itself, and when.
    described: Option<(Description, Instant)>,
    /// When to ask it again, and whether an answer is awaited.
    describe_at: Instant,
    describing: Arc<AtomicBool>,
    /// It turned out to be another one, or to have gone back in time.
    broken_off: bool,
    descriptions: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    health: Component,
    outboxes: Vec<std::sync::Weak<Outbox>>,
    node: Arc<str>,
    fenced: bool,
    ownership: Ownership,
    /// Changes behind are counted from here.
    history_lost: bool,
    turns: Turns,
}

impl Partition {
    /// Serves until shutdown or until ownership is lost.
    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        mut ownership: tokio::sync::watch::Receiver<Ownership>,
    ) -> End {
        let shutdown = self.tasks.shutdown_token();
        let drained = self.machine.drained();
        let mut progress = every(PROGRESS_EVERY);
        let mut housekeeping = every(HOUSEKEEPING_EVERY);
        loop {
            let mut more = self.perform();
            more |= self.machine.work();
            more |= self.perform();
            for _ in 0..TURNS_TOGETHER {
                if !more || !commands.is_empty() || !self.outcomes.1.is_empty() {
                    break;
                }
                // Catch-ups from the window, a bounded number of changes at a time: others get their turn.
                tokio::task::yield_now().await;
                more = self.machine.work();
                more |= self.perform();
            }
            if self.fenced {
                return self.lose();
            }
            if self.broken_off {
                self.machine.close_all(CloseReason::Draining);
                return End::Anew;
            }
            let reads = !self.placement.paused && self.ownership == Ownership::Held && !self.is_held_back();
            let opens =
                self.openings.iter().filter_map(Openings::due).min().filter(|_| self.ownership == Ownership::Held);
            // Every branch is cancel-safe: channels, timers, notifications.
            tokio::select! {
                () = shutdown.cancelled() => return End::Shutdown,
                changed = ownership.changed() => {
                    let now = if changed.is_ok() { *ownership.borrow_and_update() } else { Ownership::Lost };
                    self.on_ownership(now);
                    if now == Ownership::Lost {
                        return self.lose();
                    }
                }
                told = next_of(&mut self.live), if reads => self.on_live(told),
                Some((id, outcome)) = self.outcomes.1.recv() => self.on_outcome(id, outcome),
                Some(command) = commands.recv() => self.on_command(command),
                Some((id, result)) = self.replays.next() => match result {
                    Ok(batch) => self.machine.on_replay_batch(id, batch),
                    Err(error) => self.machine.on_replay_failed(id, &error),
                },
                Some(told) = self.descriptions.1.recv() => self.on_description(told),
                () = drained.notified() => { self.machine.work(); }
                () = tokio::time::sleep(opens.unwrap_or_default()), if opens.is_some() => self.open_next(),
                _ = progress.tick() => self.machine.say_progress(),
                _ = housekeeping.tick() => {
                    self.keep_house();
                    if let Some(node) = self.belongs_to() {
                        return End::HandOver(node);
                    }
                }
                // Not to wait for any of them, but to look whether one is there: progress is said and the
                // live stream read while catch-ups go on and on.
                () = std::future::ready(()), if more => {}
            }
        }
    }

    /// While behind, the reader waits for sessions that keep taking and are all full; at the head never.
    fn is_held_back(&self) -> bool {
        let behind = self.lag_seconds().is_some_and(|seconds| seconds > 2.0);
        behind && self.machine.is_congested()
    }

    fn on_live(&mut self, told: FromSource) {
        match told {
            FromSource::Batch(Ok(batch)) => {
                let began = self.clock.now();
                let newest = batch.events.iter().rev().find_map(crate::source::Event::wall_time_ms);
                if let Some(age) = newest.and_then(|made| self.age_of(made)) {
                    gauges::read(self.handle.id(), age);
                }
                let is_busy = !batch.events.is_empty();
                let traced = gauges::traced(&batch);
                self.machine.on_batch(batch);
                if is_busy {
                    gauges::matched(self.handle.id(), self.clock.now().since(began));
                }
                gauges::tell_changes(self.handle.id(), traced, &self.clock, began);
                self.history_lost = false;
                self.backoff = BACKOFF_MIN;
                self.health.ok();
            }
            FromSource::Batch(Err(SourceError::HistoryLost(detail))) => {
                let source = Arc::clone(&self.source);
                self.aside("asking for the present", async move { present(source.as_ref(), detail).await });
            }
            FromSource::Batch(Err(SourceError::Exchanged(detail)))
            | FromSource::Opened(Opened::Failed(SourceError::Exchanged(detail))) => {
                tracing::error!(position = %self.machine.reached(), detail, "another deployment, or a restored one");
                self.broken_off = true;
            }
            FromSource::Opened(Opened::Reading(reading)) => self.live = Live::Reading(reading),
            FromSource::Opened(Opened::HistoryLost(detail, described)) => self.on_history_lost(&detail, described),
            FromSource::Batch(Err(error)) | FromSource::Opened(Opened::Failed(error)) => self.on_live_failed(&error),
            FromSource::Due => self.open_live(),
        }
    }

    /// How long ago that was by this machine's clock; nothing, where clocks differ so much that it is still to come.
    fn age_of(&self, wall_time_ms: i64) -> Option<Duration> {
        u64::try_from(self.clock.wall().timestamp_millis() - wall_time_ms).ok().map(Duration::from_millis)
    }

    fn on_live_failed(&mut self, error: &SourceError) {
        gauges::reconnects(self.handle.id());
        let position = self.machine.reached();
        match error {
            SourceError::HistoryLost(detail) | SourceError::Exchanged(detail) | SourceError::Unavailable(detail) => {
                tracing::warn!(%position, %detail, "the source does not answer; trying again");
                self.health.degraded(detail.clone());
            }
            SourceError::Misconfigured(detail) => {
                tracing::error!(%position, %detail, "the source refuses");
                self.health.failing(detail.clone());
            }
        }
        self.live = Live::Backoff(tokio::time::Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
    }

    fn on_history_lost(&mut self, detail: &str, described: Description) {
        tracing::error!(position = %self.machine.reached(), detail, "history lost: going on from the present");
        self.history_lost = true;
        let epoch = self.machine.reached().epoch;
        let to = Position::boundary(epoch, described.now.next()).max(self.machine.reached());
        if self.is_another(&described, self.machine.reached()) {
            self.broken_off = true;
            return;
        }
        self.described = Some((described, self.clock.now()));
        self.machine.on_history_lost(to);
        self.open_live();
    }

    /// Opens the live reading where the loop stands.
    fn open_live(&mut self) {
        let (source, at) = (Arc::clone(&self.source), self.machine.reached());
        // Where a change was read last, the reading itself proves it.
        let witness = self.machine.witness().filter(|witness| *witness != at);
        self.aside("opening the live reading", async move {
            if let Some(witness) = witness
                && let Err(error) = source.prove(witness).await
            {
                return Opened::Failed(error);
            }
            match source.read(at.epoch, at).await {
                Ok(reading) => Opened::Reading(reading),
                Err(SourceError::HistoryLost(detail)) => present(source.as_ref(), detail).await,
                Err(error) => Opened::Failed(error),
            }
        });
    }

    fn aside(&mut self, what: &str, work: impl Future<Output = Opened> + Send + 'static) {
        let (told, opened) = oneshot::channel();
        self.tasks.spawn(Kind::Reading, what, async move {
            // If the loop has ended nobody needs it.
            let _ = told.send(work.await);
        });
        self.live = Live::Opening(opened);
    }

    fn on_outcome(&mut self, id: WriteId, outcome: Outcome) {
        self.fenced |= outcome == Outcome::Failed(CommitError::Fenced);
        self.machine.on_outcome(id, outcome);
    }

    fn on_ownership(&mut self, now: Ownership) {
        if now != self.ownership {
            tracing::warn!(position = %self.machine.reached(), ?now, "ownership");
        }
        self.ownership = now;
        match now {
            Ownership::Held => self.health.ok(),
            Ownership::Uncertain | Ownership::Lost => {
                self.health.degraded("ownership is not certain: the store does not answer");
                self.machine.close_all(CloseReason::Draining);
            }
        }
    }

    fn lose(&mut self) -> End {
        tracing::error!(position = %self.machine.reached(), "ownership lost: another node may serve this partition");
        self.machine.close_all(CloseReason::Draining);
        self.perform();
        End::Lost
    }

    /// Another node that should have the partition, if it is time.
    fn belongs_to(&mut self) -> Option<Arc<str>> {
        let is_certain = self.ownership == Ownership::Held;
        self.turns.hand_over().filter(|_| is_certain)
    }

    fn keep_house(&mut self) {
        // Whoever could change them is gone at the end.
        if self.limits.has_changed().unwrap_or(false) {
            self.machine.limit(*self.limits.borrow_and_update());
        }
        self.machine.expire();
        self.machine.flush();
        self.nudge_if_idle();
        self.describe_regularly();
        self.outboxes.retain(|outbox| outbox.strong_count() > 0);
        self.tell_differences();
        self.tell();
    }

    /// Where nothing has come since the last look and someone waits, the source is made to move on.
    fn nudge_if_idle(&mut self) {
        let changes = self.machine.counters().changes;
        let waited_for = self.machine.session_count() > 0 && !self.placement.paused;
        let Some(heartbeats) = &mut self.heartbeats else { return };
        let idle = std::mem::replace(&mut heartbeats.changes, changes) == changes;
        if !(idle && waited_for) || heartbeats.under_way.swap(true, Ordering::Relaxed) {
            return;
        }
        let (source, under_way) = (Arc::clone(&self.source), Arc::clone(&heartbeats.under_way));
        self.tasks.spawn(Kind::Housekeeping, "heartbeat write", async move {
            if let Err(error) = source.nudge().await {
                tracing::warn!(%error, "a heartbeat could not be written: progress waits for the next write");
            }
            under_way.store(false, Ordering::Relaxed);
        });
    }

    /// Does what the machine wants done. Whether there was anything.
    fn perform(&mut self) -> bool {
        let effects = self.machine.take_effects();
        let any = !effects.is_empty();
        for effect in effects {
            match effect {
                Effect::Write(id, writes) => self.start_write(id, writes),
                Effect::Answer(waiter, result) => self.answer(waiter, result),
                Effect::OpenReplay(id, after) => self.replays.open(id, after),
                Effect::FetchReplay(id) => self.replays.fetch(id),
                Effect::CloseReplay(id) => self.replays.close(id),
            }
        }
        any && self.machine.work()
    }

    fn start_write(&mut self, id: WriteId, writes: Vec<Write>) {
        let (store, fence, outcomes) = (Arc::clone(&self.store), self.fence.clone(), self.outcomes.0.clone());
        self.tasks.spawn(Kind::StoreWriter, format!("write {}", id.0), async move {
            tenure::settle(store.as_ref(), &fence, id, &writes, &outcomes).await;
        });
    }

    fn describe_regularly(&mut self) {
        let now = self.clock.now();
        if now >= self.describe_at && !self.describing.swap(true, Ordering::Relaxed) {
            self.describe_at = now.after(DESCRIBE_EVERY);
            let describing = Arc::clone(&self.describing);
            self.describe(None, move || describing.store(false, Ordering::Relaxed));
        }
    }

    /// How far back the source reaches, and how far it is, may have changed since it last said so.
    fn describe_then(&self, command: Command) {
        self.describe(Some(command), || {});
    }

    fn describe(&self, waiting: Option<Command>, answered: impl FnOnce() + Send + 'static) {
        let (source, told, reached) = (Arc::clone(&self.source), self.descriptions.0.clone(), self.machine.reached());
        self.tasks.spawn(Kind::Housekeeping, "source description", async move {
            // A connection that was cut in silence answers nothing, for long.
            let described = tokio::time::timeout(DESCRIBE_PATIENCE, source.describe()).await.ok().and_then(Result::ok);
            answered();
            // If the tenure has ended the caller is told by the dropped reply.
            let _ = told.send(Told { described, reached, waiting }).await;
        });
    }

    fn on_description(&mut self, told: Told) {
        if let Some(described) = told.described {
            self.broken_off |= self.is_another(&described, told.reached);
            self.described = Some((described, self.clock.now()));
        }
        if self.broken_off {
            // A caller who waits is answered by the dropped reply, and asks the next tenure.
            return;
        }
        if let Some(command) = told.waiting {
            self.on_command_described(command);
        }
    }

    /// Whether this is another deployment than the one that is served, or one that was put back to where it
    /// was before what had been read when it was asked.
    fn is_another(&self, described: &Description, reached: Position) -> bool {
        let identity = self.machine.identity();
        let is_other = matches!((identity, &described.identity), (Some(served), Some(now)) if served != now);
        let is_behind = described.now.next() < reached.time;
        if is_other || is_behind {
            tracing::error!(position = %reached, now = ?described.now, is_other, "another deployment, or a restored one");
        }
        is_other || is_behind
    }

    fn lag_seconds(&self) -> Option<f64> {
        let (described, at) = self.described.as_ref()?;
        let since = self.clock.now().since(*at).as_secs_f64();
        let behind = f64::from(described.now.seconds()) - f64::from(self.machine.reached().time.seconds());
        // The description ages: what the loop has not reached by now is behind by that much more.
        // Nor does anyone know what a source has that has not answered for long.
        let is_old = since > 2.0 * (DESCRIBE_EVERY + DESCRIBE_PATIENCE).as_secs_f64();
        Some(if behind > 0.0 || is_old { behind.max(0.0) + since } else { 0.0 })
    }

    fn oldest(&self) -> Option<ClusterTime> {
        self.described.as_ref().and_then(|(described, _)| described.oldest)
    }

    fn warnings(&self) -> Vec<Word> {
        let described = self.described.as_ref();
        described
            .map(|(described, _)| described.warnings.iter().map(|warning| warning.name().into()).collect())
            .unwrap_or_default()
    }
}

/// Where history is lost, reading goes on from the present.
async fn present(source: &dyn ChangeSource, detail: String) -> Opened {
    match source.describe().await {
        Ok(described) => Opened::HistoryLost(detail, described),
        Err(error) => Opened::Failed(error),
    }
}

/// What comes next of the live reading. Cancel-safe.
async fn next_of(live: &mut Live) -> FromSource {
    let gone = |what: &str| SourceError::Unavailable(what.into());
    match live {
        Live::Reading(reading) => {
            FromSource::Batch(reading.recv().await.unwrap_or_else(|| Err(gone("the reading ended"))))
        }
        Live::Opening(opened) => {
            FromSource::Opened(opened.await.unwrap_or_else(|_| Opened::Failed(gone("the reading was not opened"))))
        }
        Live::Backoff(until) => {
            tokio::time::sleep_until(*until).await;
            FromSource::Due
        }
    }
}
