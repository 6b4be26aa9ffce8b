//! Numbered writes.
//!
//! Owns the mixture: single inserts and updates, `insert_many` batches, multi-document transactions; and the
//! odd writes that a drill asks for. One writer, one write after the other, so numbers rise in the order of
//! the commits. A server that fails is waited for, and asked what has become of the write: what is called
//! written has been written, once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::rig::{Database, Step, may_pass};
use super::rules::NEW_KEY;
use crate::change::Operation;
use crate::position::ClusterTime;

/// Keys that are updated again and again.
pub(super) const HOT_KEYS: u64 = 20;
/// Of a document of which even one image is too much to be shown.
const OVERSIZE_BYTES: usize = 15_900_000;
/// Of a document of which two images are too much.
const LARGE_BYTES: usize = 9_000_000;
/// Documents of one great transaction.
const TRANSACTION_WRITES: usize = 4_000;

/// One numbered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) operation: Operation,
    /// Its cluster time is after this,
    pub(super) after: ClusterTime,
    /// and not after this.
    pub(super) until: ClusterTime,
}

/// Writes; shared between the task that goes on writing and a drill that wants something written.
pub(super) struct Writer {
    database: Database,
    random: ChaCha8Rng,
    body_bytes: usize,
    next: u64,
    written: Vec<Write>,
    now: ClusterTime,
    /// Keys that have been inserted while no images are recorded: each may be updated once, or looking it
    /// up would show a later write's number. `None` while images are recorded.
    fresh: Option<VecDeque<String>>,
}

impl Writer {
    /// Makes the keys that are updated later: the first numbered writes.
    pub(super) async fn begin(database: Database, random: ChaCha8Rng, body_bytes: usize) -> anyhow::Result<Self> {
        let now = database.now().await?;
        let mut this = Self { database, random, body_bytes, next: 0, written: Vec::new(), now, fresh: None };
        this.begin_anew().await?;
        Ok(this)
    }

    /// Makes them again, in a collection without documents.
    pub(super) async fn begin_anew(&mut self) -> anyhow::Result<()> {
        let writes = self.hot_inserts();
        self.insert(writes).await
    }

    /// Everything that has been written.
    pub(super) fn written(&self) -> &[Write] {
        &self.written
    }

    /// Makes a collection with the same keys and renames it onto the one that is there.
    pub(super) async fn rename_onto(&mut self) -> anyhow::Result<()> {
        let writes = self.hot_inserts();
        let bodies: Vec<_> = writes.iter().map(|write| (write.key.clone(), self.body(write))).collect();
        self.database.rename_onto(bodies).await?;
        self.done(writes).await
    }

    /// A document too large for its change to be shown, and one too large for both its images.
    pub(super) async fn oversize(&mut self) -> anyhow::Result<()> {
        let mut key = String::new();
        for bytes in [OVERSIZE_BYTES, LARGE_BYTES] {
            let write = self.new_key();
            key.clone_from(&write.key);
            let mut body = self.body(&write);
            body.insert("pad", "x".repeat(bytes));
            self.database.insert([(write.key.clone(), body)]).await?;
            self.done(vec![write]).await?;
        }
        let write = self.numbered(key, Operation::Update);
        self.update(write).await
    }

    /// A document whose body is none. It has no number, and cannot be delivered.
    pub(super) async fn undecodable(&mut self) -> anyhow::Result<()> {
        let key = format!("odd-{}", self.next);
        self.database.insert_odd(&key).await?;
        self.done(Vec::new()).await
    }

    /// A write that will be undone: it is never called written. Returns its key and its number.
    pub(super) async fn in_vain(&mut self) -> anyhow::Result<(String, i64)> {
        let write = self.new_key();
        self.database.insert_unsafely(&write.key, self.body(&write)).await?;
        Ok((write.key, write.number as i64))
    }

    /// One transaction of many documents. Returns the first and the last number in it.
    pub(super) async fn great_transaction(&mut self) -> anyhow::Result<(u64, u64)> {
        let writes: Vec<Write> = (0..TRANSACTION_WRITES).map(|_| self.new_key()).collect();
        let bounds = (self.next - TRANSACTION_WRITES as u64, self.next - 1);
        let bodies: Vec<_> = writes.iter().map(|write| (write.key.clone(), self.body(write))).collect();
        self.database.transact_inserts(bodies).await?;
        self.done(writes).await?;
        Ok(bounds)
    }

    /// Whatever is written next is known to be written after this.
    pub(super) async fn rest(&mut self) -> anyhow::Result<()> {
        self.done(Vec::new()).await
    }

    /// The number that the next write will have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether images are recorded. Where they are not, an update is looked up later, and so only keys are
    /// updated that will not be updated again.
    pub(super) fn images(&mut self, recorded: bool) {
        self.fresh = (!recorded).then(VecDeque::new);
    }

    /// From now on bodies have about so many bytes.
    pub(super) fn body_bytes(&mut self, bytes: usize) {
        self.body_bytes = bytes;
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.random.random_range(0..100) {
            0..35 => {
                let write = self.new_key();
                self.insert(vec![write]).await
            }
            35..75 => match self.old_key() {
                Some(write) => self.update(write).await,
                None => Ok(()),
            },
            75..88 => {
                let writes = (0..self.random.random_range(2..20)).map(|_| self.new_key()).collect();
                self.insert(writes).await
            }
            _ => self.transact().await,
        }
    }

    async fn insert(&mut self, mut writes: Vec<Write>) -> anyhow::Result<()> {
        let all = writes.clone();
        loop {
            let bodies: Vec<_> = writes.iter().map(|write| (write.key.clone(), self.body(write))).collect();
            match self.database.insert(bodies).await {
                Ok(()) => return self.done(all).await,
                Err(error) => self.wait_out(error).await?,
            }
            // They are inserted in order, so what has been is at the front.
            while let Some(first) = writes.first() {
                if !self.is_written(first).await? {
                    break;
                }
                writes.remove(0);
            }
            if writes.is_empty() {
                return self.done(all).await;
            }
        }
    }

    async fn update(&mut self, write: Write) -> anyhow::Result<()> {
        let body = self.body(&write);
        // Said twice it changes nothing the second time.
        while let Err(error) = self.database.update(&write.key, &body).await {
            self.wait_out(error).await?;
        }
        self.done(vec![write]).await
    }

    async fn transact(&mut self) -> anyhow::Result<()> {
        let count = self.random.random_range(2..8);
        let mut writes = Vec::new();
        for _ in 0..count {
            let update = self.fresh.is_none() && self.random.random_bool(0.5);
            let write = if update { self.old_key() } else { Some(self.new_key()) };
            writes.extend(write);
        }
        let steps: Vec<Step> = writes
            .iter()
            .map(|write| match write.operation {
                Operation::Insert => Step::Insert(write.key.clone(), self.body(write)),
                _ => Step::Update(write.key.clone(), self.body(write)),
            })
            .collect();
        while let Err(error) = self.database.transact(&steps).await {
            self.wait_out(error).await?;
            // All of it or nothing: its last write tells.
            let last = writes.last().map(|write| self.is_written(write));
            if let Some(is_written) = last
                && is_written.await?
            {
                break;
            }
        }
        self.done(writes).await
    }

    /// What the server cannot do now it can do later; what is wrong stays wrong.
    async fn wait_out(&self, error: anyhow::Error) -> anyhow::Result<()> {
        if may_pass(&error) { self.database.settle().await } else { Err(error) }
    }

    async fn is_written(&self, write: &Write) -> anyhow::Result<bool> {
        loop {
            match self.database.has(&write.key, "number", write.number as i64).await {
                Ok(has) => return Ok(has),
                Err(error) => self.wait_out(error).await?,
            }
        }
    }

    /// These have been written since the last ones.
    async fn done(&mut self, writes: Vec<Write>) -> anyhow::Result<()> {
        let until = loop {
            match self.database.now().await {
                Ok(now) => break now,
                Err(error) => self.wait_out(error).await?,
            }
        };
        let after = std::mem::replace(&mut self.now, until);
        self.written.extend(writes.into_iter().map(|write| Write { after, until, ..write }));
        Ok(())
    }

    fn hot_inserts(&mut self) -> Vec<Write> {
        (0..HOT_KEYS).map(|key| self.numbered(format!("k-{key}"), Operation::Insert)).collect()
    }

    fn new_key(&mut self) -> Write {
        let key = format!("{NEW_KEY}{}", self.next);
        if let Some(fresh) = &mut self.fresh {
            fresh.push_back(key.clone());
        }
        self.numbered(key, Operation::Insert)
    }

    fn old_key(&mut self) -> Option<Write> {
        let key = match &mut self.fresh {
            None => format!("k-{}", self.random.random_range(0..HOT_KEYS)),
            Some(fresh) => fresh.pop_front()?,
        };
        Some(self.numbered(key, Operation::Update))
    }

    fn numbered(&mut self, key: String, operation: Operation) -> Write {
        let number = self.next;
        self.next += 1;
        Write { number, key, operation, after: self.now, until: self.now }
    }

    fn body(&self, write: &Write) -> Document {
        let (number, text) = (write.number as i64, "x".repeat(self.body_bytes));
        doc! { "number": number, "key": &write.key, "parity": number % 2, "bucket": number % 10, "text": text }
    }
}

/// Writes `rate` numbers a second until told to stop. While somebody else holds the writer nothing is
/// written, and nothing is made up for afterwards.
pub(super) async fn write(writer: Arc<Mutex<Writer>>, rate: u32, stop: CancellationToken) -> anyhow::Result<()> {
    let mut due = Instant::now();
    while !stop.is_cancelled() {
        let mut writer = writer.lock().await;
        let before = writer.next;
        writer.step().await?;
        let took = Duration::from_secs_f64((writer.next - before) as f64 / f64::from(rate));
        drop(writer);
        due = due.max(Instant::now() - Duration::from_secs(1)) + took;
        sleep_until(due).await;
    }
    Ok(())
}
