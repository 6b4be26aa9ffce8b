//! Guards: functions of ours put into a checked tree, where only the document decides what it costs.
//!
//! Owns the bound on loops. The interpreter cannot be stopped, and a loop that takes a large part of
//! the document with every turn (`doc.l.exists(x, x in doc.m)`) costs the square of its size: hours,
//! for 16 MB. So what a loop runs over, and what its body takes from outside, is weighed; over the
//! limit it is an error like any other. Without loops everything is linear and needs no guard.

use cel_interpreter::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators};
use cel_interpreter::common::types::{CelBytes, CelList, CelMap, CelString, DYN_TYPE, Kind};
use cel_interpreter::common::value::{CowVal, Val};
use cel_interpreter::{DeclarationError, Env, ExecutionError};

use super::pattern;
use crate::limits;

/// The guard of what a loop goes over.
pub(super) const RANGE: &str = "@range";
/// The guard of what a loop takes from outside.
pub(super) const OPERAND: &str = "@operand";

/// Declares the guards.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(RANGE, "bounded_range", vec![DYN_TYPE], range)?;
    env.add_overload(OPERAND, "bounded_operand", vec![DYN_TYPE], operand)
}

/// Puts the guards into a tree, and our `matches` in the place of the crate's. Recursive: for
/// checked trees only.
pub(super) fn guard(expression: &mut IdedExpr) {
    visit(expression, None);
}

/// `variable` is that of the loop whose body this is.
fn visit(expression: &mut IdedExpr, variable: Option<&str>) {
    if variable.is_some() && is_taken_from_outside(expression, variable) {
        indexes(expression, variable);
        wrap(expression, OPERAND);
        return;
    }
    match &mut expression.expr {
        Expr::Call(call) => {
            if call.func_name == "matches" {
                pattern::NAME.clone_into(&mut call.func_name);
                if let Some(text) = call.target.take() {
                    call.args.insert(0, *text);
                }
            }
            call.target.iter_mut().for_each(|target| visit(target, variable));
            call.args.iter_mut().for_each(|argument| visit(argument, variable));
        }
        // To ask whether something is there costs nothing, however large it is.
        Expr::Select(select) if select.test => indexes(&mut select.operand, variable),
        Expr::Select(select) => visit(&mut select.operand, variable),
        Expr::List(list) => list.elements.iter_mut().for_each(|element| visit(element, variable)),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    visit(&mut entry.key, variable);
                    visit(&mut entry.value, variable);
                }
            }
        }
        Expr::Comprehension(comprehension) => {
            visit(&mut comprehension.iter_range, variable);
            wrap(&mut comprehension.iter_range, RANGE);
            let inside = Some(comprehension.iter_var.as_str());
            visit(&mut comprehension.loop_cond, inside);
            visit(&mut comprehension.loop_step, inside);
            visit(&mut comprehension.result, inside);
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => {}
    }
}

/// Whether an expression is a path from `doc` or `before`.
pub(super) fn is_taken_from_outside(expression: &IdedExpr, variable: Option<&str>) -> bool {
    match &expression.expr {
        Expr::Ident(name) => matches!(name.as_str(), "doc" | "before") && Some(name.as_str()) != variable,
        Expr::Select(select) => !select.test && is_taken_from_outside(&select.operand, variable),
        Expr::Call(call) if call.func_name == operators::INDEX => is_taken_from_outside(&call.args[0], variable),
        _ => false,
    }
}

/// Guards what stands in the brackets of a path that is guarded as a whole, or needs none.
fn indexes(expression: &mut IdedExpr, variable: Option<&str>) {
    match &mut expression.expr {
        Expr::Select(select) => indexes(&mut select.operand, variable),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let [container, index] = call.args.as_mut_slice() else { return };
            indexes(container, variable);
            visit(index, variable);
        }
        Expr::Ident(_) => {}
        _ => visit(expression, variable),
    }
}

fn wrap(expression: &mut IdedExpr, function: &str) {
    let id = expression.id;
    let inner = std::mem::take(expression);
    let call = CallExpr { func_name: function.to_owned(), target: None, args: vec![inner] };
    *expression = IdedExpr { id, expr: Expr::Call(call) };
}

fn range<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = the_one(arguments)?;
    match value.as_sizer().map(|sizer| *sizer.size().inner()) {
        Some(items) if items > limits::cel_loop_items_max as i64 => Err(too_large()),
        _ => Ok(value),
    }
}

fn operand<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = the_one(arguments)?;
    if is_small(value.as_ref()) { Ok(value) } else { Err(too_large()) }
}

fn the_one<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    arguments.pop().ok_or_else(ExecutionError::missing_argument_or_target)
}

fn too_large() -> ExecutionError {
    ExecutionError::function_error("loop", "too large a part of the document")
}

/// Looks at no more values than it allows.
fn is_small(value: &dyn Val) -> bool {
    let (mut values, mut bytes) = (limits::cel_loop_operand_values_max, limits::cel_loop_operand_bytes_max);
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        let (more, length) = if let Some(list) = value.downcast_ref::<CelList<'_>>() {
            (list.inner().len(), 0)
        } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
            (map.inner().len(), 0)
        } else if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            (0, text.inner().len())
        } else if let Some(data) = value.downcast_ref::<CelBytes<'_>>() {
            (0, data.inner().len())
        } else if matches!(value.get_type().kind(), Kind::List | Kind::Map) {
            // A container with an error in it: not worth weighing.
            return false;
        } else {
            (0, 0)
        };
        let (Some(fewer), Some(shorter)) = (values.checked_sub(more), bytes.checked_sub(length)) else { return false };
        (values, bytes) = (fewer, shorter);
        if let Some(list) = value.downcast_ref::<CelList<'_>>() {
            todo.extend(list.inner().iter().map(|item| &**item as &dyn Val));
        } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
            todo.extend(map.inner().values().map(|item| &**item as &dyn Val));
        }
    }
    true
}
