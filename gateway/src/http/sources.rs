//! The sources of the served trust domains, in the admin API.
//!
//! | Method and path | Answer |
//! |---|---|
//! | `GET /v1/sources` | [`SourceList`] |
//! | `POST /v1/sources/{trust_domain}/accept` | [`AcceptedSources`]: held bundles are published from now on |

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, State},
    routing::{get, post},
};
use federation_specs::id::TrustDomain;

use super::{
    admin::{Admin, body},
    admin_decisions::reason,
    admin_peer::Peer,
    problem::AdminError,
};
use crate::{
    api::{
        ReasonRequest,
        sources::{AcceptedSources, Source, SourceList},
    },
    source,
};

/// Routes to be merged into the admin API.
pub(crate) fn router() -> Router<Admin> {
    Router::new().route("/v1/sources", get(list)).route("/v1/sources/{trust_domain}/accept", post(accept))
}

async fn list(State(admin): State<Admin>) -> Json<SourceList> {
    let mut sources = Vec::new();
    for domain in admin.served.iter() {
        sources.extend(domain.sources().status().into_iter().map(|status| Source {
            trust_domain: domain.name().to_string(),
            source: status.key,
            sequence: status.accepted.as_ref().and_then(|bundle| bundle.sequence()),
            x509_authorities: status.accepted.as_ref().map_or(0, |bundle| bundle.x509_authorities().len()),
            jwt_authorities: status.accepted.as_ref().map_or(0, |bundle| bundle.jwt_authorities().len()),
            held: status.held.map(|reason| reason.to_string()),
            held_since: status.held_since,
            failing_since: status.failing_since,
            last_error: status.last_error,
        }));
    }
    Json(SourceList { sources })
}

async fn accept(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Result<Json<AcceptedSources>, AdminError> {
    let request: ReasonRequest = body(&bytes)?;
    let why = reason(&request.why)?;
    let trust_domain = TrustDomain::from_name_or_id(&name)?;
    let domain = admin.served.get(&trust_domain).ok_or_else(|| AdminError::NoBundle(trust_domain.clone()))?;
    let accepted = source::accept_held(domain, &admin.store, &admin.clock, &peer.actor().await, why)
        .await
        .map_err(AdminError::Source)?;
    tracing::warn!(%trust_domain, sources = ?accepted, "held sources accepted by an operator");
    Ok(Json(AcceptedSources { trust_domain: trust_domain.to_string(), accepted }))
}
