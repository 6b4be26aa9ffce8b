//! Access: under which keys a filter is filed.
//!
//! Owns the choice of them, and hash keys for values. What CEL holds to be equal has the same key; the reverse need not be
//! so, for whoever is found by a key is still evaluated.

use std::hash::{Hash, Hasher};

use bson::RawBsonRef;
use hashbrown::Equivalent;

use super::formula::{Atom, Formula};
use super::term::{Term, Test};
use super::value::Value;
use crate::limits;
use crate::subscription::{Operator, Path};

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

/// Values of one path under which a filter is found.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// Where the value is.
    pub(super) path: Path,
    /// With repetitions where a list had some.
    pub(super) keys: Vec<Key>,
    is_list: bool,
}

impl Access {
    fn of(term: &Term) -> Option<Self> {
        let (keys, is_list) = match &term.test {
            Test::Compare(Operator::Equal, value) => (vec![Key::of(value)?], false),
            Test::Compare(Operator::In, Value::List(items)) => {
                // A NaN finds nothing and needs no key; a container could be found but has none.
                let findable = items.iter().filter(|item| !matches!(item, Value::Double(value) if value.is_nan()));
                (findable.map(Key::of).collect::<Option<_>>()?, true)
            }
            _ => return None,
        };
        Some(Self { path: term.path.clone(), keys, is_list })
    }

    /// The name in a plan.
    pub(super) const fn kind(&self) -> &'static str {
        if self.is_list { "in" } else { "equality" }
    }
}

/// Under what a formula is filed: whatever it is true for meets at least one of the keys. `None` if
/// only a scan will do.
pub(super) fn cover(formula: &Formula) -> Option<Vec<Access>> {
    match formula {
        // It is true for nothing and need not be found.
        Formula::Constant(false) => Some(Vec::new()),
        Formula::Constant(true) | Formula::Atom(Atom::Cel(_), _) | Formula::Atom(_, false) => None,
        Formula::Atom(Atom::Term(term), true) => Access::of(term).map(|access| vec![access]),
        Formula::All(parts) => covering(parts).map(|(_, cover)| cover),
        Formula::Any(parts) => {
            let all = parts.iter().map(cover).collect::<Option<Vec<_>>>()?.concat();
            (size(&all) <= limits::cover_keys_max).then_some(all)
        }
    }
}

/// The conjunct that covers a conjunction with the fewest keys, and its cover.
pub(super) fn covering(parts: &[Formula]) -> Option<(usize, Vec<Access>)> {
    let covers = parts.iter().enumerate().filter_map(|(number, part)| Some((number, cover(part)?)));
    covers.min_by_key(|(_, cover)| size(cover))
}

fn size(cover: &[Access]) -> usize {
    cover.iter().map(|access| access.keys.len()).sum()
}
