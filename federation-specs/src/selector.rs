//! Selectors: what attestors say about a node or a workload, and how sets of
//! them are compared (SPIRE 1.15).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest selector, type and value together, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 8 * 1024;

/// Why a text is not a selector; the first three texts are those of the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The part before the first colon is empty.
    #[error("missing selector type")]
    MissingType,
    /// A type given on its own holds a colon.
    #[error("selector type contains ':'")]
    TypeWithColon,
    /// The part after the first colon is empty.
    #[error("missing selector value")]
    MissingValue,
    /// There is no colon.
    #[error("selector `{0}` must be formatted as type:value, for example unix:uid:1000")]
    NoColon(String),
    /// More than [`MAX_SELECTOR_BYTES`].
    #[error("selector is longer than {MAX_SELECTOR_BYTES} bytes")]
    TooLong,
}

/// One property, such as type `unix` with value `uid:1000`. Ordered by type,
/// then value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// The name of the attestor that vouches for it; never holds a colon.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says; may hold colons.
    pub value: String,
}

impl Selector {
    /// Joins a type and a value.
    ///
    /// # Errors
    /// [`SelectorError`] if either is empty or the type holds a colon.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Result<Self, SelectorError> {
        let (kind, value) = (kind.into(), value.into());
        if kind.is_empty() {
            return Err(SelectorError::MissingType);
        }
        if kind.contains(':') {
            return Err(SelectorError::TypeWithColon);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        if kind.len() + value.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong);
        }
        Ok(Self { kind, value })
    }

    /// Reads `type:value`; the first colon divides.
    ///
    /// # Errors
    /// [`SelectorError`] if there is no colon or a part is empty.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or_else(|| SelectorError::NoColon(text.to_owned()))?;
        Self::new(kind, value)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind, self.value)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::parse(text)
    }
}

/// How a stored set must relate to the wanted one (SPIRE 1.15,
/// "Match modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchBehavior {
    /// The sets are equal.
    Exact,
    /// The item's set is contained in the wanted set.
    Subset,
    /// The item's set contains the wanted set.
    Superset,
    /// The sets share a member.
    Any,
}

/// Whether the set of an item stands to the wanted set as `behavior` says.
/// Works for selectors and for any other ordered members, such as the trust
/// domains an entry federates with.
pub fn matches<T: Ord>(item: &BTreeSet<T>, wanted: &BTreeSet<T>, behavior: MatchBehavior) -> bool {
    match behavior {
        MatchBehavior::Exact => item == wanted,
        MatchBehavior::Subset => item.is_subset(wanted),
        MatchBehavior::Superset => item.is_superset(wanted),
        MatchBehavior::Any => !item.is_disjoint(wanted),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_colon_divides() {
        let selector = Selector::parse("k8s:pod-label:app:web").unwrap();
        assert_eq!((selector.kind.as_str(), selector.value.as_str()), ("k8s", "pod-label:app:web"));
        assert_eq!(selector.to_string(), "k8s:pod-label:app:web");
    }

    #[test]
    fn each_fault_has_its_words() {
        assert_eq!(Selector::parse(":v").unwrap_err().to_string(), "missing selector type");
        assert_eq!(Selector::parse("t:").unwrap_err().to_string(), "missing selector value");
        assert_eq!(Selector::new("a:b", "v").unwrap_err().to_string(), "selector type contains ':'");
        assert_eq!(Selector::parse("unix").unwrap_err(), SelectorError::NoColon("unix".into()));
        assert_eq!(Selector::new("t", "v".repeat(MAX_SELECTOR_BYTES)).unwrap_err(), SelectorError::TooLong);
    }

    #[test]
    fn match_modes() {
        let set = |names: &[&str]| names.iter().map(|name| Selector::parse(name).unwrap()).collect::<BTreeSet<_>>();
        let (one, two, other) = (set(&["a:1"]), set(&["a:1", "b:2"]), set(&["c:3"]));
        assert!(matches(&two, &two, MatchBehavior::Exact) && !matches(&one, &two, MatchBehavior::Exact));
        assert!(matches(&one, &two, MatchBehavior::Subset) && !matches(&two, &one, MatchBehavior::Subset));
        assert!(matches(&two, &one, MatchBehavior::Superset) && !matches(&one, &two, MatchBehavior::Superset));
        assert!(matches(&one, &two, MatchBehavior::Any) && !matches(&other, &two, MatchBehavior::Any));
        assert!(!matches(&set(&[]), &two, MatchBehavior::Any));
    }

    proptest! {
        #[test]
        fn round_trip(kind in "[^:]{1,20}", value in ".{1,40}") {
            let selector = Selector::new(kind, value).unwrap();
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
