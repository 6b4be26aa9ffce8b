//! Gap detection: a session's changes of a partition are numbered from 1 without holes.
//!
//! Owns the counters of one session.

use rustc_hash::FxHashMap;

/// What has been seen in one session.
#[derive(Default, Debug)]
pub(super) struct Sequence {
    last: FxHashMap<String, u64>,
}

/// The session is broken: something between the two is missing, or came twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) expected: u64,
    pub(super) got: u64,
}

impl Sequence {
    /// Takes the next number of a partition.
    pub(super) fn check(&mut self, partition: &str, seq: u64) -> Result<(), Hole> {
        let expected = match self.last.get_mut(partition) {
            Some(last) => {
                *last += 1;
                *last
            }
            None => {
                self.last.insert(partition.to_owned(), 1);
                1
            }
        };
        if seq == expected { Ok(()) } else { Err(Hole { expected, got: seq }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_count_apart_and_holes_are_found() {
        let mut sequence = Sequence::default();
        for seq in 1..=3 {
            assert_eq!(sequence.check("default/0", seq), Ok(()));
        }
        assert_eq!(sequence.check("default/1", 1), Ok(()));
        assert_eq!(sequence.check("default/0", 5), Err(Hole { expected: 4, got: 5 }));
        assert_eq!(Sequence::default().check("default/0", 2), Err(Hole { expected: 1, got: 2 }));
        assert_eq!(sequence.check("default/1", 1), Err(Hole { expected: 2, got: 1 }), "twice");
    }
}
