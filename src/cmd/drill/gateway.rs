//! A gateway of a drill: an application that keeps what it is handed, with its consumer's state, in one
//! file, and crashes now and then.
//!
//! Owns that application. What is in the file has been taken; what is only in memory goes with a crash.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::consumer::{Consumer, Delivery, Endpoints, Heard, Resync, Transport};
use super::verdict::Seen;
use crate::position::{ClusterTime, Position};

/// Items that are taken together at most.
const STEP_ITEMS: usize = 64;
/// One step in so many ends in a crash.
const CRASH_EVERY: u32 = 150;

/// What the gateways tell about the hub's latest start.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    inner: Mutex<Starts>,
}

#[derive(Debug, Default)]
struct Starts {
    count: u64,
    /// The latest start, until something has been delivered after it.
    open: Option<Instant>,
    took: Vec<Duration>,
}

impl Recovery {
    /// The hub is being started again.
    pub(super) fn started(&self) {
        let mut starts = self.lock();
        starts.count += 1;
        starts.open = Some(Instant::now());
    }

    /// How long each start took to its first delivery; a start that was killed before is left out.
    pub(super) fn took(&self) -> Vec<Duration> {
        self.lock().took.clone()
    }

    fn count(&self) -> u64 {
        self.lock().count
    }

    /// A change was handed over in a session made after start number `count`.
    fn delivered(&self, count: u64) {
        let mut starts = self.lock();
        if starts.count == count
            && let Some(open) = starts.open.take()
        {
            starts.took.push(open.elapsed());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Starts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one gateway had at its end.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) seen: Vec<Seen>,
    pub(super) resyncs: Vec<Resync>,
    /// How often each flag was seen.
    pub(super) flags: BTreeMap<String, u64>,
    pub(super) crashes: u64,
    pub(super) sessions: u64,
    /// How often it was told that it has no session.
    pub(super) broken: u64,
}

/// What others can see of a gateway while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Everything before this has been handed over, and taken for good.
    pub(super) progress: ClusterTime,
    /// The greatest number that has been handed over.
    pub(super) latest: u64,
}

pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) transport: Transport,
    pub(super) endpoints: Endpoints,
    pub(super) file: PathBuf,
    pub(super) random: ChaCha8Rng,
    pub(super) recovery: Arc<Recovery>,
    pub(super) standing: watch::Sender<Standing>,
    /// While this says so it reads nothing.
    pub(super) stalled: watch::Receiver<bool>,
    pub(super) stop: CancellationToken,
}

/// The application's memory, of which the file holds the first so many matches and resyncs.
#[derive(Default)]
struct Memory {
    outcome: Outcome,
    kept: (usize, usize),
    /// Start number of the hub when the session was made.
    start: u64,
    /// What the hub has said was sent; of that, what was said before the last save.
    promised: Option<Position>,
    promise_kept: Option<Position>,
    unacked: bool,
}

impl Gateway {
    /// Takes what comes until told to stop.
    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        let mut memory = Memory::default();
        let mut consumer = self.open(None)?;
        let name = self.name.clone();
        let of_gateway = || format!("gateway {name}");
        loop {
            let heard = tokio::select! {
                heard = next(&mut self.stalled, &mut consumer) => heard,
                () = self.stop.cancelled() => break,
            };
            self.take(heard.with_context(of_gateway)?, &mut memory);
            for _ in 1..STEP_ITEMS {
                let Some(heard) = consumer.next().now_or_never() else { break };
                self.take(heard.with_context(of_gateway)?, &mut memory);
            }
            let crash = memory.unacked && self.random.random_ratio(1, CRASH_EVERY);
            if crash && self.random.random_bool(0.5) {
                consumer = self.crash(consumer, &mut memory)?;
                continue;
            }
            self.save(consumer.state()?, &mut memory)?;
            if crash {
                consumer = self.crash(consumer, &mut memory)?;
                continue;
            }
            if std::mem::take(&mut memory.unacked) {
                consumer.ack().await;
            }
            if let Some(promised) = memory.promised {
                self.standing.send_if_modified(|standing| standing.reach(promised.time));
            }
        }
        consumer.close().await;
        memory.forget();
        Ok(memory.outcome)
    }

    fn open(&mut self, saved: Option<Value>) -> anyhow::Result<Consumer> {
        Consumer::open(self.transport, &self.endpoints, &self.name, saved, &mut self.random)
    }

    fn take(&self, heard: Heard, memory: &mut Memory) {
        match heard {
            Heard::Change(delivery) => {
                self.recovery.delivered(memory.start);
                self.standing.send_if_modified(|standing| standing.see(delivery.number));
                memory.keep(delivery);
            }
            Heard::Resync(resync) => {
                memory.outcome.resyncs.push(resync);
                memory.unacked = true;
            }
            Heard::Connected => {
                memory.outcome.sessions += 1;
                memory.start = self.recovery.count();
            }
            Heard::Broken => memory.outcome.broken += 1,
            Heard::Progress(Some(position)) => memory.promised = Some(position),
            Heard::Progress(None) | Heard::Other => {}
        }
    }

    /// Memory and consumer's state become durable together: a file that is replaced as a whole. The matches
    /// themselves stand for the application's own state; only their number is written.
    fn save(&self, state: Value, memory: &mut Memory) -> anyhow::Result<()> {
        memory.kept = (memory.outcome.seen.len(), memory.outcome.resyncs.len());
        memory.promise_kept = memory.promised;
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&(memory.kept, state))?)?;
        std::fs::rename(&new, &self.file)?;
        Ok(())
    }

    /// The process is gone and another begins from the file.
    fn crash(&mut self, consumer: Consumer, memory: &mut Memory) -> anyhow::Result<Consumer> {
        drop(consumer);
        let saved = match std::fs::read(&self.file) {
            Ok(saved) => {
                let (kept, state) = serde_json::from_slice(&saved)?;
                memory.kept = kept;
                Some(state)
            }
            Err(_) => None,
        };
        memory.forget();
        memory.outcome.crashes += 1;
        self.open(saved)
    }
}

/// The next thing heard, once the gateway reads at all.
async fn next(stalled: &mut watch::Receiver<bool>, consumer: &mut Consumer) -> anyhow::Result<Heard> {
    // Whoever could stall it is gone at the end.
    let _ = stalled.wait_for(|stalled| !stalled).await;
    consumer.next().await
}

impl Standing {
    fn reach(&mut self, progress: ClusterTime) -> bool {
        let moves = progress > self.progress;
        self.progress = self.progress.max(progress);
        moves
    }

    fn see(&mut self, number: u64) -> bool {
        let moves = number > self.latest;
        self.latest = self.latest.max(number);
        moves
    }
}

impl Memory {
    fn keep(&mut self, delivery: Delivery) {
        let is = |name: &str| delivery.flags.iter().any(|flag| flag == name);
        let (redelivered, broadcast) = (is("redelivered"), is("broadcast"));
        let promised = self.promised.filter(|promised| !redelivered && delivery.position < *promised);
        let behind = promised.map(|promised| promised.time);
        for flag in delivery.flags {
            *self.outcome.flags.entry(flag).or_default() += 1;
        }
        for rule in delivery.rules {
            let Delivery { number, position, .. } = delivery;
            let key = delivery.key.clone();
            self.outcome.seen.push(Seen { rule, number, key, position, behind, redelivered, broadcast });
        }
        self.unacked = true;
    }

    /// What is in no file.
    fn forget(&mut self) {
        self.outcome.seen.truncate(self.kept.0);
        self.outcome.resyncs.truncate(self.kept.1);
        self.promised = self.promise_kept;
        self.unacked = false;
    }
}
