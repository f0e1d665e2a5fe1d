//! The audit log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::audit::{
    Action, Actor, Record,
    chain::{Problem as AuditProblem, Report as AuditReport, Verifier, read_export_line},
};

/// `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// Records in the order that was asked for.
    pub records: Vec<AuditEntry>,
    /// Asks for the page that follows; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One record with its place and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its place in the log.
    pub sequence: i64,
    /// Its hash, which covers the hash before it.
    pub hash: String,
    /// The record; absent if what is stored is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}
