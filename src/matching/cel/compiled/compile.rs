//! From the crate's tree to nodes.
//!
//! Owns what is understood: whatever is not leaves the whole expression to the interpreter, so to understand less is
//! always right. Reads trees that have been checked and guarded.

use std::sync::Arc;

use cel_interpreter::Value as CelValue;
use cel_interpreter::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators};

use super::values::{Conversion, Items, Operation, Val};
use super::{Body, Compiled, Header, Loop, Node, TextTest};
use crate::matching::cel::{empty_context, guard, pattern, resolve};
use crate::matching::intern;
use crate::matching::path::array_index;
use crate::subscription::Path;

/// What is noted on the way.
struct Notes {
    paths: Vec<Path>,
    slots: usize,
}

impl Notes {
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }
}

/// The variable of the loop whose body this is.
type Variable<'a> = Option<&'a str>;

pub(super) fn compile(expression: &IdedExpr) -> Option<Compiled> {
    let mut notes = Notes { paths: Vec::new(), slots: 0 };
    let root = node(expression, None, &mut notes)?;
    notes.paths.sort();
    notes.paths.dedup();
    Some(Compiled { root, paths: notes.paths.into(), slots: notes.slots })
}

fn node(expression: &IdedExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Node> {
    match &expression.expr {
        Expr::Literal(literal) => Some(Node::Literal(constant(literal))),
        Expr::Ident(name) => ident(name, variable),
        Expr::Select(select) if select.test => has(expression, variable, notes),
        Expr::Select(select) => {
            if let Some(found) = type_name(expression, variable).or_else(|| path(expression, variable, notes)) {
                return Some(found);
            }
            Some(Node::Select(boxed(&select.operand, variable, notes)?, select.field.as_bytes().into()))
        }
        Expr::List(list) if list.optional_indices.is_empty() => elements(&list.elements, variable, notes),
        Expr::Call(call) => function(expression, call, variable, notes),
        Expr::Comprehension(parts) => comprehension(parts, notes),
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

fn boxed(expression: &IdedExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Box<Node>> {
    node(expression, variable, notes).map(Box::new)
}

fn constant(literal: &LiteralValue) -> Val<'static> {
    match literal {
        LiteralValue::Boolean(value) => Val::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Val::Bytes(super::values::Buffer::Made(value.inner().into())),
        LiteralValue::Double(value) => Val::Double(*value.inner()),
        LiteralValue::Int(value) => Val::Int(*value.inner()),
        LiteralValue::Null => Val::Null,
        LiteralValue::String(value) => Val::text(value.inner()),
        LiteralValue::UInt(value) => Val::Uint(*value.inner()),
    }
}

fn ident(name: &str, variable: Variable<'_>) -> Option<Node> {
    if variable == Some(name) {
        return Some(Node::Item);
    }
    Some(match name {
        "doc" => Node::Whole(Body::Doc),
        "before" => Node::Whole(Body::Before),
        "op" => Node::Header(Header::Operation),
        "tenant" => Node::Header(Header::Tenant),
        "collection" => Node::Header(Header::Collection),
        "key" => Node::Header(Header::Key),
        _ => {
            const TYPES: [&str; 10] =
                ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
            Node::Literal(Val::Type(TYPES.into_iter().find(|known| *known == name)?))
        }
    })
}

/// `google.protobuf.Timestamp` and `google.protobuf.Duration`.
fn type_name(expression: &IdedExpr, variable: Variable<'_>) -> Option<Node> {
    let Expr::Select(outer) = &expression.expr else { return None };
    let Expr::Select(inner) = &outer.operand.expr else { return None };
    let is_package = matches!(&inner.operand.expr, Expr::Ident(name) if name == "google") && variable != Some("google");
    if !is_package || inner.test || inner.field != "protobuf" {
        return None;
    }
    let name = match outer.field.as_str() {
        "Timestamp" => "google.protobuf.Timestamp",
        "Duration" => "google.protobuf.Duration",
        _ => return None,
    };
    Some(Node::Literal(Val::Type(name)))
}

/// The body and the steps that an expression goes from there. Only names that in a list lead nowhere: to CEL they
/// never do, and to paths digits are an index. At the root there is no list.
fn steps(expression: &IdedExpr, variable: Variable<'_>) -> Option<(Body, Vec<Arc<str>>)> {
    let (inner, name) = match &expression.expr {
        Expr::Ident(name) if variable == Some(name) => return None,
        Expr::Ident(name) if name == "doc" => return Some((Body::Doc, Vec::new())),
        Expr::Ident(name) if name == "before" => return Some((Body::Before, Vec::new())),
        Expr::Select(select) if !select.test => (&*select.operand, select.field.as_str()),
        Expr::Call(call) if call.func_name == operators::INDEX && call.target.is_none() => {
            let [container, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(name)) = &index.expr else { return None };
            (container, name.inner())
        }
        _ => return None,
    };
    let (body, mut steps) = steps(inner, variable)?;
    append(&mut steps, name)?;
    Some((body, steps))
}

fn append(steps: &mut Vec<Arc<str>>, name: &str) -> Option<()> {
    (steps.is_empty() || array_index(name).is_none()).then(|| steps.push(name.into()))
}

fn noted(body: Body, steps: Vec<Arc<str>>, notes: &mut Notes) -> Path {
    let path = intern::path(Path(steps.into()));
    if body == Body::Doc {
        notes.paths.push(path.clone());
    }
    path
}

fn path(expression: &IdedExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Node> {
    let (body, steps) = steps(expression, variable).filter(|(_, steps)| !steps.is_empty())?;
    Some(Node::Path(body, noted(body, steps, notes)))
}

fn has(expression: &IdedExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Node> {
    let Expr::Select(select) = &expression.expr else { return None };
    let direct = steps(&select.operand, variable).and_then(|(body, mut steps)| {
        append(&mut steps, &select.field)?;
        Some(Node::HasPath(body, noted(body, steps, notes)))
    });
    let node = match direct {
        Some(node) => node,
        None => Node::Has(boxed(&select.operand, variable, notes)?, select.field.as_bytes().into()),
    };
    if variable.is_none() || !guard::is_taken_from_outside(&select.operand, variable) {
        return Some(node);
    }
    is_fixed(&select.operand).then(|| Node::Once(notes.slot(), Box::new(node)))
}

/// Whether a path from outside of a loop leads to the same with every turn.
fn is_fixed(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => is_fixed(&select.operand),
        Expr::Call(call) => match call.args.as_slice() {
            [container, index] => matches!(index.expr, Expr::Literal(_)) && is_fixed(container),
            _ => false,
        },
        _ => false,
    }
}

/// A list that is written out; once and for all where nothing in it depends on anything.
fn elements(elements: &[IdedExpr], variable: Variable<'_>, notes: &mut Notes) -> Option<Node> {
    let nodes: Vec<Node> = elements.iter().map(|element| node(element, variable, notes)).collect::<Option<_>>()?;
    if !nodes.iter().all(|node| matches!(node, Node::Literal(_))) {
        return Some(Node::List(nodes.into()));
    }
    let items = nodes.into_iter().filter_map(|node| if let Node::Literal(value) = node { Some(value) } else { None });
    Some(Node::Literal(Val::Items(Items::Made(items.collect()))))
}

fn pair(a: &IdedExpr, b: &IdedExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Box<[Node; 2]>> {
    Some(Box::new([node(a, variable, notes)?, node(b, variable, notes)?]))
}

fn function(expression: &IdedExpr, call: &CallExpr, variable: Variable<'_>, notes: &mut Notes) -> Option<Node> {
    let name = call.func_name.as_str();
    match (&call.target, call.args.as_slice()) {
        (None, [inner]) => unary(expression, name, inner, variable, notes),
        (None, [a, b]) => binary(expression, name, a, b, variable, notes),
        (None, [a, b, c]) if name == operators::CONDITIONAL => {
            let [a, b, c] = [a, b, c].map(|part| node(part, variable, notes));
            Some(Node::Choice(Box::new([a?, b?, c?])))
        }
        (Some(text), []) if name == "size" => Some(Node::Size(boxed(text, variable, notes)?)),
        (Some(text), [part]) => {
            let test = match name {
                "contains" => TextTest::Contains,
                "startsWith" => TextTest::StartsWith,
                "endsWith" => TextTest::EndsWith,
                _ => return None,
            };
            Some(Node::Text(test, pair(text, part, variable, notes)?))
        }
        _ => None,
    }
}

fn unary(
    expression: &IdedExpr,
    name: &str,
    inner: &IdedExpr,
    variable: Variable<'_>,
    notes: &mut Notes,
) -> Option<Node> {
    if name == "timestamp" {
        return instant(expression, inner).map(|(seconds, nanos)| Node::Literal(Val::Time(seconds, nanos)));
    }
    if name == guard::OPERAND {
        // With an index that changes, a search through what is outside would begin anew with every turn.
        let node = is_fixed(inner).then(|| boxed(inner, variable, notes))??;
        return Some(Node::Weighed(notes.slot(), node));
    }
    let conversion = match name {
        "int" => Conversion::Int,
        "uint" => Conversion::Uint,
        "double" => Conversion::Double,
        "string" => Conversion::Text,
        "bytes" => Conversion::Bytes,
        "bool" => Conversion::Bool,
        "dyn" => return node(inner, variable, notes),
        "size" => return Some(Node::Size(boxed(inner, variable, notes)?)),
        "type" => return Some(Node::Type(boxed(inner, variable, notes)?)),
        operators::LOGICAL_NOT => return Some(Node::Not(boxed(inner, variable, notes)?)),
        operators::NEGATE => return Some(Node::Negate(boxed(inner, variable, notes)?)),
        _ => return None,
    };
    Some(Node::Convert(conversion, boxed(inner, variable, notes)?))
}

/// `timestamp('…')`, by way of the interpreter: seconds since 1970, and nanoseconds.
pub(in crate::matching::cel) fn instant(expression: &IdedExpr, text: &IdedExpr) -> Option<(i64, u32)> {
    let Expr::Literal(LiteralValue::String(_)) = &text.expr else { return None };
    match resolve(expression, &empty_context())? {
        Ok(CelValue::Timestamp(time)) => Some((time.timestamp(), time.timestamp_subsec_nanos())),
        _ => None,
    }
}

fn binary(
    expression: &IdedExpr,
    name: &str,
    a: &IdedExpr,
    b: &IdedExpr,
    variable: Variable<'_>,
    notes: &mut Notes,
) -> Option<Node> {
    if name == pattern::NAME {
        let Expr::Literal(LiteralValue::String(text)) = &b.expr else { return None };
        let regex = pattern::compile(text.inner()).ok()?;
        return Some(Node::Matches(boxed(a, variable, notes)?, Box::new(regex)));
    }
    if name == operators::INDEX {
        if let Some(found) = path(expression, variable, notes) {
            return Some(found);
        }
        return Some(Node::Index(pair(a, b, variable, notes)?));
    }
    let calculation = match name {
        operators::ADD => Some(Operation::Add),
        operators::SUBSTRACT => Some(Operation::Subtract),
        operators::MULTIPLY => Some(Operation::Multiply),
        operators::DIVIDE => Some(Operation::Divide),
        operators::MODULO => Some(Operation::Remainder),
        _ => None,
    };
    let both = pair(a, b, variable, notes)?;
    if let Some(operation) = calculation {
        return Some(Node::Calculate(operation, both));
    }
    Some(match name {
        operators::LOGICAL_AND => Node::And(both),
        operators::LOGICAL_OR => Node::Or(both),
        operators::EQUALS => Node::Equal(both, true),
        operators::NOT_EQUALS => Node::Equal(both, false),
        operators::LESS => Node::Order(both, std::cmp::Ordering::is_lt),
        operators::LESS_EQUALS => Node::Order(both, std::cmp::Ordering::is_le),
        operators::GREATER => Node::Order(both, std::cmp::Ordering::is_gt),
        operators::GREATER_EQUALS => Node::Order(both, std::cmp::Ordering::is_ge),
        operators::IN => Node::In(both),
        _ => return None,
    })
}

/// The loops that CEL's macros make; `guard` has wrapped what they go over.
fn comprehension(parts: &ComprehensionExpr, notes: &mut Notes) -> Option<Node> {
    let (None, Some([range])) = (&parts.iter_var2, call(&parts.iter_range, guard::RANGE)) else { return None };
    let variable = Some(parts.iter_var.as_str());
    let is_result = |expression: &IdedExpr| is_name(expression, &parts.accu_var);
    let literal = |expression: &IdedExpr| match &expression.expr {
        Expr::Literal(literal) => Some(constant(literal)),
        _ => None,
    };
    let range = node(range, None, notes)?;
    let (init, condition, step) = (&parts.accu_init, &parts.loop_cond, &parts.loop_step);
    if let Expr::List(list) = &init.expr {
        // `[]`, true, `@result + [made]` or `wanted ? @result + [made] : @result`, `@result`
        let is_made = list.elements.is_empty() && matches!(literal(condition)?, Val::Bool(true));
        let (wanted, step) = match call(step, operators::CONDITIONAL) {
            Some([wanted, step, other]) if is_result(other) => (node(wanted, variable, notes)?, step),
            Some(_) => return None,
            None => (Node::Literal(Val::Bool(true)), step),
        };
        let Some([result, made]) = call(step, operators::ADD) else { return None };
        let Expr::List(made) = &made.expr else { return None };
        let [made] = made.elements.as_slice() else { return None };
        let is_made = is_made && is_result(result) && is_result(&parts.result);
        let made = node(made, variable, notes)?;
        return is_made.then(|| Node::Collect(Box::new([range, wanted, made])));
    }
    let (kind, body) = match literal(init)? {
        Val::Bool(false) => (Loop::Exists, exists(parts)?.1),
        // true, `@not_strictly_false(@result)`, `@result && body`, `@result`
        Val::Bool(true) => {
            let is_open = call(condition, operators::NOT_STRICTLY_FALSE).and_then(<[_]>::first).is_some_and(is_result);
            (Loop::All, folded(step, operators::LOGICAL_AND, is_open && is_result(&parts.result), is_result)?)
        }
        // 0, true, `body ? @result + 1 : @result`, `@result == 1`
        Val::Int(0) => {
            let Some([body, more, same]) = call(step, operators::CONDITIONAL) else { return None };
            let (Some([result, one]), Some([count, wanted])) =
                (call(more, operators::ADD), call(&parts.result, operators::EQUALS))
            else {
                return None;
            };
            let are_ones = [one, wanted].into_iter().all(|one| matches!(literal(one), Some(Val::Int(1))));
            let is_counted = is_result(result) && is_result(same) && is_result(count) && are_ones;
            (is_counted && matches!(literal(condition)?, Val::Bool(true))).then_some((Loop::ExistsOne, body))?
        }
        _ => return None,
    };
    Some(Node::Loop(kind, Box::new([range, node(body, variable, notes)?])))
}

/// What `exists` goes over and what it asks, if this is one: false, `@not_strictly_false(!@result)`, `@result || body`,
/// `@result`.
pub(in crate::matching::cel) fn exists(parts: &ComprehensionExpr) -> Option<(&IdedExpr, &IdedExpr)> {
    let is_result = |expression: &IdedExpr| is_name(expression, &parts.accu_var);
    let (None, Some([range])) = (&parts.iter_var2, call(&parts.iter_range, guard::RANGE)) else { return None };
    let Expr::Literal(LiteralValue::Boolean(init)) = &parts.accu_init.expr else { return None };
    let not = call(&parts.loop_cond, operators::NOT_STRICTLY_FALSE).and_then(<[_]>::first)?;
    let is_open = call(not, operators::LOGICAL_NOT).and_then(<[_]>::first).is_some_and(is_result);
    let is_ordinary = is_open && !*init.inner() && is_result(&parts.result);
    Some((range, folded(&parts.loop_step, operators::LOGICAL_OR, is_ordinary, is_result)?))
}

fn folded<'a>(
    step: &'a IdedExpr,
    operator: &str,
    is_ordinary: bool,
    is_result: impl Fn(&IdedExpr) -> bool,
) -> Option<&'a IdedExpr> {
    match call(step, operator) {
        Some([result, body]) if is_ordinary && is_result(result) => Some(body),
        _ => None,
    }
}

/// The arguments of a call of this function.
fn call<'a>(expression: &'a IdedExpr, name: &str) -> Option<&'a [IdedExpr]> {
    match &expression.expr {
        Expr::Call(call) if call.func_name == name && call.target.is_none() => Some(&call.args),
        _ => None,
    }
}

fn is_name(expression: &IdedExpr, name: &str) -> bool {
    matches!(&expression.expr, Expr::Ident(found) if found == name)
}
