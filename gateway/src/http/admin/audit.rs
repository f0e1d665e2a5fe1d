//! The audit log.

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use federation_specs::id::TrustDomain;
use http::header;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema, openapi::HttpMethod};

use super::{
    Admin,
    extract::Params,
    operation::Operation,
    page::{MAX_LIMIT, Page},
    tag::Tagged,
};
use crate::{
    api::{
        Role,
        audit::{AuditPage, AuditReport},
    },
    audit::chain::export_line,
    http::problem::{AdminError, Kind},
    store::audit::{AuditQuery, StoredRecord},
};

const JSON_LINES: &str = "application/jsonl";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(HttpMethod::Get, "/v1/audit", Role::Viewer, ("listAudit", "Records of the audit log"), list)
            .paged::<Filter>()
            .answers::<AuditPage>()
            .tagged()
            .problems(&[Kind::BadTrustDomain, Kind::DatabaseFailure]),
        Operation::new(
            HttpMethod::Get,
            "/v1/audit/export",
            Role::Admin,
            ("exportAudit", "The audit log as JSON lines, each a record with its hash"),
            export,
        )
        .remark("Ask again with the last number until nothing comes.")
        .query::<Part>()
        .answers_text(JSON_LINES)
        .problems(&[Kind::DatabaseFailure]),
        Operation::new(
            HttpMethod::Get,
            "/v1/audit/verify",
            Role::Viewer,
            ("verifyAudit", "Check that no record was changed, removed or moved"),
            verify,
        )
        .query::<Copy>()
        .answers::<AuditReport>()
        .problems(&[Kind::DatabaseFailure]),
    ]
}

/// Which record comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Oldest,
    Newest,
}

/// Which records are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// At most this many in one answer, 1 to 1000; 100 unless given.
    limit: Option<u32>,
    /// `next_page_token` of the page before; the filter must be the same.
    page_token: Option<String>,
    /// Which record comes first; the oldest unless given.
    #[param(inline)]
    order: Order,
    /// Only those about this trust domain, deliveries included.
    subject: Option<String>,
}

/// Which part of the log is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Part {
    /// Only records with a higher number.
    after: i64,
    /// At most this many in one answer, 1 to 1000; 1000 unless given.
    limit: Option<u32>,
}

/// What the log is compared with.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Copy {
    /// A head hash from before: everything up to it must still be there.
    head: Option<String>,
}

async fn list(State(admin): State<Admin>, Params(filter): Params<Filter>) -> Result<Tagged<AuditPage>, AdminError> {
    let subject = filter.subject.as_deref().map(TrustDomain::from_name_or_id).transpose()?;
    let asked = (filter.order, subject.as_ref().map(TrustDomain::as_str));
    let page = Page::new("audit", &asked, filter.limit, filter.page_token.as_deref())?;
    let last = page.after_parsed::<i64>()?;
    let newest = filter.order == Order::Newest;
    let query = AuditQuery {
        after: last.filter(|_| !newest).unwrap_or_default(),
        before: last.filter(|_| newest),
        newest,
        subject: subject.as_ref(),
        limit: page.wanted().try_into().unwrap_or(u32::MAX),
    };
    let mut records = admin.store.audit_records(&query).await?;
    if newest {
        records.reverse();
    }
    let (records, next_page_token) = page.cut(records, |record| record.sequence.to_string());
    Ok(Tagged::whole(AuditPage { records: records.into_iter().map(StoredRecord::read).collect(), next_page_token }))
}

async fn export(State(admin): State<Admin>, Params(part): Params<Part>) -> Result<Response, AdminError> {
    let limit = part.limit.unwrap_or(MAX_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(AdminError::Query(format!("limit is {limit}; ask for 1 to {MAX_LIMIT}")));
    }
    let query = AuditQuery { after: part.after, limit, ..AuditQuery::default() };
    let records = admin.store.audit_records(&query).await?;
    let lines: String = records.iter().map(|record| export_line(&record.record, &record.hash)).collect();
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], lines).into_response())
}

async fn verify(State(admin): State<Admin>, Params(copy): Params<Copy>) -> Result<axum::Json<AuditReport>, AdminError> {
    if let Some(head) = &copy.head
        && !(head.len() == 64 && head.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        // A slip must not look like a log that was cut off.
        return Err(AdminError::Query("head is no hash; 64 hexadecimal digits are expected".to_owned()));
    }
    Ok(axum::Json(admin.store.verify_audit(copy.head.as_deref()).await?))
}
