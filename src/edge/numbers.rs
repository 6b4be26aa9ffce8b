//! Numbers of sessions: of two sessions of a gateway the newer one has the greater, whatever nodes they are opened at.
//!
//! Owns where they come from: the store, which all nodes share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::error::{Code, Problem};
use crate::store::Store;

/// How long a caller waits for the store before it is told that it does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Gives numbers. Cheap to clone.
#[derive(Clone)]
pub struct Numbers(Arc<From>);

enum From {
    /// Once it is open. It ends with those who keep state in it.
    Store(OnceLock<Weak<dyn Store>>),
    Counted(AtomicU64),
}

impl Numbers {
    /// From a store that is still to be opened.
    pub fn stored() -> Self {
        Self(Arc::new(From::Store(OnceLock::new())))
    }

    /// Counted here: for a loop without a store, in tests of what lies before it.
    pub fn counted() -> Self {
        Self(Arc::new(From::Counted(AtomicU64::new(0))))
    }

    /// The store is open.
    pub fn open(&self, store: &Arc<dyn Store>) {
        if let From::Store(cell) = &*self.0 {
            let _ = cell.set(Arc::downgrade(store));
        }
    }

    /// The next number.
    ///
    /// # Errors
    /// A store that does not answer.
    pub async fn next(&self) -> Result<u64, Problem> {
        let unavailable = |detail: String| Problem::new(Code::StoreUnavailable, detail).retry_after(1);
        match &*self.0 {
            From::Counted(count) => Ok(count.fetch_add(1, Ordering::Relaxed) + 1),
            From::Store(cell) => {
                let store = cell.get().and_then(Weak::upgrade);
                let store = store.ok_or_else(|| unavailable("the store is not open".into()))?;
                let number = tokio::time::timeout(PATIENCE, store.number()).await;
                let number = number.map_err(|_| unavailable("the store does not answer".into()))?;
                number.map_err(|error| unavailable(error.to_string()))
            }
        }
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}
