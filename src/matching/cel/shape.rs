//! Shapes: what of an expression is understood without the interpreter.
//!
//! Owns reading the crate's syntax tree: the logical operators, and the tests of one path of `doc`
//! against literals that `term` evaluates in place. Whatever is not recognised here is `Other`, so to
//! understand less is always right.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cel_interpreter::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::compiled::{exists, instant};
use super::{Compiled, Variables, explained, print, value_of};
use crate::matching::path::array_index;
use crate::matching::term::{Term, Test};
use crate::matching::value::Value;
use crate::subscription::{Operator, Path};

/// An expression within a program, or the whole of it.
#[derive(Clone, Copy)]
pub(in crate::matching) struct Expression<'a> {
    pub(super) tree: &'a IdedExpr,
    /// Of the program that it is a part of.
    pub(super) source: &'a Arc<str>,
}

/// What an expression is.
pub(in crate::matching) enum Shape<'a> {
    /// A literal truth value.
    Constant(bool),
    /// `a && b`.
    And([Expression<'a>; 2]),
    /// `a || b`.
    Or([Expression<'a>; 2]),
    /// `!a`.
    Not(Expression<'a>),
    /// `a ? b : c`.
    Choice([Expression<'a>; 3]),
    /// A test of one path.
    Term(Term),
    /// A path, as a truth value.
    Flag(Path),
    /// Anything else.
    Other,
}

/// An expression that is evaluated as a whole: compiled, or else by the interpreter.
#[derive(Clone)]
pub(in crate::matching) struct Part {
    inner: Arc<Inner>,
    source: Arc<str>,
}

struct Inner {
    tree: IdedExpr,
    compiled: Option<Compiled>,
}

/// Expressions are numbered within their source.
impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        self.inner.tree.id == other.inner.tree.id && self.source == other.source
    }
}

impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.inner.tree.id, &self.source).hash(state);
    }
}

impl Part {
    /// The expression for those who do without the interpreter, if it is understood.
    pub(in crate::matching) fn compiled(&self) -> Option<&Compiled> {
        self.inner.compiled.as_ref()
    }

    /// The paths of `doc` that are looked at without the interpreter.
    pub(in crate::matching) fn paths(&self) -> &[Path] {
        self.inner.compiled.as_ref().map_or(&[], Compiled::paths)
    }

    /// A path and values of which one must be in the container there for this to be true, if it asks so.
    pub(in crate::matching) fn members(&self) -> Option<(Path, Vec<Value>)> {
        let Expr::Comprehension(parts) = &self.inner.tree.expr else { return None };
        let (range, body) = exists(parts)?;
        // What is not walked to is not found.
        let path = path(range).filter(|path| self.paths().contains(path))?;
        Some((path, equals(body, &parts.iter_var)?))
    }

    /// Whether it comes out as wanted, by the interpreter. An error, or a value that is no truth value, does not.
    pub(in crate::matching) fn holds(&self, wanted: bool, variables: &Variables) -> bool {
        value_of(&self.inner.tree, &variables.0) == Some(wanted)
    }

    /// What it comes out as, or why it does not.
    pub(in crate::matching) fn outcome(&self, variables: &Variables) -> Result<bool, String> {
        explained(&self.inner.tree, &variables.0)
    }

    /// The expression as text.
    pub(in crate::matching) fn text(&self) -> String {
        print::text(&self.inner.tree)
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Part").field(&self.text()).finish()
    }
}

impl<'a> Expression<'a> {
    /// The expression by itself.
    pub(in crate::matching) fn part(self) -> Part {
        let inner = Inner { tree: self.tree.clone(), compiled: Compiled::new(self.tree) };
        Part { inner: Arc::new(inner), source: Arc::clone(self.source) }
    }

    /// What it is.
    pub(in crate::matching) fn shape(self) -> Shape<'a> {
        let one = |index: usize, call: &'a CallExpr| Expression { tree: &call.args[index], ..self };
        match &self.tree.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => Shape::Constant(*value.inner()),
            Expr::Select(select) if select.test => {
                let mut steps = steps(&select.operand);
                let last = step(&select.field);
                match (&mut steps, last) {
                    (Some(steps), Some(last)) => {
                        steps.push(last);
                        Shape::Term(Term { path: Path(steps.as_slice().into()), test: Test::Exists(true) })
                    }
                    _ => Shape::Other,
                }
            }
            Expr::Select(_) => path(self.tree).map_or(Shape::Other, Shape::Flag),
            Expr::Call(call) => match (call.func_name.as_str(), call.args.len(), &call.target) {
                (operators::LOGICAL_AND, 2, None) => Shape::And([one(0, call), one(1, call)]),
                (operators::LOGICAL_OR, 2, None) => Shape::Or([one(0, call), one(1, call)]),
                (operators::LOGICAL_NOT, 1, None) => Shape::Not(one(0, call)),
                (operators::CONDITIONAL, 3, None) => Shape::Choice([one(0, call), one(1, call), one(2, call)]),
                (operators::INDEX, 2, None) => path(self.tree).map_or(Shape::Other, Shape::Flag),
                ("startsWith", 1, Some(text)) => {
                    let prefix = literal(&call.args[0]).filter(|prefix| matches!(prefix, Value::Text(_)));
                    test(path(text), Operator::StartsWith, prefix)
                }
                (_, 2, None) => comparison(call),
                _ => Shape::Other,
            },
            _ => Shape::Other,
        }
    }
}

/// Values of which a variable equals one wherever an expression is true.
fn equals(expression: &IdedExpr, variable: &str) -> Option<Vec<Value>> {
    let Expr::Call(call) = &expression.expr else { return None };
    let [a, b] = call.args.as_slice() else { return None };
    let is_it = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if name == variable);
    match call.func_name.as_str() {
        operators::LOGICAL_AND => equals(a, variable).or_else(|| equals(b, variable)),
        operators::LOGICAL_OR => Some([equals(a, variable)?, equals(b, variable)?].concat()),
        operators::EQUALS if is_it(a) => Some(vec![literal(b)?]),
        operators::EQUALS if is_it(b) => Some(vec![literal(a)?]),
        operators::IN if is_it(a) => match list(b)? {
            Value::List(items) => Some(items.into_vec()),
            _ => None,
        },
        _ => None,
    }
}

fn test(path: Option<Path>, op: Operator, value: Option<Value>) -> Shape<'static> {
    match (path, value) {
        (Some(path), Some(value)) => Shape::Term(Term { path, test: Test::Compare(op, value) }),
        _ => Shape::Other,
    }
}

fn comparison(call: &CallExpr) -> Shape<'static> {
    let [left, right] = call.args.as_slice() else { return Shape::Other };
    if call.func_name == operators::IN {
        return match (path(left), path(right)) {
            (Some(path), _) => test(Some(path), Operator::In, list(right)),
            (None, Some(path)) => test(Some(path), Operator::ArrayContains, literal(left)),
            _ => Shape::Other,
        };
    }
    // The operator, and the one that says the same with its sides exchanged.
    let (op, turned) = match call.func_name.as_str() {
        operators::EQUALS => (Operator::Equal, Operator::Equal),
        operators::NOT_EQUALS => (Operator::NotEqual, Operator::NotEqual),
        operators::LESS => (Operator::Less, Operator::Greater),
        operators::LESS_EQUALS => (Operator::LessOrEqual, Operator::GreaterOrEqual),
        operators::GREATER => (Operator::Greater, Operator::Less),
        operators::GREATER_EQUALS => (Operator::GreaterOrEqual, Operator::LessOrEqual),
        _ => return Shape::Other,
    };
    match path(left) {
        Some(path) => test(Some(path), op, literal(right)),
        None => test(path(right), turned, literal(left)),
    }
}

/// A path of at least one step from `doc`.
fn path(expression: &IdedExpr) -> Option<Path> {
    steps(expression).filter(|steps| !steps.is_empty()).map(|steps| Path(steps.into()))
}

fn steps(expression: &IdedExpr) -> Option<Vec<Arc<str>>> {
    let (inner, name) = match &expression.expr {
        Expr::Ident(name) => return (name == "doc").then(Vec::new),
        Expr::Select(select) if !select.test => (&*select.operand, select.field.as_str()),
        Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
            let [container, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(name)) = &index.expr else { return None };
            (container, name.inner())
        }
        _ => return None,
    };
    let mut steps = steps(inner)?;
    steps.push(step(name)?);
    Some(steps)
}

/// A step that means the same in a path: there digits are an index where they meet an array.
fn step(name: &str) -> Option<Arc<str>> {
    (array_index(name).is_none()).then(|| name.into())
}

fn literal(expression: &IdedExpr) -> Option<Value> {
    Some(match &expression.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
            LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
            LiteralValue::Double(value) => Value::Double(*value.inner()),
            LiteralValue::Int(value) => Value::Int(*value.inner()),
            LiteralValue::Null => Value::Null,
            LiteralValue::String(value) => Value::Text(value.inner().into()),
            // Beyond an int there is no value of ours that is as exact.
            LiteralValue::UInt(value) => Value::Int(i64::try_from(*value.inner()).ok()?),
        },
        // Of a uint it is an error.
        Expr::Call(call) if call.func_name == operators::NEGATE => match &call.args.first()?.expr {
            Expr::Literal(LiteralValue::Int(value)) => Value::Int(value.inner().checked_neg()?),
            Expr::Literal(LiteralValue::Double(value)) => Value::Double(-*value.inner()),
            _ => return None,
        },
        // Of a time between two milliseconds, or in a leap second, there is no value of ours.
        Expr::Call(call) if call.func_name == "timestamp" && call.target.is_none() => {
            let (seconds, nanos) = instant(expression, call.args.first()?)?;
            let milliseconds = seconds.checked_mul(1_000)?.checked_add(i64::from(nanos / 1_000_000))?;
            Some(Value::time(milliseconds))
                .filter(|time| nanos % 1_000_000 == 0 && nanos < 1_000_000_000 && *time != Value::Error)?
        }
        _ => return None,
    })
}

fn list(expression: &IdedExpr) -> Option<Value> {
    let Expr::List(list) = &expression.expr else { return None };
    if !list.optional_indices.is_empty() {
        return None;
    }
    list.elements.iter().map(literal).collect::<Option<Box<[_]>>>().map(Value::List)
}
