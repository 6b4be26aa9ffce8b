//! CEL: compiled expressions and their evaluation by the `cel` crate.
//!
//! Owns the crate's interpreter and its defences. The crate has neither fuel nor deadline, and its
//! parser recurses, so all that can go wrong is refused beforehand: sources are parsed on one thread
//! with a large stack, and the tree is held against static limits (`check`) before anyone runs it.
//! What of it no index takes is `compiled` for evaluation over raw BSON; the interpreter has the rest.

mod check;
mod compiled;
mod compiler;
mod convert;
mod guard;
mod pattern;
mod print;
mod shape;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, OnceLock};

use cel_interpreter::common::ast::IdedExpr;
use cel_interpreter::common::types::{CelNull, CelString};
use cel_interpreter::common::value::Val;
use cel_interpreter::{Context, Env, Value as CelValue};

use super::formula::Formula;
use super::value::Value;
use super::verdict::Image;
use crate::change::Change;
use crate::error::Problem;

pub(super) use compiled::{Compiled, Stop};
pub(super) use convert::to_cel;
pub(super) use shape::{Expression, Part, Shape};

/// The standard functions; everything that a program may call is among them (`check` sees to it).
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let ours = pattern::declare(&mut env).and_then(|()| guard::declare(&mut env));
    ours.expect("the standard functions have no such names");
    Arc::new(env)
});

/// A compiled expression within every static limit. Equal sources share one.
pub(super) struct Program {
    source: Arc<str>,
    expression: IdedExpr,
    formula: OnceLock<Formula>,
}

impl Program {
    /// Compiles a source. Waits for the compiling thread: some microseconds where the source is
    /// known already, else up to a few milliseconds.
    ///
    /// # Errors
    /// `CEL_COMPILATION_FAILED` and `FILTER_TOO_COMPLEX`, at `cel`.
    pub(super) fn compile(source: &str) -> Result<Arc<Self>, Problem> {
        compiler::compile(source)
    }

    /// Where it is true; made once for all filters with this source.
    pub(super) fn formula(&self) -> &Formula {
        self.formula.get_or_init(|| Formula::of_program(Expression { tree: &self.expression, source: &self.source }))
    }

    /// Whether it is true. An error, or a value that is no truth value, is no.
    pub(super) fn holds(&self, variables: &Variables) -> bool {
        is_true(&self.expression, &variables.0)
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Program").field(&self.source).finish()
    }
}

/// Whether an expression is true in a context.
pub(super) fn is_true(expression: &IdedExpr, context: &Context<'_, '_>) -> bool {
    value_of(expression, context) == Some(true)
}

/// The truth value of an expression in a context, if it has one.
fn value_of(expression: &IdedExpr, context: &Context<'_, '_>) -> Option<bool> {
    match resolve(expression, context)? {
        Ok(CelValue::Bool(value)) => Some(value),
        _ => None,
    }
}

/// The truth value, or why there is none.
fn explained(expression: &IdedExpr, context: &Context<'_, '_>) -> Result<bool, String> {
    match resolve(expression, context) {
        Some(Ok(CelValue::Bool(value))) => Ok(value),
        Some(Ok(other)) => Err(format!("comes to a {}, which is neither true nor false", other.type_of())),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the interpreter failed".to_owned()),
    }
}

/// The interpreter is not ours: should it panic in spite of all, that is an error like any other and not the
/// end of a partition.
fn resolve(
    expression: &IdedExpr,
    context: &Context<'_, '_>,
) -> Option<Result<CelValue, cel_interpreter::ExecutionError>> {
    // Not `resolve_val`, which borrows more: it is inlined into its caller, and with it the recursion
    // is compiled as part of this crate, in a debug build with frames of over 20 KB a level.
    catch_unwind(AssertUnwindSafe(|| CelValue::resolve(expression, context))).ok()
}

/// A context of the standard functions without any variable.
pub(super) fn empty_context() -> Context<'static, 'static> {
    Context::with_env(Arc::clone(&ENV))
}

/// What a program sees of one image of a change: `doc`, `before`, `op`, `tenant`, `collection`, `key`.
pub(super) struct Variables(Context<'static, 'static>);

impl Variables {
    /// The variables for an image; to be made once for all programs.
    pub(super) fn new(change: &Change, image: Image) -> Self {
        let mut context = empty_context();
        let mut put = |name: &str, value: Box<dyn Val>| context.add_variable_as_val(name, value);
        let text = |text: &str| -> Box<dyn Val> { Box::new(CelString::from(text.to_owned())) };
        if let Some(doc) = image.body(change).map(Value::of_document) {
            put("doc", to_cel(&doc));
        }
        match image.before(change).map(Value::of_document) {
            None => put("before", Box::new(CelNull)),
            Some(before) => put("before", to_cel(&before)),
        }
        put("op", text(change.operation.name()));
        put("key", text(&change.key));
        let scope = image.scope(change);
        for (name, part) in [("tenant", &scope.tenant), ("collection", &scope.collection)] {
            if let Some(part) = part {
                put(name, text(part));
            }
        }
        Self(context)
    }
}
