//! The numbers of one reading: what is counted, what is told, how far it has come.
//!
//! Owns the rules that make positions the same on every reading of the same stream, wherever it
//! begins and however often it is opened anew. Synchronous; knows no driver and no events' contents.

use super::errors::Failure;
use super::ordinals::{Ordinals, WentBack};
use crate::position::{ClusterTime, Epoch, Position};

/// Where one reading stands.
#[derive(Debug)]
pub(super) struct Sequence {
    epoch: Epoch,
    /// Nothing at or before this is told.
    after: Position,
    /// Everything up to here has been handed over.
    reached: Position,
    ordinals: Ordinals,
    /// Everything before this has been shown by the stream.
    shown: ClusterTime,
    /// Whether the stream still has to show the change at `after`.
    unproven: bool,
}

impl From<WentBack> for Failure {
    fn from(error: WentBack) -> Self {
        Self::Passing(error.to_string())
    }
}

impl Sequence {
    /// A reading of everything after `after`, all positions in `epoch`.
    pub(super) fn new(epoch: Epoch, after: Position) -> Self {
        let reached = Position { epoch, ..after };
        Self {
            epoch,
            after: reached,
            reached,
            ordinals: Ordinals::default(),
            shown: reached.time,
            unproven: !reached.is_boundary(),
        }
    }

    /// Begins anew after what has been handed over: the stream is opened again at
    /// [`Self::reached`]'s time.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.epoch, self.reached);
    }

    /// Whether the stream has shown what it was begun after.
    pub(super) fn is_proven(&self) -> bool {
        !self.unproven
    }

    /// How far the reading has come.
    pub(super) fn reached(&self) -> Position {
        self.reached
    }

    /// A document change at `time`: its position, `None` if it is not to be told again.
    pub(super) fn change(&mut self, time: ClusterTime) -> Result<Option<Position>, Failure> {
        self.show(time)?;
        let position = self.ordinals.count(self.epoch, time)?;
        self.unproven &= position < self.after;
        Ok((position > self.after).then_some(position))
    }

    /// Something else at `time`: its position, which it shares with the last change there. `None` if
    /// it has been told; at `after` itself that is not known, so it is told again.
    pub(super) fn other(&mut self, time: ClusterTime) -> Result<Option<Position>, Failure> {
        self.show(time)?;
        let position = self.ordinals.place(self.epoch, time)?;
        Ok((position >= self.after).then_some(position))
    }

    /// The stream has shown everything before `time`.
    pub(super) fn show(&mut self, time: ClusterTime) -> Result<(), Failure> {
        if self.unproven && time > self.after.time {
            let (after, seen) = (self.after, self.ordinals.seen_at(self.after.time));
            return Err(Failure::Exchanged(format!(
                "the oplog has {seen} changes at the time of {after}, which was read before"
            )));
        }
        self.shown = self.shown.max(time);
        Ok(())
    }

    /// How far everything shown reaches, if `last` is the last change told; past it by boundaries only.
    pub(super) fn reach(&self, last: Option<Position>) -> Position {
        let boundary = Position::boundary(self.epoch, self.shown);
        self.reached.max(boundary).max(last.unwrap_or_default())
    }

    /// Everything up to here has been handed over.
    ///
    /// # Panics
    /// If that would be a step back: positions would then mean nothing.
    pub(super) fn hand_over(&mut self, reached: Position) {
        assert!(reached >= self.reached, "a reading went back from {:?} to {reached:?}", self.reached);
        self.reached = reached;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(time: u64, ordinal: u32) -> Position {
        Position::new(Epoch(3), ClusterTime(time), ordinal)
    }

    #[test]
    fn what_was_told_is_counted_but_not_told_again() {
        let mut sequence = Sequence::new(Epoch(3), Position { epoch: Epoch(1), ..at(5, 2) });
        let told: Vec<_> = [5, 5, 5, 7].map(|time| sequence.change(ClusterTime(time)).expect("in order")).into();
        assert_eq!(told, [None, None, Some(at(5, 3)), Some(at(7, 1))]);
    }

    #[test]
    fn what_is_no_change_is_told_again_where_it_may_not_have_been() {
        let mut sequence = Sequence::new(Epoch(3), at(5, 1));
        assert_eq!(sequence.other(ClusterTime(5)).expect("in order"), None, "it came before the change told");
        sequence.change(ClusterTime(5)).expect("in order");
        assert_eq!(sequence.other(ClusterTime(5)).expect("in order"), Some(at(5, 1)));
        let mut sequence = Sequence::new(Epoch(3), at(6, 0));
        assert_eq!(sequence.other(ClusterTime(6)).expect("in order"), Some(at(6, 0)));
    }

    #[test]
    fn a_start_that_the_stream_does_not_have_is_another_history() {
        let mut sequence = Sequence::new(Epoch(3), at(5, 2));
        sequence.change(ClusterTime(5)).expect("in order");
        assert!(matches!(sequence.change(ClusterTime(6)), Err(Failure::Exchanged(_))));
        let mut sequence = Sequence::new(Epoch(3), at(5, 1));
        assert!(matches!(sequence.show(ClusterTime(6)), Err(Failure::Exchanged(_))));
        let mut sequence = Sequence::new(Epoch(3), at(5, 0));
        assert!(sequence.show(ClusterTime(6)).is_ok(), "at a boundary there need not be anything");
    }

    #[test]
    fn a_boundary_never_passes_what_was_told_at_its_own_time() {
        let mut sequence = Sequence::new(Epoch(3), at(5, 0));
        let told = sequence.change(ClusterTime(7)).expect("in order");
        assert_eq!(sequence.reach(None), at(7, 0));
        assert_eq!(sequence.reach(told), at(7, 1));
        sequence.hand_over(at(7, 1));
        sequence.show(ClusterTime(7)).expect("in order");
        assert_eq!(sequence.reach(None), at(7, 1));
        sequence.show(ClusterTime(8)).expect("in order");
        assert_eq!(sequence.reach(None), at(8, 0));
    }

    proptest! {
        /// Reading on from any place yields exactly the rest, with the same positions.
        #[test]
        fn every_cut_yields_the_rest(steps in prop::collection::vec(0_u64..3, 1..60), cut in 0_usize..60) {
            let times: Vec<u64> = steps.iter().scan(1, |time, step| { *time += step; Some(*time) }).collect();
            let read = |after: Position| {
                let mut sequence = Sequence::new(Epoch(3), after);
                let from = times.iter().filter(|time| **time >= after.time.0);
                from.filter_map(|time| sequence.change(ClusterTime(*time)).expect("in order")).collect::<Vec<_>>()
            };
            let all = read(at(0, 0));
            prop_assert_eq!(all.len(), times.len());
            prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
            let cut = cut % all.len();
            prop_assert_eq!(&read(all[cut])[..], &all[cut + 1..]);
            prop_assert_eq!(&read(all[cut].before_change())[..], &all[cut..]);
        }
    }
}
