//! Filters: a subscription's conditions, compiled.
//!
//! Owns compilation and the evaluation of one filter for one change. Which filters are worth
//! evaluating for a change is `index`'s business.

use std::sync::Arc;

use bson::RawDocument;
use serde_json::{Value as Json, json};

use super::Verdict;
use super::access::{self, Access};
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
        // What a look-up by key decides need not be evaluated, but for what meets under one key.
        let chosen = access::covering(conjuncts).map(|(number, _)| number).filter(|at| conjuncts[*at].is_flat());
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
            Formula::Atom(Atom::Term(term), true) => described(term),
            Formula::Atom(Atom::Term(term), false) => format!("not ({})", described(term)),
            Formula::Atom(Atom::Cel(part), true) => part.text(),
            Formula::Atom(Atom::Cel(part), false) => format!("!({})", part.text()),
            Formula::All(parts) => joined(parts, " and "),
            Formula::Any(parts) => joined(parts, " or "),
        }
    }
}

fn described(term: &Term) -> String {
    let path = &term.path;
    match &term.test {
        Test::Compare(op, Value::List(items))
            if matches!(op, Operator::In | Operator::NotIn | Operator::ArrayContainsAny) =>
        {
            format!("{path} {} ({} values)", op.name(), items.len())
        }
        Test::Compare(op, _) => format!("{path} {}", op.name()),
        Test::Exists(true) => format!("{path} exists"),
        Test::Exists(false) => format!("{path} does not exist"),
        Test::Between(..) => format!("{path} within an interval"),
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
