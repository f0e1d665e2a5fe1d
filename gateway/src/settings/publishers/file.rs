//! A file.

use std::path::PathBuf;

use super::content::Content;
use crate::{
    config,
    settings::{
        error::{SettingsError, error},
        values::non_empty,
    },
};

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlace {
    /// Its path.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// What is written.
    pub content: Content,
}

impl FilePlace {
    pub(super) fn check(key: &str, place: &config::FilePlace) -> Result<Self, SettingsError> {
        let mode = u32::from_str_radix(&place.mode, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o400 != 0);
        let Some(mode) = mode else {
            return Err(error(
                format!("{key}.mode"),
                format!(
                    "`{}` are no octal permission bits with which the owner may read; write for example 0644",
                    place.mode
                ),
            ));
        };
        let path = non_empty(&format!("{key}.path"), &place.path)?;
        Ok(Self { path, mode, content: Content::check(key, place.format, place.refresh_hint)? })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }
}
