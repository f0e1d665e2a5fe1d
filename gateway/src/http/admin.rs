//! The admin API on the local Unix socket: JSON, one type an answer ([`crate::api`]).
//!
//! | Method and path | Answer |
//! |---|---|
//! | `GET /v1/relationships` | [`RelationshipList`] |
//! | `GET /v1/relationships/{trust_domain}` | [`Relationship`] |
//! | `POST /v1/relationships/{trust_domain}/refresh` | [`RefreshResult`] once it is done |
//! | `POST /v1/relationships/{trust_domain}/approve`, `…/reject` | [`crate::api::Decided`] |
//! | `POST /v1/relationships/{trust_domain}/freeze`, `…/unfreeze` | [`crate::api::Decided`] |
//! | `POST /v1/relationships/{trust_domain}/restore` | [`crate::api::Decided`] |
//! | `GET /v1/audit?last=\|after=&limit=&subject=` | [`crate::api::audit::AuditPage`] |
//! | `GET /v1/audit/export?after=&limit=` | JSON lines, each a record with its hash |
//! | `GET /v1/audit/verify?head=` | [`crate::api::audit::AuditReport`] |
//! | `GET /v1/bundles` | [`BundleList`] |
//! | `GET /v1/bundles/{trust_domain}?format=spiffe\|pem` | the bundle |
//! | `GET /v1/bundles/{trust_domain}/history` | [`BundleHistory`] |
//! | `GET /v1/health` | [`HealthReport`] |

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use federation_specs::{bundle::Bundle, bundle_json, id::TrustDomain};
use http::{Method, Uri, header};
use serde::Deserialize;
use service_kit::{clock::SharedClock, health::Readiness};

use super::{admin_peer::Peer, problem::AdminError};
use crate::{
    api::{
        BundleHistory, BundleKind, BundleList, BundleSummary, HealthReport, RefreshRequest, RefreshResult,
        Relationship, RelationshipList, SubsystemHealth,
    },
    partners::PartnerBundles,
    refresh::manager::{Manager, summary},
    served::ServedDomains,
    store::{Store, partner_bundles::MAX_HISTORY},
};

/// Largest request body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the admin API reads and moves.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Relationships.
    pub manager: Manager,
    /// Own bundles.
    pub served: Arc<ServedDomains>,
    /// Partners' bundles.
    pub partners: Arc<PartnerBundles>,
    /// History.
    pub store: Store,
    /// Subsystems.
    pub readiness: Readiness,
    /// The clock.
    pub clock: SharedClock,
}

pub(super) type Answer<T> = Result<Json<T>, AdminError>;

/// The service of the admin socket.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/relationships", get(list_relationships))
        .route("/v1/relationships/{trust_domain}", get(show_relationship))
        .route("/v1/relationships/{trust_domain}/refresh", post(refresh))
        .merge(super::admin_decisions::routes())
        .merge(super::admin_audit::routes())
        .route("/v1/bundles", get(list_bundles))
        .route("/v1/bundles/{trust_domain}", get(show_bundle))
        .route("/v1/bundles/{trust_domain}/history", get(history))
        .route("/v1/health", get(health))
        .merge(super::sources::router())
        .fallback(async |uri: Uri| AdminError::NoSuchPath(uri.path().chars().take(256).collect()))
        .method_not_allowed_fallback(async |method: Method| AdminError::Method(method))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(admin)
}

async fn list_relationships(State(admin): State<Admin>) -> Json<RelationshipList> {
    Json(RelationshipList { relationships: admin.manager.list() })
}

async fn show_relationship(State(admin): State<Admin>, Path(name): Path<String>) -> Answer<Relationship> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    admin.manager.get(&partner).map(Json).ok_or(AdminError::NoRelationship(partner))
}

/// The body, or its default where none was sent.
pub(super) fn body<T: Default + serde::de::DeserializeOwned>(bytes: &Bytes) -> Result<T, AdminError> {
    match bytes.is_empty() {
        true => Ok(T::default()),
        false => serde_json::from_slice(bytes).map_err(|cause| AdminError::Body(cause.to_string())),
    }
}

async fn refresh(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<RefreshResult> {
    let partner = TrustDomain::from_name_or_id(&name)?;
    let options: RefreshRequest = body(&bytes)?;
    let changed = admin.manager.refresh(&partner, options, peer.actor().await).await?;
    let relationship = admin.manager.get(&partner).ok_or(AdminError::NoRelationship(partner))?;
    Ok(Json(RefreshResult { changed, relationship }))
}

async fn list_bundles(State(admin): State<Admin>) -> Json<BundleList> {
    let own = admin.served.iter().filter_map(|domain| {
        let now = domain.current()?;
        Some(BundleSummary::new(&now.bundle, BundleKind::Own, &now.digest, now.changed_at))
    });
    let mut bundles: Vec<_> = own.chain(admin.partners.list().iter().map(|held| summary(held))).collect();
    bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
    Json(BundleList { bundles })
}

#[derive(Debug, Deserialize)]
struct Format {
    format: Option<String>,
}

async fn show_bundle(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(query): Query<Format>,
) -> Result<Response, AdminError> {
    let trust_domain = TrustDomain::from_name_or_id(&name)?;
    let bundle = find(&admin, &trust_domain).ok_or(AdminError::NoBundle(trust_domain))?;
    match query.format.as_deref() {
        None | Some("spiffe") => {
            Ok(([(header::CONTENT_TYPE, "application/json")], bundle_json::encode(&bundle)).into_response())
        }
        Some("pem") => Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], bundle.to_pem()).into_response()),
        Some(other) => Err(AdminError::Format(other.chars().take(64).collect())),
    }
}

async fn history(State(admin): State<Admin>, Path(name): Path<String>) -> Answer<BundleHistory> {
    let trust_domain = TrustDomain::from_name_or_id(&name)?;
    let bundles = admin.store.history(&trust_domain, MAX_HISTORY.try_into().unwrap_or(u32::MAX)).await?;
    if bundles.is_empty() && find(&admin, &trust_domain).is_none() {
        return Err(AdminError::NoBundle(trust_domain));
    }
    Ok(Json(BundleHistory { trust_domain: trust_domain.to_string(), bundles }))
}

async fn health(State(admin): State<Admin>) -> Json<HealthReport> {
    let subsystems = admin
        .readiness
        .snapshot()
        .into_iter()
        .map(|(name, state)| (name, SubsystemHealth { ready: state.ready && state.live, reason: state.reason }));
    Json(HealthReport { ready: admin.readiness.is_ready(), subsystems: subsystems.collect() })
}

fn find(admin: &Admin, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
    let own = admin.served.bundle(trust_domain);
    own.or_else(|| admin.partners.get(trust_domain).map(|held| Arc::clone(&held.bundle)))
}
