//! Access: under which keys a filter is filed.
//!
//! Owns the choice of them, and hash keys for values. What CEL holds to be equal has the same key; the reverse need not be
//! so, for whoever is found by a key is still evaluated.

use super::formula::{Atom, Formula};
use super::ranges::{self, after_prefix};
use super::raw::{OBJECT_ID, Raw, hex};
use super::spans::{number_key, time_key};
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
    /// UTF-8 or not: what is not equals nothing.
    Text(&'a [u8]),
    Time(i64),
    Bytes(&'a [u8]),
}

impl Key {
    /// `None` for what no hash table can hold: containers, NaN and errors.
    fn of(value: &Value) -> Option<Self> {
        Some(match KeyRef::of(value)? {
            KeyRef::Null => Self::Null,
            KeyRef::Bool(value) => Self::Bool(value),
            KeyRef::Number(bits) => Self::Number(bits),
            KeyRef::Text(text) => Self::Text(std::str::from_utf8(text).ok()?.into()),
            KeyRef::Time(time) => Self::Time(time),
            KeyRef::Bytes(bytes) => Self::Bytes(bytes.into()),
        })
    }

    pub(super) fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Null => KeyRef::Null,
            Self::Bool(value) => KeyRef::Bool(*value),
            Self::Number(bits) => KeyRef::Number(*bits),
            Self::Text(text) => KeyRef::Text(text.as_bytes()),
            Self::Time(time) => KeyRef::Time(*time),
            Self::Bytes(bytes) => KeyRef::Bytes(bytes),
        }
    }
}

impl<'a> KeyRef<'a> {
    /// `None` for what no hash table can hold: containers, NaN and errors.
    pub(super) fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number(number(*value as f64)?),
            Value::Double(value) => Self::Number(number(*value)?),
            Value::Text(text) => Self::Text(text.as_bytes()),
            Value::Time(time) => Self::Time(*time),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::List(_) | Value::Map(_) | Value::Error => return None,
        })
    }
}

/// Calls `look` with a document value's key, copying only where CEL's value is not the bytes that
/// stand there.
pub(super) fn with_key<R>(value: Raw<'_>, look: impl FnOnce(KeyRef<'_>) -> R) -> Option<R> {
    let key = match value {
        Raw::Null => KeyRef::Null,
        Raw::Bool(value) => KeyRef::Bool(value),
        Raw::Int(value) => KeyRef::Number(number(value as f64)?),
        Raw::Double(value) => KeyRef::Number(number(value)?),
        Raw::Text(text) => KeyRef::Text(text),
        Raw::Time(time) => KeyRef::Time(time),
        Raw::List(_) | Raw::Map(_) | Raw::Error => return None,
        Raw::Other(OBJECT_ID, id) => return id.first_chunk().map(|id| look(KeyRef::Text(&hex(*id)))),
        other @ Raw::Other(..) => return KeyRef::of(&other.value()).map(look),
    };
    Some(look(key))
}

/// The bits of a number, with one zero; `None` for NaN, which equals nothing.
fn number(value: f64) -> Option<u64> {
    if value.is_nan() { None } else { Some((value + 0.0).to_bits()) }
}

/// What of one path a filter is found by.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Access {
    pub(super) path: Path,
    pub(super) by: By,
}

/// The ways to be found.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum By {
    /// The value is this one.
    Equal(Key),
    /// The value is one of these.
    In(Vec<Key>),
    /// One of these is an element of the array, or a field of the map.
    Member(Vec<Key>),
    /// The value is a number between these keys.
    Numbers(u64, u64),
    /// It is a date between these.
    Times(u64, u64),
    /// It is a text between these.
    Texts(Box<[u8]>, Box<[u8]>),
    /// There is a value.
    Present,
}

impl Access {
    /// How a term is found where it comes out as wanted.
    fn of(term: &Term, wanted: bool) -> Option<Self> {
        let by = match (&term.test, wanted) {
            // To be absent is nothing to be found by; all else is an error without a value.
            (Test::Exists(is), _) if *is != wanted => return None,
            (Test::Exists(_), _) => By::Present,
            (test, true) => By::of(test).unwrap_or(By::Present),
            (_, false) => By::Present,
        };
        Some(Self { path: term.path.clone(), by })
    }

    /// The name in a plan.
    pub(super) const fn kind(&self) -> &'static str {
        match self.by {
            By::Equal(_) => "equality",
            By::In(_) => "in",
            By::Member(_) => "member",
            By::Numbers(..) | By::Times(..) | By::Texts(..) => "range",
            By::Present => "presence",
        }
    }

    /// Whether a conjunct is true of just the documents that are found by this, or of more: a range is what all
    /// ranges on its path leave (see [`covers`]), and exact where each of them is.
    pub(super) fn decides(&self, conjunct: &Formula) -> bool {
        let Formula::Atom(Atom::Term(term), true) = conjunct else { return false };
        // At such a node the ends are not told apart by the zeros behind them.
        if matches!(&self.by, By::Texts(start, stop) if ranges::are_one(start, stop)) {
            return false;
        }
        let of_one_kind = |by: &By| std::mem::discriminant(by) == std::mem::discriminant(&self.by);
        term.path == self.path && By::of_exact(&term.test).is_some_and(|by| of_one_kind(&by))
    }

    fn keys_len(&self) -> usize {
        match &self.by {
            By::In(keys) | By::Member(keys) => keys.len(),
            _ => 1,
        }
    }

    /// The share of changes that it is thought to let through, where so many different keys were named
    /// at its path.
    pub(super) fn share(&self, keys_seen: f64) -> f64 {
        match &self.by {
            By::Equal(_) => 1.0 / keys_seen,
            By::In(keys) => keys.len() as f64 / keys_seen,
            // A container holds several.
            By::Member(keys) => 2.0 * keys.len() as f64 / keys_seen,
            By::Numbers(0, _) | By::Numbers(_, u64::MAX) | By::Times(0, _) | By::Times(_, u64::MAX) => 0.5,
            By::Texts(start, stop) if start.is_empty() || **stop == [0xff] => 0.5,
            By::Numbers(..) | By::Times(..) | By::Texts(..) => 0.05,
            By::Present => 1.0,
        }
    }
}

/// How many different keys a path is taken to have where nothing is known of it.
pub(super) const KEYS_UNKNOWN: f64 = 200.0;

impl By {
    fn of(test: &Test) -> Option<Self> {
        let by = match test {
            Test::Compare(Operator::Equal, value) => Self::Equal(Key::of(value)?),
            Test::Compare(Operator::In, Value::List(items)) => Self::In(keys(items)?),
            Test::Compare(Operator::ArrayContains, value) => Self::Member(keys(std::slice::from_ref(value))?),
            Test::Compare(Operator::ArrayContainsAny, Value::List(items)) => Self::Member(keys(items)?),
            Test::Compare(Operator::StartsWith, Value::Text(prefix)) => {
                Self::Texts(prefix.as_bytes().into(), after_prefix(prefix))
            }
            Test::Compare(Operator::Less | Operator::LessOrEqual, value) => Self::between(None, Some(value))?,
            Test::Compare(Operator::Greater | Operator::GreaterOrEqual, value) => Self::between(Some(value), None)?,
            Test::Between(ends) => Self::between(Some(&ends[0]), Some(&ends[1]))?,
            Test::Compare(..) | Test::Exists(_) => return None,
        };
        Some(by.without_open_end(test))
    }

    /// A range that is met by exactly the values that a test is true for.
    pub(super) fn of_exact(test: &Test) -> Option<Self> {
        let is_exact = match test {
            // Texts have a next one, but none before: what is below one is filed with it.
            Test::Compare(Operator::Less, Value::Text(_)) => false,
            Test::Compare(
                Operator::Less
                | Operator::LessOrEqual
                | Operator::Greater
                | Operator::GreaterOrEqual
                | Operator::StartsWith,
                value,
            ) => value.is_exact(),
            _ => false,
        };
        let by = Self::of(test).filter(|_| is_exact)?;
        matches!(by, Self::Numbers(..) | Self::Times(..) | Self::Texts(..)).then_some(by)
    }

    /// Of a test without its end, closed at the last value that it is true for, where there is one to be named.
    fn without_open_end(self, test: &Test) -> Self {
        let Test::Compare(op, value) = test else { return self };
        // Ints that a double cannot tell apart share a key.
        if !value.is_exact() {
            return self;
        }
        match (op, self) {
            (Operator::Less, Self::Numbers(start, stop)) => Self::Numbers(start, stop.saturating_sub(1)),
            (Operator::Less, Self::Times(start, stop)) => Self::Times(start, stop.saturating_sub(1)),
            (Operator::Greater, Self::Numbers(start, stop)) => Self::Numbers(start.saturating_add(1), stop),
            (Operator::Greater, Self::Times(start, stop)) => Self::Times(start.saturating_add(1), stop),
            (Operator::Greater, Self::Texts(start, stop)) => Self::Texts([&*start, &[0]].concat().into(), stop),
            (_, by) => by,
        }
    }

    /// Between two ends, both included.
    fn between(start: Option<&Value>, stop: Option<&Value>) -> Option<Self> {
        let number = |value: &Value| value.number().and_then(number_key);
        let ends = (start, stop);
        match start.or(stop)? {
            Value::Int(_) | Value::Double(_) => {
                Some(Self::Numbers(ends.0.map_or(Some(0), number)?, ends.1.map_or(Some(u64::MAX), number)?))
            }
            Value::Time(_) => {
                let time = |value: &Value| if let Value::Time(time) = value { Some(time_key(*time)) } else { None };
                Some(Self::Times(ends.0.map_or(Some(0), time)?, ends.1.map_or(Some(u64::MAX), time)?))
            }
            Value::Text(_) => {
                let text =
                    |value: &Value| if let Value::Text(text) = value { Some(text.as_bytes().into()) } else { None };
                let (first, last): (Box<[u8]>, Box<[u8]>) = (Box::default(), after_prefix(""));
                Some(Self::Texts(ends.0.map_or(Some(first), text)?, ends.1.map_or(Some(last), text)?))
            }
            _ => None,
        }
    }

    /// The part of a range that lies in another, too; `None` where they are no ranges of one kind.
    fn narrowed(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Numbers(a, b), Self::Numbers(c, d)) => Self::Numbers(*a.max(c), *b.min(d)),
            (Self::Times(a, b), Self::Times(c, d)) => Self::Times(*a.max(c), *b.min(d)),
            (Self::Texts(a, b), Self::Texts(c, d)) => Self::Texts(a.max(c).clone(), b.min(d).clone()),
            _ => return None,
        })
    }
}

/// The keys of values; `None` if one could be met and has none.
fn keys(values: &[Value]) -> Option<Vec<Key>> {
    // A NaN finds nothing and needs no key; a container could be found but has none.
    let findable = values.iter().filter(|value| !matches!(value, Value::Double(value) if value.is_nan()));
    findable.map(Key::of).collect()
}

/// Under what a formula is filed: whatever it is true for meets at least one of these. `None` if only
/// a scan will do.
fn cover(formula: &Formula) -> Option<Cover> {
    match formula {
        // It is true for nothing and need not be found.
        Formula::Constant(false) => Some(Vec::new()),
        Formula::Atom(Atom::Cel(part), true) => {
            let (path, values) = part.members()?;
            let keys = keys(&values).filter(|keys| keys.len() <= limits::cover_keys_max)?;
            Some(vec![Access { path, by: By::Member(keys) }])
        }
        Formula::Constant(true) | Formula::Atom(Atom::Cel(_), false) => None,
        Formula::Atom(Atom::Term(term), wanted) => Access::of(term, *wanted).map(|access| vec![access]),
        Formula::All(parts) => cover_of_all(parts).map(|(_, cover)| cover),
        Formula::Any(parts) => {
            let all = parts.iter().map(cover).collect::<Option<Vec<_>>>()?.concat();
            let keys: usize = all.iter().map(Access::keys_len).sum();
            (keys <= limits::cover_keys_max).then_some(all)
        }
    }
}

/// Keys of which every document that a formula is true for meets at least one.
pub(super) type Cover = Vec<Access>;

/// By each conjunct that can be found, by number, what it can be found by; a range as far as the others
/// leave of it.
pub(super) fn covers(conjuncts: &[Formula]) -> impl Iterator<Item = (usize, Cover)> {
    let covers: Vec<Option<Cover>> = conjuncts.iter().map(cover).collect();
    let narrowed = move |number: usize| {
        let mut cover = covers[number].clone()?;
        if let [access] = cover.as_mut_slice() {
            for other in covers.iter().flatten() {
                if let [other] = other.as_slice()
                    && other.path == access.path
                    && let Some(by) = access.by.narrowed(&other.by)
                {
                    access.by = by;
                }
            }
        }
        Some((number, cover))
    };
    (0..conjuncts.len()).filter_map(narrowed)
}

/// Which of these lets the fewest changes through, given what each key does; of equals the first.
pub(super) fn cheapest(covers: &[(usize, Cover)], share: impl Fn(&Access) -> f64) -> Option<usize> {
    let costs = covers.iter().map(|(_, cover)| cover.iter().map(&share).sum::<f64>());
    costs.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

/// What is found by the cheapest of some conjuncts, by number, where nothing is known but the conditions.
pub(super) fn cover_of_all(conjuncts: &[Formula]) -> Option<(usize, Cover)> {
    let mut covers: Vec<_> = covers(conjuncts).collect();
    cheapest(&covers, |access| access.share(KEYS_UNKNOWN)).map(|at| covers.swap_remove(at))
}
