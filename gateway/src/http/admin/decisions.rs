//! Decisions of operators about relationships.

use axum::extract::FromRequestParts;
use federation_specs::id::TrustDomain;
use http::request::Parts;
use utoipa::openapi::HttpMethod;

use super::{
    Admin,
    caller::Caller,
    extract::{Input, InputOrDefault, Named},
    operation::Operation,
    reason,
    tag::{IfMatch, Tag, Tagged},
    to_the_end,
};
use crate::{
    api::{ApproveRequest, Decided, ReasonRequest, RestoreRequest, Role},
    audit::Order,
    http::problem::{AdminError, Kind},
};

type Answer = Result<Tagged<Decided>, AdminError>;

pub(super) fn operations() -> Vec<Operation> {
    let common = |operation: Operation| {
        operation.answers::<Decided>().tagged().problems(&[
            Kind::UnknownRelationship,
            Kind::DecisionNotPossible,
            Kind::DatabaseFailure,
        ])
    };
    let looked_at = "Name the bundle that was looked at: by `digest`, or the whole relationship by If-Match.";
    vec![
        common(Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/approve",
            Role::Operator,
            ("approveBundle", "Put the bundle that waits in force"),
            approve,
        ))
        .remark(looked_at)
        .body::<ApproveRequest>()
        .problems(&[Kind::ConditionNeeded, Kind::UnacceptableBundle]),
        common(Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/reject",
            Role::Operator,
            ("rejectBundle", "Turn the bundle that waits down"),
            reject,
        ))
        .remark(looked_at)
        .body::<ApproveRequest>()
        .problems(&[Kind::ConditionNeeded]),
        common(Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/freeze",
            Role::Operator,
            ("freezeRelationship", "Stop a relationship in place"),
            freeze,
        ))
        .optional_body::<ReasonRequest>(),
        common(Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/unfreeze",
            Role::Operator,
            ("unfreezeRelationship", "Let a frozen relationship go on"),
            unfreeze,
        ))
        .optional_body::<ReasonRequest>(),
        common(Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/restore",
            Role::Operator,
            ("restoreBundle", "Put a bundle of the history, or the one that waits, in force by its name"),
            restore,
        ))
        .remark("The relationship is frozen with it, unless it is pinned.")
        .body::<RestoreRequest>()
        .problems(&[Kind::UnknownBundle, Kind::AmbiguousBundle, Kind::UnacceptableBundle]),
    ]
}

/// Who decides about which relationship, and in which state they saw it.
struct Decision {
    admin: Admin,
    caller: Caller,
    partner: TrustDomain,
    condition: IfMatch,
}

impl FromRequestParts<Admin> for Decision {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, AdminError> {
        let caller = Caller::from_request_parts(parts, admin).await?;
        let Named(partner) = Named::from_request_parts(parts, admin).await?;
        let condition = IfMatch::from_request_parts(parts, admin).await?;
        Ok(Self { admin: admin.clone(), caller, partner, condition })
    }
}

/// What is decided.
enum Verb {
    Approve(Option<String>),
    Reject(Option<String>),
    Freeze,
    Unfreeze,
    Restore(String),
}

impl Decision {
    /// Whoever decides about a waiting bundle says which one they looked at.
    fn names(&self, digest: Option<&str>) -> Result<(), AdminError> {
        if digest.is_some() || self.condition.is_given() {
            return Ok(());
        }
        Err(AdminError::ConditionNeeded(
            "a decision about a waiting bundle names it: send its digest, or If-Match with the ETag of the relationship",
        ))
    }

    async fn take(self, verb: Verb, why: String) -> Answer {
        reason(&why)?;
        to_the_end(async move { self.decide(verb, &why).await }).await
    }

    async fn decide(self, verb: Verb, why: &str) -> Answer {
        let Self { admin, caller, partner, condition } = self;
        let by = caller.actor().await;
        let tag = || admin.manager.get(&partner).as_ref().map(Tag::of_relationship);
        let as_seen = || condition.holds(tag().as_ref());
        let order = Order { by: &by, why, as_seen: &as_seen };
        let manager = &admin.manager;
        match verb {
            Verb::Approve(digest) => manager.approve(&partner, digest.as_deref(), &order).await,
            Verb::Reject(digest) => manager.reject(&partner, digest.as_deref(), &order).await,
            Verb::Freeze => manager.freeze(&partner, &order).await,
            Verb::Unfreeze => manager.unfreeze(&partner, &order).await,
            Verb::Restore(bundle) => manager.restore(&partner, &bundle, &order).await,
        }?;
        let relationship = manager.get(&partner).ok_or(AdminError::NoRelationship(partner))?;
        Ok(Tagged(Tag::of_relationship(&relationship), Decided { relationship }))
    }
}

async fn approve(decision: Decision, Input(request): Input<ApproveRequest>) -> Answer {
    decision.names(request.digest.as_deref())?;
    decision.take(Verb::Approve(request.digest), request.why).await
}

async fn reject(decision: Decision, Input(request): Input<ApproveRequest>) -> Answer {
    decision.names(request.digest.as_deref())?;
    decision.take(Verb::Reject(request.digest), request.why).await
}

async fn freeze(decision: Decision, InputOrDefault(request): InputOrDefault<ReasonRequest>) -> Answer {
    decision.take(Verb::Freeze, request.why).await
}

async fn unfreeze(decision: Decision, InputOrDefault(request): InputOrDefault<ReasonRequest>) -> Answer {
    decision.take(Verb::Unfreeze, request.why).await
}

async fn restore(decision: Decision, Input(request): Input<RestoreRequest>) -> Answer {
    decision.take(Verb::Restore(request.bundle), request.why).await
}
