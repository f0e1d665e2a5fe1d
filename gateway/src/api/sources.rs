//! The sources of served trust domains.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::waiting::KeyDifferences;

/// `GET /v1/sources`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceList {
    /// Sources, by trust domain and then in the order of the configuration.
    pub sources: Vec<Source>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// `GET /v1/sources/{trust_domain}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainSources {
    /// The served trust domain.
    pub trust_domain: String,
    /// Its sources, in the order of the configuration.
    pub sources: Vec<Source>,
}

/// Where the bundle of a served trust domain comes from, and how that is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// The served trust domain.
    pub trust_domain: String,
    /// Kind and place, for example `issuer` or `file /etc/entente/bundle.json`.
    pub source: String,
    /// Sequence number of what counts of it, if it gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Number of X.509 authorities that count.
    pub x509_authorities: usize,
    /// Number of JWT authorities that count.
    pub jwt_authorities: usize,
    /// SHA-256 of the bundle that is held back, lowercase hex; absent if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_digest: Option<String>,
    /// Its sequence number, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_sequence: Option<u64>,
    /// What it would change among the keys that count of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_difference: Option<KeyDifferences>,
    /// Why what it gives now is held back; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Since when.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub held_since: Option<OffsetDateTime>,
    /// Since when it does not answer; absent if it does.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<OffsetDateTime>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Answer to `POST /v1/sources/{trust_domain}/accept`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedSources {
    /// The served trust domain.
    pub trust_domain: String,
    /// The sources that were held and count from now on.
    pub accepted: Vec<String>,
}
