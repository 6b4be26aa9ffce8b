//! Dotted paths over raw BSON.
//!
//! Owns what a path means: it walks maps, and a number in it is a key on a map and an index on an
//! array. Reads in place; nothing is copied.

use bson::RawDocument;

use super::raw::{Container, Raw};
use crate::subscription::Path;

/// Where a path leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// To this value.
    Value(Raw<'a>),
    /// Its last step is not there: `exists` is false, all else an error.
    Missing,
    /// An earlier step is not there or leads into no container: an error even to `exists`.
    Error,
}

impl Found<'_> {
    /// The same, a text being UTF-8.
    #[inline]
    pub(super) fn checked(self) -> Self {
        match self {
            Self::Value(value) => Self::Value(value.checked()),
            other => other,
        }
    }
}

/// Follows a path from a body.
pub(super) fn find<'a>(body: &'a RawDocument, path: &Path) -> Found<'a> {
    let Some((last, earlier)) = path.0.split_last() else { return Found::Error };
    let mut at = Raw::Map(Container::of(body));
    for step in earlier {
        match descend(at, step) {
            Found::Value(next) => at = next,
            _ => return Found::Error,
        }
    }
    descend(at, last)
}

fn descend<'a>(at: Raw<'a>, step: &str) -> Found<'a> {
    let found = match (at, array_index(step)) {
        (Raw::Map(map), _) => map.get(step),
        (Raw::List(list), Some(index)) => list.at(index),
        _ => return Found::Error,
    };
    found.map_or(Found::Missing, Found::Value)
}

/// A step that can be an index: decimal, without sign or leading zeros.
pub(super) fn array_index(step: &str) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with('0');
    if canonical && !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) { step.parse().ok() } else { None }
}
