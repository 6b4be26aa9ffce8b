//! Lists and maps of a compiled expression.
//!
//! Owns going over them in place: equality, membership, indexing, sizes, loops and the weight of what a loop
//! takes from outside (`guard` has the reasons). The crate sees a list with an error in it only by its size and
//! its other elements, and a map with one but for that one's value; here, too.

use std::collections::{HashMap, HashSet};

use super::values::{Buffer, Val};
use super::{Outcome, Stop};
use crate::limits;
use crate::matching::raw::{Container, Raw};
use crate::matching::value::Value;

/// Whether it is a value that CEL cannot express.
pub(super) fn is_error(raw: Raw<'_>) -> bool {
    match raw.checked() {
        Raw::Time(milliseconds) => Value::time(milliseconds) == Value::Error,
        Raw::Error => true,
        _ => false,
    }
}

fn elements(list: Container<'_>) -> impl Iterator<Item = Outcome<Val<'_>>> {
    list.fields().map(|(_, raw)| Val::of_raw(raw))
}

/// The fields of a map that count.
fn fields(map: Container<'_>) -> HashMap<&[u8], Raw<'_>> {
    let mut fields = HashMap::new();
    for (name, value) in map.fields().filter(|(name, _)| is_name(name)) {
        fields.entry(name).or_insert(value);
    }
    fields
}

/// Whether anybody could ask for it.
fn is_name(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok()
}

/// The names in a map, each once.
fn names(map: Container<'_>) -> Vec<&[u8]> {
    /// So few are compared faster than hashed.
    const FEW: usize = 8;
    let mut names: Vec<&[u8]> = Vec::new();
    let mut known: HashSet<&[u8]> = HashSet::new();
    for (name, _) in map.fields().filter(|(name, _)| is_name(name)) {
        if names.len() == FEW && known.is_empty() {
            known.extend(&names);
        }
        let is_new = if names.len() < FEW { !names.contains(&name) } else { known.insert(name) };
        if is_new {
            names.push(name);
        }
    }
    names
}

/// `==` of two lists.
pub(super) fn are_equal_lists(a: &Val<'_>, b: &Val<'_>) -> bool {
    match (a, b) {
        (Val::List(a), Val::List(b)) => are_equal(elements(*a), elements(*b)),
        (Val::List(list), Val::Items(items)) | (Val::Items(items), Val::List(list)) => {
            are_equal(elements(*list), items.iter().map(|item| Ok(item.borrowed())))
        }
        (Val::Items(a), Val::Items(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b)),
        _ => false,
    }
}

/// An error in one of them equals nothing, so neither does the list.
fn are_equal<'e>(mut a: impl Iterator<Item = Outcome<Val<'e>>>, mut b: impl Iterator<Item = Outcome<Val<'e>>>) -> bool {
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(Ok(a)), Some(Ok(b))) if a.equals(&b) => {}
            _ => return false,
        }
    }
}

/// `==` of two maps.
pub(super) fn are_equal_maps(a: Container<'_>, b: Container<'_>) -> bool {
    let (a, b) = (fields(a), fields(b));
    let is_same = |a: Raw<'_>, b: Raw<'_>| matches!((Val::of_raw(a), Val::of_raw(b)), (Ok(a), Ok(b)) if a.equals(&b));
    a.len() == b.len() && a.iter().all(|(name, value)| b.get(name).is_some_and(|other| is_same(*value, *other)))
}

/// `size(a)`.
pub(super) fn size(value: &Val<'_>) -> Outcome<i64> {
    let size = match value {
        // Code points: bytes that do not continue one.
        Val::Text(text) => text.iter().filter(|byte| **byte & 0xc0 != 0x80).count(),
        Val::Bytes(bytes) => bytes.len(),
        Val::List(list) => list.fields().count(),
        Val::Items(items) => items.len(),
        Val::Map(map) => names(*map).len(),
        _ => return Err(Stop::Error),
    };
    i64::try_from(size).map_err(|_| Stop::Error)
}

/// `wanted in container`.
pub(super) fn contains(container: &Val<'_>, wanted: &Val<'_>) -> Outcome<bool> {
    match container {
        Val::Items(items) => Ok(items.iter().any(|item| item.equals(wanted))),
        Val::List(list) => {
            let mut is_found = false;
            for (_, raw) in list.fields() {
                // To search a list with an error in it is an error, wherever it stands.
                if is_error(raw) {
                    return Err(Stop::Error);
                }
                is_found = is_found || Val::of_raw(raw)?.equals(wanted);
            }
            Ok(is_found)
        }
        Val::Map(map) => match wanted {
            Val::Text(name) => Ok(field(*map, name).is_some()),
            // No field has such a name, but a map could have such a key.
            Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Bool(_) => Ok(false),
            _ => Err(Stop::Error),
        },
        _ => Err(Stop::Error),
    }
}

/// The first field of this name.
fn field<'e>(map: Container<'e>, name: &[u8]) -> Option<Raw<'e>> {
    map.fields().find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// `container.name`.
pub(super) fn select<'e>(container: &Val<'e>, name: &[u8]) -> Outcome<Val<'e>> {
    match container {
        Val::Map(map) => Val::of_raw(field(*map, name).ok_or(Stop::Error)?),
        _ => Err(Stop::Error),
    }
}

/// `has(container.name)`.
pub(super) fn has(container: &Val<'_>, name: &[u8]) -> Outcome<bool> {
    match container {
        Val::Map(map) => match field(*map, name) {
            Some(value) if is_error(value) => Err(Stop::Error),
            found => Ok(found.is_some()),
        },
        _ => Err(Stop::Error),
    }
}

/// `container[key]`.
pub(super) fn index<'e>(container: &Val<'e>, key: &Val<'_>) -> Outcome<Val<'e>> {
    match (container, key) {
        (Val::Map(_), Val::Text(name)) => select(container, name),
        (Val::List(list), key) => Val::of_raw(list.at(key.as_index()?).ok_or(Stop::Error)?),
        (Val::Items(items), key) => items.get(key.as_index()?).cloned().ok_or(Stop::Error),
        _ => Err(Stop::Error),
    }
}

/// A list, and behind it what is in another.
pub(super) fn joined<'e>(list: &Val<'e>, other: &Val<'e>) -> Outcome<Val<'e>> {
    let mut all = Vec::new();
    for part in [list, other] {
        match part {
            Val::List(list) => {
                for element in elements(*list) {
                    all.push(element?);
                }
            }
            Val::Items(items) => all.extend_from_slice(items),
            // The keys, in an order that only the crate knows.
            Val::Map(_) => return Err(Stop::Interpreter),
            _ => return Err(Stop::Error),
        }
    }
    Ok(Val::items(all))
}

/// Calls `turn` with each element of a list, or name in a map, until it wants no more. An error if there are
/// too many, or one of them is one, whatever the turns came to.
pub(super) fn each<'e>(range: &Val<'e>, mut turn: impl FnMut(Val<'e>) -> Outcome<bool>) -> Outcome<()> {
    let is_too_large = |length| length > limits::cel_loop_items_max;
    let mut is_wanted = true;
    match range {
        Val::List(list) => {
            for (number, (_, raw)) in list.fields().enumerate() {
                if is_error(raw) || is_too_large(number + 1) {
                    return Err(Stop::Error);
                }
                is_wanted = is_wanted && turn(Val::of_raw(raw)?)?;
            }
        }
        Val::Items(items) => {
            if is_too_large(items.len()) {
                return Err(Stop::Error);
            }
            for item in items.iter() {
                if !turn(item.clone())? {
                    break;
                }
            }
        }
        Val::Map(map) => {
            let names = names(*map);
            if is_too_large(names.len()) {
                return Err(Stop::Error);
            }
            for name in names {
                if !turn(Val::Text(Buffer::Borrowed(name)))? {
                    break;
                }
            }
        }
        _ => return Err(Stop::Error),
    }
    Ok(())
}

/// Whether a loop may take this part of a body with every turn: it has few values and short texts.
pub(super) fn is_small(value: &Val<'_>) -> bool {
    weighed(value.clone()).is_some()
}

fn weighed(mut value: Val<'_>) -> Option<()> {
    let (mut values, mut bytes) = (limits::cel_loop_operand_values_max, limits::cel_loop_operand_bytes_max);
    let mut todo = Vec::new();
    loop {
        match value {
            Val::Text(part) | Val::Bytes(part) => bytes = bytes.checked_sub(part.len())?,
            // A container with an error in it is not worth weighing.
            Val::List(list) => {
                for element in elements(list) {
                    values = values.checked_sub(1)?;
                    todo.push(element.ok()?);
                }
            }
            Val::Map(map) => {
                for field in fields(map).into_values() {
                    values = values.checked_sub(1)?;
                    todo.push(Val::of_raw(field).ok()?);
                }
            }
            _ => {}
        }
        value = match todo.pop() {
            Some(next) => next,
            None => return Some(()),
        };
    }
}
