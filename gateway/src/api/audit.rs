//! The audit log.

use serde::{Deserialize, Serialize};

pub use crate::audit::{
    Action, Actor, Record,
    chain::{Problem as AuditProblem, Report as AuditReport, Verifier, read_export_line},
};

/// `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// Records in order.
    pub records: Vec<AuditEntry>,
}

/// One record with its place and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place in the log.
    pub sequence: i64,
    /// Its hash, which covers the hash before it.
    pub hash: String,
    /// The record; absent if what is stored is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}
