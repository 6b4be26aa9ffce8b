//! Values of a compiled expression: what the CEL crate has for each, read where it stands in a body.
//!
//! Owns equality, order, arithmetic and conversions of single values, to the letter of the crate's: it is the
//! oracle. Texts are not checked to be UTF-8: a body's soundness is asked for by whoever uses a result.

use std::cmp::Ordering;
use std::ops::Deref;
use std::sync::Arc;

use super::{Outcome, Stop, containers};
use crate::matching::raw::{Container, Raw, hex};
use crate::matching::value::Value;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Val<'e> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// UTF-8 if it comes from a body that is sound.
    Text(Buffer<'e>),
    Bytes(Buffer<'e>),
    /// Seconds since 1970, and nanoseconds: in this order they compare like the crate's.
    Time(i64, u32),
    /// The name of a type.
    Type(&'static str),
    /// An array of a body. Elements that are errors are in it, and it fails wherever the crate's would.
    List(Container<'e>),
    /// A document of a body, or a whole one; of fields with one name the first counts.
    Map(Container<'e>),
    /// A list that was made.
    Items(Items<'e>),
}

/// Bytes of a body, or made.
#[derive(Clone, Debug)]
pub(super) enum Buffer<'e> {
    Borrowed(&'e [u8]),
    Made(Arc<[u8]>),
    /// An ObjectId as text.
    Hex([u8; 24]),
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Made(bytes) => bytes,
            Self::Hex(digits) => digits,
        }
    }
}

/// Values of a list that is written out, or made by a loop.
#[derive(Clone, Debug)]
pub(super) enum Items<'e> {
    Borrowed(&'e [Val<'e>]),
    Made(Arc<[Val<'e>]>),
}

impl<'e> Deref for Items<'e> {
    type Target = [Val<'e>];

    fn deref(&self) -> &[Val<'e>] {
        match self {
            Self::Borrowed(items) => items,
            Self::Made(items) => items,
        }
    }
}

/// An operator of two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What a value is made into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conversion {
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Bool,
}

impl<'e> Val<'e> {
    /// The value of a field. One that CEL cannot express is an error to look at.
    pub(super) fn of_raw(raw: Raw<'e>) -> Outcome<Self> {
        Ok(match raw.checked() {
            Raw::Error => return Err(Stop::Error),
            Raw::Null => Self::Null,
            Raw::Bool(value) => Self::Bool(value),
            Raw::Int(value) => Self::Int(value),
            Raw::Double(value) => Self::Double(value),
            Raw::Text(text) => Self::Text(Buffer::Borrowed(text)),
            Raw::List(list) => Self::List(list),
            Raw::Map(map) => Self::Map(map),
            Raw::Time(_) if containers::is_error(raw) => return Err(Stop::Error),
            Raw::Time(milliseconds) => {
                Self::Time(milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000) as u32 * 1_000_000)
            }
            Raw::Other(kind, bytes) => Self::of_rare(kind, bytes, raw)?,
        })
    }

    fn of_rare(kind: u8, bytes: &'e [u8], raw: Raw<'e>) -> Outcome<Self> {
        match (kind, bytes.first_chunk::<12>(), bytes.get(4), bytes.get(5..)) {
            (0x07, Some(id), ..) => return Ok(Self::Text(Buffer::Hex(hex(*id)))),
            // The old subtype has its length twice.
            (0x05, _, Some(subtype), Some(data)) if *subtype != 2 => return Ok(Self::Bytes(Buffer::Borrowed(data))),
            _ => {}
        }
        match raw.value() {
            Value::Double(value) => Ok(Self::Double(value)),
            Value::Text(text) => Ok(Self::text(&text)),
            Value::Bytes(bytes) => Ok(Self::Bytes(Buffer::Made(Arc::from(&*bytes)))),
            _ => Err(Stop::Interpreter),
        }
    }

    /// A text of its own.
    pub(super) fn text(text: &str) -> Self {
        Self::Text(Buffer::Made(text.as_bytes().into()))
    }

    /// A list of its own.
    pub(super) fn items(items: Vec<Self>) -> Self {
        Self::Items(Items::Made(items.into()))
    }

    /// The same without counting another holder of what was made.
    pub(super) fn borrowed(&'e self) -> Self {
        match self {
            Self::Text(text) => Self::Text(Buffer::Borrowed(text)),
            Self::Bytes(bytes) => Self::Bytes(Buffer::Borrowed(bytes)),
            Self::Items(items) => Self::Items(Items::Borrowed(items)),
            other => other.clone(),
        }
    }

    /// CEL's `==`.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) | (Self::Bytes(a), Self::Bytes(b)) => **a == **b,
            (Self::Time(a, x), Self::Time(b, y)) => (a, x) == (b, y),
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::List(_) | Self::Items(_), Self::List(_) | Self::Items(_)) => {
                containers::are_equal_lists(self, other)
            }
            (Self::Map(a), Self::Map(b)) => containers::are_equal_maps(*a, *b),
            _ => order_of_numbers(self, other) == Some(Ordering::Equal),
        }
    }

    /// CEL's order; an error between values that have none.
    pub(super) fn order(&self, other: &Self) -> Outcome<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Ok(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) | (Self::Bytes(a), Self::Bytes(b)) => Ok((**a).cmp(b)),
            (Self::Time(a, x), Self::Time(b, y)) => Ok((a, x).cmp(&(b, y))),
            _ => order_of_numbers(self, other).ok_or(Stop::Error),
        }
    }

    /// `a + b` and its like. There is no mixing of types.
    pub(super) fn calculate(operation: Operation, a: &Self, b: &Self) -> Outcome<Self> {
        use Operation::{Add, Divide, Multiply, Remainder, Subtract};
        match (a, b) {
            (Self::Int(a), Self::Int(b)) => {
                let result = match operation {
                    Add => a.checked_add(*b),
                    Subtract => a.checked_sub(*b),
                    Multiply => a.checked_mul(*b),
                    Divide => a.checked_div(*b),
                    Remainder => a.checked_rem(*b),
                };
                result.map(Self::Int).ok_or(Stop::Error)
            }
            (Self::Uint(a), Self::Uint(b)) => {
                let result = match operation {
                    Add => a.checked_add(*b),
                    Subtract => a.checked_sub(*b),
                    Multiply => a.checked_mul(*b),
                    Divide => a.checked_div(*b),
                    Remainder => a.checked_rem(*b),
                };
                result.map(Self::Uint).ok_or(Stop::Error)
            }
            (Self::Double(a), Self::Double(b)) => match operation {
                Add => Ok(Self::Double(a + b)),
                Subtract => Ok(Self::Double(a - b)),
                Multiply => Ok(Self::Double(a * b)),
                Divide => Ok(Self::Double(a / b)),
                Remainder => Err(Stop::Error),
            },
            (Self::Text(a), Self::Text(b)) if operation == Add => {
                Ok(Self::Text(Buffer::Made([&**a, &**b].concat().into())))
            }
            (Self::Bytes(a), Self::Bytes(b)) if operation == Add => {
                Ok(Self::Bytes(Buffer::Made([&**a, &**b].concat().into())))
            }
            (Self::List(_) | Self::Items(_), _) if operation == Add => containers::joined(a, b),
            // A duration, of which there are none here.
            (Self::Time(..), Self::Time(..)) if operation == Subtract => Err(Stop::Interpreter),
            _ => Err(Stop::Error),
        }
    }

    /// `-a`.
    pub(super) fn negated(&self) -> Outcome<Self> {
        match self {
            Self::Int(value) => value.checked_neg().map(Self::Int).ok_or(Stop::Error),
            Self::Double(value) => Ok(Self::Double(-value)),
            _ => Err(Stop::Error),
        }
    }

    /// `int(a)` and its like.
    pub(super) fn converted(self, to: Conversion) -> Outcome<Self> {
        match to {
            Conversion::Int => self.to_int().map(Self::Int),
            Conversion::Uint => self.to_uint().map(Self::Uint),
            Conversion::Double => match self {
                Self::Double(value) => Ok(Self::Double(value)),
                Self::Int(value) => Ok(Self::Double(value as f64)),
                Self::Uint(value) => Ok(Self::Double(value as f64)),
                Self::Text(text) => parsed(&text).map(Self::Double),
                _ => Err(Stop::Error),
            },
            Conversion::Text => match self {
                Self::Text(_) => Ok(self),
                Self::Bool(value) => Ok(Self::text(if value { "true" } else { "false" })),
                Self::Int(value) => Ok(Self::text(&value.to_string())),
                Self::Uint(value) => Ok(Self::text(&value.to_string())),
                Self::Double(value) => Ok(Self::text(&value.to_string())),
                Self::Bytes(bytes) => utf8(&bytes).is_ok().then_some(Self::Text(bytes)).ok_or(Stop::Error),
                Self::Time(..) => Err(Stop::Interpreter),
                _ => Err(Stop::Error),
            },
            Conversion::Bytes => match self {
                Self::Text(bytes) | Self::Bytes(bytes) => Ok(Self::Bytes(bytes)),
                _ => Err(Stop::Error),
            },
            Conversion::Bool => match self {
                Self::Bool(_) => Ok(self),
                Self::Text(text) => match &*text {
                    b"1" | b"t" | b"true" | b"TRUE" | b"True" => Ok(Self::Bool(true)),
                    b"0" | b"f" | b"false" | b"FALSE" | b"False" => Ok(Self::Bool(false)),
                    _ => Err(Stop::Error),
                },
                _ => Err(Stop::Error),
            },
        }
    }

    fn to_int(&self) -> Outcome<i64> {
        match self {
            Self::Int(value) | Self::Time(value, _) => Ok(*value),
            Self::Uint(value) => i64::try_from(*value).map_err(|_| Stop::Error),
            // Neither end is included: the lower could be, but is not in CEL.
            Self::Double(value) if *value > i64::MIN as f64 && *value < i64::MAX as f64 => Ok(*value as i64),
            Self::Text(text) => parsed(text),
            _ => Err(Stop::Error),
        }
    }

    fn to_uint(&self) -> Outcome<u64> {
        match self {
            Self::Uint(value) => Ok(*value),
            Self::Int(value) => u64::try_from(*value).map_err(|_| Stop::Error),
            Self::Double(value) if *value >= 0.0 && *value < u64::MAX as f64 => Ok(*value as u64),
            Self::Text(text) => parsed(text),
            _ => Err(Stop::Error),
        }
    }

    /// Where it points to as an index of a list.
    pub(super) fn as_index(&self) -> Outcome<usize> {
        let index = match self {
            Self::Int(index) => usize::try_from(*index).ok(),
            Self::Uint(index) => usize::try_from(*index).ok(),
            Self::Double(index) if *index >= 0.0 && *index < i64::MAX as f64 && index.trunc() == *index => {
                usize::try_from(*index as i64).ok()
            }
            _ => None,
        };
        index.ok_or(Stop::Error)
    }

    /// Its truth value.
    pub(super) fn truth(&self) -> Outcome<bool> {
        if let Self::Bool(value) = self { Ok(*value) } else { Err(Stop::Error) }
    }

    /// The name of its type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Time(..) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::List(_) | Self::Items(_) => "list",
            Self::Map(_) => "map",
        }
    }
}

fn order_of_numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Int(a), Val::Uint(b)) => Some(u64::try_from(*a).map_or(Ordering::Less, |a| a.cmp(b))),
        (Val::Uint(a), Val::Int(b)) => Some(i64::try_from(*a).map_or(Ordering::Greater, |a| a.cmp(b))),
        (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
        (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
        _ => None,
    }
}

/// Bytes as text. What is none comes from a body that is not sound.
pub(super) fn utf8(bytes: &[u8]) -> Outcome<&str> {
    std::str::from_utf8(bytes).map_err(|_| Stop::Error)
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Outcome<T> {
    utf8(text)?.parse().map_err(|_| Stop::Error)
}
