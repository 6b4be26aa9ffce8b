//! Commits until the outcome is known.
//!
//! Owns promise 12's hard half: a write that timed out may have taken effect, or may still. The same
//! transaction is issued again until one attempt has a definite outcome; since every record carries a
//! number of its own, finding our value in the store means that an earlier attempt took effect. Knows
//! nothing of what is written.

use std::time::Duration;

use rand::{Rng, RngCore};

use super::{CommitError, Fence, Revision, Store, Write};
use crate::limits;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Splits writes, in order, into transactions that the store takes. What must be all or nothing must
/// not be split; a write that is too large by itself stays alone and is refused by the store.
pub fn pack(writes: Vec<Write>) -> Vec<Vec<Write>> {
    let mut packed: Vec<Vec<Write>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let more = write.size_bytes();
        match packed.last_mut() {
            Some(last)
                if last.len() < limits::store_txn_operations_max && bytes + more <= limits::store_txn_bytes_max =>
            {
                bytes += more;
                last.push(write);
            }
            _ => {
                bytes = more;
                packed.push(vec![write]);
            }
        }
    }
    packed
}

/// Commits these writes, all or nothing. `on_unknown` is called once if nothing is known after
/// `patience`, be it that a call is slow or that its outcome is in doubt; the work goes on all the same.
///
/// Each write must expect `Absent` or `At`, and each value must be unlike any other ever written to its
/// key. A deletion that finds its key absent counts as ours, for a fence admits a single writer.
///
/// The revision is that of the values written; where all writes are deletions it may be a later one.
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
    on_unknown();
    work.await
}

/// Whether the store holds what these writes say; `None` if it cannot be read.
async fn find(store: &dyn Store, writes: &[Write]) -> Option<Result<Revision, CommitError>> {
    let mut written: Option<Revision> = None;
    for write in writes {
        match (store.get(&write.key).await.ok()?, &write.value) {
            // One transaction, one revision.
            (Some(entry), Some(value)) if entry.value == *value && written.is_none_or(|at| at == entry.revision) => {
                written = Some(entry.revision);
            }
            (None, None) => {}
            _ => return Some(Err(CommitError::Conflict)),
        }
    }
    match (written, writes.first()) {
        (Some(revision), _) => Some(Ok(revision)),
        // A scan tells the store's revision even where the key is gone.
        (None, Some(deleted)) => Some(Ok(store.scan(&deleted.key.0).await.ok()?.1)),
        (None, None) => Some(Err(CommitError::Conflict)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expect, Key, check};

    fn write(number: usize, bytes: usize) -> Write {
        Write { key: Key(format!("k/{number:05}")), expect: Expect::Absent, value: Some(vec![0; bytes]) }
    }

    #[test]
    fn packs_are_full_in_order_and_taken_by_the_store() {
        for bytes in [0, 1, 100, 9_000, 64 << 10, (1 << 20) - 7] {
            let writes: Vec<Write> = (0..1_000.min(20 + (20 << 20) / (bytes + 1))).map(|n| write(n, bytes)).collect();
            let packs = pack(writes.clone());
            assert_eq!(packs.concat(), writes);
            assert!(packs.iter().all(|pack| check(pack).is_ok()), "{bytes} bytes each");
            for pair in packs.windows(2) {
                let mut more = pair[0].clone();
                more.push(pair[1][0].clone());
                assert!(check(&more).is_err(), "{} writes of {bytes} bytes leave room", pair[0].len());
            }
        }
        assert!(pack(Vec::new()).is_empty());
    }

    #[test]
    fn a_write_that_no_store_takes_spoils_no_other() {
        let packs = pack(vec![write(0, 10), write(1, 2 << 20), write(2, 10)]);
        assert_eq!(packs.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
