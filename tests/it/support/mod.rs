//! What several test modules need: servers of the tests' own, waiting for a condition.

pub(crate) mod etcd;

use std::time::Duration;

use tokio::time::Instant;

/// A condition that never comes true fails the test instead of hanging it. Long, for a busy machine: a
/// test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Waits for a future, but not for ever.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}
