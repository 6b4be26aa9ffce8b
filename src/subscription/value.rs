//! Filter values: Extended JSON in and out.
//!
//! Owns the two written forms of a BSON value (relaxed for people, exact for the store) and the size
//! limits on values that come from outside. Knows nothing of operators.

use bson::Bson;
use serde_json::{Value, json};

use crate::error::{Code, Problem};
use crate::limits;

/// Reads a value of either form of Extended JSON v2.
pub(super) fn read(value: &Value, path: &str) -> Result<Bson, Problem> {
    Bson::try_from(value.clone())
        .map_err(|error| Problem::new(Code::InvalidFilter, format!("not Extended JSON: {error}")).at(path))
}

/// Holds a value from outside against the limits.
pub(super) fn check_size(value: &Bson, path: &str) -> Result<(), Problem> {
    let too_complex = |detail: String| Err(Problem::new(Code::FilterTooComplex, detail).at(path));
    match value {
        Bson::String(text) | Bson::Symbol(text) if text.len() > limits::string_value_bytes_max => {
            too_complex(format!("a string value has at most {} bytes", limits::string_value_bytes_max))
        }
        Bson::Array(items) if items.len() > limits::list_values_max => {
            too_complex(format!("a list has at most {} values", limits::list_values_max))
        }
        Bson::Array(items) => items.iter().try_for_each(|item| check_size(item, path)),
        Bson::Document(document) => document.values().try_for_each(|item| check_size(item, path)),
        _ => Ok(()),
    }
}

/// Relaxed Extended JSON v2, for people.
pub(super) fn to_relaxed(value: &Bson) -> Value {
    value.clone().into_relaxed_extjson()
}

/// Canonical Extended JSON v2, from which [`read`] makes exactly this value again.
///
/// Doubles are written here and not by the driver: it writes subnormal ones as plain JSON numbers,
/// and reading those is not exact to the last bit.
pub(super) fn to_exact(value: &Bson) -> Value {
    match value {
        Bson::Double(number) if number.is_nan() => json!({"$numberDouble": "NaN"}),
        Bson::Double(number) if number.is_finite() => json!({"$numberDouble": format!("{number:?}")}),
        Bson::Array(items) => Value::Array(items.iter().map(to_exact).collect()),
        Bson::Document(document) => {
            Value::Object(document.iter().map(|(name, item)| (name.clone(), to_exact(item))).collect())
        }
        Bson::JavaScriptCodeWithScope(code) => {
            json!({"$code": code.code, "$scope": to_exact(&Bson::Document(code.scope.clone()))})
        }
        other => other.clone().into_canonical_extjson(),
    }
}

/// Whether two values are the same value of the same type; unlike `==`, a NaN is the same as itself.
pub(super) fn same(a: &Bson, b: &Bson) -> bool {
    match (a, b) {
        (Bson::Double(a), Bson::Double(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Bson::Array(a), Bson::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Bson::Document(a), Bson::Document(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((a, x), (b, y))| a == b && same(x, y))
        }
        _ => a == b,
    }
}
