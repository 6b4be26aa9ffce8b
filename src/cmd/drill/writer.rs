//! Numbered writes.
//!
//! Owns the mixture: single inserts and updates, `insert_many` batches, multi-document transactions. One
//! writer, one write after the other, so numbers rise in the order of the commits. Only what has been
//! answered counts as written.

use std::time::Duration;

use bson::{Document, doc};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::rig::{Database, Step};
use crate::change::Operation;

/// Keys that are updated again and again.
const HOT_KEYS: u64 = 20;

/// One numbered write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) operation: Operation,
}

impl Write {
    fn body(&self) -> Document {
        let number = self.number as i64;
        doc! { "number": number, "key": &self.key, "parity": number % 2, "bucket": number % 10, "text": "x".repeat(200) }
    }
}

pub(super) struct Writer {
    database: Database,
    random: ChaCha8Rng,
    next: u64,
    written: Vec<Write>,
}

impl Writer {
    /// Makes the keys that are updated later: the first numbered writes.
    pub(super) async fn begin(database: Database, random: ChaCha8Rng) -> anyhow::Result<Self> {
        let mut this = Self { database, random, next: 0, written: Vec::new() };
        let writes: Vec<_> = (0..HOT_KEYS).map(|key| this.numbered(format!("k-{key}"), Operation::Insert)).collect();
        this.insert(writes).await?;
        Ok(this)
    }

    /// Writes `rate` numbers a second until told to stop. Returns everything that was written.
    pub(super) async fn run(mut self, rate: u32, stop: CancellationToken) -> anyhow::Result<Vec<Write>> {
        let began = Instant::now();
        let already = self.next;
        while !stop.is_cancelled() {
            let due = began + Duration::from_secs_f64((self.next - already) as f64 / f64::from(rate));
            sleep_until(due).await;
            self.step().await?;
        }
        Ok(self.written)
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.random.random_range(0..100) {
            0..35 => {
                let write = self.new_key();
                self.insert(vec![write]).await
            }
            35..75 => {
                let write = self.hot_key();
                self.database.update(&write.key, &write.body()).await?;
                self.written.push(write);
                Ok(())
            }
            75..88 => {
                let writes = (0..self.random.random_range(2..20)).map(|_| self.new_key()).collect();
                self.insert(writes).await
            }
            _ => self.transact().await,
        }
    }

    async fn insert(&mut self, writes: Vec<Write>) -> anyhow::Result<()> {
        self.database.insert(writes.iter().map(|write| (write.key.clone(), write.body()))).await?;
        self.written.extend(writes);
        Ok(())
    }

    async fn transact(&mut self) -> anyhow::Result<()> {
        let writes: Vec<Write> = (0..self.random.random_range(2..8))
            .map(|_| if self.random.random_bool(0.5) { self.new_key() } else { self.hot_key() })
            .collect();
        let steps: Vec<Step> = writes
            .iter()
            .map(|write| match write.operation {
                Operation::Insert => Step::Insert(write.key.clone(), write.body()),
                _ => Step::Update(write.key.clone(), write.body()),
            })
            .collect();
        self.database.transact(&steps).await?;
        self.written.extend(writes);
        Ok(())
    }

    fn new_key(&mut self) -> Write {
        let key = format!("n-{}", self.next);
        self.numbered(key, Operation::Insert)
    }

    fn hot_key(&mut self) -> Write {
        let key = format!("k-{}", self.random.random_range(0..HOT_KEYS));
        self.numbered(key, Operation::Update)
    }

    fn numbered(&mut self, key: String, operation: Operation) -> Write {
        let number = self.next;
        self.next += 1;
        Write { number, key, operation }
    }
}
