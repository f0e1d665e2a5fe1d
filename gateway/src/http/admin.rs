//! The admin API: JSON, one type an answer ([`crate::api`]). [`openapi`] describes it, and docs/admin-api.md.

mod audit;
mod bundles;
pub(crate) mod caller;
mod decisions;
pub(crate) mod extract;
mod health;
mod managed;
pub mod openapi;
pub(crate) mod operation;
pub mod page;
mod publishers;
mod relationships;
mod sources;
pub(crate) mod tag;
mod webhooks;

use std::sync::Arc;

use axum::{Router, error_handling::HandleErrorLayer, extract::DefaultBodyLimit, middleware::from_fn};
use http::{Method, Uri};
use service_kit::{clock::SharedClock, health::Readiness};
use tower::{BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};

use self::operation::Operation;
use super::problem::AdminError;
use crate::{
    audit::MAX_WHY_BYTES, managed::Managed, partners::PartnerBundles, publish::PublisherStatuses,
    refresh::manager::Manager, served::ServedDomains, store::Store, webhook::Webhooks,
};

/// Largest request body, where an operation does not say otherwise.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Requests answered at the same moment; further ones get 503 at once.
pub const MAX_CONCURRENT_REQUESTS: usize = 256;

/// Longest path that is repeated in an answer, in characters.
const MAX_PATH_SHOWN: usize = 256;

/// What the admin API reads and moves.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Relationships.
    pub manager: Manager,
    /// Those that are managed here.
    pub managed: Managed,
    /// Own bundles.
    pub served: Arc<ServedDomains>,
    /// Partners' bundles.
    pub partners: Arc<PartnerBundles>,
    /// History.
    pub store: Store,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// Subsystems.
    pub readiness: Readiness,
    /// Publishers of own bundles.
    pub publishers: PublisherStatuses,
    /// The clock.
    pub clock: SharedClock,
}

/// Everything the admin API does. What is not here is neither served nor documented.
fn operations() -> Vec<Operation> {
    [
        relationships::operations(),
        managed::operations(),
        decisions::operations(),
        bundles::operations(),
        sources::operations(),
        publishers::operations(),
        audit::operations(),
        webhooks::operations(),
        health::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The service of the admin API. Whoever is in front of it says who calls: [`caller::Caller`].
pub fn router(admin: Admin) -> Router {
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |_: BoxError| AdminError::Overloaded))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(MAX_CONCURRENT_REQUESTS));
    operations()
        .into_iter()
        .fold(Router::new(), |router, operation| router.route(operation.path(), operation.into_route()))
        .fallback(async |uri: Uri| AdminError::NoSuchPath(uri.path().chars().take(MAX_PATH_SHOWN).collect()))
        .method_not_allowed_fallback(async |method: Method| AdminError::Method(method))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(tag::conditional))
        .layer(limits)
        .with_state(admin)
}

/// Completes what was begun, although its caller may go away in the middle: what is stored and what the gateway knows
/// must stay the same.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, AdminError>> + Send + 'static,
) -> Result<T, AdminError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "admin request failed");
        Err(AdminError::Defect)
    })
}

/// The reason an operator gives, if it is not too long for the audit log.
fn reason(why: &str) -> Result<&str, AdminError> {
    if why.len() > MAX_WHY_BYTES { Err(AdminError::LongReason) } else { Ok(why) }
}
