//! Positions: a change's place in its partition.
//!
//! Owns the three numbers, their order and their text form. Knows nothing of where changes come
//! from, of sessions or of storage.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A BSON timestamp: seconds since 1970 in the upper half, increment in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    /// From seconds since 1970 and the increment within that second.
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self(((seconds as u64) << 32) | increment as u64)
    }

    /// Seconds since 1970.
    pub const fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The increment within the second.
    pub const fn increment(self) -> u32 {
        self.0 as u32
    }

    /// The next instant that a change can carry.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A text that is no cluster time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a cluster time is its seconds since 1970, a point, and the increment in that second, such as 1763690000.1")]
pub struct NotAClusterTime;

impl From<ClusterTime> for String {
    fn from(time: ClusterTime) -> Self {
        format!("{time:?}")
    }
}

impl TryFrom<String> for ClusterTime {
    type Error = NotAClusterTime;

    fn try_from(text: String) -> Result<Self, NotAClusterTime> {
        text.parse()
    }
}

impl FromStr for ClusterTime {
    type Err = NotAClusterTime;

    fn from_str(text: &str) -> Result<Self, NotAClusterTime> {
        let (seconds, increment) = text.split_once('.').ok_or(NotAClusterTime)?;
        match (seconds.parse(), increment.parse()) {
            (Ok(seconds), Ok(increment)) => Ok(Self::new(seconds, increment)),
            _ => Err(NotAClusterTime),
        }
    }
}

impl fmt::Debug for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds(), self.increment())
    }
}

/// Rises only when the definition of a partition's stream changes (`docs/glossary.md`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Epoch(pub u32);

/// `(epoch, cluster_time, ordinal)`, ordered in that order.
///
/// Ordinals count from 1 the changes that share a cluster time. Ordinal 0 is the *boundary* before
/// the first of them: at `(e, T, 0)` everything before `T` is known and a change at `T` is to come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Which definition of the stream the other two numbers belong to.
    pub epoch: Epoch,
    /// MongoDB's cluster time of the change, or the embedded log's.
    pub time: ClusterTime,
    /// 1-based place among the changes at `time`; 0 is the boundary before them.
    pub ordinal: u32,
}

impl Position {
    /// A change's position.
    pub const fn new(epoch: Epoch, time: ClusterTime, ordinal: u32) -> Self {
        Self { epoch, time, ordinal }
    }

    /// The boundary before every change at `time`.
    pub const fn boundary(epoch: Epoch, time: ClusterTime) -> Self {
        Self { epoch, time, ordinal: 0 }
    }

    /// Whether this is a boundary, not a change.
    pub const fn is_boundary(self) -> bool {
        self.ordinal == 0
    }

    /// The text, in `out`. Each delivery says its position twice, which is why no formatter does it.
    fn digits(self, out: &mut [u8; POSITION_CHARS]) -> &str {
        let ordered = u128::from(self.epoch.0) << 96 | u128::from(self.time.0) << 32 | u128::from(self.ordinal);
        for (index, byte) in out.iter_mut().enumerate() {
            let nibble = (ordered >> (4 * (POSITION_CHARS - 1 - index))) as usize & 0xf;
            *byte = b"0123456789abcdef"[nibble];
        }
        std::str::from_utf8(out).unwrap_or_default()
    }

    /// The greatest boundary at or before this position.
    pub const fn floor_boundary(self) -> Self {
        Self { ordinal: 0, ..self }
    }

    /// The greatest position below a change's own: "everything before this change".
    ///
    /// # Panics
    /// If called on a boundary, which has no predecessor of its own.
    pub fn before_change(self) -> Self {
        assert!(self.ordinal > 0, "a boundary has no predecessor: {self}");
        Self { ordinal: self.ordinal - 1, ..self }
    }
}

/// Hex digits of a position as text.
const POSITION_CHARS: usize = 32;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits(&mut [0; POSITION_CHARS]))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}:{}", self.epoch.0, self.time, self.ordinal)
    }
}

/// A text that is not 32 lowercase hex digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a position is 32 lowercase hex digits")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != POSITION_CHARS || !text.bytes().all(lower_hex) {
            return Err(NotAPosition);
        }
        let number = |from: usize, to: usize| u64::from_str_radix(&text[from..to], 16);
        let parse = || -> Result<Self, std::num::ParseIntError> {
            Ok(Self {
                epoch: Epoch(number(0, 8)? as u32),
                time: ClusterTime(number(8, 24)?),
                ordinal: number(24, 32)? as u32,
            })
        };
        parse().map_err(|_| NotAPosition)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One change stream of a backend: `<backend>/<number>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    backend: Arc<str>,
    number: u16,
}

impl PartitionId {
    /// Partition `number` of the backend of that name.
    pub fn new(backend: impl Into<Arc<str>>, number: u16) -> Self {
        Self { backend: backend.into(), number }
    }

    /// The backend's configured name.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The partition's number, from 0.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.backend)?;
        f.write_str("/")?;
        fmt::Display::fmt(&self.number, f)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PartitionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartitionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A text that names no partition.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a partition is <backend>/<number>")]
pub struct NotAPartition;

impl FromStr for PartitionId {
    type Err = NotAPartition;

    fn from_str(text: &str) -> Result<Self, NotAPartition> {
        let (backend, number) = text.rsplit_once('/').ok_or(NotAPartition)?;
        Ok(Self::new(backend, number.parse().map_err(|_| NotAPartition)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_keeps_the_order_and_comes_back(a: (u32, u64, u32), b: (u32, u64, u32)) {
            let position = |(e, t, o)| Position::new(Epoch(e), ClusterTime(t), o);
            let (a, b) = (position(a), position(b));
            prop_assert_eq!(a.to_string().parse::<Position>(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }

    #[test]
    fn a_boundary_lies_between_the_last_change_before_and_the_first_at_its_time() {
        let at = |time, ordinal| Position::new(Epoch(1), ClusterTime(time), ordinal);
        assert!(at(4, u32::MAX) < at(5, 0));
        assert!(at(5, 0) < at(5, 1));
        assert_eq!(at(5, 1).before_change(), at(5, 0));
        assert_eq!(at(5, 3).floor_boundary(), at(5, 0));
    }

    #[test]
    fn other_texts_are_refused() {
        let upper = "0000000A0000000000000000000000FF";
        for text in ["", "1", upper, &"0".repeat(33), "+0000000000000000000000000000001"] {
            assert_eq!(text.parse::<Position>(), Err(NotAPosition), "{text}");
        }
    }
}
