//! Access: the one conjunct under which a filter is filed.
//!
//! Owns hash keys for values. What CEL holds to be equal has the same key; the reverse need not be
//! so, for whoever is found by a key is still evaluated.

use std::hash::{Hash, Hasher};

use bson::RawBsonRef;
use hashbrown::Equivalent;

use super::term::{Term, Test};
use super::value::Value;
use crate::subscription::Operator;

/// A value as a key of a hash table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Null,
    Bool(bool),
    /// The bits of the nearest double: 1 and 1.0 meet here, and so do ints that a double cannot tell
    /// apart.
    Number(u64),
    Text(Box<str>),
    Time(i64),
    Bytes(Box<[u8]>),
}

/// A [`Key`] that borrows from a document.
#[derive(Clone, Copy, Hash, PartialEq, Eq, Debug)]
pub(super) enum KeyRef<'a> {
    Null,
    Bool(bool),
    Number(u64),
    Text(&'a str),
    Time(i64),
    Bytes(&'a [u8]),
}

impl Key {
    /// `None` for what no hash table can hold: containers, NaN and errors.
    pub(super) fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number(number(*value as f64)?),
            Value::Double(value) => Self::Number(number(*value)?),
            Value::Text(text) => Self::Text(text.clone()),
            Value::Time(time) => Self::Time(*time),
            Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Value::List(_) | Value::Map(_) | Value::Error => return None,
        })
    }

    fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Null => KeyRef::Null,
            Self::Bool(value) => KeyRef::Bool(*value),
            Self::Number(bits) => KeyRef::Number(*bits),
            Self::Text(text) => KeyRef::Text(text),
            Self::Time(time) => KeyRef::Time(*time),
            Self::Bytes(bytes) => KeyRef::Bytes(bytes),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_ref()
    }
}

/// Calls `look` with a document value's key, copying only where CEL's value is not the bytes that
/// stand there.
pub(super) fn with_key<R>(value: RawBsonRef<'_>, look: impl FnOnce(KeyRef<'_>) -> R) -> Option<R> {
    let key = match value {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => KeyRef::Text(text),
        RawBsonRef::Int32(value) => KeyRef::Number(number(f64::from(value))?),
        RawBsonRef::Int64(value) => KeyRef::Number(number(value as f64)?),
        RawBsonRef::Array(_) | RawBsonRef::Document(_) => return None,
        other => return Key::of(&Value::of_raw(other).ok()?).map(|key| look(key.as_ref())),
    };
    Some(look(key))
}

/// The bits of a number, with one zero; `None` for NaN, which equals nothing.
fn number(value: f64) -> Option<u64> {
    if value.is_nan() { None } else { Some((value + 0.0).to_bits()) }
}

/// How a filter is found.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// By this value.
    Equal(Key),
    /// By any of these values.
    In(Vec<Key>),
}

impl Access {
    /// The best term to file a filter under, if there is one: an equality, else the shortest list.
    pub(super) fn choose(terms: &[Term]) -> Option<(usize, Self)> {
        let candidates = terms.iter().enumerate().filter_map(|(number, term)| Some((number, Self::of(term)?)));
        candidates.min_by_key(|(_, access)| access.keys().len())
    }

    fn of(term: &Term) -> Option<Self> {
        match &term.test {
            Test::Compare(Operator::Equal, value) => Key::of(value).map(Self::Equal),
            Test::Compare(Operator::In, Value::List(items)) => {
                // A NaN finds nothing and needs no key; a container could be found but has none.
                let findable = items.iter().filter(|item| !matches!(item, Value::Double(value) if value.is_nan()));
                findable.map(Key::of).collect::<Option<Vec<_>>>().map(Self::In)
            }
            _ => None,
        }
    }

    /// All values under which the filter is found; with repetitions where the list had some.
    pub(super) fn keys(&self) -> &[Key] {
        match self {
            Self::Equal(key) => std::slice::from_ref(key),
            Self::In(keys) => keys,
        }
    }

    /// The name in a plan.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Equal(_) => "equality",
            Self::In(_) => "in",
        }
    }
}
