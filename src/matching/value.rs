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

use bson::{Bson, RawArray, RawBsonRef, RawDocument};

use super::raw;
use crate::limits;

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
    /// Extended JSON.
    Text(Box<str>),
    /// A date: milliseconds since 1970, within the years 1 to 9999.
    Time(i64),
    /// Binary data of any subtype.
    Bytes(Box<[u8]>),
    /// An array.
    List(Vec<Value>),
    /// A document; of fields with the same name the first.
    #[allow(clippy::box_collection, reason = "a million filters have a value that is no map")]
    Map(Box<BTreeMap<Box<str>, Value>>),
    /// A date that CEL cannot express. To look at it is an error.
    Error,
}

/// Bytes that are no BSON; to look at them is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Corrupt;

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

    /// The value of a document's field.
    pub(crate) fn of_raw(value: RawBsonRef<'_>) -> Result<Self, Corrupt> {
        Ok(match value {
            RawBsonRef::Null | RawBsonRef::Undefined => Self::Null,
            RawBsonRef::Boolean(value) => Self::Bool(value),
            RawBsonRef::Int32(value) => Self::Int(i64::from(value)),
            RawBsonRef::Int64(value) => Self::Int(value),
            RawBsonRef::Double(value) => Self::Double(value),
            RawBsonRef::Decimal128(value) => nearest_double(&value),
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => Self::Text(text.into()),
            RawBsonRef::ObjectId(id) => Self::Text(id.to_hex().into()),
            RawBsonRef::DateTime(time) => Self::time(time.timestamp_millis()),
            RawBsonRef::Binary(binary) => Self::Bytes(binary.bytes.into()),
            RawBsonRef::Array(items) => Self::of_array(items)?,
            RawBsonRef::Document(document) => Self::of_document(document)?,
            other => Self::of(&Bson::try_from(other).map_err(|_| Corrupt)?),
        })
    }

    /// A whole body.
    pub(crate) fn of_document(document: &RawDocument) -> Result<Self, Corrupt> {
        let mut map = BTreeMap::new();
        for field in document {
            let (name, value) = field.map_err(|_| Corrupt)?;
            let value = Self::of_raw(value)?;
            map.entry(Box::from(AsRef::<str>::as_ref(&name))).or_insert(value);
        }
        Ok(Self::Map(Box::new(map)))
    }

    fn of_array(array: &RawArray) -> Result<Self, Corrupt> {
        array.into_iter().map(|item| Self::of_raw(item.map_err(|_| Corrupt)?)).collect::<Result<_, _>>().map(Self::List)
    }

    pub(crate) fn time(milliseconds: i64) -> Self {
        if TIME_MS.contains(&milliseconds) { Self::Time(milliseconds) } else { Self::Error }
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

/// Whether a whole body is BSON: exactly when [`Value::of_document`] succeeds, without its copies.
pub(crate) fn is_sound(body: &RawDocument) -> bool {
    raw::is_plainly_sound(body.as_bytes(), limits::body_depth_max as u32) || is_sound_document(body)
}

fn is_sound_document(body: &RawDocument) -> bool {
    body.into_iter().all(|field| field.is_ok_and(|(_, value)| is_sound_value(value)))
}

fn is_sound_value(value: RawBsonRef<'_>) -> bool {
    match value {
        RawBsonRef::Document(document) => is_sound_document(document),
        RawBsonRef::Array(array) => array.into_iter().all(|item| item.is_ok_and(is_sound_value)),
        RawBsonRef::JavaScriptCodeWithScope(code) => is_sound_document(code.scope),
        _ => true,
    }
}

/// The text form is exact, and Rust reads it to the nearest double, infinities and NaN included.
fn nearest_double(decimal: &bson::Decimal128) -> Value {
    Value::Double(decimal.to_string().parse().unwrap_or(f64::NAN))
}
