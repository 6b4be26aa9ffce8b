//! Raw BSON, read by skipping.
//!
//! Owns the sizes of BSON's types: a field is found without decoding, or even looking at, those
//! before it. Nothing is checked but what is needed to find the way, least of all that texts are
//! UTF-8: that a body is BSON throughout is `value::is_sound`'s business, and asked only of bodies that
//! would match.

use bson::RawDocument;

use super::value::{Corrupt, Value};

/// A value where it stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Raw<'a> {
    /// null and undefined.
    Null,
    Bool(bool),
    /// int32 and int64.
    Int(i64),
    Double(f64),
    /// string and symbol; perhaps no UTF-8.
    Text(&'a [u8]),
    /// Milliseconds since 1970.
    Time(i64),
    List(Container<'a>),
    Map(Container<'a>),
    /// Any other type: its byte and its bytes.
    Other(u8, &'a [u8]),
}

/// A document or an array.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Container<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    /// The value as filters compare it.
    pub(super) fn value(self) -> Result<Value, Corrupt> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Double(value) => Value::Double(value),
            Self::Text(text) => Value::Text(std::str::from_utf8(text).map_err(|_| Corrupt)?.into()),
            Self::Time(milliseconds) => Value::time(milliseconds),
            Self::Map(map) => Value::of_document(map.document()?)?,
            Self::List(list) => {
                let items = list.document()?.into_iter().map(|field| Value::of_raw(field.map_err(|_| Corrupt)?.1));
                Value::List(items.collect::<Result<_, _>>()?)
            }
            Self::Other(kind, bytes) => {
                // A document of this one field, for those who know the rarer types.
                let mut document = Vec::with_capacity(bytes.len() + 7);
                document.extend_from_slice(&i32::try_from(bytes.len() + 7).map_err(|_| Corrupt)?.to_le_bytes());
                document.extend_from_slice(&[kind, 0]);
                document.extend_from_slice(bytes);
                document.push(0);
                let document = RawDocument::from_bytes(&document).map_err(|_| Corrupt)?;
                Value::of_raw(document.get("").map_err(|_| Corrupt)?.ok_or(Corrupt)?)?
            }
        })
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

/// How many bytes a value of this type takes that begins here.
fn length(kind: u8, bytes: &[u8]) -> Option<usize> {
    let counted = |least: i32, extra: usize| {
        let count = int32(bytes).filter(|count| *count >= least)?;
        usize::try_from(count).ok()?.checked_add(extra)
    };
    Some(match kind {
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        // A text has a zero behind it, a container its length before it.
        0x02 | 0x0d | 0x0e => counted(1, 4)?,
        0x03 | 0x04 => counted(5, 0)?,
        0x05 => counted(0, 5)?,
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x07 => 12,
        0x08 => 1,
        0x0b => {
            let pattern = zero(bytes)? + 1;
            pattern + zero(&bytes[pattern..])? + 1
        }
        0x0c => counted(1, 16)?,
        0x0f => counted(5, 0)?,
        0x10 => 4,
        0x13 => 16,
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

/// See [`Place::fields`]; ends after bytes that cannot be read.
pub(super) struct Places<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Places<'a> {
    type Item = Result<(&'a [u8], Place), Corrupt>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.body.get(self.at..)?.split_first()?;
        if *kind == 0 {
            return None;
        }
        let field = || {
            let name = zero(rest)?;
            let start = self.at + 1 + name + 1;
            let stop = start.checked_add(length(*kind, self.body.get(start..)?)?)?;
            if stop >= self.body.len() {
                return None;
            }
            Some((&rest[..name], Place { kind: *kind, start: start as u32, stop: stop as u32 }))
        };
        let found = field();
        self.at = found.map_or(self.body.len(), |(_, place)| place.stop as usize);
        Some(found.ok_or(Corrupt))
    }
}

impl<'a> Container<'a> {
    /// A whole body.
    pub(super) fn of(body: &'a RawDocument) -> Self {
        Self(body.as_bytes())
    }

    fn document(self) -> Result<&'a RawDocument, Corrupt> {
        RawDocument::from_bytes(self.0).map_err(|_| Corrupt)
    }

    /// The first field of this name.
    pub(super) fn get(self, name: &str) -> Result<Option<Raw<'a>>, Corrupt> {
        for field in self.fields() {
            let (found, value) = field?;
            if found == name.as_bytes() {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The element at this place, whatever its name.
    pub(super) fn at(self, index: usize) -> Result<Option<Raw<'a>>, Corrupt> {
        self.fields().nth(index).transpose().map(|field| field.map(|(_, value)| value))
    }

    /// The fields in their order; ends after bytes that cannot be read.
    pub(super) fn fields(self) -> impl Iterator<Item = Result<(&'a [u8], Raw<'a>), Corrupt>> {
        Places { body: self.0, at: 4 }.map(move |field| {
            let (name, place) = field?;
            Ok((name, place.read(self.0).ok_or(Corrupt)?))
        })
    }
}

/// Whether these bytes are a whole document of ordinary types, texts and names being UTF-8. `false` says
/// nothing: there are rarer types, for others to judge.
pub(super) fn is_plainly_sound(document: &[u8], depth_max: u32) -> bool {
    let is_framed = int32(document).and_then(|length| usize::try_from(length).ok()) == Some(document.len());
    let Some(depth_max) = depth_max.checked_sub(1).filter(|_| is_framed && document.len() >= 5) else { return false };
    let mut fields = Places { body: document, at: 4 };
    let is_utf8 = |text: &[u8]| text.is_ascii() || std::str::from_utf8(text).is_ok();
    for field in fields.by_ref() {
        let Ok((name, place)) = field else { return false };
        let value = &document[place.start as usize..place.stop as usize];
        let is_sound = match place.kind {
            0x02 => value.split_last().is_some_and(|(end, text)| *end == 0 && is_utf8(&text[4..])),
            0x03 | 0x04 => is_plainly_sound(value, depth_max),
            0x08 => value[0] <= 1,
            0x01 | 0x07 | 0x09 | 0x0a | 0x10 | 0x11 | 0x12 => true,
            _ => false,
        };
        if !is_sound || !is_utf8(name) {
            return false;
        }
    }
    // The zero that ended it is its last byte.
    fields.at + 1 == document.len()
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

fn int32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_le_bytes)
}

fn eight(bytes: &[u8]) -> Option<[u8; 8]> {
    bytes.first_chunk().copied()
}
