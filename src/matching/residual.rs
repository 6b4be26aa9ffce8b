//! Residuals: what is left to evaluate of a filter that a change has found.
//!
//! Owns the choice of that and its form. A range over numbers, times or texts is decided by being found; a key is
//! not, for two keys may meet in one hash. What is left stands beside the program's other properties in one
//! line of memory if it is one short test, as it nearly always is; only what is no plain test goes back to the filter's formula.

use super::access::{Access, By};
use super::filter::Filter;
use super::formula::{Atom, Formula};
use super::images::Images;
use super::names::{Names, NodeId};
use super::path::Found;
use super::raw::{OBJECT_ID, Raw, hex};
use super::spans::{number_key, time_key};
use super::term::{Term, Test, is_error};
use super::value::Value;
use super::verdict::Image;
use crate::subscription::Operator;

/// What is left of a filter.
#[derive(Debug)]
pub(super) enum Residual {
    /// Nothing: to be found is enough.
    Nothing,
    One(Check),
    All(Box<[Check]>),
}

/// One of the filter's conjuncts, or several on one path.
#[derive(Debug)]
pub(super) enum Check {
    /// The value is this text.
    Text { node: NodeId, text: Short },
    /// It is one of these.
    Texts { node: NodeId, texts: Box<[Short]> },
    /// It is this ObjectId, or its digits as a text.
    Id { node: NodeId, id: [u8; 12] },
    /// It is a number between these keys.
    Numbers { node: NodeId, start: u64, stop: u64 },
    /// It is a date between these.
    Times { node: NodeId, start: u64, stop: u64 },
    /// It is there.
    Present { node: NodeId },
    /// The conjunct of this number, which is a term of this node.
    Term { node: NodeId, conjunct: u16 },
    /// The conjunct of this number, whatever it is.
    Part { conjunct: u16 },
}

const _: () = assert!(size_of::<Residual>() == 24, "a program is to be one line of memory");

/// A text that is short.
#[derive(Debug)]
pub(super) struct Short {
    len: u8,
    bytes: [u8; 18],
}

impl Short {
    fn of(text: &str) -> Option<Self> {
        let mut bytes = [0; 18];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { len: text.len() as u8, bytes })
    }

    #[inline]
    fn is(&self, text: &[u8]) -> bool {
        self.bytes.get(..usize::from(self.len)) == Some(text)
    }
}

/// Of an `in`, so many at most stand here.
const SHORT_MAX: usize = 16;

/// Whether a value counts as a text, and as one that `is`.
#[inline]
fn is_text(value: Raw<'_>, is: impl Fn(&[u8]) -> bool) -> bool {
    match value {
        Raw::Text(found) => is(found),
        // Some of the rarer types.
        Raw::Other(..) => matches!(value.value(), Value::Text(found) if is(found.as_bytes())),
        _ => false,
    }
}

/// The ObjectId that has these digits.
fn id_of(digits: &str) -> Option<[u8; 12]> {
    let id = bson::oid::ObjectId::parse_str(digits).ok()?.bytes();
    (hex(id) == digits.as_bytes()).then_some(id)
}

impl Residual {
    /// What is left of a filter that is filed under these keys, which stand for the conjunct of this number.
    pub(super) fn of(filter: &Filter, filed: &[Access], names: &Names) -> Self {
        let conjuncts = filter.formula.conjuncts();
        let mut checks: Vec<Check> = Vec::new();
        for (number, conjunct) in conjuncts.iter().enumerate() {
            if matches!(filed, [only] if only.decides(conjunct)) {
                continue;
            }
            // A filter has at most so many conditions (`limits`).
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let check = Check::of(conjunct, number, names);
            if !checks.iter_mut().any(|earlier| earlier.takes_in(&check)) {
                checks.push(check);
            }
        }
        // What needs nothing but itself comes first.
        checks.sort_by_key(|check| matches!(check, Check::Texts { .. } | Check::Term { .. } | Check::Part { .. }));
        match checks.len() {
            0 => Self::Nothing,
            1 => checks.pop().map_or(Self::Nothing, Self::One),
            _ => Self::All(checks.into()),
        }
    }

    /// Whether to be found is enough.
    pub(super) const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// Fetches what is looked at first, for it to be at hand later.
    #[inline]
    pub(super) fn fetch(&self) {
        if let Self::All(checks) = self {
            std::hint::black_box(checks.first().map(std::mem::discriminant));
        }
    }

    /// Whether it is true of an image; `filter` is the one that it was made of.
    #[inline]
    pub(super) fn holds(&self, filter: &Filter, image: Image, images: &mut Images<'_>) -> bool {
        match self {
            Self::Nothing => true,
            Self::One(check) => check.holds(filter, image, images),
            Self::All(checks) => checks.iter().all(|check| check.holds(filter, image, images)),
        }
    }
}

impl Check {
    fn of(conjunct: &Formula, number: u16, names: &Names) -> Self {
        let part = Self::Part { conjunct: number };
        let Formula::Atom(Atom::Term(term), wanted) = conjunct else { return part };
        let Some(node) = names.find(&term.path) else { return part };
        let quick = if *wanted { Self::quick(term, node) } else { None };
        quick.unwrap_or(Self::Term { node, conjunct: number })
    }

    /// A test that needs nothing but what stands in it.
    fn quick(term: &Term, node: NodeId) -> Option<Self> {
        if let Test::Exists(true) = term.test {
            return Some(Self::Present { node });
        }
        if let Test::Compare(Operator::In, Value::List(list)) = &term.test {
            let short = |value: &Value| match value {
                Value::Text(text) if id_of(text).is_none() => Short::of(text),
                _ => None,
            };
            let few = Some(list).filter(|list| list.len() <= SHORT_MAX)?;
            return Some(Self::Texts { node, texts: few.iter().map(short).collect::<Option<_>>()? });
        }
        if let Test::Compare(Operator::Equal, value) = &term.test {
            return match value {
                Value::Text(text) => match id_of(text) {
                    Some(id) => Some(Self::Id { node, id }),
                    None => Some(Self::Text { node, text: Short::of(text)? }),
                },
                Value::Int(_) | Value::Double(_) if value.is_exact() => {
                    value.number().and_then(number_key).map(|key| Self::Numbers { node, start: key, stop: key })
                }
                _ => None,
            };
        }
        match By::of_exact(&term.test)? {
            By::Numbers(start, stop) => Some(Self::Numbers { node, start, stop }),
            By::Times(start, stop) => Some(Self::Times { node, start, stop }),
            _ => None,
        }
    }

    /// Whether this could be made to ask for another's condition, too.
    fn takes_in(&mut self, other: &Self) -> bool {
        let (start, stop, other_start, other_stop) = match (self, other) {
            (Self::Numbers { node, start, stop }, Self::Numbers { node: other, start: a, stop: b })
            | (Self::Times { node, start, stop }, Self::Times { node: other, start: a, stop: b })
                if node == other =>
            {
                (start, stop, a, b)
            }
            _ => return false,
        };
        (*start, *stop) = ((*start).max(*other_start), (*stop).min(*other_stop));
        true
    }

    #[inline]
    fn holds(&self, filter: &Filter, image: Image, images: &mut Images<'_>) -> bool {
        match self {
            Self::Text { node, text } => match images.at(image, *node) {
                Found::Value(value) => is_text(value, |found| text.is(found)),
                _ => false,
            },
            Self::Texts { node, texts } => match images.at(image, *node) {
                Found::Value(value) => is_text(value, |found| texts.iter().any(|text| text.is(found))),
                _ => false,
            },
            Self::Present { node } => {
                matches!(images.checked_at(image, *node), Found::Value(value) if !is_error(value))
            }
            Self::Id { node, id } => match images.at(image, *node) {
                Found::Value(Raw::Other(OBJECT_ID, found)) => found == id,
                Found::Value(Raw::Text(found)) => found == hex(*id),
                _ => false,
            },
            Self::Numbers { node, start, stop } => {
                let key = match images.at(image, *node) {
                    Found::Value(Raw::Int(number)) => number_key(number as f64),
                    Found::Value(Raw::Double(number)) => number_key(number),
                    Found::Value(other @ Raw::Other(..)) => other.value().number().and_then(number_key),
                    _ => None,
                };
                key.is_some_and(|key| *start <= key && key <= *stop)
            }
            Self::Times { node, start, stop } => match images.at(image, *node) {
                Found::Value(Raw::Time(time)) if Value::is_time(time) => {
                    let key = time_key(time);
                    *start <= key && key <= *stop
                }
                _ => false,
            },
            Self::Term { node, conjunct } => match filter.formula.conjuncts().get(usize::from(*conjunct)) {
                Some(Formula::Atom(Atom::Term(term), wanted)) => {
                    term.outcome(images.checked_at(image, *node)) == Some(*wanted)
                }
                _ => false,
            },
            Self::Part { conjunct } => {
                let part = filter.formula.conjuncts().get(usize::from(*conjunct));
                part.is_some_and(|part| part.holds(&mut |atom, wanted| images.holds(image, atom, wanted)))
            }
        }
    }
}
