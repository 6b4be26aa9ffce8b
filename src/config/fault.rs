//! One line for each thing that can be wrong with a configuration.
//!
//! Owns the wording: origin, full path of the setting, reason, and for an unknown key the nearest
//! known one. Does not decide what is wrong.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use figment::error::{Actual, Error, Kind};
use figment::value::Value;
use serde::{Deserialize, Deserializer};

/// Where a setting came from, which one it is, and what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file or the environment variable.
    pub origin: String,
    /// The setting's full path, where one is at fault, such as `backends[0].uri`.
    pub setting: Option<String>,
    /// What is wrong, in one line.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.setting {
            Some(setting) => write!(f, "{}: {setting}: {}", self.origin, self.reason),
            None => write!(f, "{}: {}", self.origin, self.reason),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Refuses a file that cannot be read or is no TOML, with the line and column.
pub(super) fn syntax(path: &Path) -> Result<(), ConfigError> {
    let fault = |reason: String| ConfigError { origin: path.display().to_string(), setting: None, reason };
    let text = std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
    let Err(error) = toml::from_str::<toml::Table>(&text) else { return Ok(()) };
    let message = one_line(error.message());
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return Err(fault(message)) };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    Err(fault(format!("line {line}, column {column}: {message}")))
}

/// Words a figment error. `shape` holds every known key.
pub(super) fn tell(error: Error, shape: &Value, origin: impl Fn(&[String]) -> String) -> ConfigError {
    let path = error.path.clone();
    let reason = match error.kind {
        Kind::UnknownField(key, siblings) => {
            let parent = &path[..path.len().saturating_sub(1)];
            format!("unknown setting; the nearest known one is {}", nearest(shape, parent, &key, siblings))
        }
        Kind::InvalidType(actual, expected) => format!("found {}, expected {}", found(&actual), plain(&expected)),
        Kind::InvalidValue(actual, expected) => format!("{} is not {}", found(&actual), plain(&expected)),
        Kind::UnknownVariant(name, known) => {
            let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
            format!("{name:?} is not one of {}", known.join(", "))
        }
        other => one_line(&other.to_string()),
    };
    ConfigError { origin: origin(&path), setting: (!path.is_empty()).then(|| setting(&path)), reason }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn found(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("the text {text:?}"),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Map => "a table".to_owned(),
        Actual::Seq => "a list".to_owned(),
        other => other.to_string(),
    }
}

fn plain(expected: &str) -> String {
    match expected {
        "a string" | "path string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        whole if whole.starts_with('u') && whole[1..].parse::<u8>().is_ok() => {
            format!("a whole number from 0 to {}", if whole == "u64" { i64::MAX as u64 } else { max_of(whole) })
        }
        table if table.starts_with("struct ") => "a table".to_owned(),
        other => one_line(other),
    }
}

fn max_of(unsigned: &str) -> u64 {
    match unsigned {
        "u8" => u8::MAX.into(),
        "u16" => u16::MAX.into(),
        "u32" => u32::MAX.into(),
        _ => u64::MAX,
    }
}

/// `["backends", "0", "uri"]` as `backends[0].uri`.
fn setting(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if !text.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) {
            text.push_str(&format!("[{step}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(step);
        }
    }
    text
}

/// The reverse of [`setting`].
pub(super) fn steps(setting: &str) -> Vec<String> {
    setting.split(['.', '[']).map(|step| step.trim_end_matches(']').to_owned()).collect()
}

/// The known key that was probably meant: a sibling if one is like it, else a like key elsewhere, else
/// the sibling least unlike it.
fn nearest(shape: &Value, parent: &[String], key: &str, siblings: &[&str]) -> String {
    const LIKE: f64 = 0.6;
    let full = |sibling: &str| {
        let mut path = parent.to_vec();
        path.push(sibling.to_owned());
        setting(&path)
    };
    let likeness = |other: &str| strsim::normalized_damerau_levenshtein(key, other);
    let closest = |a: &f64, b: &f64| a.total_cmp(b);

    let sibling = siblings.iter().map(|name| (likeness(name), full(name))).max_by(|a, b| closest(&a.0, &b.0));
    let mut everywhere = Vec::new();
    leaves(shape, &mut Vec::new(), &mut everywhere);
    let elsewhere = everywhere
        .iter()
        .filter_map(|path| Some((likeness(path.last()?), setting(path))))
        .max_by(|a, b| closest(&a.0, &b.0));
    match (sibling, elsewhere) {
        (Some((like, name)), _) if like >= LIKE => name,
        (_, Some((like, name))) if like >= LIKE => name,
        (Some((_, name)), _) | (None, Some((_, name))) => name,
        (None, None) => "none".to_owned(),
    }
}

/// The paths of all settings in `value`; list elements are numbered.
pub(super) fn leaves(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut inside = |step: String, value: &Value| {
        path.push(step);
        leaves(value, path, found);
        path.pop();
    };
    match value {
        Value::Dict(_, dict) => dict.iter().for_each(|(key, value)| inside(key.clone(), value)),
        Value::Array(_, items) if items.iter().any(|item| matches!(item, Value::Dict(..))) => {
            items.iter().enumerate().for_each(|(index, value)| inside(index.to_string(), value));
        }
        _ => found.push(path.clone()),
    }
}

/// Reads `host:port`; `localhost` is the IPv4 loopback.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        let reason = format!("{text:?} is not an address with a port, such as 127.0.0.1:7700");
        serde::de::Error::custom(reason)
    })
}
