//! Formulas: what a filter says, as plain Boolean logic over atoms.
//!
//! Owns the way from CEL's three values (true, false, error) to two. For every expression there are
//! the documents for which it is true and those for which it is false; an error is in neither. Each
//! of the two is a formula over the same two of its parts, so a filter is "its root is true", `!`
//! exchanges the two, and at the leaves stands an atom with the outcome that is wanted of it. There is
//! no negation and no error in a formula: conjuncts and disjuncts may be moved and merged freely.
//! `docs/decisions/0004-matching-engine.md` has the equations.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::cel::{Expression, Part, Program, Shape};
use super::term::Term;
use crate::limits;
use crate::subscription::Path;

/// True or false of a body.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(super) enum Formula {
    /// Whatever the body.
    Constant(bool),
    /// If the atom comes out as wanted.
    Atom(Atom, bool),
    /// If all are. Never empty.
    All(Vec<Formula>),
    /// If any is. Never empty.
    Any(Vec<Formula>),
}

/// What a formula does not look into.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(super) enum Atom {
    /// A test of one path of `doc`.
    Term(Term),
    /// CEL that no term says.
    Cel(Part),
}

impl Formula {
    /// All terms hold, and the program is true.
    pub(super) fn of(terms: &[Term], cel: Option<&Program>) -> Self {
        let terms = terms.iter().map(|term| Self::of_term(term.clone(), true));
        Self::all(terms.chain(cel.map(|cel| cel.formula().clone())).collect())
    }

    /// True for nothing.
    pub(super) const fn of_nothing() -> Self {
        Self::Constant(false)
    }

    /// Where a program is true. A condition that is used twice on the way to two values doubles what lies
    /// under it, so there is a limit; beyond it the interpreter evaluates the whole.
    pub(super) fn of_program(root: Expression<'_>) -> Self {
        let mut left = limits::formula_steps_max;
        Self::of_expression(root, true, &mut left).unwrap_or_else(|| Self::Atom(Atom::Cel(root.part()), true))
    }

    /// Where an expression comes out as wanted. `None` past the limit.
    fn of_expression(expression: Expression<'_>, wanted: bool, left: &mut usize) -> Option<Self> {
        *left = left.checked_sub(1)?;
        Some(match expression.shape() {
            Shape::Constant(value) => Self::Constant(value == wanted),
            Shape::And([a, b]) => Self::both(a, b, wanted, wanted, left)?,
            Shape::Or([a, b]) => Self::both(a, b, !wanted, wanted, left)?,
            Shape::Not(inner) => Self::of_expression(inner, !wanted, left)?,
            Shape::Choice([condition, yes, no]) => {
                let is = Self::of_expression(condition, true, left)?;
                // To run the interpreter twice for one condition would gain nothing.
                if is.has_cel() {
                    return Some(Self::Atom(Atom::Cel(expression.part()), wanted));
                }
                let is_not = Self::of_expression(condition, false, left)?;
                let yes = Self::all(vec![is, Self::of_expression(yes, wanted, left)?]);
                Self::any(vec![yes, Self::all(vec![is_not, Self::of_expression(no, wanted, left)?])])
            }
            Shape::Term(term) => Self::of_term(term, wanted),
            // False is not the absence of true: of a text it is neither.
            Shape::Flag(path) => Self::of_term(Term::is(path, wanted), true),
            Shape::Other => Self::Atom(Atom::Cel(expression.part()), wanted),
        })
    }

    fn both(a: Expression<'_>, b: Expression<'_>, is_all: bool, wanted: bool, left: &mut usize) -> Option<Self> {
        let parts = vec![Self::of_expression(a, wanted, left)?, Self::of_expression(b, wanted, left)?];
        Some(if is_all { Self::all(parts) } else { Self::any(parts) })
    }

    /// A term where it comes out as wanted; one that denies something is what it denies, unwanted, and an
    /// interval is its two ends.
    fn of_term(term: Term, wanted: bool) -> Self {
        if let Some(denied) = term.denied() {
            return Self::Atom(Atom::Term(denied), !wanted);
        }
        match term.ends() {
            Some(ends) if wanted => Self::all(ends.map(|end| Self::Atom(Atom::Term(end), true)).into()),
            _ => Self::Atom(Atom::Term(term), wanted),
        }
    }

    /// The conjunction, flat and without what makes no difference; what is cheap comes first.
    fn all(parts: Vec<Self>) -> Self {
        Self::joined(parts, true)
    }

    /// The disjunction, likewise.
    fn any(parts: Vec<Self>) -> Self {
        Self::joined(parts, false)
    }

    /// Of a conjunction `true` is no part and `false` is the whole; of a disjunction the other way round.
    fn joined(parts: Vec<Self>, is_all: bool) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Constant(value) if value == is_all => {}
                Self::Constant(value) => return Self::Constant(value),
                Self::All(parts) if is_all => flat.extend(parts),
                Self::Any(parts) if !is_all => flat.extend(parts),
                part => flat.push(part),
            }
        }
        Self::sorted(flat, is_all)
    }

    /// Equal sets of parts come out equal: each once, in one order, what is cheap first.
    fn sorted(mut parts: Vec<Self>, is_all: bool) -> Self {
        if is_all {
            parts = without_wider_ranges(parts);
        }
        parts.sort_by_cached_key(|part| (part.has_cel(), part.first_path().cloned(), part.digest()));
        parts.dedup();
        parts.shrink_to_fit();
        match parts.len() {
            0 => Self::Constant(is_all),
            1 => parts.remove(0),
            _ if is_all => Self::All(parts),
            _ => Self::Any(parts),
        }
    }

    /// A hash that is the same in every process.
    pub(super) fn digest(&self) -> u64 {
        FxBuildHasher.hash_one(self)
    }

    fn first_path(&self) -> Option<&Path> {
        match self {
            Self::Constant(_) | Self::Atom(Atom::Cel(_), _) => None,
            Self::Atom(Atom::Term(term), _) => Some(&term.path),
            Self::All(parts) | Self::Any(parts) => parts.iter().find_map(Self::first_path),
        }
    }

    /// Calls `each` with every path of `doc` that a term or a compiled part looks at, as often as it stands there.
    pub(super) fn paths(&self, each: &mut impl FnMut(&Path)) {
        match self {
            Self::Constant(_) => {}
            Self::Atom(Atom::Cel(part), _) => part.paths().iter().for_each(each),
            Self::Atom(Atom::Term(term), _) => each(&term.path),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.paths(each)),
        }
    }

    /// Whether there is CEL in it that no term says.
    pub(super) fn has_cel(&self) -> bool {
        match self {
            Self::Constant(_) | Self::Atom(Atom::Term(_), _) => false,
            Self::Atom(Atom::Cel(_), _) => true,
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::has_cel),
        }
    }

    /// Whether it is true, given what the atoms are.
    pub(super) fn holds(&self, holds: &mut impl FnMut(&Atom, bool) -> bool) -> bool {
        match self {
            Self::Constant(value) => *value,
            Self::Atom(atom, wanted) => holds(atom, *wanted),
            Self::All(parts) => parts.iter().all(|part| part.holds(holds)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(holds)),
        }
    }

    /// Whether its conjuncts are these terms and nothing else, each true, an interval being its two ends.
    pub(super) fn is_just(&self, terms: &[Term]) -> bool {
        let mut missing: Vec<&Self> = self.conjuncts().iter().collect();
        let asked = terms.iter().flat_map(|term| match term.ends() {
            Some(ends) => ends.to_vec(),
            None => vec![term.clone()],
        });
        let mut found = asked.map(|asked| {
            let is = |part: &&Self| matches!(part, Self::Atom(Atom::Term(term), true) if *term == asked);
            missing.iter().position(is).map(|at| missing.swap_remove(at))
        });
        found.all(|found| found.is_some()) && missing.is_empty()
    }

    /// Its conjuncts.
    pub(super) fn conjuncts(&self) -> &[Self] {
        match self {
            Self::All(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// Whether it is a term, or terms of which any will do.
    pub(super) fn is_flat(&self) -> bool {
        match self {
            Self::Any(parts) => parts.iter().all(|part| matches!(part, Self::Atom(Atom::Term(_), _))),
            other => matches!(other, Self::Atom(Atom::Term(_), _)),
        }
    }
}

/// Of lower ends on one path the highest is enough, of upper ends the lowest.
fn without_wider_ranges(parts: Vec<Formula>) -> Vec<Formula> {
    let is_implied = |part: &Formula| {
        let Formula::Atom(Atom::Term(term), true) = part else { return false };
        parts.iter().any(|other| matches!(other, Formula::Atom(Atom::Term(other), true) if other.is_within(term)))
    };
    if parts.len() < 2 {
        return parts;
    }
    let implied: Vec<bool> = parts.iter().map(is_implied).collect();
    parts.into_iter().zip(implied).filter_map(|(part, implied)| (!implied).then_some(part)).collect()
}
