//! A store that fails as it is told. A tool for tests.
//!
//! Owns a script of faults over another store. A commit takes the next fault of the script; without one
//! it goes through. The faults are those that a network makes: a request that was lost, an answer that
//! was lost, and a request that arrives when nobody expects it any more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::owners::Holder;
use super::{CommitError, Entry, Fence, Key, Owned, Revision, Store, Unavailable, Write};

/// What happens to one commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// None.
    Pass,
    /// The request is lost: the outcome is unknown, nothing was written.
    FailBefore,
    /// The answer is lost: the outcome is unknown, all was written.
    FailAfter,
    /// The request is held up: the outcome is unknown, and it takes effect, if its conditions still
    /// hold then, at [`FaultyStore::arrive`].
    Delay,
    /// Ownership was lost.
    Fenced,
    /// No answer ever comes; the request is lost.
    Hang,
}

#[derive(Default)]
struct Script {
    faults: VecDeque<Fault>,
    reads_to_fail: usize,
    delayed: Vec<(Fence, Vec<Write>)>,
    commits: usize,
    trouble: Option<String>,
}

/// A store over another that fails by script.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Mutex<Script>,
}

impl FaultyStore {
    /// No faults yet.
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, script: Mutex::default() })
    }

    /// The next commits meet these, after what was scripted before.
    pub fn meet(&self, faults: impl IntoIterator<Item = Fault>) {
        self.script().faults.extend(faults);
    }

    /// As many of the next reads (`scan`, `get`, `acquire`, `release`) fail.
    pub fn fail_reads(&self, count: usize) {
        self.script().reads_to_fail = count;
    }

    /// Delivers what [`Fault::Delay`] has held up, and tells what became of each.
    pub async fn arrive(&self) -> Vec<Result<Revision, CommitError>> {
        let delayed = std::mem::take(&mut self.script().delayed);
        let mut outcomes = Vec::new();
        for (fence, writes) in delayed {
            outcomes.push(self.inner.commit(&fence, &writes).await);
        }
        outcomes
    }

    /// Commits attempted so far, whatever became of them.
    pub fn commits(&self) -> usize {
        self.script().commits
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<(), Unavailable> {
        let mut script = self.script();
        let Some(left) = script.reads_to_fail.checked_sub(1) else {
            script.trouble = None;
            return Ok(());
        };
        script.reads_to_fail = left;
        let reason = "as the test wants".to_string();
        script.trouble = Some(reason.clone());
        Err(Unavailable(reason))
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn acquire(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable> {
        self.read()?;
        self.inner.acquire(key, holder).await
    }

    async fn release(&self, fence: &Fence) -> Result<(), Unavailable> {
        self.read()?;
        self.inner.release(fence).await
    }

    async fn number(&self) -> Result<u64, Unavailable> {
        self.read()?;
        self.inner.number().await
    }

    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable> {
        self.read()?;
        self.inner.scan(prefix).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Unavailable> {
        self.read()?;
        self.inner.get(key).await
    }

    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
        let fault = {
            let mut script = self.script();
            script.commits += 1;
            script.faults.pop_front().unwrap_or(Fault::Pass)
        };
        let unknown = || Err(CommitError::Unknown("as the test wants".into()));
        let outcome = match fault {
            Fault::Pass => self.inner.commit(fence, writes).await,
            Fault::FailBefore => unknown(),
            Fault::FailAfter => match self.inner.commit(fence, writes).await {
                Ok(_) => unknown(),
                refused => refused,
            },
            Fault::Delay => {
                self.script().delayed.push((fence.clone(), writes.to_vec()));
                unknown()
            }
            Fault::Fenced => Err(CommitError::Fenced),
            Fault::Hang => std::future::pending().await,
        };
        self.script().trouble = match &outcome {
            Err(CommitError::Unknown(reason)) => Some(reason.clone()),
            _ => None,
        };
        outcome
    }

    fn trouble(&self) -> Option<String> {
        self.script().trouble.clone().or_else(|| self.inner.trouble())
    }
}
