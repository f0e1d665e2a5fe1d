//! Standard error, which no command depends on.

use std::io::Write as _;

/// Writes to standard error; nothing can be done if that fails.
pub(crate) fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
