//! Decisions of operators about relationships.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, State},
    routing::post,
};
use federation_specs::id::TrustDomain;

use super::{
    admin::{Admin, Answer, body},
    admin_peer::Peer,
    problem::AdminError,
};
use crate::{
    api::{ApproveRequest, Decided, ReasonRequest, RestoreRequest},
    audit::MAX_WHY_BYTES,
};

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/v1/relationships/{trust_domain}/approve", post(approve))
        .route("/v1/relationships/{trust_domain}/reject", post(reject))
        .route("/v1/relationships/{trust_domain}/freeze", post(freeze))
        .route("/v1/relationships/{trust_domain}/unfreeze", post(unfreeze))
        .route("/v1/relationships/{trust_domain}/restore", post(restore))
}

pub(super) fn reason(why: &str) -> Result<&str, AdminError> {
    if why.len() > MAX_WHY_BYTES { Err(AdminError::LongReason) } else { Ok(why) }
}

fn decided(admin: &Admin, partner: TrustDomain) -> Answer<Decided> {
    let relationship = admin.manager.get(&partner).ok_or(AdminError::NoRelationship(partner))?;
    Ok(Json(Decided { relationship }))
}

async fn approve(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<Decided> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let request: ApproveRequest = body(&bytes)?;
    let why = reason(&request.why)?;
    admin.manager.approve(&partner, request.digest.as_deref(), &peer.actor().await, why).await?;
    decided(&admin, partner)
}

async fn reject(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<Decided> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let request: ApproveRequest = body(&bytes)?;
    let why = reason(&request.why)?;
    admin.manager.reject(&partner, request.digest.as_deref(), &peer.actor().await, why).await?;
    decided(&admin, partner)
}

async fn freeze(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<Decided> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let request: ReasonRequest = body(&bytes)?;
    admin.manager.freeze(&partner, &peer.actor().await, reason(&request.why)?).await?;
    decided(&admin, partner)
}

async fn unfreeze(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<Decided> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let request: ReasonRequest = body(&bytes)?;
    admin.manager.unfreeze(&partner, &peer.actor().await, reason(&request.why)?).await?;
    decided(&admin, partner)
}

async fn restore(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<Decided> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let request: RestoreRequest = body(&bytes)?;
    let why = reason(&request.why)?;
    admin.manager.restore(&partner, &request.bundle, &peer.actor().await, why).await?;
    decided(&admin, partner)
}
