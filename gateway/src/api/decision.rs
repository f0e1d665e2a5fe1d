//! Decisions of operators.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::relationships::Relationship;

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
