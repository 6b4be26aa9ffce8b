//! Explanations: why a filter did or did not fire.
//!
//! Owns the account of one filter's way through the same code that live changes go through: scope,
//! operation, look-up, each condition over each image, verdict. Says what type a value has, never the value.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::formula::{Atom, Formula};
use super::images::{Images, Shared};
use super::path::Found;
use super::raw::Raw;
use super::term::Term;
use super::verdict::Image;
use super::{Matcher, SubscriptionIndex, Verdict};
use crate::change::{Change, Operation};

/// How one step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It let the change through.
    Passed,
    /// It did not.
    Rejected,
    /// It could not be evaluated, which is no match.
    Error,
    /// It had no say.
    Skipped,
}

/// One step of an evaluation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What was asked: `scope`, `operation`, `index`, a condition as CEL, `verdict`.
    pub step: String,
    /// What came out.
    pub result: Outcome,
    /// Why.
    pub detail: String,
}

/// Why a filter did or did not fire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// What the change is to it.
    pub verdict: Option<Verdict>,
    /// How it came to that.
    pub steps: Vec<Step>,
}

fn step(step: impl Into<String>, result: Outcome, detail: impl Into<String>) -> Step {
    Step { step: step.into(), result, detail: detail.into() }
}

fn passed(is_passed: bool) -> Outcome {
    if is_passed { Outcome::Passed } else { Outcome::Rejected }
}

impl Filter {
    /// Why this filter does or does not fire for a change.
    pub fn explain(self: &Arc<Self>, change: &Change) -> Explanation {
        let mut steps = vec![self.scope_step(change), self.operation_step(change), self.index_step(change)];
        let mut shared = Shared::default();
        let mut images = Images::new(change, None, &mut shared);
        let is_delete = change.operation == Operation::Delete;
        let both = [(Image::Post, "doc"), (Image::Pre, "the pre-image")];
        for (image, name) in both {
            let is_asked = match image {
                Image::Post => !is_delete,
                Image::Pre => is_delete || self.concern.asks.transitions,
            };
            if !is_asked {
                continue;
            }
            if image.body(change).is_none() {
                let detail = match image {
                    Image::Post => "the change has no document: everyone in its scope is told",
                    Image::Pre if is_delete => "no pre-image is known: everyone in its scope is told of the delete",
                    Image::Pre => "no pre-image is known, so neither is what the document was",
                };
                steps.push(step(name, Outcome::Skipped, detail));
                continue;
            }
            let of = if image == Image::Pre { " (pre-image)" } else { "" };
            for conjunct in self.formula.conjuncts() {
                let text = format!("{}{of}", self.described(conjunct));
                let (result, detail) = explain(conjunct, image, &mut images);
                steps.push(step(text, result, detail));
            }
        }
        let verdict = self.verdict(change, &mut images);
        steps.push(step("verdict", passed(verdict.is_some()), said(verdict)));
        Explanation { verdict, steps }
    }

    fn scope_step(&self, change: &Change) -> Step {
        let home = &self.concern.home;
        let here = home.is(&change.scope) || change.left.as_ref().is_some_and(|left| home.is(left));
        step("scope", passed(here), format!("asks for {}/{}", home.tenant(), home.collection()))
    }

    fn operation_step(&self, change: &Change) -> Step {
        let asked: Vec<&str> = self.concern.asks.operations.iter().map(Operation::name).collect();
        let detail = format!("asks for {}, and this is {}", asked.join(", "), change.operation.name());
        step("operation", passed(self.concern.asks.operations.contains(change.operation)), detail)
    }

    /// By a matcher of its own, so that it is the look-up itself that answers.
    fn index_step(self: &Arc<Self>, change: &Change) -> Step {
        let mut matcher = Matcher::new();
        matcher.insert(SubscriptionIndex(0), Arc::clone(self));
        let plan = self.plan();
        let indexes = plan["indexes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let kinds: Vec<String> = indexes
            .iter()
            .map(|index| match index["field"].as_str() {
                Some(field) => format!("{} of {field}", index["kind"].as_str().unwrap_or_default()),
                None => "a scan: no condition can be looked up, so every change of its scope is evaluated".to_owned(),
            })
            .collect();
        let detail = if kinds.is_empty() { "it is true for nothing".to_owned() } else { kinds.join(", ") };
        step("index", passed(matcher.candidates(change) > 0), detail)
    }
}

fn said(verdict: Option<Verdict>) -> String {
    match verdict {
        None => "no match".to_owned(),
        Some(verdict) if verdict.broadcast => "told to everyone in the scope, unevaluated".to_owned(),
        Some(Verdict { transition: Some(transition), certainty, .. }) => {
            let certainty = certainty.map(|certainty| format!(", {}", certainty.name())).unwrap_or_default();
            format!("{}{certainty}", transition.name())
        }
        Some(_) => "match".to_owned(),
    }
}

fn explain(formula: &Formula, image: Image, images: &mut Images<'_>) -> (Outcome, String) {
    match formula {
        Formula::Constant(value) => (passed(*value), format!("always {value}")),
        Formula::Atom(Atom::Term(term), wanted) => {
            let found = images.get(image, &term.path);
            let detail = format!("doc.{} {}", term.path, what(found));
            match term.outcome(found) {
                Some(outcome) => (passed(outcome == *wanted), detail),
                None => (Outcome::Error, detail + of_other_type(term, found)),
            }
        }
        Formula::Atom(Atom::Cel(part), wanted) => match images.outcome(image, part) {
            Ok(outcome) => (passed(outcome == *wanted), format!("evaluated to {outcome}")),
            Err(error) => (Outcome::Error, error),
        },
        Formula::All(parts) | Formula::Any(parts) => {
            let is_all = matches!(formula, Formula::All(_));
            let outcomes: Vec<(Outcome, String)> = parts.iter().map(|part| explain(part, image, images)).collect();
            let holding = outcomes.iter().filter(|(outcome, _)| *outcome == Outcome::Passed).count();
            let holds = if is_all { holding == parts.len() } else { holding > 0 };
            let all: Vec<String> = outcomes.into_iter().map(|(_, detail)| detail).collect();
            (passed(holds), format!("{holding} of {} hold: {}", parts.len(), all.join("; ")))
        }
    }
}

fn of_other_type(term: &Term, found: Found<'_>) -> &'static str {
    match found {
        Found::Value(_) if !term.is_presence() => ", which cannot be compared so",
        _ => "",
    }
}

fn what(found: Found<'_>) -> String {
    match found {
        Found::Missing => "is missing".to_owned(),
        Found::Error => "leads nowhere".to_owned(),
        Found::Value(value) => format!("is of type {}", type_name(value)),
    }
}

fn type_name(value: Raw<'_>) -> &'static str {
    match value {
        Raw::Null => "null",
        Raw::Bool(_) => "bool",
        Raw::Int(_) => "int",
        Raw::Double(_) => "double",
        Raw::Text(_) => "string",
        Raw::Time(_) => "date",
        Raw::List(_) => "list",
        Raw::Map(_) => "map",
        Raw::Error => "string (but no UTF-8)",
        Raw::Other(0x05, _) => "bytes",
        Raw::Other(0x07, _) => "ObjectId (compared as a string)",
        Raw::Other(0x13, _) => "decimal (compared as a double)",
        Raw::Other(..) => "a type that is compared as Extended JSON text",
    }
}
