//! A gateway of a drill: an application that keeps what it is handed, with its client's state, in one
//! file, and crashes now and then.
//!
//! Owns that application. What is in the file has been taken; what is only in memory goes with a crash.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{FutureExt, StreamExt};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules;
use super::verdict::Seen;
use crate::client::{Backoff, Change, Client, ClientConfig, Cursor, Item, State};
use crate::position::ClusterTime;

/// Items that are taken together at most.
const STEP_ITEMS: usize = 64;
/// One step in so many ends in a crash.
const CRASH_EVERY: u32 = 150;
/// A drill measures how fast a hub is back, so its clients look often.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(100) };

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
    pub(super) resyncs: u64,
    pub(super) crashes: u64,
    pub(super) sessions: u64,
}

pub(super) struct Gateway {
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) file: PathBuf,
    pub(super) random: ChaCha8Rng,
    pub(super) recovery: Arc<Recovery>,
    /// Everything before this has been handed over.
    pub(super) progress: watch::Sender<ClusterTime>,
    pub(super) stop: CancellationToken,
}

/// The application's memory, of which the first `kept` matches are in the file.
#[derive(Default)]
struct Memory {
    outcome: Outcome,
    kept: usize,
    /// Start number of the hub when the session was made.
    start: u64,
    progress: Option<ClusterTime>,
    unacked: Option<Cursor>,
}

impl Gateway {
    /// Takes what comes until told to stop.
    pub(super) async fn run(mut self) -> anyhow::Result<Outcome> {
        let mut memory = Memory::default();
        let mut client = self.connect(State::default())?;
        loop {
            let item = tokio::select! {
                item = client.next() => item,
                () = self.stop.cancelled() => break,
            };
            self.take(item, &mut memory)?;
            for _ in 1..STEP_ITEMS {
                let Some(item) = client.next().now_or_never() else { break };
                self.take(item, &mut memory)?;
            }
            let crash = memory.unacked.is_some() && self.random.random_ratio(1, CRASH_EVERY);
            if crash && self.random.random_bool(0.5) {
                client = self.crash(client, &mut memory)?;
                continue;
            }
            self.save(client.state(), &mut memory)?;
            if crash {
                client = self.crash(client, &mut memory)?;
                continue;
            }
            if let Some(cursor) = memory.unacked.take() {
                client.ack(&cursor);
            }
            if let Some(progress) = memory.progress.take() {
                self.progress.send_replace(progress);
            }
        }
        client.close().await;
        memory.outcome.seen.truncate(memory.kept);
        Ok(memory.outcome)
    }

    fn connect(&mut self, state: State) -> anyhow::Result<Client> {
        let config = ClientConfig {
            backoff: BACKOFF,
            seed: Some(self.random.random()),
            ..ClientConfig::new(&self.endpoint, &self.name)
        };
        Ok(Client::connect(config, state)?)
    }

    fn take(&self, item: Option<Result<Item, crate::client::Error>>, memory: &mut Memory) -> anyhow::Result<()> {
        let Some(item) = item else { bail!("the stream of {} ended", self.name) };
        match item.with_context(|| format!("the client of {}", self.name))? {
            Item::Change(change) => {
                self.recovery.delivered(memory.start);
                keep(&change, &mut memory.outcome.seen)?;
                memory.unacked = Some(change.cursor);
            }
            Item::Resync(resync) => {
                memory.outcome.resyncs += 1;
                memory.unacked = Some(resync.cursor);
            }
            Item::Connected(_) => {
                memory.outcome.sessions += 1;
                memory.start = self.recovery.count();
            }
            Item::Progress(progress) => {
                let least = progress.positions.iter().map(|(_, position)| position.time).min();
                memory.progress = least.filter(|_| progress.catching_up == 0);
            }
            Item::Expired(expired) => bail!("subscriptions of {} were parked ({})", self.name, expired.reason),
            Item::Revoked(_) | Item::Assigned(_) | Item::Closed(_) | Item::Disconnected(_) => {}
        }
        Ok(())
    }

    /// Memory and client state become durable together: a file that is replaced as a whole. The matches
    /// themselves stand for the application's own state; only their number is written.
    fn save(&self, state: &State, memory: &mut Memory) -> anyhow::Result<()> {
        let saved = serde_json::to_vec(&(memory.outcome.seen.len(), state))?;
        let new = self.file.with_extension("new");
        std::fs::write(&new, saved)?;
        std::fs::rename(&new, &self.file)?;
        memory.kept = memory.outcome.seen.len();
        Ok(())
    }

    /// The process is gone and another begins from the file.
    fn crash(&mut self, client: Client, memory: &mut Memory) -> anyhow::Result<Client> {
        drop(client);
        let (kept, state) = match std::fs::read(&self.file) {
            Ok(saved) => serde_json::from_slice::<(usize, State)>(&saved)?,
            Err(_) => (0, State::default()),
        };
        memory.outcome.seen.truncate(kept);
        memory.outcome.crashes += 1;
        memory.unacked = None;
        memory.progress = None;
        self.connect(state)
    }
}

fn keep(change: &Change, seen: &mut Vec<Seen>) -> anyhow::Result<()> {
    let document = change.document.as_ref().context("a numbered write without its document")?.document()?;
    let number = document.get_i64("number").context("a document without its number")?;
    for m in &change.matches {
        let rule = rules::index_of(&m.subscription_id).context("a match of an unknown subscription")?;
        let number = u64::try_from(number)?;
        seen.push(Seen { rule, number, key: change.key.clone(), position: change.position });
    }
    Ok(())
}
