//! Time, passed in.
//!
//! The one place that reads the machine's clocks. Everything else takes a [`Clock`], so that tests
//! decide what time it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

/// A point on a monotonic clock, in microseconds since the clock began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This point and `duration` on.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Ticks of the runtime's timer, the first at once. One that comes late does not bring the next one forward.
pub fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Where time comes from.
#[derive(Clone)]
pub struct Clock(Arc<Source>);

enum Source {
    System(std::time::Instant),
    Manual { micros: AtomicU64, wall_offset_ms: i64 },
}

impl Clock {
    /// The machine's own clocks.
    #[allow(clippy::disallowed_methods, reason = "the one place that may read the clock")]
    pub fn system() -> Self {
        Self(Arc::new(Source::System(std::time::Instant::now())))
    }

    /// A clock that stands still until [`Self::advance`].
    pub fn manual() -> Self {
        Self(Arc::new(Source::Manual { micros: AtomicU64::new(0), wall_offset_ms: 1_763_690_000_000 }))
    }

    /// Nanoseconds since the clock began, for what is shorter than a microsecond.
    pub fn nanos(&self) -> u64 {
        match &*self.0 {
            Source::System(began) => u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Source::Manual { micros, .. } => micros.load(Ordering::Relaxed) * 1_000,
        }
    }

    /// Now, monotonic.
    pub fn now(&self) -> Instant {
        match &*self.0 {
            Source::System(start) => Instant(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)),
            Source::Manual { micros, .. } => Instant(micros.load(Ordering::SeqCst)),
        }
    }

    /// Now by the wall clock, for people to read.
    #[allow(clippy::disallowed_methods, reason = "the one place that may read the clock")]
    pub fn wall(&self) -> DateTime<Utc> {
        match &*self.0 {
            Source::System(_) => Utc::now(),
            Source::Manual { micros, wall_offset_ms } => {
                let millis = wall_offset_ms + (micros.load(Ordering::SeqCst) / 1000) as i64;
                DateTime::from_timestamp_millis(millis).unwrap_or_default()
            }
        }
    }

    /// Moves a manual clock on; a system clock takes no notice.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { micros, .. } = &*self.0 {
            micros.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Source::System(_) => f.write_str("Clock::system"),
            Source::Manual { .. } => f.write_str("Clock::manual"),
        }
    }
}
