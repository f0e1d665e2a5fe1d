//! Relationships created, replaced, removed and applied.

use axum::extract::{FromRequestParts, State};
use http::{HeaderValue, header, request::Parts};
use serde::Deserialize;
use utoipa::{IntoParams, openapi::HttpMethod};

use federation_specs::id::TrustDomain;

use super::{
    Admin,
    caller::Caller,
    extract::{Input, Named, Params},
    operation::Operation,
    reason,
    tag::{IfMatch, Tag, Tagged},
};
use crate::{
    api::{
        Role,
        managed::{
            ApplyRequest, ApplyResult, ChangeKind, Definition, FieldChange, Managed, ManagedChange, ManagedDefinition,
            ResourceChange,
        },
    },
    http::problem::{AdminError, Kind as ProblemKind},
    managed::{
        definition,
        error::ManagedError,
        plan::{Change, Kind, Ownership, Plan, Precondition, check_set},
    },
    settings::{MAX_BOOTSTRAP_BUNDLE_BYTES, MAX_CA_PEM_BYTES},
};

/// Largest definition of one relationship: its documents, written as JSON texts, and the rest.
const MAX_DEFINITION_BYTES: usize = 2 * (MAX_CA_PEM_BYTES + MAX_BOOTSTRAP_BUNDLE_BYTES) + 64 * 1024;

/// Largest body of an apply: 10,000 relationships with a certificate authority each.
const MAX_APPLY_BYTES: usize = 32 * 1024 * 1024;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/relationships/{trust_domain}/definition",
            Role::Viewer,
            ("getRelationshipDefinition", "A managed relationship as it was written"),
            definition,
        )
        .answers::<ManagedDefinition>()
        .tagged()
        .problems(&[
            ProblemKind::UnknownRelationship,
            ProblemKind::DefinedElsewhere,
            ProblemKind::DatabaseFailure,
        ]),
        Operation::new(
            HttpMethod::Put,
            "/v1/relationships/{trust_domain}",
            Role::Admin,
            ("putRelationship", "Create or replace a relationship"),
            replace,
        )
        .remark(
            "`If-None-Match: *` only creates. `If-Match` takes the ETag of the relationship or of its definition. What is \
             there already is left as it is, without a record.",
        )
        .query::<Reason>()
        .body::<Definition>()
        .body_limit(MAX_DEFINITION_BYTES)
        .answers::<ManagedChange>()
        .tagged()
        .problems(&[
            ProblemKind::DefinedElsewhere,
            ProblemKind::UnusableRelationship,
            ProblemKind::TooManyRelationships,
            ProblemKind::DatabaseFailure,
            ProblemKind::Defect,
        ]),
        Operation::new(
            HttpMethod::Delete,
            "/v1/relationships/{trust_domain}",
            Role::Admin,
            ("deleteRelationship", "Remove a managed relationship, and its bundle from the issuers"),
            remove,
        )
        .remark("`If-Match` takes the ETag of the relationship or of its definition.")
        .query::<Reason>()
        .answers::<ManagedChange>()
        .tagged()
        .problems(&[
            ProblemKind::UnknownRelationship,
            ProblemKind::DefinedElsewhere,
            ProblemKind::DatabaseFailure,
            ProblemKind::Defect,
        ]),
        Operation::new(
            HttpMethod::Post,
            "/v1/apply",
            Role::Admin,
            ("apply", "Make the relationships of a set those given, all or nothing"),
            apply,
        )
        .body::<ApplyRequest>()
        .body_limit(MAX_APPLY_BYTES)
        .answers::<ApplyResult>()
        .problems(&[
            ProblemKind::BadTrustDomain,
            ProblemKind::DefinedElsewhere,
            ProblemKind::RemovalNotConfirmed,
            ProblemKind::UnusableRelationship,
            ProblemKind::TooManyRelationships,
            ProblemKind::DatabaseFailure,
            ProblemKind::Defect,
        ]),
    ]
}

/// Why something is done.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Reason {
    /// Why, for the audit log.
    why: String,
}

/// The relationship a request is about, the state it must be in, and who asks.
struct Order {
    admin: Admin,
    by: Caller,
    partner: TrustDomain,
    precondition: Option<Precondition>,
    why: String,
}

impl FromRequestParts<Admin> for Order {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, AdminError> {
        let by = Caller::from_request_parts(parts, admin).await?;
        let Named(partner) = Named::from_request_parts(parts, admin).await?;
        let Params(Reason { why }) = Params::from_request_parts(parts, admin).await?;
        reason(&why)?;
        let condition = IfMatch::from_request_parts(parts, admin).await?;
        let precondition = match parts.headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes) {
            None => as_seen(admin, &partner, &condition).await?,
            Some(b"*") => Some(Precondition::Absent),
            Some(_) => return Err(AdminError::Condition),
        };
        Ok(Self { admin: admin.clone(), by, partner, precondition, why })
    }
}

/// The version that is there, if the request is about that state.
async fn as_seen(
    admin: &Admin,
    partner: &TrustDomain,
    condition: &IfMatch,
) -> Result<Option<Precondition>, AdminError> {
    if condition.holds(None) {
        return Ok(None);
    }
    let version = match admin.managed.definition(partner).await {
        Ok(stored) => stored.version,
        Err(ManagedError::Unknown(_)) => return Err(AdminError::Changed),
        Err(error) => return Err(error.into()),
    };
    let relationship = admin.manager.get(partner).as_ref().map(Tag::of_relationship);
    let same = condition.holds(Some(&Tag::of_version(version))) || condition.holds(relationship.as_ref());
    if same { Ok(Some(Precondition::Version(version))) } else { Err(AdminError::Changed) }
}

impl From<&Change> for ResourceChange {
    fn from(change: &Change) -> Self {
        let fields = change.fields.iter().map(|(field, before, after)| FieldChange {
            field: field.clone(),
            before: before.clone(),
            after: after.clone(),
        });
        Self {
            trust_domain: change.trust_domain.to_string(),
            change: match change.kind {
                Kind::Added => ChangeKind::Added,
                Kind::Changed => ChangeKind::Changed,
                Kind::Unchanged => ChangeKind::Unchanged,
                Kind::Removed => ChangeKind::Removed,
            },
            fields: fields.collect(),
        }
    }
}

/// The answer about one relationship.
fn changed(admin: &Admin, plan: &Plan, partner: TrustDomain) -> Result<Tagged<ManagedChange>, AdminError> {
    let tag = admin.manager.get(&partner).as_ref().map(Tag::of_relationship);
    let change = plan.changes.first().ok_or(ManagedError::Unknown(partner))?;
    let managed = Managed { set: change.set.clone(), version: change.version };
    let tag = tag.unwrap_or_else(|| Tag::of_version(change.version));
    Ok(Tagged(tag, ManagedChange { change: change.into(), managed }))
}

async fn definition(
    State(admin): State<Admin>,
    Named(partner): Named,
) -> Result<Tagged<ManagedDefinition>, AdminError> {
    let stored = admin.managed.definition(&partner).await?;
    let definition = definition::read(&stored.definition).map_err(ManagedError::Defect)?;
    let managed = Managed { set: stored.set, version: stored.version };
    let answer = ManagedDefinition { definition, managed, changed_at: stored.changed_at };
    Ok(Tagged(Tag::of_version(stored.version), answer))
}

async fn replace(order: Order, Input(item): Input<Definition>) -> Result<Tagged<ManagedChange>, AdminError> {
    let Order { admin, by, partner, precondition, why } = order;
    if TrustDomain::from_name_or_id(&item.trust_domain)? != partner {
        return Err(AdminError::Body(format!("it defines `{}`, but the path names `{partner}`", item.trust_domain)));
    }
    let plan = admin.managed.put(&item, precondition, by.actor().await, &why).await?;
    changed(&admin, &plan, partner)
}

async fn remove(order: Order) -> Result<Tagged<ManagedChange>, AdminError> {
    let Order { admin, by, partner, precondition, why } = order;
    let plan = admin.managed.delete(&partner, precondition, by.actor().await, &why).await?;
    changed(&admin, &plan, partner)
}

async fn apply(
    State(admin): State<Admin>,
    caller: Caller,
    Input(request): Input<ApplyRequest>,
) -> Result<axum::Json<ApplyResult>, AdminError> {
    let ApplyRequest { set, relationships, dry_run, prune, confirmed, take_over, why } = request;
    check_set(&set)?;
    let why = match reason(&why)? {
        "" => format!("applied with set {set}"),
        why => why.to_owned(),
    };
    let ownership = Ownership::Set { name: set.clone(), prune, confirmed, take_over };
    let plan = admin.managed.apply(&relationships, ownership, dry_run, caller.actor().await, &why).await?;
    let needs_confirmation = plan.needs_confirmation;
    let changes = plan.changes.iter().map(ResourceChange::from).collect();
    Ok(axum::Json(ApplyResult { set, dry_run, changes, needs_confirmation }))
}
