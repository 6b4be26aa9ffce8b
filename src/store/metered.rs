//! A store whose commits are counted and timed.
//!
//! Owns the metrics of the store, whichever it is.

use std::sync::Arc;

use async_trait::async_trait;
use metrics::{counter, histogram};

use super::owners::Holder;
use super::{CommitError, Entry, Fence, Key, Owned, Revision, Store, Unavailable, Write};
use crate::clock::Clock;
use crate::observe::metrics::{STORE_COMMIT_TIME, STORE_COMMITS};

/// Another store, watched.
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    clock: Clock,
}

impl MeteredStore {
    /// This one.
    pub fn new(inner: Arc<dyn Store>, clock: Clock) -> Self {
        Self { inner, clock }
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn acquire(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable> {
        self.inner.acquire(key, holder).await
    }

    async fn release(&self, fence: &Fence) -> Result<(), Unavailable> {
        self.inner.release(fence).await
    }

    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable> {
        self.inner.scan(prefix).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Unavailable> {
        self.inner.get(key).await
    }

    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
        let began = self.clock.now();
        let result = self.inner.commit(fence, writes).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(CommitError::Conflict) => "conflict",
            Err(CommitError::Fenced) => "fenced",
            Err(CommitError::Unknown(_)) => "unknown",
            Err(CommitError::TooLarge(_)) => "too_large",
        };
        counter!(STORE_COMMITS, "outcome" => outcome).increment(1);
        histogram!(STORE_COMMIT_TIME).record(self.clock.now().since(began));
        result
    }

    async fn number(&self) -> Result<u64, Unavailable> {
        self.inner.number().await
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
}
