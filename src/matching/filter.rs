//! Filters: a subscription's conditions, compiled.
//!
//! Owns compilation and the evaluation of one filter for one change. Which filters are worth
//! evaluating for a change is `index`'s business.

use std::sync::Arc;

use bson::RawDocument;
use serde_json::{Value as Json, json};

use super::Verdict;
use super::access::{self, Access, By};
use super::cel::{Program, Variables};
use super::formula::{Atom, Formula};
use super::reference;
use super::term::{Term, Test};
use super::value::{Value, is_sound};
use super::verdict::{Concern, Image};
use crate::change::Change;
use crate::error::Problem;
use crate::subscription::{Operator, Spec};

/// A subscription's conditions in the form in which they are evaluated.
#[derive(Debug)]
pub struct Filter {
    pub(super) concern: Concern,
    pub(super) terms: Vec<Term>,
    pub(super) cel: Option<Arc<Program>>,
    /// What the conditions come to; the reference goes by `terms` and `cel` alone.
    formula: Formula,
    /// How the index finds it; `None`: by a scan.
    pub(super) cover: Option<Vec<Access>>,
}

impl Filter {
    /// Compiles the conditions of a subscription. Waits for the CEL compiler where there is CEL.
    ///
    /// # Errors
    /// `CEL_COMPILATION_FAILED`, and `FILTER_TOO_COMPLEX` for CEL's limits, both at `cel`.
    pub fn compile(spec: &Spec) -> Result<Arc<Self>, Problem> {
        let mut terms: Vec<Term> = spec.filters.iter().map(Term::new).collect();
        terms.extend(spec.interval.as_ref().map(Term::between));
        let cel = spec.cel.as_deref().map(Program::compile).transpose()?;
        let concern = Concern {
            tenant: Arc::clone(&spec.tenant),
            collection: Arc::clone(&spec.collection),
            operations: spec.operations,
            transitions: spec.transitions,
        };
        let formula = Formula::of(&terms, cel.as_deref());
        Ok(Arc::new(Self { concern, cover: access::cover(&formula), formula, terms, cel }))
    }

    /// What a change is to this filter; `None` if nothing. This is the reference: it gives the
    /// meaning of `docs/filters.md` by way of the CEL interpreter, and everything faster is held
    /// against it.
    pub fn evaluate(&self, change: &Change) -> Option<Verdict> {
        reference::evaluate(self, change)
    }

    /// The same as [`Self::evaluate`], faster: terms in place, CEL over variables shared by all
    /// filters that meet this change.
    pub(super) fn verdict(&self, change: &Change, shared: &mut Shared) -> Option<Verdict> {
        self.concern.verdict(change, |image| self.matches(change, image, shared))
    }

    fn matches(&self, change: &Change, image: Image, shared: &mut Shared) -> bool {
        let Some(body) = image.body(change) else { return false };
        let shared = shared.of(image);
        self.formula.holds(&mut |atom, wanted| match atom {
            Atom::Term(term) => term.outcome(body) == Some(wanted) && shared.is_sound(body),
            Atom::Cel(part) => part.holds(wanted, shared.variables(change, image)),
        })
    }

    /// How changes find this filter, for a registration's answer: `indexes` are looked up, what is
    /// in `residual` is evaluated for those that the look-up finds.
    pub fn plan(&self) -> Json {
        let conjuncts = self.formula.conjuncts();
        // What the look-up decides need not be evaluated, but for what meets under one key.
        let decided = |(number, cover): (usize, Vec<Access>)| {
            let by_value = cover.iter().all(|access| access.by != By::Present);
            let is_presence = matches!(&conjuncts[number], Formula::Atom(Atom::Term(term), _) if term.is_presence());
            (conjuncts[number].is_flat() && (by_value || is_presence)).then_some(number)
        };
        let chosen = access::covering(conjuncts).and_then(decided);
        let indexes = match self.cover.as_deref() {
            None => vec![json!({"kind": "scan", "field": null})],
            Some(cover) => {
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
        let others = conjuncts.iter().enumerate().filter(|(number, _)| Some(*number) != chosen);
        let residual: Vec<String> = others.map(|(_, formula)| self.described(formula)).collect();
        json!({"indexes": indexes, "residual": residual})
    }

    fn described(&self, formula: &Formula) -> String {
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
        Test::Between(start, stop) => format!("doc.{path} >= {} && doc.{path} <= {}", literal(start), literal(stop)),
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

/// What the filters that meet one change share, each made when the first one asks.
#[derive(Default)]
pub(super) struct Shared {
    post: OfImage,
    pre: OfImage,
}

#[derive(Default)]
struct OfImage {
    /// Whether the body is BSON to its last byte: half a document matches nothing.
    sound: Option<bool>,
    /// CEL's.
    variables: Option<Variables>,
}

impl Shared {
    fn of(&mut self, image: Image) -> &mut OfImage {
        match image {
            Image::Post => &mut self.post,
            Image::Pre => &mut self.pre,
        }
    }
}

impl OfImage {
    fn is_sound(&mut self, body: &RawDocument) -> bool {
        *self.sound.get_or_insert_with(|| is_sound(body))
    }

    fn variables(&mut self, change: &Change, image: Image) -> &Variables {
        self.variables.get_or_insert_with(|| Variables::new(change, image))
    }
}
