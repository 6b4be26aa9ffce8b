//! Numbers that look random and are the same in every run.
//!
//! Owns the generator. Without state: the nth number can be had without those before it, so that any
//! contender, in any process, sees the same subscriptions and changes.

/// A stream of numbers, one for each kind of choice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// The nth number of the stream: SplitMix64 (Steele, Lea, Flood 2014).
    pub(super) fn at(self, n: u64) -> u64 {
        let mut z = self.0.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The nth number, below `end`.
    pub(super) fn below(self, n: u64, end: u64) -> u64 {
        // The high half of the product: without the bias towards low bits that a remainder has.
        ((u128::from(self.at(n)) * u128::from(end.max(1))) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_streams_differ() {
        let mut seen = [0_u32; 10];
        (0..10_000).for_each(|n| seen[Random(1).below(n, 10) as usize] += 1);
        assert!(seen.iter().all(|count| (900..1_100).contains(count)), "{seen:?}");
        let equal = (0..1_000).filter(|n| Random(1).below(*n, 100) == Random(2).below(*n, 100)).count();
        assert!(equal < 30, "{equal}");
    }
}
