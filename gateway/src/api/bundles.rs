//! Bundles that are served or held, and their history.

use federation_specs::bundle::Bundle;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `GET /v1/bundles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleList {
    /// Bundles this gateway serves or holds, by trust domain.
    pub bundles: Vec<BundleSummary>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One bundle without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleSummary {
    /// The trust domain the keys belong to.
    pub trust_domain: String,
    /// Whose it is.
    pub kind: BundleKind,
    /// `spiffe_sequence`, if the bundle carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// SHA-256 of the stored document, lowercase hex.
    pub digest: String,
    /// `spiffe_refresh_hint` in seconds, if the bundle carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_hint_seconds: Option<u64>,
    /// Number of X.509 authorities.
    pub x509_authorities: usize,
    /// Number of JWT authorities.
    pub jwt_authorities: usize,
    /// When this content was accepted (partner) or first served (own).
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
    /// The earliest `notAfter` among the X.509 authorities.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub first_expiry: Option<OffsetDateTime>,
}

impl BundleSummary {
    /// What `bundle` holds, without its keys.
    pub fn new(bundle: &Bundle, kind: BundleKind, digest: &str, changed_at: OffsetDateTime) -> Self {
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            kind,
            sequence: bundle.sequence(),
            digest: digest.to_owned(),
            refresh_hint_seconds: bundle.refresh_hint().map(|hint| hint.as_secs()),
            x509_authorities: bundle.x509_authorities().len(),
            jwt_authorities: bundle.jwt_authorities().len(),
            changed_at,
            first_expiry: bundle.x509_authorities().iter().map(|authority| authority.not_after()).min(),
        }
    }
}

/// Whose bundle it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BundleKind {
    /// A trust domain this gateway serves.
    Own,
    /// A partner's.
    Partner,
}

impl BundleKind {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Partner => "partner",
        }
    }
}

/// `GET /v1/bundles/{trust_domain}/history`: accepted bundles, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BundleHistory {
    /// The partner.
    pub trust_domain: String,
    /// Accepted bundles, newest first.
    pub bundles: Vec<HistoryEntry>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One accepted bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryEntry {
    /// Number of the record, growing.
    pub id: i64,
    /// When it was accepted.
    #[serde(with = "time::serde::rfc3339")]
    pub accepted_at: OffsetDateTime,
    /// `spiffe_sequence`, if the bundle carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// SHA-256 of the stored document, lowercase hex.
    pub digest: String,
    /// The URL it was fetched from.
    pub source_url: String,
    /// How it came in force.
    #[serde(default)]
    pub via: Via,
    /// X.509 authorities that appeared, against the bundle held before.
    pub x509_added: u32,
    /// X.509 authorities that went away.
    pub x509_removed: u32,
    /// JWT authorities that appeared.
    pub jwt_added: u32,
    /// JWT authorities that went away.
    pub jwt_removed: u32,
}

/// How a bundle came in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// By a refresh.
    #[default]
    Refresh,
    /// An operator approved it.
    Approval,
    /// An operator named it.
    Restore,
}

impl Via {
    /// The name used in JSON and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Approval => "approval",
            Self::Restore => "restore",
        }
    }

    pub(crate) fn from_name(name: &str) -> Self {
        [Self::Approval, Self::Restore].into_iter().find(|via| via.as_str() == name).unwrap_or_default()
    }
}
