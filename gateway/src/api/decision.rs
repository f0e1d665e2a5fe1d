//! Decisions of operators.

use federation_specs::{bundle::Bundle, bundle_change::BundleChange};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{OfferReason, Relationship};

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

/// A fetched bundle that is not in force, and what it would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingBundle {
    /// SHA-256 of its document, lowercase hex.
    pub digest: String,
    /// `spiffe_sequence`, if it carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it was fetched first.
    #[serde(with = "time::serde::rfc3339")]
    pub offered_at: OffsetDateTime,
    /// Where.
    pub source_url: String,
    /// Why it is not in force.
    pub reason: OfferReason,
    /// When an operator turned it down.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub rejected_at: Option<OffsetDateTime>,
    /// Against the bundle in force.
    pub difference: KeyDifferences,
}

/// What a bundle changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyDifferences {
    /// X.509 authorities, by subject key ID.
    pub x509: KeyDifference,
    /// JWT authorities, by key ID.
    pub jwt: KeyDifference,
    /// Whether no key of the bundle in force would stay, which ordinary rotation never does.
    #[serde(default)]
    pub replaces_everything: bool,
}

/// What a bundle changes among the keys of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyDifference {
    /// Keys that would come.
    pub added: Vec<String>,
    /// Keys that would go.
    pub removed: Vec<String>,
    /// Keys that would stay.
    pub kept: Vec<String>,
}

impl From<&BundleChange> for KeyDifferences {
    fn from(change: &BundleChange) -> Self {
        let x509 = |keys: &[federation_specs::bundle::X509Authority]| keys.iter().map(|key| key.key_id_hex()).collect();
        let jwt =
            |keys: &[federation_specs::bundle::JwtAuthority]| keys.iter().map(|key| key.key_id().to_owned()).collect();
        Self {
            x509: KeyDifference {
                added: x509(&change.x509.added),
                removed: x509(&change.x509.removed),
                kept: x509(&change.x509.kept),
            },
            jwt: KeyDifference {
                added: jwt(&change.jwt.added),
                removed: jwt(&change.jwt.removed),
                kept: jwt(&change.jwt.kept),
            },
            replaces_everything: change.replaces_everything(),
        }
    }
}

impl WaitingBundle {
    pub(crate) fn new(offer: &crate::refresh::control::Offer, held: Option<&Bundle>) -> Self {
        let change = federation_specs::bundle_change::difference(held, &offer.bundle);
        Self {
            digest: offer.digest.clone(),
            sequence: offer.bundle.sequence(),
            offered_at: offer.offered_at,
            source_url: offer.source_url.clone(),
            reason: offer.reason,
            rejected_at: offer.rejected_at,
            difference: (&change).into(),
        }
    }
}

/// Body of `POST /v1/relationships/{trust_domain}/approve` and `…/reject`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveRequest {
    /// The bundle the decision is about, by its SHA-256 or the beginning of it; the one that waits unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// Body of `POST /v1/relationships/{trust_domain}/freeze` and `…/unfreeze`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// Body of `POST /v1/relationships/{trust_domain}/restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The bundle: its number in the history, or at least eight digits of its SHA-256.
    pub bundle: String,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

/// Answer to a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided {
    /// The relationship after it.
    pub relationship: Relationship,
}
