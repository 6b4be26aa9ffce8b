//! Cursors: what a gateway has durably taken.
//!
//! Owns the cursor's meaning and its opaque text. A cursor names, for each partition, a position, the
//! store revision up to which its maker knew every subscription, and the progress of unfinished
//! catch-ups (`docs/decisions/0003-cursors.md`). With several partitions it is the cursors of each, side by side. Knows nothing of who makes or stores them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::position::{ClusterTime, Epoch, PartitionId, Position};
use crate::store::Revision;

/// A cursor's opaque text, as clients hold it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CursorText(pub Arc<str>);

impl CursorText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CursorText {
    /// One text of several partitions' cursors, each of which knows its own.
    pub fn joined<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let texts: Vec<&str> = parts.into_iter().map(Self::as_str).collect();
        Self(texts.join(SEPARATOR).into())
    }

    /// The reverse of [`Self::joined`], by partition.
    pub fn parts(&self) -> Result<BTreeMap<PartitionId, Self>, NotACursor> {
        if self.0.len() > limits::cursor_text_bytes_max {
            return Err(NotACursor);
        }
        let part = |text: &str| {
            let partition = Cursor::decode(text)?.places.into_keys().next().ok_or(NotACursor)?;
            Ok((partition, Self(text.into())))
        };
        self.0.split(SEPARATOR).map(part).collect()
    }

    /// What a partition is to make of it: its own part of several. Where none is its own it is for it to refuse any.
    pub fn for_partition(&self, partition: &PartitionId) -> Self {
        if !self.0.contains(SEPARATOR) {
            return self.clone();
        }
        let Ok(mut parts) = self.parts() else { return self.clone() };
        parts.remove(partition).or_else(|| parts.into_values().next()).unwrap_or_else(|| self.clone())
    }
}

/// Between the parts of several partitions: no base64 has it.
const SEPARATOR: &str = ".";

impl fmt::Display for CursorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CursorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where in a gateway's life a cursor was made: later sessions and later messages are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Serial {
    /// The session's number; 0 is the gateway's birth.
    pub session: u64,
    /// Counts what the session has written, from 1.
    pub written: u64,
}

/// One partition's part of a cursor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Everything up to here has been taken, for subscriptions that started at or before `known`.
    pub position: Position,
    /// Subscriptions that started after this revision are served from their own stored start.
    pub known: Revision,
    /// Subscriptions still behind `position`: start revision to what has been taken.
    pub unfinished: BTreeMap<Revision, Position>,
}

impl Place {
    /// Everything up to here has been taken by all of them.
    pub fn lowest(&self) -> Position {
        self.unfinished.values().copied().fold(self.position, Position::min)
    }
}

/// What a gateway has durably taken, for every partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The revision at which the gateway was born: a gateway deleted and made again is another.
    pub incarnation: Revision,
    /// When in that life it was made.
    pub serial: Serial,
    /// Where it stands.
    pub places: BTreeMap<PartitionId, Place>,
}

/// A text that no hub made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a cursor of this hub")]
pub struct NotACursor;

const VERSION: u8 = 1;

impl Cursor {
    /// After which position somebody else begins who starts from here: where its maker was, or the
    /// least of its unfinished catch-ups.
    pub fn start(&self, partition: &PartitionId) -> Option<Position> {
        let place = self.places.get(partition)?;
        place.unfinished.values().copied().chain([place.position]).min()
    }

    /// The text that clients hold.
    pub fn encode(&self) -> CursorText {
        let mut out = Vec::with_capacity(96);
        out.push(VERSION);
        put(&mut out, self.incarnation.0);
        put(&mut out, self.serial.session);
        put(&mut out, self.serial.written);
        put(&mut out, self.places.len() as u64);
        for (partition, place) in &self.places {
            put(&mut out, partition.backend().len() as u64);
            out.extend_from_slice(partition.backend().as_bytes());
            put(&mut out, u64::from(partition.number()));
            put_position(&mut out, place.position);
            put(&mut out, place.known.0);
            put(&mut out, place.unfinished.len() as u64);
            for (revision, position) in &place.unfinished {
                put(&mut out, revision.0);
                put_position(&mut out, *position);
            }
        }
        let check = checksum(&out);
        out.extend_from_slice(&check);
        CursorText(URL_SAFE_NO_PAD.encode(out).into())
    }

    /// Reads a text back. Whatever was not made by [`Self::encode`] is refused.
    pub fn decode(text: &str) -> Result<Self, NotACursor> {
        if text.len() > limits::cursor_text_bytes_max {
            return Err(NotACursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let body_len = bytes.len().checked_sub(CHECK_BYTES).ok_or(NotACursor)?;
        let (body, check) = bytes.split_at(body_len);
        if checksum(body) != check {
            return Err(NotACursor);
        }
        let mut reader = Reader { bytes: body };
        if reader.byte()? != VERSION {
            return Err(NotACursor);
        }
        let incarnation = Revision(reader.number()?);
        let serial = Serial { session: reader.number()?, written: reader.number()? };
        let mut places = BTreeMap::new();
        for _ in 0..reader.number()? {
            let backend_len = usize::try_from(reader.number()?).map_err(|_| NotACursor)?;
            let backend = std::str::from_utf8(reader.take(backend_len)?).map_err(|_| NotACursor)?;
            let number = u16::try_from(reader.number()?).map_err(|_| NotACursor)?;
            let partition = PartitionId::new(backend, number);
            let position = reader.position()?;
            let known = Revision(reader.number()?);
            let mut unfinished = BTreeMap::new();
            for _ in 0..reader.number()? {
                unfinished.insert(Revision(reader.number()?), reader.position()?);
            }
            places.insert(partition, Place { position, known, unfinished });
        }
        if reader.bytes.is_empty() { Ok(Self { incarnation, serial, places }) } else { Err(NotACursor) }
    }
}

/// Guards against mistyped and truncated texts, not against forgery: a gateway may present any
/// cursor of its own anyway.
const CHECK_BYTES: usize = 4;

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    // FNV-1a, 32 bits (Fowler, Noll, Vo).
    let mut hash: u32 = 0x811c_9dc5;
    for byte in bytes {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    hash.to_be_bytes()
}

/// LEB128, unsigned.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    put(out, u64::from(position.epoch.0));
    put(out, position.time.0);
    put(out, u64::from(position.ordinal));
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], NotACursor> {
        let (head, tail) = self.bytes.split_at_checked(count).ok_or(NotACursor)?;
        self.bytes = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, NotACursor> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, NotACursor> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(NotACursor);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(NotACursor)
    }

    fn position(&mut self) -> Result<Position, NotACursor> {
        let narrow = |number: u64| u32::try_from(number).map_err(|_| NotACursor);
        let epoch = Epoch(narrow(self.number()?)?);
        let time = ClusterTime(self.number()?);
        let ordinal = narrow(self.number()?)?;
        Ok(Position { epoch, time, ordinal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    fn positions() -> impl Strategy<Value = Position> {
        any::<(u32, u64, u32)>().prop_map(|(e, t, o)| Position::new(Epoch(e), ClusterTime(t), o))
    }

    fn cursors() -> impl Strategy<Value = Cursor> {
        let unfinished = btree_map(any::<u64>().prop_map(Revision), positions(), 0..limits::cursor_catchups_max);
        let place = (positions(), any::<u64>(), unfinished).prop_map(|(position, known, unfinished)| Place {
            position,
            known: Revision(known),
            unfinished,
        });
        (any::<(u64, u64, u64)>(), place).prop_map(|((incarnation, session, written), place)| Cursor {
            incarnation: Revision(incarnation),
            serial: Serial { session, written },
            places: BTreeMap::from([(PartitionId::new("default", 0), place)]),
        })
    }

    proptest! {
        #[test]
        fn text_comes_back_and_fits(cursor in cursors()) {
            let text = cursor.encode();
            prop_assert!(text.as_str().len() <= limits::cursor_text_bytes_max);
            prop_assert_eq!(Cursor::decode(text.as_str()), Ok(cursor));
        }

        #[test]
        fn a_damaged_text_is_refused(cursor in cursors(), at: prop::sample::Index, to in 0u8..64) {
            let text = cursor.encode();
            let mut bytes = text.as_str().as_bytes().to_vec();
            let at = at.index(bytes.len() - 1);
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let other = alphabet[usize::from(to)];
            prop_assume!(bytes[at] != other);
            bytes[at] = other;
            prop_assert_eq!(Cursor::decode(std::str::from_utf8(&bytes).unwrap()), Err(NotACursor));
        }

        #[test]
        fn nonsense_is_refused_and_never_panics(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Cursor::decode(&URL_SAFE_NO_PAD.encode(&bytes));
            let _ = Cursor::decode(&String::from_utf8_lossy(&bytes));
        }
    }
}
