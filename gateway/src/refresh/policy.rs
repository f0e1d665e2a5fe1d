//! What a relationship says about changes of its partner's bundle.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who decides about a changed bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The gateway, by its rules.
    #[default]
    Auto,
    /// An operator, who is shown the difference.
    Hold,
    /// Nobody: the bundle stays until an operator names another one.
    Pinned,
}

impl Mode {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hold => "hold",
            Self::Pinned => "pinned",
        }
    }
}

/// What becomes of a bundle without keys, by which a partner withdraws all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Emptied {
    /// It waits for an operator; until then the refresh counts as failed.
    #[default]
    Hold,
    /// It is accepted like any other change.
    Accept,
    /// It is refused.
    Refuse,
}

impl Emptied {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Accept => "accept",
            Self::Refuse => "refuse",
        }
    }
}

/// What becomes of a delivered bundle that somebody changed at the issuer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// It is shown, and replaced after the next successful refresh.
    #[default]
    Correct,
    /// It is shown and stays.
    Show,
}

impl Drift {
    /// The name used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Correct => "correct",
            Self::Show => "show",
        }
    }
}

/// The policy of one relationship.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Who decides about changes.
    pub mode: Mode,
    /// About a bundle without keys.
    pub emptied: Emptied,
    /// About changes at the issuer.
    pub drift: Drift,
    /// The bundle is taken from the issuers when the partner has not confirmed it for this long.
    pub maximum_age: Option<Duration>,
}
