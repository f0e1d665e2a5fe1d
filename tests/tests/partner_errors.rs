//! docs/partner-errors.md has a row for each error a relationship can show: compared with the messages in the code.

use std::fs;

use entente_tests::binary::repository;

/// Where the messages are, and which of them no relationship shows: those of decisions that operators ask for, and of
/// what was checked when the relationship was defined.
const MESSAGES: [(&str, &[&str]); 8] = [
    ("service-kit/src/fetch/error.rs", &["Url", "Client"]),
    ("service-kit/src/fetch/names.rs", &[]),
    ("gateway/src/refresh/updater.rs", &["Cancelled"]),
    ("gateway/src/refresh/clients.rs", &[]),
    ("gateway/src/refresh/usable.rs", &[]),
    ("gateway/src/refresh/limits.rs", &[]),
    ("gateway/src/refresh/trust.rs", &[]),
    (
        "gateway/src/refresh/decision_error.rs",
        &[
            "NothingWaits",
            "AnotherWaits",
            "Pinned",
            "IsFrozen",
            "NotFrozen",
            "FrozenAlready",
            "UnknownBundle",
            "Ambiguous",
            "Damaged",
        ],
    ),
];

/// The name and the message of each variant of the error types in `source`.
fn messages(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in source.split("#[error(").skip(1) {
        let Some(text) = part.trim_start().strip_prefix('"') else { continue };
        let mut message = String::new();
        let mut letters = text.char_indices();
        let mut end = 0;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = at;
                    break;
                }
                '\\' => match letters.next() {
                    // The next line goes on with its first letter.
                    Some((_, '\n')) => {
                        let rest = letters.as_str();
                        let skipped = rest.len() - rest.trim_start().len();
                        letters.by_ref().take(skipped).for_each(drop);
                    }
                    Some((_, escaped)) => message.push(escaped),
                    None => break,
                },
                letter => message.push(letter),
            }
        }
        let Some((_, behind)) = text[end..].split_once(")]") else { continue };
        let lines = behind.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '/']));
        let name = lines.map(|line| line.split(|letter: char| !letter.is_alphanumeric()).next()).next().flatten();
        found.push((name.unwrap_or_default().to_owned(), message));
    }
    found
}

/// What stays the same from case to case.
fn fixed(message: &str) -> Vec<&str> {
    let parts = message.split('{').enumerate().map(|(index, part)| match index {
        0 => part,
        _ => part.split_once('}').map_or("", |(_, behind)| behind),
    });
    parts.map(str::trim).filter(|part| part.len() > 3).collect()
}

#[test]
fn each_error_a_relationship_can_show_is_documented_with_its_remedy() {
    let guide = fs::read_to_string(repository().join("docs/partner-errors.md")).unwrap();
    let rows: Vec<&str> = guide.lines().filter(|line| line.starts_with('|')).collect();
    let mut seen = 0;
    for (file, others) in MESSAGES {
        let source = fs::read_to_string(repository().join(file)).unwrap();
        let messages = messages(&source);
        assert!(!messages.is_empty(), "{file} has no messages");
        for other in others {
            assert!(messages.iter().any(|(name, _)| name == other), "{file} has no {other} any more");
        }
        for (name, message) in messages.iter().filter(|(name, _)| !others.contains(&name.as_str())) {
            let parts = fixed(message);
            let row = rows.iter().find(|row| parts.iter().all(|part| row.contains(part)));
            assert!(row.is_some(), "docs/partner-errors.md has no row for {name} of {file}: {message}");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} messages were found");
}

#[test]
fn messages_are_found_in_the_code() {
    let source = "    #[error(\"one {a} \\\n         two\")]\n    First {\n    #[error(\"three\")]\n    #[source]\n    Second(X),\n";
    let expected = [("First", "one {a} two"), ("Second", "three")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(messages(source), expected);
    assert_eq!(fixed("one {a} a longer part{b}"), ["a longer part"]);
}
