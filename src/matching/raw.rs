//! Raw BSON, read by skipping.
//!
//! Owns the sizes of BSON's types: a field is found without decoding, or even looking at, those
//! before it. Nothing is checked but what is needed to find the way; where bytes are no BSON a container
//! ends, and a text that is no UTF-8 is an error for whoever looks at it. MongoDB hands out the latter, and
//! never the former.

use std::collections::BTreeMap;

use bson::RawDocument;

use super::value::Value;
use crate::limits;

/// A value where it stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Raw<'a> {
    /// null and undefined.
    Null,
    Bool(bool),
    /// int32 and int64.
    Int(i64),
    Double(f64),
    /// string and symbol; perhaps no UTF-8, unless it is [`Raw::checked`].
    Text(&'a [u8]),
    /// Milliseconds since 1970.
    Time(i64),
    List(Container<'a>),
    Map(Container<'a>),
    /// Any other type: its byte and its bytes.
    Other(u8, &'a [u8]),
    /// A text that is none, or something else that has one. To look at it is an error.
    Error,
}

/// A document or an array.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Container<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// The same, texts being UTF-8, and so what else there is of text.
    #[inline]
    pub(super) fn checked(self) -> Self {
        match self {
            Self::Text(text) if std::str::from_utf8(text).is_err() => Self::Error,
            // Regular expressions, code, pointers, and binary data that has its length twice.
            Self::Other(kind @ (0x05 | 0x0b | 0x0c | 0x0d | 0x0f), bytes)
                if (kind != 0x05 || bytes.get(4) == Some(&2)) && rarer(kind, bytes).is_none() =>
            {
                Self::Error
            }
            other => other,
        }
    }

    /// The value as filters compare it.
    pub(super) fn value(self) -> Value {
        self.value_within(limits::body_depth_max)
    }

    fn value_within(self, depth: usize) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Double(value) => Value::Double(value),
            Self::Text(text) => std::str::from_utf8(text).map_or(Value::Error, |text| Value::Text(text.into())),
            Self::Time(milliseconds) => Value::time(milliseconds),
            Self::Map(_) | Self::List(_) if depth == 0 => Value::Error,
            Self::Map(map) => {
                let mut fields = BTreeMap::new();
                for (name, value) in map.fields() {
                    // A name that is none nobody can ask for.
                    if let Ok(name) = std::str::from_utf8(name) {
                        fields.entry(name.into()).or_insert_with(|| value.value_within(depth - 1));
                    }
                }
                Value::Map(Box::new(fields))
            }
            Self::List(list) => Value::List(list.fields().map(|(_, item)| item.value_within(depth - 1)).collect()),
            Self::Other(kind, bytes) => rarer(kind, bytes).unwrap_or(Value::Error),
            Self::Error => Value::Error,
        }
    }

    /// The value of this type that these bytes are.
    fn read(kind: u8, bytes: &'a [u8]) -> Option<Self> {
        Some(match kind {
            0x01 => Self::Double(f64::from_le_bytes(eight(bytes)?)),
            0x02 | 0x0e => Self::Text(bytes.get(4..bytes.len().checked_sub(1)?)?),
            0x03 => Self::Map(Container(bytes)),
            0x04 => Self::List(Container(bytes)),
            0x06 | 0x0a => Self::Null,
            0x08 => Self::Bool(*bytes.first()? != 0),
            0x09 => Self::Time(i64::from_le_bytes(eight(bytes)?)),
            0x10 => Self::Int(i64::from(int32(bytes)?)),
            0x12 => Self::Int(i64::from_le_bytes(eight(bytes)?)),
            _ => Self::Other(kind, bytes),
        })
    }
}

/// A value of the rarer types, by way of a document of this one field where it is none of the frequent ones.
fn rarer(kind: u8, bytes: &[u8]) -> Option<Value> {
    if kind == OBJECT_ID {
        return Some(Value::Text(std::str::from_utf8(&hex(*bytes.first_chunk()?)).ok()?.into()));
    }
    let mut document = Vec::with_capacity(bytes.len() + 7);
    document.extend_from_slice(&i32::try_from(bytes.len() + 7).ok()?.to_le_bytes());
    document.extend_from_slice(&[kind, 0]);
    document.extend_from_slice(bytes);
    document.push(0);
    Value::of_rarer(RawDocument::from_bytes(&document).ok()?.get("").ok()??)
}

/// How many bytes a value takes, by its type; 0 where the value tells.
const LENGTHS: [u8; 20] = [0, 8, 0, 0, 0, 0, 0, 12, 1, 8, 0, 0, 0, 0, 0, 0, 4, 8, 8, 16];

/// How many bytes a value of this type takes that begins here.
#[inline]
fn length(kind: u8, bytes: &[u8]) -> Option<usize> {
    // One look for what nearly all fields are.
    match LENGTHS.get(kind as usize) {
        Some(0) if kind == 0x02 => {
            let count = int32(bytes).filter(|count| *count > 0)?;
            usize::try_from(count).ok()?.checked_add(4)
        }
        Some(0) | None => length_told(kind, bytes),
        Some(length) => Some(usize::from(*length)),
    }
}

/// The same for types that tell it themselves, or are nothing but their type.
fn length_told(kind: u8, bytes: &[u8]) -> Option<usize> {
    let counted = |least: i32, extra: usize| {
        let count = int32(bytes).filter(|count| *count >= least)?;
        usize::try_from(count).ok()?.checked_add(extra)
    };
    Some(match kind {
        // A text has a zero behind it, a container its length before it.
        0x02 | 0x0d | 0x0e => counted(1, 4)?,
        0x03 | 0x04 => counted(5, 0)?,
        0x05 => counted(0, 5)?,
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x0b => {
            let pattern = zero(bytes)? + 1;
            pattern + zero(&bytes[pattern..])? + 1
        }
        0x0c => counted(1, 16)?,
        0x0f => counted(5, 0)?,
        _ => return None,
    })
}

/// Where a value stands in a body. Keeps no borrow, so places outlive the body in reused memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    kind: u8,
    start: u32,
    stop: u32,
}

impl Place {
    /// Whether there is something inside.
    pub(super) const fn is_container(self) -> bool {
        matches!(self.kind, 0x03 | 0x04)
    }

    /// Whether what is inside is numbered.
    pub(super) const fn is_list(self) -> bool {
        self.kind == 0x04
    }

    /// A whole body.
    pub(super) fn whole(body: &[u8]) -> Option<Self> {
        Some(Self { kind: 0x03, start: 0, stop: u32::try_from(body.len()).ok()? })
    }

    /// The value that stands there.
    pub(super) fn read(self, body: &[u8]) -> Option<Raw<'_>> {
        Raw::read(self.kind, body.get(self.start as usize..self.stop as usize)?)
    }

    /// What is in the container there: the names, and where the values stand.
    pub(super) fn fields(self, body: &[u8]) -> Places<'_> {
        let stop = (self.stop as usize).min(body.len());
        Places { body: &body[..stop], at: self.start as usize + 4 }
    }
}

/// See [`Place::fields`]; ends before bytes that cannot be read.
pub(super) struct Places<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Places<'a> {
    type Item = (&'a [u8], Place);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.body.get(self.at..)?.split_first()?;
        if *kind == 0 {
            return None;
        }
        let name = zero(rest)?;
        let start = self.at + name + 2;
        let stop = start.checked_add(length(*kind, self.body.get(start..)?)?)?;
        // The container's own end comes after it.
        if stop >= self.body.len() {
            return None;
        }
        self.at = stop;
        Some((&rest[..name], Place { kind: *kind, start: start as u32, stop: stop as u32 }))
    }
}

impl<'a> Container<'a> {
    /// A whole body.
    pub(super) fn of(body: &'a RawDocument) -> Self {
        Self(body.as_bytes())
    }

    /// The first field of this name.
    pub(super) fn get(self, name: &str) -> Option<Raw<'a>> {
        self.fields().find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }

    /// The element at this place, whatever its name.
    pub(super) fn at(self, index: usize) -> Option<Raw<'a>> {
        self.fields().nth(index).map(|(_, value)| value)
    }

    /// The fields in their order; ends before bytes that cannot be read.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'a [u8], Raw<'a>)> {
        Places { body: self.0, at: 4 }.map_while(move |(name, place)| Some((name, place.read(self.0)?)))
    }
}

/// Where the first zero is: eight bytes at a time, for names are short.
#[inline]
fn zero(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*eight);
        // The lowest bit that stays belongs to the first zero byte; above it there may be others.
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(at + (zeros.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at..].iter().position(|byte| *byte == 0).map(|found| at + found)
}

/// The type of ObjectIds.
pub(super) const OBJECT_ID: u8 = 0x07;

/// An ObjectId's digits.
pub(super) fn hex(id: [u8; 12]) -> [u8; 24] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 24];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(id) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    digits
}

fn int32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_le_bytes)
}

fn eight(bytes: &[u8]) -> Option<[u8; 8]> {
    bytes.first_chunk().copied()
}
