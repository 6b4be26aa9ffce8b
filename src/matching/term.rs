//! Terms: `filters` and `interval`, evaluated in place over raw BSON.
//!
//! Owns the fast evaluation of everything that is not CEL. `reference` says the same by way of the
//! CEL interpreter; a property test holds the two together.

use std::cmp::Ordering;

use bson::{RawBsonRef, RawDocument};

use super::path::{self, Found};
use super::value::Value;
use crate::subscription::{FilterTerm, Interval, Operator, Path};

/// One conjunct.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// What it looks at.
    pub(super) path: Path,
    /// What it asks.
    pub(super) test: Test,
}

/// What a conjunct asks of a value.
#[derive(Clone, Debug)]
pub(super) enum Test {
    /// An operator of `filters` but `exists`, with its value.
    Compare(Operator, Value),
    /// `exists`.
    Exists(bool),
    /// Between both ends, both included.
    Between(Value, Value),
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
            test: Test::Between(Value::of(&interval.start), Value::of(&interval.stop)),
        }
    }

    /// Whether it holds for a body. An error is no.
    pub(super) fn holds(&self, body: &RawDocument) -> bool {
        match (path::find(body, &self.path), &self.test) {
            (Found::Error, _) => false,
            (Found::Missing, test) => matches!(test, Test::Exists(false)),
            (Found::Value(value), Test::Exists(wanted)) => *wanted && !is_error(value),
            (Found::Value(value), Test::Compare(op, operand)) => compare(*op, value, operand),
            (Found::Value(value), Test::Between(start, stop)) => Value::of_raw(value).is_ok_and(|value| {
                value.order(start).is_some_and(Ordering::is_ge) && value.order(stop).is_some_and(Ordering::is_le)
            }),
        }
    }
}

fn is_error(value: RawBsonRef<'_>) -> bool {
    matches!(value, RawBsonRef::DateTime(_)) && Value::of_raw(value) == Ok(Value::Error)
}

fn compare(op: Operator, value: RawBsonRef<'_>, operand: &Value) -> bool {
    // Most filters are equalities on text: no copy for those.
    if let (RawBsonRef::String(text), Value::Text(wanted)) = (value, operand) {
        match op {
            Operator::Equal => return *text == **wanted,
            Operator::NotEqual => return *text != **wanted,
            Operator::StartsWith => return text.starts_with(&**wanted),
            _ => {}
        }
    }
    let Ok(value) = Value::of_raw(value) else { return false };
    if matches!(value, Value::Error) {
        return false;
    }
    let ordered = |wanted: fn(Ordering) -> bool| value.order(operand).is_some_and(wanted);
    match op {
        Operator::Equal => value.equals(operand),
        Operator::NotEqual => !value.equals(operand),
        Operator::Less => ordered(Ordering::is_lt),
        Operator::LessOrEqual => ordered(Ordering::is_le),
        Operator::Greater => ordered(Ordering::is_gt),
        Operator::GreaterOrEqual => ordered(Ordering::is_ge),
        Operator::In => contains(operand, &value),
        Operator::NotIn => !contains(operand, &value),
        Operator::ArrayContains => has_member(&value, operand),
        Operator::ArrayContainsAny => match operand {
            Value::List(wanted) => wanted.iter().any(|wanted| has_member(&value, wanted)),
            _ => false,
        },
        Operator::StartsWith => match (&value, operand) {
            (Value::Text(text), Value::Text(prefix)) => text.starts_with(&**prefix),
            _ => false,
        },
        Operator::Exists => false,
    }
}

fn contains(list: &Value, value: &Value) -> bool {
    matches!(list, Value::List(items) if items.iter().any(|item| item.equals(value)))
}

/// `wanted in container`: an element of a list, a key of a map; an error in anything else, and in a
/// list that has an error in it.
fn has_member(container: &Value, wanted: &Value) -> bool {
    match (container, wanted) {
        (Value::List(items), _) if items.contains(&Value::Error) => false,
        (Value::List(_), _) => contains(container, wanted),
        (Value::Map(fields), Value::Text(key)) => fields.contains_key(key),
        _ => false,
    }
}
