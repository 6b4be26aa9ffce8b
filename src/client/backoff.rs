//! How long to wait before the next connection.
//!
//! Owns the growth and the jitter. Randomness is passed in; knows nothing of connections.

use std::time::Duration;

use rand::Rng;

/// Exponential backoff with jitter: the n-th wait in a row lies between half of and all of
/// `first * 2^n`, never above `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait at most.
    pub first: Duration,
    /// No wait is longer, unless the hub itself asks for more.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), most: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row. What the hub asked for (`retryAfterMs`) is a lower
    /// bound, stretched by up to a half so that all of a hub's gateways do not come back at once.
    pub(super) fn wait(&self, failures: u32, asked: Option<Duration>, random: &mut impl Rng) -> Duration {
        let grown = self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.most);
        let own = grown.mul_f64(random.random_range(0.5..=1.0));
        match asked {
            Some(asked) => own.max(asked.mul_f64(random.random_range(1.0..=1.5))),
            None => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn waits_grow_to_the_most_and_are_spread() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(3) };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for failures in [0, 1, 2, 3, 4, 5, 31, 32, 1000] {
            let full = Duration::from_millis(100 << failures.min(10)).min(backoff.most);
            let waits: Vec<_> = (0..200).map(|_| backoff.wait(failures, None, &mut random)).collect();
            assert!(waits.iter().all(|wait| *wait <= full && *wait >= full / 2), "{failures}: {waits:?}");
            assert!(waits.iter().max() > waits.iter().min(), "jitter");
        }
    }

    #[test]
    fn what_the_hub_asks_for_is_a_lower_bound() {
        let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(2) };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let asked = Duration::from_secs(5);
        for _ in 0..200 {
            let wait = backoff.wait(9, Some(asked), &mut random);
            assert!(wait >= asked && wait <= asked * 3 / 2, "{wait:?}");
        }
    }

    #[test]
    fn the_same_seed_waits_the_same() {
        let waits = |seed| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            (0..9).map(|n| Backoff::default().wait(n, None, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
    }
}
