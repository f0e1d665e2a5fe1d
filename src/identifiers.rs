//! SPIFFE IDs, trust domains and selectors as they are typed, and as the APIs carry them.

use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::proto::types;

use crate::failure::Failure;

/// A typed SPIFFE ID as the API carries it. Whether it fits its use is for the issuer to say.
pub(crate) fn spiffe_id(text: &str) -> Result<types::Spiffeid, Failure> {
    let id = SpiffeId::parse(text).map_err(|error| Failure::chain(&error))?;
    Ok(types::Spiffeid { trust_domain: id.trust_domain().to_string(), path: id.path().to_owned() })
}

/// A typed trust domain, with or without `spiffe://`.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, Failure> {
    TrustDomain::from_name_or_id(text).map_err(|error| {
        Failure::chain(&error).context(&format!("{} is no trust domain", crate::notation::quote(text)))
    })
}

/// A SPIFFE ID as text; empty if absent.
pub(crate) fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map_or_else(String::new, |id| format!("spiffe://{}{}", id.trust_domain, id.path))
}

/// A typed selector as the API carries it.
pub(crate) fn selector(text: &str) -> Result<types::Selector, Failure> {
    let (kind, value) = text.split_once(':').filter(|(kind, _)| !kind.is_empty()).ok_or_else(|| {
        Failure::new(format!("selector {} must be formatted as type:value", crate::notation::quote(text)))
    })?;
    Ok(types::Selector { r#type: kind.to_owned(), value: value.to_owned() })
}

/// A filter's match behaviour (`-matchSelectorsOn`, `-matchFederatesWithOn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// The same set.
    Exact,
    /// Every element is among those given.
    Subset,
    /// Every one given is among the elements.
    Superset,
    /// At least one in common.
    Any,
}

impl Match {
    /// Reads the flag's value.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "exact" => Ok(Self::Exact),
            "subset" => Ok(Self::Subset),
            "superset" => Ok(Self::Superset),
            "any" => Ok(Self::Any),
            other => Err(Failure::new(format!("match behavior {} unknown", crate::notation::quote(other)))),
        }
    }

    /// For selectors.
    pub(crate) fn selectors(self) -> i32 {
        use types::selector_match::MatchBehavior;
        let behavior = match self {
            Self::Exact => MatchBehavior::MatchExact,
            Self::Subset => MatchBehavior::MatchSubset,
            Self::Superset => MatchBehavior::MatchSuperset,
            Self::Any => MatchBehavior::MatchAny,
        };
        behavior.into()
    }

    /// For federated trust domains.
    pub(crate) fn federates_with(self) -> i32 {
        use types::federates_with_match::MatchBehavior;
        let behavior = match self {
            Self::Exact => MatchBehavior::MatchExact,
            Self::Subset => MatchBehavior::MatchSubset,
            Self::Superset => MatchBehavior::MatchSuperset,
            Self::Any => MatchBehavior::MatchAny,
        };
        behavior.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_split_at_the_first_colon() {
        let selector = selector("unix:uid:0").unwrap();
        assert_eq!((selector.r#type.as_str(), selector.value.as_str()), ("unix", "uid:0"));
        assert_eq!(
            super::selector("unixuid").unwrap_err().text(),
            r#"selector "unixuid" must be formatted as type:value"#
        );
    }

    #[test]
    fn an_id_without_scheme_is_refused_in_spires_words() {
        assert_eq!(spiffe_id("cloud.example/x").unwrap_err().text(), "scheme is missing or invalid");
        let id = spiffe_id("spiffe://cloud.example/x").unwrap();
        assert_eq!((id.trust_domain.as_str(), id.path.as_str()), ("cloud.example", "/x"));
    }

    #[test]
    fn match_behaviours() {
        assert_eq!(Match::parse("superset").unwrap(), Match::Superset);
        assert_eq!(Match::parse("nosuch").unwrap_err().text(), r#"match behavior "nosuch" unknown"#);
    }
}
