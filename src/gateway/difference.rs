//! What a bundle would change, for who decides about it.

use anstyle::AnsiColor;
use gateway::api::KeyDifferences;

use super::table::{coloured, line, one_line};

/// The keys that would come, go and stay, a line each.
pub(super) fn difference_text(differences: &KeyDifferences) -> String {
    let mut text = String::new();
    if differences.replaces_everything {
        text.push_str(&line("  Beware", &coloured("no key of the bundle in force would stay", AnsiColor::Red)));
    }
    for (kind, difference) in [("X.509", &differences.x509), ("JWT", &differences.jwt)] {
        let lists = [("added", &difference.added, AnsiColor::Green), ("removed", &difference.removed, AnsiColor::Red)];
        for (word, keys, colour) in lists {
            for key in keys {
                text.push_str(&line(&format!("  {kind} {word}"), &coloured(&one_line(key), colour)));
            }
        }
        text.push_str(&line(&format!("  {kind} kept"), &difference.kept.len().to_string()));
    }
    text
}
