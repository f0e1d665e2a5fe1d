//! The SPIRE Server API and Entente's federation work service: one resource a file.
//!
//! [`authorize`] stands in front of every handler and decides by [`permissions`]. Handlers convert the request, call
//! the store or the CA, and convert the answer; what fails is named in the texts that SPIRE's clients know.

use std::{collections::BTreeSet, sync::Arc};

use federation_specs::{
    id::{SpiffeId, TrustDomain},
    proto::{
        entente::federation::federation_work_server::FederationWorkServer,
        health::health_server::HealthServer,
        server::{
            agent::agent_server::AgentServer, bundle::bundle_server::BundleServer, debug::debug_server::DebugServer,
            entry::entry_server::EntryServer, localauthority::local_authority_server::LocalAuthorityServer,
            logger::logger_server::LoggerServer, svid::svid_server::SvidServer,
            trustdomain::trust_domain_server::TrustDomainServer,
        },
    },
};
use service_kit::{clock::SharedClock, database::Database, lifecycle::Shutdown, telemetry::LogHandle};
use time::OffsetDateTime;
use tonic::service::Routes;

use crate::{attestors::NodeAttestors, authorized::EntryIndex, ca::CaManager, store::Store};

mod agent_filter;
mod agents;
mod attest;
pub mod authorize;
mod authorized_entries;
mod batch;
mod bundle_masks;
mod bundles;
pub mod caller;
mod debug;
mod entries;
mod entry_conversion;
mod entry_filter;
mod federated_bundles;
mod federation_work;
mod health;
mod ids;
mod local_authority;
mod logger;
pub mod permissions;
pub mod rate_limit;
mod refresh;
mod relationship_conversion;
mod renew;
mod status;
mod svids;
mod trust_domains;

#[cfg(test)]
mod tests;

pub use refresh::RefreshRequests;

/// Largest request message in bytes, as gRPC's default; it also bounds every list in a request.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// What the handlers share.
#[derive(Debug)]
pub struct Shared {
    /// The issuer's trust domain.
    pub trust_domain: TrustDomain,
    /// Entries, nodes, tokens, bundles, relationships.
    pub store: Store,
    /// The database under the store.
    pub database: Database,
    /// Signs and rotates.
    pub ca: Arc<CaManager>,
    /// Which entries an agent gets.
    pub index: Arc<EntryIndex>,
    /// Configured node attestors.
    pub attestors: NodeAttestors,
    /// Limits per client address.
    pub limits: rate_limit::RateLimits,
    /// Time.
    pub clock: SharedClock,
    /// The running log.
    pub log: LogHandle,
    /// When the issuer started.
    pub started_at: OffsetDateTime,
    /// JWT-SVIDs are not issued.
    pub jwt_svids_disabled: bool,
    /// Bundle refreshes that wait for a gateway.
    pub refreshes: RefreshRequests,
    /// Ends long streams.
    pub shutdown: Shutdown,
}

impl Shared {
    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }
}

/// Who has administration rights by configuration, and whether calls are written to the audit log.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// SPIFFE IDs of any trust domain.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// Log every permitted call.
    pub audit_log: bool,
}

/// The services of the TCP listener, behind authorization.
pub fn tcp_routes(shared: &Arc<Shared>, access: &Access) -> Routes {
    authorized(common_routes(shared), shared, access, false)
}

/// The services of the Unix socket, behind authorization.
pub fn local_routes(shared: &Arc<Shared>, access: &Access) -> Routes {
    let routes = common_routes(shared)
        .add_service(DebugServer::new(debug::DebugService::new(Arc::clone(shared))))
        .add_service(LoggerServer::new(logger::LoggerService::new(shared.log.clone())))
        .add_service(HealthServer::new(health::HealthService::new(Arc::clone(shared))));
    authorized(routes, shared, access, true)
}

fn common_routes(shared: &Arc<Shared>) -> Routes {
    macro_rules! service {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(MAX_REQUEST_BYTES)
        };
    }
    let shared = || Arc::clone(shared);
    Routes::default()
        .add_service(service!(AgentServer, agents::AgentService::new(shared())))
        .add_service(service!(BundleServer, bundles::BundleService::new(shared())))
        .add_service(service!(EntryServer, entries::EntryService::new(shared())))
        .add_service(service!(SvidServer, svids::SvidService::new(shared())))
        .add_service(service!(TrustDomainServer, trust_domains::TrustDomainService::new(shared())))
        .add_service(service!(LocalAuthorityServer, local_authority::LocalAuthorityService::new(shared())))
        .add_service(service!(FederationWorkServer, federation_work::FederationWorkService::new(shared())))
}

fn authorized(routes: Routes, shared: &Arc<Shared>, access: &Access, local: bool) -> Routes {
    let authorizer = authorize::Authorizer::new(shared.store.clone(), access.clone(), shared.clock.clone());
    Routes::from(routes.into_axum_router().layer(authorizer.layer(local)))
}
