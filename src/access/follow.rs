//! A file that is read again when it changes.
//!
//! Owns the looking. What cannot be taken is said once, and what was taken last stays.

use std::path::PathBuf;
use std::time::Duration;

use metrics::counter;

use crate::clock::every;
use crate::observe::metrics::CONFIG_RELOADS;
use crate::tasks::{Kind, Tasks};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is made of some files together.
pub(super) struct Follow {
    /// `tokens` or `tls`.
    pub(super) what: &'static str,
    pub(super) files: Vec<PathBuf>,
}

/// What they hold, in their order.
pub(super) type Contents = Vec<Vec<u8>>;

impl Follow {
    /// Reads them.
    pub(super) fn read(&self) -> Result<Contents, String> {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        self.files.iter().map(read).collect()
    }

    /// Has `take` have them whenever they hold something else than `taken`, until shutdown. `tick` is called each time.
    pub(super) fn start(
        self,
        taken: Contents,
        tasks: &Tasks,
        mut take: impl FnMut(&Contents) -> Result<(), String> + Send + 'static,
        mut tick: impl FnMut() + Send + 'static,
    ) {
        let shutdown = tasks.shutdown_token();
        tasks.spawn(Kind::Housekeeping, self.what, async move {
            let (mut ticks, mut last) = (every(LOOK_EVERY), Ok(taken));
            loop {
                // Both are cancel-safe.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                tick();
                let now = self.read_aside().await;
                if now == last {
                    continue;
                }
                let outcome = now.as_ref().map_err(Clone::clone).and_then(&mut take);
                let word = if outcome.is_ok() { "taken" } else { "refused" };
                counter!(CONFIG_RELOADS, "what" => self.what, "outcome" => word).increment(1);
                match outcome {
                    Ok(()) => tracing::info!(what = self.what, "read again"),
                    Err(error) => tracing::error!(what = self.what, error, "not taken; the last ones stay"),
                }
                last = now;
            }
        });
    }

    async fn read_aside(&self) -> Result<Contents, String> {
        let mut contents = Vec::new();
        for file in &self.files {
            let read = tokio::fs::read(file).await;
            contents.push(read.map_err(|error| format!("{}: {error}", file.display()))?);
        }
        Ok(contents)
    }
}
