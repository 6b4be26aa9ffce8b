//! Patterns: CEL's `matches`, with each pattern compiled once a thread and not once an evaluation.
//!
//! Owns the limits on a pattern and the function that stands in for the crate's own, which compiles
//! its pattern again with every call. The language is that of the `regex` crate in both: RE2's, in
//! time linear in the text.

use std::cell::RefCell;
use std::collections::HashMap;

use cel_interpreter::ExecutionError;
use cel_interpreter::common::types::{CelBool, CelString, STRING_TYPE};
use cel_interpreter::common::value::CowVal;
use cel_interpreter::{DeclarationError, Env};
use regex::{Regex, RegexBuilder};

use crate::limits;

/// The name of our function; nobody can write it in a source.
pub(super) const NAME: &str = "@matches";

/// Patterns kept by a thread; past that it forgets them all and begins anew.
const KEPT_MAX: usize = 256;

thread_local! {
    static COMPILED: RefCell<HashMap<Box<str>, Regex>> = RefCell::default();
}

/// Compiles a pattern within its limits.
pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let max = limits::cel_pattern_compiled_bytes_max;
    RegexBuilder::new(pattern).size_limit(max).dfa_size_limit(max).build()
}

/// Declares our function.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(NAME, "compiled_once", vec![STRING_TYPE, STRING_TYPE], matches)
}

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = |number: usize| arguments.get(number).and_then(|argument| argument.downcast_ref::<CelString>());
    let (Some(text), Some(pattern)) = (text(0), text(1)) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    is_match(text.inner(), pattern.inner()).map(|found| CowVal::owned(CelBool::from(found)))
}

fn is_match(text: &str, pattern: &str) -> Result<bool, ExecutionError> {
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(regex) = compiled.get(pattern) {
            return Ok(regex.is_match(text));
        }
        let regex = compile(pattern).map_err(|error| ExecutionError::function_error("matches", error))?;
        if compiled.len() >= KEPT_MAX {
            compiled.clear();
        }
        let found = regex.is_match(text);
        compiled.insert(pattern.into(), regex);
        Ok(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::cel::{Program, empty_context};

    #[test]
    fn a_pattern_is_compiled_once() {
        let program = Program::compile("'abc'.matches('^a') && matches('abc', '^a') && ['abc'.matches('c$')][0]");
        let program = program.expect("compiles");
        let kept = || COMPILED.with_borrow(|compiled| compiled.len());
        assert_eq!(kept(), 0);
        for _ in 0..3 {
            assert!(crate::matching::cel::is_true(&program.expression, &empty_context()));
            // Had one call gone to the crate's function, its pattern would not be here.
            assert_eq!(kept(), 2);
        }
    }

    #[test]
    fn patterns_do_not_pile_up() {
        for number in 0..1000 {
            assert_eq!(is_match("7", &format!("^{number}$")).ok(), Some(number == 7));
            assert!(COMPILED.with_borrow(|compiled| compiled.len()) <= KEPT_MAX);
        }
    }
}
