//! The reference: what a filter means, by way of the CEL interpreter and nothing else.
//!
//! Owns the CEL translation of each operator. Slow on purpose; kept for good as the oracle that
//! every faster evaluation is held against.

use std::sync::LazyLock;

use cel_interpreter::common::ast::IdedExpr;
use cel_interpreter::parser::Parser;

use super::Verdict;
use super::cel::{Variables, empty_context, is_true, to_cel};
use super::filter::Filter;
use super::path::array_index;
use super::term::{Term, Test};
use super::value::Value;
use super::verdict::Image;
use crate::change::Change;
use crate::subscription::Operator;

/// What a change is to a filter.
pub(super) fn evaluate(filter: &Filter, change: &Change) -> Option<Verdict> {
    filter.concern.verdict(change, |image| matches(filter, change, image))
}

fn matches(filter: &Filter, change: &Change, image: Image) -> bool {
    let Some(body) = image.body(change) else { return false };
    let doc = Value::of_document(body);
    let hold = filter.terms().all(|term| holds(term, &doc));
    hold && filter.cel().is_none_or(|cel| cel.holds(&Variables::new(change, image)))
}

/// The last step's container and whether the step is in it.
enum At<'a> {
    Value(&'a Value),
    Missing,
    Error,
}

fn step<'a>(container: &'a Value, step: &str) -> At<'a> {
    let found = match (container, array_index(step)) {
        (Value::Map(fields), _) => fields.get(step),
        (Value::List(items), Some(index)) => items.get(index),
        _ => return At::Error,
    };
    match found {
        Some(Value::Error) => At::Error,
        Some(value) => At::Value(value),
        None => At::Missing,
    }
}

fn walk<'a>(doc: &'a Value, term: &Term) -> At<'a> {
    let mut at = At::Value(doc);
    for name in term.path.0.iter() {
        let At::Value(container) = at else { return At::Error };
        at = step(container, name);
    }
    at
}

/// Each operator in CEL, over the field's value `f` and the filter's value `v` (an interval's ends
/// `a` and `b`).
macro_rules! translation {
    ($name:ident, $source:literal) => {
        static $name: LazyLock<IdedExpr> =
            LazyLock::new(|| Parser::new().parse($source).expect("the translation is CEL"));
    };
}
translation!(EQUAL, "f == v");
translation!(NOT_EQUAL, "f != v");
translation!(LESS, "f < v");
translation!(LESS_OR_EQUAL, "f <= v");
translation!(GREATER, "f > v");
translation!(GREATER_OR_EQUAL, "f >= v");
translation!(IN, "f in v");
translation!(NOT_IN, "!(f in v)");
translation!(ARRAY_CONTAINS, "v in f");
translation!(ARRAY_CONTAINS_ANY, "v.exists(x, x in f)");
translation!(STARTS_WITH, "f.startsWith(v)");
translation!(BETWEEN, "f >= a && f <= b");

fn holds(term: &Term, doc: &Value) -> bool {
    let value = match (walk(doc, term), &term.test) {
        (At::Error, _) => return false,
        (At::Missing, test) => return matches!(test, Test::Exists(false)),
        (At::Value(_), Test::Exists(wanted)) => return *wanted,
        (At::Value(value), _) => value,
    };
    let mut context = empty_context();
    context.add_variable_as_val("f", to_cel(value));
    match &term.test {
        Test::Compare(op, operand) => {
            context.add_variable_as_val("v", to_cel(operand));
            is_true(translation(*op), &context)
        }
        Test::Between(ends) => {
            context.add_variable_as_val("a", to_cel(&ends[0]));
            context.add_variable_as_val("b", to_cel(&ends[1]));
            is_true(&BETWEEN, &context)
        }
        Test::Exists(_) => false,
    }
}

fn translation(op: Operator) -> &'static IdedExpr {
    match op {
        Operator::Equal => &EQUAL,
        Operator::NotEqual => &NOT_EQUAL,
        Operator::Less => &LESS,
        Operator::LessOrEqual => &LESS_OR_EQUAL,
        Operator::Greater => &GREATER,
        Operator::GreaterOrEqual => &GREATER_OR_EQUAL,
        Operator::In => &IN,
        Operator::NotIn => &NOT_IN,
        Operator::ArrayContains => &ARRAY_CONTAINS,
        Operator::ArrayContainsAny => &ARRAY_CONTAINS_ANY,
        Operator::StartsWith => &STARTS_WITH,
        // Presence is not a function of the value.
        Operator::Exists => &EQUAL,
    }
}
