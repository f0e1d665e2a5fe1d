//! Bundles that wait for an operator, and what they would change.

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    bundle_change::{self, BundleChange},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::refresh::control::{Offer, OfferReason};

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
        let x509 = |keys: &[X509Authority]| keys.iter().map(|key| key.key_id_hex()).collect();
        let jwt = |keys: &[JwtAuthority]| keys.iter().map(|key| key.key_id().to_owned()).collect();
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
    pub(crate) fn new(offer: &Offer, held: Option<&Bundle>) -> Self {
        let change = bundle_change::difference(held, &offer.bundle);
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
