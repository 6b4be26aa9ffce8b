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

    /// The value of this type that begins here, and its length in bytes.
    fn read(kind: u8, bytes: &'a [u8]) -> Option<(Self, usize)> {
        let fixed = |len: usize| Some((Self::Other(kind, bytes.get(..len)?), len));
        let counted = |extra: usize| usize::try_from(int32(bytes)?).ok()?.checked_add(extra);
        Some(match kind {
            0x01 => (Self::Double(f64::from_le_bytes(eight(bytes)?)), 8),
            0x02 | 0x0e => {
                let len = counted(4)?;
                (Self::Text(bytes.get(4..len.checked_sub(1)?)?), len)
            }
            0x03 | 0x04 => {
                let len = counted(0)?;
                let inner = Container(bytes.get(..len).filter(|inner| inner.len() >= 5)?);
                (if kind == 0x03 { Self::Map(inner) } else { Self::List(inner) }, len)
            }
            0x06 | 0x0a => (Self::Null, 0),
            0x08 => (Self::Bool(*bytes.first()? != 0), 1),
            0x09 => (Self::Time(i64::from_le_bytes(eight(bytes)?)), 8),
            0x10 => (Self::Int(i64::from(int32(bytes)?)), 4),
            0x12 => (Self::Int(i64::from_le_bytes(eight(bytes)?)), 8),
            0x05 => fixed(counted(5)?)?,
            0x07 => fixed(12)?,
            0x0b => {
                let pattern = zero(bytes)? + 1;
                fixed(pattern + zero(&bytes[pattern..])? + 1)?
            }
            0x0c => fixed(counted(16)?)?,
            0x0d => fixed(counted(4)?)?,
            0x0f => fixed(counted(0)?)?,
            0x11 => fixed(8)?,
            0x13 => fixed(16)?,
            0x7f | 0xff => fixed(0)?,
            _ => return None,
        })
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
    pub(super) fn fields(self) -> Fields<'a> {
        Fields(self.0.get(4..).unwrap_or_default())
    }
}

/// See [`Container::fields`].
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(&'a [u8], Raw<'a>), Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        let (kind, rest) = self.0.split_first()?;
        if *kind == 0 {
            return None;
        }
        let field = || {
            let (name, rest) = rest.split_at_checked(zero(rest)?)?;
            let (value, len) = Raw::read(*kind, &rest[1..])?;
            Some((name, value, rest.get(1 + len..)?))
        };
        let Some((name, value, rest)) = field() else {
            self.0 = &[];
            return Some(Err(Corrupt));
        };
        self.0 = rest;
        Some(Ok((name, value)))
    }
}

fn zero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

fn int32(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().copied().map(i32::from_le_bytes)
}

fn eight(bytes: &[u8]) -> Option<[u8; 8]> {
    bytes.first_chunk().copied()
}
