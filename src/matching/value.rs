//! Values: what BSON is to a filter.
//!
//! Owns the one mapping from BSON to CEL's values, and CEL's equality and order over them. Every
//! evaluator and the index go through it, so they cannot disagree on a type.
//!
//! Numbers compare as the CEL specification has it: an int beside a double becomes the nearest
//! double first, so above 2^53 one double equals several ints. NaN equals nothing and has no order.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use bson::{Bson, RawBsonRef, RawDocument};
use compact_str::CompactString;

use super::raw::{Container, Raw};

/// A BSON value as CEL sees it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// `null`, and BSON's undefined.
    Null,
    /// A truth value.
    Bool(bool),
    /// int32 and int64.
    Int(i64),
    /// double, and the double nearest to a decimal128.
    Double(f64),
    /// string, symbol, an ObjectId's hex digits, and whatever CEL has no type for as canonical
    /// Extended JSON. Short ones, such as an ObjectId's, stand in place.
    Text(CompactString),
    /// A date: milliseconds since 1970, within the years 1 to 9999.
    Time(i64),
    /// Binary data of any subtype.
    Bytes(Box<[u8]>),
    /// An array.
    List(Box<[Value]>),
    /// A document; of fields with the same name the first.
    #[allow(clippy::box_collection, reason = "a million filters have a value that is no map")]
    Map(Box<BTreeMap<Box<str>, Value>>),
    /// A date that CEL cannot express, or a text that is no UTF-8. To look at it is an error.
    Error,
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z in milliseconds since 1970.
const TIME_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

impl Value {
    /// The value of a filter.
    pub(crate) fn of(value: &Bson) -> Self {
        match value {
            Bson::Null | Bson::Undefined => Self::Null,
            Bson::Boolean(value) => Self::Bool(*value),
            Bson::Int32(value) => Self::Int(i64::from(*value)),
            Bson::Int64(value) => Self::Int(*value),
            Bson::Double(value) => Self::Double(*value),
            Bson::Decimal128(value) => nearest_double(value),
            Bson::String(text) | Bson::Symbol(text) => Self::Text(text.as_str().into()),
            Bson::ObjectId(id) => Self::Text(id.to_hex().into()),
            Bson::DateTime(time) => Self::time(time.timestamp_millis()),
            Bson::Binary(binary) => Self::Bytes(binary.bytes.as_slice().into()),
            Bson::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            Bson::Document(document) => {
                let fields = document.iter().map(|(name, value)| (name.as_str().into(), Self::of(value)));
                Self::Map(Box::new(fields.collect()))
            }
            other => Self::Text(other.clone().into_canonical_extjson().to_string().into()),
        }
    }

    /// The value of a field that has one of the types of which there are few.
    pub(super) fn of_rarer(value: RawBsonRef<'_>) -> Option<Self> {
        Some(match value {
            RawBsonRef::Decimal128(value) => nearest_double(&value),
            RawBsonRef::ObjectId(id) => Self::Text(id.to_hex().into()),
            RawBsonRef::Binary(binary) => Self::Bytes(binary.bytes.into()),
            other => Self::of(&Bson::try_from(other).ok()?),
        })
    }

    /// A whole body.
    pub(crate) fn of_document(document: &RawDocument) -> Self {
        Raw::Map(Container::of(document)).value()
    }

    pub(crate) fn time(milliseconds: i64) -> Self {
        if Self::is_time(milliseconds) { Self::Time(milliseconds) } else { Self::Error }
    }

    /// Whether CEL can express a date of so many milliseconds since 1970.
    pub(super) fn is_time(milliseconds: i64) -> bool {
        TIME_MS.contains(&milliseconds)
    }

    /// A number as the double that it is compared as.
    pub(super) const fn number(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Double(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether an error is in it, at any depth.
    pub(crate) fn has_error(&self) -> bool {
        match self {
            Self::Error => true,
            Self::List(items) => items.iter().any(Self::has_error),
            Self::Map(fields) => fields.values().any(Self::has_error),
            _ => false,
        }
    }

    /// CEL's `==`.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) | (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Double(a), Self::Double(b)) => a == b,
            (Self::Int(int), Self::Double(double)) | (Self::Double(double), Self::Int(int)) => *int as f64 == *double,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b)),
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().zip(&**b).all(|((a, x), (b, y))| a == b && x.equals(y))
            }
            _ => false,
        }
    }

    /// CEL's order; `None` is an error: different types, types without order, NaN.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) | (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Whether every number that compares equal to it as a double is it.
    pub(crate) fn is_exact(&self) -> bool {
        !matches!(self, Self::Int(value) if value.unsigned_abs() >= 1 << 53)
    }

    /// Whether it has an order with anything, itself for one.
    pub(crate) fn is_ordered(&self) -> bool {
        self.order(self).is_some()
    }
}

/// Equal values have equal hashes; of those that equal nothing all may have the same.
impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null | Self::Error => {}
            Self::Bool(value) => value.hash(state),
            Self::Int(value) | Self::Time(value) => value.hash(state),
            // Both zeros are one.
            Self::Double(value) => (value + 0.0).to_bits().hash(state),
            Self::Text(text) => text.hash(state),
            Self::Bytes(bytes) => bytes.hash(state),
            Self::List(items) => items.hash(state),
            Self::Map(fields) => fields.hash(state),
        }
    }
}

/// The text form is exact, and Rust reads it to the nearest double, infinities and NaN included.
fn nearest_double(decimal: &bson::Decimal128) -> Value {
    Value::Double(decimal.to_string().parse().unwrap_or(f64::NAN))
}
