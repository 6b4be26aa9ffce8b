//! Terms: `filters` and `interval`, evaluated in place over raw BSON.
//!
//! Owns the fast evaluation of everything that is not CEL. `reference` says the same by way of the
//! CEL interpreter; a property test holds the two together.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::access::{KeyRef, with_key};
use super::path::Found;
use super::raw::{Container, Raw};
use super::value::Value;
use crate::subscription::{FilterTerm, Interval, Operator, Path};

/// One conjunct.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(super) struct Term {
    /// What it looks at.
    pub(super) path: Path,
    /// What it asks.
    pub(super) test: Test,
}

/// What a conjunct asks of a value.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(super) enum Test {
    /// An operator of `filters` but `exists`, with its value.
    Compare(Operator, Value),
    /// `exists`.
    Exists(bool),
    /// Between both ends, both included.
    Between(Box<[Value; 2]>),
}

impl Term {
    /// A conjunct of `filters`.
    pub(super) fn new(term: &FilterTerm) -> Self {
        let test = match (term.op, Value::of(&term.value)) {
            (Operator::Exists, wanted) => Test::Exists(wanted == Value::Bool(true)),
            (op, value) => Test::Compare(op, value),
        };
        Self { path: term.field.clone(), test }
    }

    /// The interval as a conjunct.
    pub(super) fn between(interval: &Interval) -> Self {
        Self {
            path: interval.field.clone(),
            test: Test::Between(Box::new([Value::of(&interval.start), Value::of(&interval.stop)])),
        }
    }

    /// Whether a path leads to this truth value.
    pub(super) fn is(path: Path, value: bool) -> Self {
        Self { path, test: Test::Compare(Operator::Equal, Value::Bool(value)) }
    }

    /// Whether it asks for nothing but that there is a value.
    pub(super) fn is_presence(&self) -> bool {
        matches!(self.test, Test::Exists(_))
    }

    /// The term whose opposite this is, errors being errors in both.
    pub(super) fn denied(&self) -> Option<Self> {
        let test = match &self.test {
            Test::Compare(Operator::NotEqual, value) => Test::Compare(Operator::Equal, value.clone()),
            Test::Compare(Operator::NotIn, list) => Test::Compare(Operator::In, list.clone()),
            Test::Exists(false) => Test::Exists(true),
            _ => return None,
        };
        Some(Self { path: self.path.clone(), test })
    }

    /// The two conditions that together say the same as an interval where it is true.
    pub(super) fn ends(&self) -> Option<[Self; 2]> {
        let Test::Between(ends) = &self.test else { return None };
        let end = |op, value: &Value| Self { path: self.path.clone(), test: Test::Compare(op, value.clone()) };
        Some([end(Operator::GreaterOrEqual, &ends[0]), end(Operator::LessOrEqual, &ends[1])])
    }

    /// Whether it is a range, and says more than another range on the same path that is open on the same side.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let (Test::Compare(op, value), Test::Compare(other_op, other_value)) = (&self.test, &other.test) else {
            return false;
        };
        let side = |op| match op {
            Operator::Less | Operator::LessOrEqual => Some(Ordering::Less),
            Operator::Greater | Operator::GreaterOrEqual => Some(Ordering::Greater),
            _ => None,
        };
        let is_strict = |op| matches!(op, Operator::Less | Operator::Greater);
        if side(*op).is_none() || side(*op) != side(*other_op) || self.path != other.path {
            return false;
        }
        // Where an end is no exact double, a double may lie on one side of it and on the other of its neighbour.
        match (value.is_exact() && other_value.is_exact()).then(|| value.order(other_value)).flatten() {
            Some(Ordering::Equal) => is_strict(*op) && !is_strict(*other_op),
            order => order.is_some() && order == side(*op),
        }
    }

    /// What it is for a body; `None` is an error.
    pub(super) fn outcome(&self, found: Found<'_>) -> Option<bool> {
        match (found, &self.test) {
            (Found::Error, _) => None,
            (Found::Missing, Test::Exists(wanted)) => Some(!wanted),
            (Found::Missing, _) => None,
            (Found::Value(value), Test::Exists(wanted)) => (!is_error(value)).then_some(*wanted),
            (Found::Value(value), Test::Compare(op, operand)) => compare(*op, value, operand),
            (Found::Value(value), Test::Between(ends)) => {
                let value = value.value();
                Some(value.order(&ends[0])?.is_ge() && value.order(&ends[1])?.is_le())
            }
        }
    }
}

/// Whether to look at it is an error.
pub(super) fn is_error(value: Raw<'_>) -> bool {
    matches!(value, Raw::Time(_) | Raw::Error) && value.value() == Value::Error
}

fn compare(op: Operator, value: Raw<'_>, operand: &Value) -> Option<bool> {
    let members = match (op, operand) {
        (Operator::ArrayContains, wanted) => Some(std::slice::from_ref(wanted)),
        (Operator::ArrayContainsAny, Value::List(wanted)) => Some(&**wanted),
        _ => None,
    };
    // What may be large is not copied: texts and containers are compared where they stand.
    match (value, members) {
        (Raw::Text(text), _) => return compare_text(op, text, operand),
        (Raw::List(list), Some(wanted)) => return has_any(list, wanted),
        (Raw::Map(map), Some(wanted)) => return any(wanted.iter().map(|wanted| has_name(map, wanted))),
        // Nothing else has members.
        (_, Some(wanted)) if !is_error(value) => return any(wanted.iter().map(|_| None)),
        (Raw::List(inner) | Raw::Map(inner), None) if is_plain(operand) => {
            return compare_container(op, inner, matches!(value, Raw::List(_)), operand);
        }
        _ => {}
    }
    let value = Some(value.value()).filter(|value| !matches!(value, Value::Error))?;
    let ordered = |wanted: fn(Ordering) -> bool| value.order(operand).map(wanted);
    match op {
        Operator::Equal => Some(value.equals(operand)),
        Operator::NotEqual => Some(!value.equals(operand)),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::In => Some(contains(operand, &value)),
        Operator::NotIn => Some(!contains(operand, &value)),
        Operator::StartsWith => match (&value, operand) {
            (Value::Text(text), Value::Text(prefix)) => Some(text.starts_with(&**prefix)),
            _ => None,
        },
        Operator::ArrayContains | Operator::ArrayContainsAny | Operator::Exists => None,
    }
}

fn compare_text(op: Operator, text: &[u8], operand: &Value) -> Option<bool> {
    let is = |value: &Value| matches!(value, Value::Text(wanted) if wanted.as_bytes() == text);
    let ordered = |wanted: fn(Ordering) -> bool| match operand {
        Value::Text(other) => Some(wanted(text.cmp(other.as_bytes()))),
        _ => None,
    };
    match op {
        Operator::Equal => Some(is(operand)),
        Operator::NotEqual => Some(!is(operand)),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::In => Some(matches!(operand, Value::List(items) if items.iter().any(is))),
        Operator::NotIn => Some(!matches!(operand, Value::List(items) if items.iter().any(is))),
        Operator::StartsWith => match operand {
            Value::Text(prefix) => Some(text.starts_with(prefix.as_bytes())),
            _ => None,
        },
        Operator::ArrayContains | Operator::Exists => None,
        Operator::ArrayContainsAny => match operand {
            Value::List(wanted) if wanted.is_empty() => Some(false),
            _ => None,
        },
    }
}

/// Whether there is no container among what an element or the whole may equal, but a list of plain values.
fn is_plain(operand: &Value) -> bool {
    match operand {
        Value::List(items) => !items.iter().any(is_container_value),
        operand => !is_container_value(operand),
    }
}

fn is_container_value(value: &Value) -> bool {
    matches!(value, Value::List(_) | Value::Map(_))
}

/// A list or a map beside a plain operand: a container equals nothing plain, and is ordered with nothing.
fn compare_container(op: Operator, inner: Container<'_>, is_list: bool, operand: &Value) -> Option<bool> {
    let list = match operand {
        Value::List(items) => Some(&**items),
        _ => None,
    };
    match (op, list) {
        (Operator::Equal, None) | (Operator::In, Some(_)) => Some(false),
        (Operator::NotEqual, None) | (Operator::NotIn, Some(_)) => Some(true),
        // A list of plain values may equal a list: the one case that looks into it as a whole.
        (Operator::Equal | Operator::NotEqual, Some(items)) => {
            let is = is_list && inner.fields().take(items.len() + 1).count() == items.len() && {
                let mut pairs = inner.fields().zip(items);
                pairs.all(|((_, raw), item)| !is_container(raw) && raw.value().equals(item))
            };
            Some(is == (op == Operator::Equal))
        }
        _ => None,
    }
}

fn is_container(raw: Raw<'_>) -> bool {
    matches!(raw, Raw::List(_) | Raw::Map(_))
}

/// After so many elements the values that are wanted are worth hashing.
const MANY: usize = 32;

/// Whether any of these is in a list.
fn has_any(list: Container<'_>, wanted: &[Value]) -> Option<bool> {
    let (mut by_key, mut is_found) = (None, false);
    for (number, (_, raw)) in list.fields().enumerate() {
        // To search a list with an error in it is an error, whatever else is found there.
        if is_error(raw.checked()) {
            return if wanted.is_empty() { Some(false) } else { None };
        }
        if is_found {
            continue;
        }
        if number == MANY {
            by_key = Some(ByKey::new(wanted));
        }
        is_found = match &by_key {
            None => wanted.iter().any(|wanted| equals(raw, wanted)),
            Some(by_key) => by_key.have(raw),
        };
    }
    Some(is_found)
}

/// Values that are wanted, to be looked up.
struct ByKey<'a> {
    keyed: HashMap<KeyRef<'a>, Vec<&'a Value>>,
    /// Those that have no key.
    others: Vec<&'a Value>,
}

impl<'a> ByKey<'a> {
    fn new(wanted: &'a [Value]) -> Self {
        let (mut keyed, mut others): (HashMap<_, Vec<_>>, _) = (HashMap::new(), Vec::new());
        for wanted in wanted {
            match KeyRef::of(wanted) {
                Some(key) => keyed.entry(key).or_default().push(wanted),
                None => others.push(wanted),
            }
        }
        Self { keyed, others }
    }

    fn have(&self, raw: Raw<'_>) -> bool {
        let is = |all: &[&Value]| all.iter().any(|wanted| equals(raw, wanted));
        // Ints that meet as doubles share a key.
        let keyed = with_key(raw, |key| self.keyed.get(&key).is_some_and(|wanted| is(wanted)));
        keyed.unwrap_or(false) || is(&self.others)
    }
}

/// Whether a map has a field of this name.
fn has_name(map: Container<'_>, wanted: &Value) -> Option<bool> {
    match wanted {
        Value::Text(name) => Some(map.get(name).is_some()),
        // No field has such a name, but a map could have such a key.
        Value::Int(_) | Value::Double(_) | Value::Bool(_) => Some(false),
        _ => None,
    }
}

/// CEL's `==`, without a copy of texts, and of containers only where there is one to compare with.
fn equals(raw: Raw<'_>, wanted: &Value) -> bool {
    match (raw, wanted) {
        (Raw::Text(text), wanted) => matches!(wanted, Value::Text(wanted) if wanted.as_bytes() == text),
        (Raw::List(_) | Raw::Map(_), wanted) if !is_container_value(wanted) => false,
        (raw, wanted) => raw.value().equals(wanted),
    }
}

/// CEL's `exists` over outcomes: true outweighs an error, an error false.
fn any(outcomes: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(false);
    for outcome in outcomes {
        match outcome {
            Some(true) => return Some(true),
            Some(false) => {}
            None => all = None,
        }
    }
    all
}

fn contains(list: &Value, value: &Value) -> bool {
    matches!(list, Value::List(items) if items.iter().any(|item| item.equals(value)))
}
