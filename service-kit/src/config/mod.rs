//! Configuration files: YAML, with environment overrides, unknown keys refused by name, and a JSON Schema.

mod duration;
mod unknown_keys;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use duration::{DurationError, HumanDuration, parse_duration};

/// Largest configuration file read.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Between the names of nested sections in an environment variable.
const NESTING: &str = "__";

/// Why a configuration could not be loaded. Every message names the file or the setting and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is missing.
    #[error("configuration file {} does not exist; give its path with --config, or create it from the example in the documentation", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("configuration file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too long.
    #[error("configuration file {} is larger than {MAX_CONFIG_BYTES} bytes; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no YAML mapping.
    #[error("{origin} is not valid YAML: {reason}")]
    Syntax {
        /// The file, or the environment variable.
        origin: String,
        /// What the parser said, with the line.
        reason: String,
    },
    /// A key nobody knows.
    #[error("unknown key `{key}` in {origin}{}", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// The file, or the environment variable.
        origin: String,
        /// The key with its path, `a.b.c`.
        key: String,
        /// The known key it resembles most.
        nearest: Option<String>,
    },
    /// A value of the wrong kind, or a missing one.
    #[error("{origin}: {}{reason}", at(key))]
    Value {
        /// The file.
        origin: String,
        /// The setting with its path, empty for the whole file.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn at(key: &str) -> String {
    if key.is_empty() || key == "." { String::new() } else { format!("`{key}`: ") }
}

/// The JSON Schema of a configuration type.
pub fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// Reads the YAML file at `path`, lays the environment over it and checks every key.
///
/// An environment variable `<env_prefix>_<KEY>` overrides a setting; nested keys are joined by two underscores:
/// with the prefix `ENTENTE_ISSUER`, `ENTENTE_ISSUER__DATA_DIR` sets `data_dir` and `ENTENTE_ISSUER__HEALTH__BIND_PORT`
/// sets `health.bind_port`. Its value is taken as it is for a text setting, and read as YAML otherwise.
///
/// # Errors
/// [`ConfigError`].
pub fn load<T: DeserializeOwned + JsonSchema>(path: &Path, env_prefix: &str) -> Result<T, ConfigError> {
    let text = read(path)?;
    from_str(&text, &format!("{}", path.display()), env_prefix, std::env::vars_os().filter_map(utf8_pair))
}

/// As [`load`], from text and a given environment.
///
/// # Errors
/// [`ConfigError`].
pub fn from_str<T: DeserializeOwned + JsonSchema>(
    text: &str,
    origin: &str,
    env_prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    layered(text, origin, overrides(env_prefix, environment))
}

/// Reads a text of several YAML documents, each a mapping whose keys are checked as [`load`] does. Documents with nothing
/// in them are passed over.
///
/// # Errors
/// [`ConfigError`].
pub fn documents<T: DeserializeOwned + JsonSchema>(text: &str, origin: &str) -> Result<Vec<T>, ConfigError> {
    if says_nothing(text) {
        return Ok(Vec::new());
    }
    let schema = schema::<T>();
    let values: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| ConfigError::Syntax { origin: origin.to_owned(), reason: reason(&error) })?;
    let documents = values.into_iter().filter(|value| !value.is_null()).map(|value| {
        if !value.is_object() {
            return Err(no_mapping(origin));
        }
        unknown_keys::check(&value, &schema, origin)?;
        serde_path(value).map_err(|(key, reason)| ConfigError::Value { origin: origin.to_owned(), key, reason })
    });
    documents.collect()
}

/// A setting given by a flag of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagSetting {
    flag: String,
    keys: Vec<String>,
    text: String,
}

impl FlagSetting {
    /// `flag` (without dashes) gives the setting `path` (`a.b` for a nested one) the value `text`.
    pub fn new(flag: &str, path: &str, text: &str) -> Self {
        let keys = path.split('.').map(str::to_owned).collect();
        Self { flag: flag.to_owned(), keys, text: text.to_owned() }
    }
}

/// As [`load`], with flags laid over the environment, and without a file if `path` is `None`. A flag's text is read as
/// an environment variable's is.
///
/// # Errors
/// [`ConfigError`].
pub fn load_with_flags<T: DeserializeOwned + JsonSchema>(
    path: Option<&Path>,
    env_prefix: &str,
    flags: impl IntoIterator<Item = FlagSetting>,
) -> Result<T, ConfigError> {
    let (text, origin) = match path {
        Some(path) => (read(path)?, path.display().to_string()),
        None => (String::new(), "the command line".to_owned()),
    };
    let mut settings = overrides(env_prefix, std::env::vars_os().filter_map(utf8_pair));
    settings.extend(flags.into_iter().map(|setting| (format!("flag -{}", setting.flag), setting.keys, setting.text)));
    layered(&text, &origin, settings)
}

/// The file's text with settings laid over it, the last one on top.
fn layered<T: DeserializeOwned + JsonSchema>(
    text: &str,
    origin: &str,
    settings: Vec<(String, Vec<String>, String)>,
) -> Result<T, ConfigError> {
    let schema = schema::<T>();
    let mut value = parse_mapping(text, origin)?;
    unknown_keys::check(&value, &schema, origin)?;
    for (origin, keys, setting) in settings {
        let parsed = if unknown_keys::is_text(&schema, &keys) {
            Value::String(setting)
        } else {
            parse_yaml(&setting).map_err(|reason| ConfigError::Syntax { origin: origin.clone(), reason })?
        };
        let mut alone = parsed.clone();
        for key in keys.iter().rev() {
            alone = Value::Object(Map::from_iter([(key.clone(), alone)]));
        }
        unknown_keys::check(&alone, &schema, &origin)?;
        set(&mut value, &keys, parsed);
    }
    serde_path(value).map_err(|(key, reason)| ConfigError::Value { origin: origin.to_string(), key, reason })
}

fn utf8_pair((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_path_buf() },
        _ => unreadable(source),
    })?;
    let mut text = String::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_path_buf() });
    }
    Ok(text)
}

fn parse_yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| reason(&error))
}

fn reason(error: &serde_saphyr::Error) -> String {
    // The first line says what and where; the others quote the file, which may hold secrets.
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // Advice for programmers, not for the writer of the file.
    first.split_once(", set DuplicateKeyPolicy").map_or(first, |(what, _)| what).to_string()
}

/// Whether there are only comments.
fn says_nothing(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

fn no_mapping(origin: &str) -> ConfigError {
    let reason = "expected `key: value` lines at the top level".to_owned();
    ConfigError::Syntax { origin: origin.to_owned(), reason }
}

/// The file as one JSON object; an empty file is an empty object.
fn parse_mapping(text: &str, origin: &str) -> Result<Value, ConfigError> {
    let syntax = |reason| ConfigError::Syntax { origin: origin.to_string(), reason };
    if says_nothing(text) {
        return Ok(Value::Object(Map::new()));
    }
    match parse_yaml(text).map_err(syntax)? {
        Value::Null => Ok(Value::Object(Map::new())),
        value @ Value::Object(_) => Ok(value),
        _ => Err(no_mapping(origin)),
    }
}

/// Overrides in a fixed order: (origin, path of keys, text).
fn overrides(
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Vec<(String, Vec<String>, String)> {
    let prefix = format!("{prefix}{NESTING}");
    let sorted: BTreeMap<String, String> = environment.into_iter().collect();
    let own = sorted.into_iter().filter_map(|(name, value)| {
        let keys = name.strip_prefix(&prefix)?.split(NESTING).map(str::to_ascii_lowercase).collect();
        Some((format!("environment variable {name}"), keys, value))
    });
    own.collect()
}

fn set(target: &mut Value, keys: &[String], value: Value) {
    let Some((first, rest)) = keys.split_first() else {
        *target = value;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(map) = target {
        set(map.entry(first.clone()).or_insert(Value::Null), rest, value);
    }
}

/// Deserialises and, on failure, names the setting at fault.
fn serde_path<T: DeserializeOwned>(value: Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| (error.path().to_string(), error.into_inner().to_string()))
}

#[cfg(test)]
mod tests;
