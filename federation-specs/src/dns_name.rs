//! DNS names in SVIDs (SPIRE 1.15). SPIRE's rules, and besides them the
//! characters and form of a DNS name, which SPIRE does not look at.

use std::net::Ipv4Addr;

/// Longest name, in characters (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest label, in characters.
pub const MAX_LABEL_BYTES: usize = 63;

/// Why a text is not acceptable as DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// Nothing, or only spaces.
    #[error("empty or only whitespace")]
    Empty,
    /// Characters beyond ASCII.
    #[error("name must be ascii")]
    NotAscii,
    /// A dot at the end.
    #[error("domain ends with dot")]
    TrailingDot,
    /// More than one `*`.
    #[error("too many wildcards")]
    TooManyWildcards,
    /// A `*` that is not the whole first label.
    #[error("wildcard must be first label")]
    WildcardPlace,
    /// More than [`MAX_NAME_BYTES`].
    #[error("name is longer than {MAX_NAME_BYTES} characters")]
    TooLong,
    /// A label that is empty, too long, begins or ends with `-`, has `--` in
    /// places 3 and 4 without being valid `xn--`, or holds a character other
    /// than letters, digits, `-` and `_`.
    #[error("invalid label {0:?}")]
    Label(String),
    /// An IP address, or a name whose last label is a number.
    #[error("{0:?} is an address, not a DNS name")]
    Address(String),
}

/// Two names that cannot stand together in one certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("name {0:?} overlaps with an existing wildcard name in the list: wildcard overlap")]
pub struct WildcardOverlap(pub String);

/// Checks one name, perhaps with a leading `*.`.
///
/// # Errors
/// [`DnsNameError`] naming the rule that is broken.
pub fn check(name: &str) -> Result<(), DnsNameError> {
    if name.trim().is_empty() {
        return Err(DnsNameError::Empty);
    }
    if !name.is_ascii() {
        return Err(DnsNameError::NotAscii);
    }
    if name.ends_with('.') {
        return Err(DnsNameError::TrailingDot);
    }
    let without_wildcard = match name.matches('*').count() {
        0 => name,
        1 => name.strip_prefix("*.").ok_or(DnsNameError::WildcardPlace)?,
        _ => return Err(DnsNameError::TooManyWildcards),
    };
    if name.len() > MAX_NAME_BYTES {
        return Err(DnsNameError::TooLong);
    }
    for label in without_wildcard.split('.') {
        check_label(label)?;
    }
    let last = without_wildcard.rsplit('.').next().unwrap_or_default();
    if without_wildcard.parse::<Ipv4Addr>().is_ok() || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DnsNameError::Address(name.to_owned()));
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), DnsNameError> {
    let fault = || DnsNameError::Label(label.to_owned());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if label.is_empty() || label.len() > MAX_LABEL_BYTES || !label.bytes().all(allowed) {
        return Err(fault());
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(fault());
    }
    if label.get(2..4) == Some("--") {
        let internationalized = label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"));
        if !internationalized || url::Host::parse(label).is_err() {
            return Err(fault());
        }
    }
    Ok(())
}

/// Refuses a list in which a wildcard name covers another name that is not a
/// wildcard; `*` stands for exactly one label.
///
/// # Errors
/// [`WildcardOverlap`] with the covered name.
pub fn wildcard_overlap<S: AsRef<str>>(names: &[S]) -> Result<(), WildcardOverlap> {
    let parents: Vec<&str> = names.iter().filter_map(|name| name.as_ref().strip_prefix("*.")).collect();
    for name in names.iter().map(AsRef::as_ref).filter(|name| !name.starts_with("*.")) {
        let covered = name
            .split_once('.')
            .is_some_and(|(_, parent)| parents.iter().any(|wildcard| wildcard.eq_ignore_ascii_case(parent)));
        if covered {
            return Err(WildcardOverlap(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_use_pass() {
        for name in [
            "a",
            "a.example",
            "A.Example",
            "a_b.example",
            "*.a.example",
            "*.example",
            "xn--bcher-kva.example",
            "1.example",
            &format!("{}.example", "x".repeat(63)),
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_fault_has_its_words() {
        let text = |name: &str| check(name).unwrap_err().to_string();
        assert_eq!(text(""), "empty or only whitespace");
        assert_eq!(text("  "), "empty or only whitespace");
        assert_eq!(text("bücher.example"), "name must be ascii");
        assert_eq!(text("a."), "domain ends with dot");
        assert_eq!(text("*.*.b"), "too many wildcards");
        for name in ["a.*.b", "*", "*a.b", "a*.b"] {
            assert_eq!(text(name), "wildcard must be first label", "{name}");
        }
        assert_eq!(text("-a.example"), "invalid label \"-a\"");
        for name in ["a-.example", "ab--c.example", "a..b", ".a", "xn--zz--", "xn--a.example"] {
            assert!(matches!(check(name), Err(DnsNameError::Label(_))), "{name}");
        }
        assert!(matches!(check(&format!("{}.example", "x".repeat(64))), Err(DnsNameError::Label(_))));
        assert_eq!(check(&"a.".repeat(127).replace("a.a.", "aa.a.")[..254]), Err(DnsNameError::TooLong));
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        for name in ["bad name", " lead.example", "a!b", "a/b", "a@b", "host:80", "a\u{7f}b", "a,b"] {
            assert!(matches!(check(name), Err(DnsNameError::Label(_))), "{name:?}");
        }
        for name in ["127.0.0.1", "10", "a.10"] {
            assert_eq!(check(name), Err(DnsNameError::Address(name.to_owned())));
        }
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        assert_eq!(wildcard_overlap(&["*.a.example", "a.example", "x.b.a.example", "*.b.example"]), Ok(()));
        assert_eq!(
            wildcard_overlap(&["b.a.example", "*.A.example"]).unwrap_err().to_string(),
            "name \"b.a.example\" overlaps with an existing wildcard name in the list: wildcard overlap"
        );
    }
}
