//! Reading JSON objects strictly: unknown fields, wrong types and missing fields become problems
//! that name the field at fault by its whole path.
//!
//! Knows nothing of subscriptions.

use serde_json::{Map, Value};

use crate::error::{Code, Problem};

/// One JSON object and the path under which the caller knows it.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    /// Takes a JSON value as an object that may hold only `known` fields.
    pub(crate) fn new(value: &'a Value, path: &str, known: &[&str]) -> Result<Self, Problem> {
        let Value::Object(map) = value else {
            return Err(wrong_type("an object", value, path));
        };
        let fields = Self { map, path: path.to_owned() };
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(fields),
            Some(name) => Err(invalid(format!("unknown field `{}`", shown(name))).at(fields.path_of(&shown(name)))),
        }
    }

    /// The path of one of its fields.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field's value; `null` is as good as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A field's value even if it is `null`: where null is a value of its own.
    pub(crate) fn raw(&self, name: &str) -> Result<&'a Value, Problem> {
        self.map.get(name).ok_or_else(|| self.missing(name))
    }

    /// A text that must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, Problem> {
        self.optional_text(name)?.ok_or_else(|| self.missing(name))
    }

    /// A text that may be absent.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&'a str>, Problem> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A list that may be absent.
    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a Vec<Value>>, Problem> {
        self.typed(name, "an array", Value::as_array)
    }

    /// A truth value that may be absent.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// A whole number from 0 on that may be absent.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.typed(name, "a whole number", Value::as_u64)
    }

    fn typed<T>(&self, name: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| wrong_type(what, value, &self.path_of(name))),
        }
    }

    fn missing(&self, name: &str) -> Problem {
        invalid(format!("`{name}` is required")).at(self.path_of(name))
    }
}

/// A request that is well-formed JSON and yet says something impossible.
pub(crate) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// The value at `path` is not of the type that belongs there.
pub(crate) fn wrong_type(what: &str, value: &Value, path: &str) -> Problem {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let problem = invalid(format!("expected {what}, found {found}"));
    if path.is_empty() { problem } else { problem.at(path) }
}

/// A caller's own text in a message, cut to a length that a message can bear.
pub(crate) fn shown(text: &str) -> String {
    const CHARS: usize = 64;
    let mut short: String = text.chars().take(CHARS).collect();
    if text.chars().nth(CHARS).is_some() {
        short.push('…');
    }
    short
}
