//! OpenID Connect discovery for JWT-SVIDs (SPIRE 1.15). The key set is
//! [`crate::bundle_json::encode_oidc_jwks`].

use serde::{Deserialize, Serialize};

/// Path of the discovery document below the issuer URL.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Path of the key set below the issuer URL.
pub const KEYS_PATH: &str = "/keys";

/// The discovery document, members in the order they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryDocument {
    /// The issuer URL, equal to `iss` of the tokens.
    pub issuer: String,
    /// Where the key set is.
    pub jwks_uri: String,
    /// Empty: nobody logs in here, but readers want the member.
    pub authorization_endpoint: String,
    /// `id_token`.
    pub response_types_supported: Vec<String>,
    /// `public`.
    pub subject_types_supported: Vec<String>,
    /// `RS256`, `ES256`, `ES384`.
    pub id_token_signing_alg_values_supported: Vec<String>,
}

impl DiscoveryDocument {
    /// The document of an issuer whose key set is at `jwks_uri`.
    pub fn new(issuer: impl Into<String>, jwks_uri: impl Into<String>) -> Self {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Self {
            issuer: issuer.into(),
            jwks_uri: jwks_uri.into(),
            authorization_endpoint: String::new(),
            response_types_supported: list(&["id_token"]),
            subject_types_supported: list(&["public"]),
            id_token_signing_alg_values_supported: list(&["RS256", "ES256", "ES384"]),
        }
    }

    /// The document of an issuer whose key set is [`KEYS_PATH`] below it.
    pub fn for_issuer(issuer: &str) -> Self {
        Self::new(issuer, format!("{}{KEYS_PATH}", issuer.trim_end_matches('/')))
    }

    /// The document as JSON, indented by two spaces, no newline at the end.
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and lists of texts always become JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_discovery_provider() {
        let golden = include_str!("../testdata/oidc/openid-configuration.json");
        let document = DiscoveryDocument::for_issuer("http://oidc.cloud.example");
        assert_eq!(String::from_utf8(document.to_json()).unwrap(), golden.trim_end());
        assert_eq!(serde_json::from_str::<DiscoveryDocument>(golden).unwrap(), document);
        assert_eq!(DiscoveryDocument::for_issuer("https://x/p/").jwks_uri, "https://x/p/keys");
    }
}
