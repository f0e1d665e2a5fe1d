//! The audit log.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::get,
};
use federation_specs::id::TrustDomain;
use http::header;
use serde::Deserialize;

use super::{
    admin::{Admin, Answer},
    problem::AdminError,
};
use crate::{
    api::audit::{AuditPage, AuditReport},
    audit::chain::export_line,
    store::audit::{AuditQuery, MAX_PAGE, StoredRecord},
};

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/v1/audit", get(list))
        .route("/v1/audit/export", get(export))
        .route("/v1/audit/verify", get(verify))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Range {
    after: i64,
    limit: Option<u32>,
    last: Option<u32>,
    subject: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Copy {
    head: Option<String>,
}

type Parsed<T> = Result<Query<T>, QueryRejection>;

fn query<T>(query: Parsed<T>) -> Result<T, AdminError> {
    query.map(|Query(query)| query).map_err(|cause| AdminError::Query(cause.body_text()))
}

async fn records(admin: &Admin, range: &Range) -> Result<Vec<StoredRecord>, AdminError> {
    let subject = range.subject.as_deref().map(TrustDomain::from_name_or_id).transpose()?;
    let query = AuditQuery {
        after: range.after,
        newest: range.last.is_some(),
        subject: subject.as_ref(),
        limit: range.last.or(range.limit).unwrap_or(MAX_PAGE),
    };
    Ok(admin.store.audit_records(&query).await?)
}

async fn list(State(admin): State<Admin>, range: Parsed<Range>) -> Answer<AuditPage> {
    let records = records(&admin, &query(range)?).await?;
    Ok(Json(AuditPage { records: records.into_iter().map(StoredRecord::read).collect() }))
}

async fn export(State(admin): State<Admin>, range: Parsed<Range>) -> Result<Response, AdminError> {
    let records = records(&admin, &query(range)?).await?;
    let lines: String = records.iter().map(|record| export_line(&record.record, &record.hash)).collect();
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], lines).into_response())
}

async fn verify(State(admin): State<Admin>, copy: Parsed<Copy>) -> Answer<AuditReport> {
    let copy = query(copy)?;
    Ok(Json(admin.store.verify_audit(copy.head.as_deref()).await?))
}
