//! Error answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::role::Role;

/// Media type of every error answer.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// What every problem type begins with.
pub const PROBLEM_TYPE_PREFIX: &str = "urn:entente:problem:";

/// An error answer (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of error as a URI that never changes. docs/admin-api.md lists them all.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The kind of error in words, constant for one kind.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// This occurrence, in words, with the remedy.
    pub detail: String,
    /// The least role that may do what was asked, if the caller has none that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed_role: Option<Role>,
}
