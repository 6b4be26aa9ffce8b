//! Dotted paths over raw BSON.
//!
//! Owns what a path means: it walks maps, and a number in it is a key on a map and an index on an
//! array. Reads in place; nothing is copied.

use bson::RawDocument;

use super::raw::{Container, Raw};
use super::value::Corrupt;
use crate::subscription::Path;

/// Where a path leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// To this value.
    Value(Raw<'a>),
    /// Its last step is not there: `exists` is false, all else an error.
    Missing,
    /// An earlier step is not there or leads into no container, or the bytes are no BSON: an error
    /// even to `exists`.
    Error,
}

/// Follows a path from a body.
pub(super) fn find<'a>(body: &'a RawDocument, path: &Path) -> Found<'a> {
    walk(body, &path.0).unwrap_or(Found::Error)
}

fn walk<'a>(body: &'a RawDocument, steps: &[std::sync::Arc<str>]) -> Result<Found<'a>, Corrupt> {
    let Some((last, earlier)) = steps.split_last() else { return Ok(Found::Error) };
    let mut at = Raw::Map(Container::of(body));
    for step in earlier {
        match descend(at, step)? {
            Found::Value(next) => at = next,
            _ => return Ok(Found::Error),
        }
    }
    descend(at, last)
}

fn descend<'a>(at: Raw<'a>, step: &str) -> Result<Found<'a>, Corrupt> {
    let found = match at {
        Raw::Map(map) => map.get(step)?,
        Raw::List(list) => match array_index(step) {
            Some(index) => list.at(index)?,
            None => return Ok(Found::Error),
        },
        _ => return Ok(Found::Error),
    };
    Ok(found.map_or(Found::Missing, Found::Value))
}

/// A step that can be an index: decimal, without sign or leading zeros.
pub(super) fn array_index(step: &str) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with('0');
    if canonical && !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) { step.parse().ok() } else { None }
}
