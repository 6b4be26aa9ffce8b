//! Filters: a subscription's conditions, compiled.
//!
//! Owns compilation and the evaluation of one filter for one change. Which filters are worth
//! evaluating for a change is `index`'s business.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::access::{self, By, Cover};
use super::cel::Program;
use super::formula::{Atom, Formula};
use super::images::Images;
use super::term::{Term, Test};
use super::value::Value;
use super::verdict::{Asks, Concern, Home};
use super::{Verdict, intern, reference};
use crate::change::Change;
use crate::error::Problem;
use crate::subscription::{Operations, Operator, Spec};

/// A subscription's conditions in the form in which they are evaluated.
#[derive(Debug)]
pub struct Filter {
    pub(super) concern: Concern,
    /// What the conditions come to.
    pub(super) formula: Formula,
    /// The conditions as they were asked for, unless the formula is just that. The reference goes by them alone.
    asked: Option<Box<Asked>>,
}

#[derive(Debug)]
struct Asked {
    terms: Vec<Term>,
    cel: Option<Arc<Program>>,
}

impl Filter {
    /// Compiles the conditions of a subscription. Waits for the CEL compiler where there is CEL.
    ///
    /// # Errors
    /// `CEL_COMPILATION_FAILED`, and `FILTER_TOO_COMPLEX` for CEL's limits, both at `cel`.
    pub fn compile(spec: &Spec) -> Result<Arc<Self>, Problem> {
        let mut terms: Vec<Term> = spec.filters.iter().map(Term::new).collect();
        terms.extend(spec.interval.as_ref().map(Term::between));
        for term in &mut terms {
            term.path = intern::path(term.path.clone());
        }
        let cel = spec.cel.as_deref().map(Program::compile).transpose()?;
        let concern = Concern {
            home: intern::home(Home::new(Arc::clone(&spec.tenant), Arc::clone(&spec.collection))),
            asks: Asks { operations: spec.operations, transitions: spec.transitions },
        };
        let formula = Formula::of(&terms, cel.as_deref());
        let is_all = cel.is_none() && formula.is_just(&terms);
        let asked = (!is_all).then(|| Box::new(Asked { terms, cel }));
        Ok(Arc::new(Self { concern, formula, asked }))
    }

    /// In the place of one that compiled once and does not any more: it is true for nothing.
    pub(crate) fn never(spec: &Spec) -> Arc<Self> {
        let home = Home::new(Arc::clone(&spec.tenant), Arc::clone(&spec.collection));
        let asks = Asks { operations: Operations::of([]), transitions: false };
        let concern = Concern { home, asks };
        let asked = Some(Box::new(Asked { terms: Vec::new(), cel: None }));
        Arc::new(Self { concern, formula: Formula::of_nothing(), asked })
    }

    /// `filters` and `interval` as they were asked for; an interval perhaps as its two ends.
    pub(super) fn terms(&self) -> impl Iterator<Item = &Term> {
        let (asked, others) = match &self.asked {
            Some(asked) => (asked.terms.as_slice(), &[][..]),
            None => (&[][..], self.formula.conjuncts()),
        };
        let others = others.iter().filter_map(|conjunct| match conjunct {
            Formula::Atom(Atom::Term(term), _) => Some(term),
            _ => None,
        });
        asked.iter().chain(others)
    }

    /// `cel` as it was asked for.
    pub(super) fn cel(&self) -> Option<&Program> {
        self.asked.as_ref()?.cel.as_deref()
    }

    /// What a change is to this filter; `None` if nothing. This is the reference: it gives the
    /// meaning of `docs/filters.md` by way of the CEL interpreter, and everything faster is held
    /// against it.
    pub fn evaluate(&self, change: &Change) -> Option<Verdict> {
        reference::evaluate(self, change)
    }

    /// The same as [`Self::evaluate`], faster: over what was found in the images.
    pub(super) fn verdict(&self, change: &Change, images: &mut Images<'_>) -> Option<Verdict> {
        self.concern.verdict(change, |image| self.formula.holds(&mut |atom, wanted| images.holds(image, atom, wanted)))
    }

    /// How changes find this filter, for a registration's answer: `indexes` are looked up, what is
    /// in `residual` is evaluated for those that the look-up finds.
    pub fn plan(&self) -> Json {
        let conjuncts = self.formula.conjuncts();
        let found_by = access::cover_of_all(conjuncts);
        // What the look-up decides need not be evaluated, but for what meets under one key.
        let decided = |(number, cover): &(usize, Cover)| {
            let by_value = cover.iter().all(|access| access.by != By::Present);
            let is_presence = matches!(&conjuncts[*number], Formula::Atom(Atom::Term(term), _) if term.is_presence());
            (conjuncts[*number].is_flat() && (by_value || is_presence)).then_some(*number)
        };
        let chosen = found_by.as_ref().and_then(decided);
        let filed = found_by.as_ref().map_or(&[][..], |(_, cover)| cover.as_slice());
        let indexes = match &found_by {
            None => vec![json!({"kind": "scan", "field": null})],
            Some((_, cover)) => {
                let mut indexes: Vec<Json> = Vec::new();
                for access in cover {
                    let index = json!({"kind": access.kind(), "field": access.path.to_string()});
                    if !indexes.contains(&index) {
                        indexes.push(index);
                    }
                }
                indexes
            }
        };
        let others = conjuncts.iter().enumerate().filter(|(number, conjunct)| {
            let is_decided = matches!(filed, [only] if only.decides(conjunct));
            Some(*number) != chosen && !is_decided
        });
        let residual: Vec<String> = others.map(|(_, formula)| self.described(formula)).collect();
        json!({"indexes": indexes, "residual": residual})
    }

    /// All of it as CEL.
    pub(super) fn text(&self) -> String {
        self.described(&self.formula)
    }

    /// A part of the formula as CEL.
    pub(super) fn described(&self, formula: &Formula) -> String {
        let joined = |parts: &[Formula], by: &str| {
            let parts: Vec<String> = parts.iter().map(|part| self.described(part)).collect();
            format!("({})", parts.join(by))
        };
        match formula {
            Formula::Constant(value) => value.to_string(),
            Formula::Atom(Atom::Term(term), wanted) => described(term, *wanted),
            Formula::Atom(Atom::Cel(part), true) => part.text(),
            Formula::Atom(Atom::Cel(part), false) => format!("!({})", part.text()),
            Formula::All(parts) => joined(parts, " && "),
            Formula::Any(parts) => joined(parts, " || "),
        }
    }
}

/// A term as CEL, long lists counted.
fn described(term: &Term, wanted: bool) -> String {
    let path = &term.path;
    let text = match &term.test {
        Test::Compare(Operator::Equal, value) if !wanted => return format!("doc.{path} != {}", literal(value)),
        Test::Compare(op @ (Operator::In | Operator::ArrayContainsAny), Value::List(items)) => {
            format!("doc.{path} {} ({} values)", op.name(), items.len())
        }
        Test::Compare(Operator::ArrayContains, value) => format!("{} in doc.{path}", literal(value)),
        Test::Compare(Operator::StartsWith, value) => format!("doc.{path}.startsWith({})", literal(value)),
        Test::Compare(op, value) => format!("doc.{path} {} {}", op.name(), literal(value)),
        Test::Exists(_) => format!("has(doc.{path})"),
        Test::Between(ends) => {
            format!("doc.{path} >= {} && doc.{path} <= {}", literal(&ends[0]), literal(&ends[1]))
        }
    };
    if wanted { text } else { format!("!({text})") }
}

/// The longest text of a value in a plan.
const LITERAL_CHARS_MAX: usize = 64;

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => format!("{value:?}"),
        Value::Text(text) if text.len() <= LITERAL_CHARS_MAX => format!("{text:?}"),
        Value::Text(text) => format!("{:?}…", text.chars().take(LITERAL_CHARS_MAX).collect::<String>()),
        Value::Time(milliseconds) => format!("timestamp({milliseconds} ms)"),
        Value::Bytes(bytes) => format!("({} bytes)", bytes.len()),
        Value::List(items) => format!("({} values)", items.len()),
        Value::Map(fields) => format!("({} fields)", fields.len()),
        Value::Error => "(an error)".into(),
    }
}
