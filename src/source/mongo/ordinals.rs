//! Ordinals: the count of changes that share a cluster time.
//!
//! Owns the counting rule on which positions rest: every document change of the stream counts, in
//! stream order, whether or not anybody gets to see it; nothing else counts.

use crate::position::{ClusterTime, Epoch, Position};

/// Where one opened stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ordinals {
    time: ClusterTime,
    count: u32,
}

/// The stream showed an earlier cluster time after a later one: its order is not what positions
/// need, and nothing may be concluded from it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change stream went back from cluster time {0:?} to {1:?}")]
pub(super) struct WentBack(ClusterTime, ClusterTime);

impl Ordinals {
    /// The position of the next document change, which happened at `time`.
    pub(super) fn count(&mut self, epoch: Epoch, time: ClusterTime) -> Result<Position, WentBack> {
        self.enter(time)?;
        self.count += 1;
        Ok(Position::new(epoch, self.time, self.count))
    }

    /// The position of something at `time` that is no document change: that of the last change
    /// there, or the boundary before the first.
    pub(super) fn place(&mut self, epoch: Epoch, time: ClusterTime) -> Result<Position, WentBack> {
        self.enter(time)?;
        Ok(Position::new(epoch, self.time, self.count))
    }

    /// How many changes at `time` the stream has shown so far.
    pub(super) fn seen_at(&self, time: ClusterTime) -> u32 {
        if self.time == time { self.count } else { 0 }
    }

    fn enter(&mut self, time: ClusterTime) -> Result<(), WentBack> {
        if time < self.time {
            return Err(WentBack(self.time, time));
        }
        if time > self.time {
            *self = Self { time, count: 0 };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_count_from_one_at_each_time_and_nothing_else_counts() {
        let mut ordinals = Ordinals::default();
        let mut seen = Vec::new();
        let time = ClusterTime;
        seen.push(ordinals.place(Epoch(1), time(4)).expect("in order").ordinal);
        seen.push(ordinals.count(Epoch(1), time(5)).expect("in order").ordinal);
        seen.push(ordinals.count(Epoch(1), time(5)).expect("in order").ordinal);
        seen.push(ordinals.place(Epoch(1), time(5)).expect("in order").ordinal);
        seen.push(ordinals.count(Epoch(1), time(5)).expect("in order").ordinal);
        seen.push(ordinals.count(Epoch(1), time(9)).expect("in order").ordinal);
        assert_eq!(seen, [0, 1, 2, 2, 3, 1]);
        assert_eq!(ordinals.count(Epoch(1), time(8)), Err(WentBack(time(9), time(8))));
        assert_eq!((ordinals.seen_at(time(9)), ordinals.seen_at(time(5))), (1, 0));
    }
}
