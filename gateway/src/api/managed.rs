//! Relationships managed over the admin API.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;

pub use crate::{config::Relationship as Definition, managed::definition::DEFAULT_SET};

/// Whose a managed relationship is, and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Managed {
    /// The set it was applied with; absent if it was created by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Number of the audit record of its last change. Also its entity tag.
    pub version: i64,
}

/// `GET /v1/relationships/{trust_domain}/definition`: a managed relationship as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManagedDefinition {
    /// The keys of the configuration that were given.
    pub definition: Definition,
    /// Whose it is, and its version.
    pub managed: Managed,
    /// When it was last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
}

/// What happened, or would happen, to a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It differs.
    Changed,
    /// It is as it was, and nothing was recorded.
    Unchanged,
    /// It was removed; its bundle is taken from the issuers.
    Removed,
}

/// A key that differs. Whole documents are named by their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    /// The key; `set` for the set the relationship belongs to.
    pub field: String,
    /// Its value before; null if it was not given.
    #[serde(default)]
    pub before: Value,
    /// Its value afterwards; null if it is not given.
    #[serde(default)]
    pub after: Value,
}

/// What happened, or would happen, to one relationship.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceChange {
    /// The partner.
    pub trust_domain: String,
    /// What.
    pub change: ChangeKind,
    /// The keys that differ; none if it is unchanged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// Answer to `PUT` and `DELETE /v1/relationships/{trust_domain}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManagedChange {
    /// What happened.
    pub change: ResourceChange,
    /// Whose it is, or was, and its version.
    pub managed: Managed,
}

/// Body of `POST /v1/apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The set the relationships belong to: at most 63 lower-case letters, digits, `.`, `_` and `-`.
    #[serde(default = "default_set")]
    pub set: String,
    /// The relationships of the set, with the keys of the configuration. Files are not read here: `ca_pem` and
    /// `bootstrap_bundle` hold the documents themselves.
    #[serde(default)]
    pub relationships: Vec<Definition>,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Remove relationships of the set that are not given. Those of other sets, or of none, stay.
    #[serde(default)]
    pub prune: bool,
    /// Remove them even if they are more than half of the set.
    #[serde(default)]
    pub confirmed: bool,
    /// Take relationships of other sets over rather than refuse to change them.
    #[serde(default)]
    pub take_over: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub why: String,
}

fn default_set() -> String {
    DEFAULT_SET.to_owned()
}

/// Answer to `POST /v1/apply`. All of it happened, or, after an error, nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResult {
    /// The set.
    pub set: String,
    /// Whether this is only what would happen.
    pub dry_run: bool,
    /// Each relationship given, and each one removed, by trust domain.
    pub changes: Vec<ResourceChange>,
    /// Whether so much would be removed that it has to be confirmed.
    pub needs_confirmation: bool,
}

impl ApplyResult {
    /// How many relationships this happened to.
    pub fn count(&self, kind: ChangeKind) -> usize {
        self.changes.iter().filter(|change| change.change == kind).count()
    }
}
