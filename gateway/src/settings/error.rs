//! What is wrong with a configuration.

/// What is wrong with a configuration, naming the key and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SettingsError {
    /// Path of the key, for example `trust_domains[0].path`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub problem: String,
}

pub(super) fn error(key: impl Into<String>, problem: impl Into<String>) -> SettingsError {
    SettingsError { key: key.into(), problem: problem.into() }
}
