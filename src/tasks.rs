//! Tasks: the one place that starts them.
//!
//! Owns how a background task is started, what its end means to the rest, and who is still running
//! at shutdown. Knows nothing of what a task does.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// What kind of work a task does. The kind decides what its failure means and how it is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A partition's loop: its failure ends the process, for nothing is served without it.
    Partition,
    /// A reading of a source: ends by itself when nobody takes its batches; never cancelled.
    Reading,
    /// Writes to the store; drained at shutdown.
    StoreWriter,
    /// Renews ownership.
    Lease,
    /// A listener; its failure ends the process.
    Listener,
    /// One connection's session; ends with its peer.
    Session,
    /// Periodic housekeeping.
    Housekeeping,
    /// The demo writer of `streamer dev`.
    Demo,
    /// A client's connection; ends with its handle.
    Client,
    /// A writer, gateway or server's keeper of a drill or a measurement.
    Rig,
}

impl Kind {
    /// Whether the end of such a task by panic must end the process.
    pub const fn is_vital(self) -> bool {
        matches!(self, Self::Partition | Self::Listener | Self::StoreWriter | Self::Lease)
    }
}

/// Starts tasks, ends them together and names those that do not end.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failed: CancellationToken,
    running: Mutex<BTreeMap<u64, (Kind, String)>>,
    next: AtomicU64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                tracker: TaskTracker::new(),
                shutdown: CancellationToken::new(),
                failed: CancellationToken::new(),
                running: Mutex::new(BTreeMap::new()),
                next: AtomicU64::new(0),
            }),
        }
    }

    /// Starts a task. `name` says which one it is among its kind, for shutdown's stragglers.
    #[allow(clippy::disallowed_methods, reason = "the one place that may start tasks")]
    pub fn spawn<F>(&self, kind: Kind, name: impl Into<String>, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let name = name.into();
        self.running().insert(id, (kind, name.clone()));
        let guard = Guard { tasks: self.clone(), id, kind, name, done: false };
        let work = async move {
            let mut guard = guard;
            work.await;
            guard.done = true;
        };
        // What a partition's loop starts says in the log which one it belongs to.
        self.inner.tracker.spawn(work.in_current_span());
    }

    /// Told to every task that should come to its end.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.inner.shutdown.clone()
    }

    /// Set when a vital task has panicked: the process must end.
    pub fn failed_token(&self) -> CancellationToken {
        self.inner.failed.clone()
    }

    /// Tells all tasks to end and waits up to `grace`. Returns the names of those still running.
    pub async fn drain(&self, grace: Duration) -> Vec<String> {
        self.inner.shutdown.cancel();
        self.inner.tracker.close();
        // The tracker's wait is cancel-safe.
        let ended = tokio::time::timeout(grace, self.inner.tracker.wait()).await;
        if ended.is_ok() {
            return Vec::new();
        }
        self.running().values().map(|(kind, name)| format!("{kind:?} {name}")).collect()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (Kind, String)>> {
        self.inner.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.running().values()).finish()
    }
}

struct Guard {
    tasks: Tasks,
    id: u64,
    kind: Kind,
    name: String,
    done: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tasks.running().remove(&self.id);
        // Dropped unfinished: by a panic, or because the runtime itself is going down.
        if !self.done && std::thread::panicking() && self.kind.is_vital() {
            tracing::error!(kind = ?self.kind, name = %self.name, "a vital task panicked");
            self.tasks.inner.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_names_those_still_running() {
        let tasks = Tasks::new();
        let token = tasks.shutdown_token();
        tasks.spawn(Kind::Session, "polite", async move { token.cancelled().await });
        tasks.spawn(Kind::Session, "deaf", std::future::pending());
        assert_eq!(tasks.drain(Duration::from_secs(5)).await, ["Session deaf"]);
    }

    #[tokio::test]
    async fn a_vital_panic_is_told() {
        let tasks = Tasks::new();
        tasks.spawn(Kind::Partition, "p", async { panic!("as the test wants") });
        tasks.failed_token().cancelled().await;
        tasks.spawn(Kind::Session, "s", async { panic!("as the test wants") });
        assert!(tasks.drain(Duration::from_secs(5)).await.is_empty());
    }
}
