//! Commits until the outcome is known.
//!
//! Owns promise 12's hard half: a write that timed out may have taken effect, or may still. The same
//! transaction is issued again until one attempt has a definite outcome; since every record carries a
//! number of its own, finding our value in the store means that an earlier attempt took effect. Knows
//! nothing of what is written.

use std::time::Duration;

use rand::{Rng, RngCore};

use super::{CommitError, Fence, Revision, Store, Write};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Commits these writes, all or nothing. `on_unknown` is called once if the first attempt's outcome is
/// not known, or if nothing is known after `patience`; the work goes on all the same.
///
/// # Errors
/// Only definite ones: `Unknown` is never returned.
pub async fn commit_definitely(
    store: &dyn Store,
    fence: &Fence,
    writes: &[Write],
    patience: Duration,
    on_unknown: impl FnOnce() + Send,
    jitter: &mut (impl RngCore + Send),
) -> Result<Revision, CommitError> {
    let mut on_unknown = Some(on_unknown);
    let mut pause = PAUSE_MIN;
    let mut in_doubt = false;
    let work = async {
        loop {
            match store.commit(fence, writes).await {
                Err(CommitError::Unknown(reason)) => {
                    tracing::warn!(%reason, "the outcome of a store write is not known; trying again");
                    in_doubt = true;
                }
                Err(CommitError::Conflict) if in_doubt => {
                    if let Some(result) = find(store, writes).await {
                        return result;
                    }
                }
                definite => return definite,
            }
            tokio::time::sleep(pause.mul_f64(jitter.random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(patience) => {}
    }
    if let Some(tell) = on_unknown.take() {
        tell();
    }
    work.await
}

/// Whether the store holds what these writes say; `None` if it cannot be read.
async fn find(store: &dyn Store, writes: &[Write]) -> Option<Result<Revision, CommitError>> {
    let mut revision = Revision(0);
    for write in writes {
        // A scan tells the store's revision even where the key is gone.
        let (entries, at) = store.scan(&write.key.0).await.ok()?;
        let found = entries.into_iter().find(|entry| entry.key == write.key);
        match (found, &write.value) {
            (Some(entry), Some(value)) if entry.value == *value => revision = revision.max(entry.revision),
            (None, None) => revision = revision.max(at),
            _ => return Some(Err(CommitError::Conflict)),
        }
    }
    Some(Ok(revision))
}
