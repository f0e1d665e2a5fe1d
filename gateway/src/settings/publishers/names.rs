//! Names of things at providers, and files with what proves who asks.

use std::path::PathBuf;

use crate::settings::{
    error::{SettingsError, error},
    values::non_empty,
};

/// Longest name of an object, a bucket or another thing at a provider.
const MAX_TEXT_BYTES: usize = 1024;

pub(super) fn text(key: String, value: &str) -> Result<String, SettingsError> {
    if value.is_empty() || value.len() > MAX_TEXT_BYTES || value.chars().any(char::is_control) {
        return Err(error(key, format!("must be 1 to {MAX_TEXT_BYTES} bytes without control characters")));
    }
    Ok(value.to_owned())
}

/// A name in a bucket: parts with slashes between them.
pub(super) fn object_name(key: String, value: &str) -> Result<String, SettingsError> {
    let name = text(key.clone(), value)?;
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(error(key, format!("`{name}` has an empty or relative part; write for example bundles/td.json")));
    }
    Ok(name)
}

pub(super) fn optional_file(key: String, file: Option<&PathBuf>) -> Result<Option<PathBuf>, SettingsError> {
    file.map(|path| non_empty(&key, path)).transpose()
}
