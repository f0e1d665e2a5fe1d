//! Reading what a command is given in files or on standard input.

use std::io::Read as _;

use serde_json::Value;

use crate::failure::{Failure, io_reason};
use crate::notation::quote;

/// The largest input a command takes.
const MAX_INPUT_BYTES: u64 = 64 * 1024 * 1024;
/// Names further away than this share of their length are no misspelling.
const SIMILAR: f64 = 0.6;

/// A file as text, or standard input with `-`.
pub(crate) fn read(path: &str) -> Result<String, Failure> {
    let bytes = bytes(path)?;
    String::from_utf8(bytes).map_err(|_| Failure::new(format!("{path} is not UTF-8 text")))
}

/// A file, or standard input with `-`.
pub(crate) fn bytes(path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let outcome = if path == "-" {
        std::io::stdin().lock().take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes))
    };
    outcome.map_err(|error| Failure::new(format!("open {path}: {}", io_reason(&error))))?;
    if bytes.len() as u64 > MAX_INPUT_BYTES {
        return Err(Failure::new(format!("{path} is larger than {MAX_INPUT_BYTES} bytes; split it")));
    }
    Ok(bytes)
}

/// Text as JSON.
pub(crate) fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::new(format!("the data is not JSON: {error}")))
}

/// Refuses a key that is not known, naming the nearest that is. Anything but an object is refused too.
pub(crate) fn known_keys(value: &Value, place: &str, known: &[&str]) -> Result<(), Failure> {
    let Value::Object(fields) = value else {
        return Err(Failure::new(format!("{place} must be a JSON object")));
    };
    if let Some(key) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        let nearest = known
            .iter()
            .map(|name| (strsim::normalized_damerau_levenshtein(&plain(name), &plain(key)), *name))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .filter(|(similarity, _)| *similarity >= SIMILAR);
        let hint = match nearest {
            Some((_, name)) => format!("did you mean {}?", quote(name)),
            None => format!("known are {}", known.join(", ")),
        };
        return Err(Failure::new(format!("unknown key {} in {place}; {hint}", quote(key))));
    }
    Ok(())
}

/// Spelling without case and underscores, so that `entry_expiry` is next to `entryExpiry`.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_').flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        assert_eq!(read("nosuch.json").unwrap_err().text(), "open nosuch.json: no such file or directory");
    }

    #[test]
    fn a_key_like_no_other_gets_the_list() {
        let failure = known_keys(&json!({"zzz": 1}), "the file", &["ids", "entries"]).unwrap_err();
        assert_eq!(failure.text(), r#"unknown key "zzz" in the file; known are ids, entries"#);
        assert_eq!(known_keys(&json!([]), "the file", &[]).unwrap_err().text(), "the file must be a JSON object");
    }
}
