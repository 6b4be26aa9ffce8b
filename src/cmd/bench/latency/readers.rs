//! Who reads during a round.
//!
//! Owns their tasks: that they end with the round, and that one which ends before fails it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::tasks::{Kind, Tasks};

#[derive(Default)]
pub(super) struct Readers {
    tasks: Tasks,
    stop: CancellationToken,
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Readers {
    /// Starts one, which goes on until the round ends.
    pub(super) fn start(&self, name: &str, reading: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (stop, failure, of) = (self.stop.clone(), Arc::clone(&self.failure), name.to_owned());
        self.tasks.spawn(Kind::Rig, name, async move {
            let ended = tokio::select! {
                ended = reading => ended,
                () = stop.cancelled() => return,
            };
            let error = ended.err().unwrap_or_else(|| anyhow::anyhow!("it ended"));
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.context(of));
        });
    }

    /// # Errors
    /// Of one that has ended by itself.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Ends all.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.check()?;
        self.stop.cancel();
        self.tasks.drain(Duration::from_secs(5)).await;
        Ok(())
    }
}
