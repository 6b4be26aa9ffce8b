//! Reading the configuration: defaults, then the file, then the environment.
//!
//! Owns how a setting is found and where it came from. What is wrong with it is told by `fault`; the
//! rules between settings are in `check`.

use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Tag, Value};
use figment::{Figment, Profile};

use super::fault::{self, ConfigError};
use super::{Backend, Backends, Config, Layout, Place, Places, check};

/// What environment variables that override settings start with.
const ENV_PREFIX: &str = "STREAMER__";

impl Config {
    /// The defaults, overridden by the file, overridden by those of the variables `env` that are
    /// called `STREAMER__SECTION__KEY` (`STREAMER__BACKENDS__0__URI` inside a list).
    ///
    /// # Errors
    /// The first thing found that cannot be read, is unknown, has the wrong type or breaks a rule.
    pub fn load(path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = path {
            fault::syntax(path)?;
            figment = figment.merge(Toml::file_exact(path));
        }
        let origins = Origins { file: path.map(Path::to_owned), overrides: overrides(env) };
        let shape = shape();
        let tell = |error| fault::tell(error, &shape, |path| origins.of(path));

        let mut root = figment.find_value("").map_err(tell)?;
        for over in &origins.overrides {
            let value = typed(&over.text, find(&shape, &over.path));
            put(&mut root, &over.path, value);
        }
        let merged = Figment::from(Serialized::from(root, Profile::Default));
        let config: Self = merged.extract().map_err(tell)?;
        check::check(&config).map_err(|(setting, reason)| {
            let origin = origins.of(&fault::steps(&setting));
            ConfigError { origin, setting: Some(setting), reason }
        })?;
        Ok(config)
    }
}

/// One environment variable that overrides a setting.
struct Override {
    variable: String,
    path: Vec<String>,
    text: String,
}

struct Origins {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
}

impl Origins {
    /// Who set what stands at `path`.
    fn of(&self, path: &[String]) -> String {
        let touches = |over: &&Override| over.path.starts_with(path) || path.starts_with(&over.path);
        if let Some(over) = self.overrides.iter().rev().find(touches).filter(|_| !path.is_empty()) {
            return over.variable.clone();
        }
        self.file.as_ref().map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string())
    }
}

/// In order of the variables' names, so that the outcome does not depend on the environment's order.
fn overrides(env: impl IntoIterator<Item = (String, String)>) -> Vec<Override> {
    let mut found: Vec<Override> = env
        .into_iter()
        .filter_map(|(variable, text)| {
            let rest = variable.strip_prefix(ENV_PREFIX)?;
            let path = rest.split("__").map(str::to_lowercase).collect();
            Some(Override { variable, path, text })
        })
        .collect();
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    found
}

/// A configuration in which every optional setting is present: what keys there are, and their types.
pub(super) fn exemplar() -> Config {
    let places = Places {
        tenant: Place::Field("tenant".into()),
        collection: Some(Place::Field("collection".into())),
        body: Some("body".into()),
        id_prefix: true,
    };
    let backend = Backend { database: Some("app".into()), layout: Layout::Places(places), ..Backend::default() };
    Config { backends: Backends(vec![backend]), ..Config::default() }
}

fn shape() -> Value {
    Value::serialize(exemplar()).expect("a configuration is plain data")
}

/// Walks tables by key and lists by number; every element of a list looks like its first.
fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let Some((step, rest)) = path.split_first() else { return Some(value) };
    match value {
        Value::Dict(_, dict) => find(dict.get(step)?, rest),
        Value::Array(_, items) => {
            step.parse::<usize>().ok()?;
            find(items.first()?, rest)
        }
        _ => None,
    }
}

/// A variable's text as the type of the setting. Text for a list may leave the brackets out.
fn typed(text: &str, shape: Option<&Value>) -> Value {
    let string = |text: &str| Value::from(text.to_owned());
    match shape {
        Some(Value::String(..)) => string(text),
        Some(Value::Array(..)) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(string);
            Value::Array(Tag::Default, items.collect())
        }
        _ => text.parse().unwrap_or_else(|_| string(text)),
    }
}

/// Puts `value` at `path`, making tables on the way. A step that leads nowhere, such as a list's
/// tenth element where there are two, makes a table whose type is then told to be wrong.
fn put(root: &mut Value, path: &[String], value: Value) {
    let Some((step, rest)) = path.split_first() else {
        *root = value;
        return;
    };
    if let Value::Array(_, items) = root
        && let Ok(index) = step.parse::<usize>()
        && index <= items.len()
    {
        if index == items.len() {
            items.push(Value::from(figment::value::Dict::new()));
        }
        return put(&mut items[index], rest, value);
    }
    if !matches!(root, Value::Dict(..)) {
        *root = Value::from(figment::value::Dict::new());
    }
    if let Value::Dict(_, dict) = root {
        let next = dict.entry(step.clone()).or_insert_with(|| Value::from(figment::value::Dict::new()));
        put(next, rest, value);
    }
}
