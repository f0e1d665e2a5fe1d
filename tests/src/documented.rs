//! Holding error messages to `docs/errors.md`.

use std::{fs, sync::OnceLock};

use anyhow::{Result, ensure};

use crate::binary::repository;

/// `text`, provided that `docs/errors.md` shows it. `…` in the document stands for what differs from case to case, so
/// `text` must be one of the fixed parts.
pub fn documented(text: &str) -> Result<&str> {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| fs::read_to_string(repository().join("docs/errors.md")).unwrap_or_default());
    ensure!(document.contains(text), "`{text}` is not in docs/errors.md");
    Ok(text)
}
