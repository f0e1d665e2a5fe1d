//! Wiring of the admin API: the Unix socket, and the listener for other machines.

use std::{net::SocketAddr, sync::Arc};

use federation_specs::{bundle::BundleSet, id::TrustDomain};
use service_kit::tls::{BundleSource, SvidSource};

use super::{Error, Parts, gauges};
use crate::{
    admin_socket::AdminSocket,
    http::admin,
    issuer_client::IssuerClient,
    listeners::{
        Certificates, Listener, ListenerSetup,
        endpoint_identity::{EndpointIdentity, issuer::Minted, workload_api::FromWorkloadApi},
    },
    managed::Managed,
    partners::PartnerBundles,
    publish::PublisherStatuses,
    readiness::Gathered,
    refresh::manager::Manager,
    served::ServedDomains,
    settings::{AdminListener, EndpointSvidSettings, ServingLimits},
    webhook::Webhooks,
};

/// Name of the listener, and of the part `/ready` tells about.
const ADMIN: &str = "admin";

/// File name of its stored X509-SVID, which no trust domain can have.
const STORED_AS: &str = "+admin";

/// Most connections of the admin listener, and of one client there. People and programs need a few.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_PER_CLIENT: usize = 64;

/// The bundles callers are verified with: those of the trust domains whose members can have a role.
struct CallersTrust {
    trust_domains: Vec<TrustDomain>,
    served: Arc<ServedDomains>,
    partners: Arc<PartnerBundles>,
    manager: Manager,
}

impl BundleSource for CallersTrust {
    fn bundles(&self) -> Arc<BundleSet> {
        let bundle = |name: &TrustDomain| match self.served.get(name) {
            Some(domain) => domain.current().map(|now| Arc::clone(&now.bundle)),
            // A partner that did not confirm its bundle in time is not trusted here either.
            None if self.manager.is_expired(name) => None,
            None => self.partners.trusted(name).map(|held| Arc::clone(&held.bundle)),
        };
        Arc::new(self.trust_domains.iter().filter_map(bundle).collect())
    }
}

impl Parts {
    /// Binds the Unix socket, and the listener if there is one; answers the listener's address.
    pub(super) async fn admin(
        &mut self,
        manager: &Manager,
        managed: Managed,
        publishers: PublisherStatuses,
        webhooks: &Webhooks,
        clients: &[IssuerClient],
    ) -> Result<Option<SocketAddr>, Error> {
        let router = admin::router(admin::Admin {
            manager: manager.clone(),
            managed,
            served: Arc::clone(&self.served),
            partners: Arc::clone(&self.partners),
            store: self.store.clone(),
            webhooks: webhooks.clone(),
            readiness: self.readiness.clone(),
            publishers,
            clock: Arc::clone(&self.clock),
        });
        let socket = AdminSocket::bind(&self.settings.socket_path, Arc::clone(&self.clock))?;
        self.tasks.spawn("admin socket", socket.serve(router.clone(), self.shutdown.clone()));
        let Some(listener) = self.settings.admin.clone() else { return Ok(None) };
        let Some(svid) = self.admin_identity(&listener, clients) else { return Ok(None) };
        let AdminListener { address, roles, .. } = listener;
        let trust = CallersTrust {
            trust_domains: roles.trust_domains(),
            served: Arc::clone(&self.served),
            partners: Arc::clone(&self.partners),
            manager: manager.clone(),
        };
        let router = admin::caller::remote(router, roles);
        let certificates = Certificates::mutual(&svid, Arc::new(trust), router, &self.clock)?;
        let limits = ServingLimits {
            max_connections: self.settings.limits.max_connections.min(MAX_CONNECTIONS),
            max_connections_per_client: self.settings.limits.max_connections_per_client.min(MAX_CONNECTIONS_PER_CLIENT),
            ..self.settings.limits
        };
        let listener = Listener::bind(ListenerSetup {
            name: ADMIN,
            address,
            certificates,
            trusted_proxies: Vec::new(),
            limits,
            metrics: self.metrics.listener(ADMIN),
            clock: Arc::clone(&self.clock),
        });
        let listener = listener.await?;
        let address = listener.address();
        self.tasks.spawn("admin listener", listener.run(self.shutdown.clone()));
        Ok(Some(address))
    }

    /// What the listener presents. `None` cannot be: the settings were checked.
    fn admin_identity(&mut self, listener: &AdminListener, clients: &[IssuerClient]) -> Option<Arc<dyn SvidSource>> {
        let id = listener.endpoint_id.clone();
        let metrics = self.metrics.renewals(ADMIN, id.as_str());
        let clock = Arc::clone(&self.clock);
        let endpoint: Box<dyn EndpointIdentity> = match &listener.endpoint_svid {
            EndpointSvidSettings::WorkloadApi { socket } => {
                Box::new(FromWorkloadApi::new(id.clone(), socket.clone(), metrics, clock))
            }
            EndpointSvidSettings::Issuer => {
                let signer = Arc::clone(self.served.get(id.trust_domain())?);
                let client = clients.iter().find(|client| client.trust_domain() == id.trust_domain())?.clone();
                let data_dir = &self.settings.data_dir;
                let minted = Minted::new(id.clone(), signer, STORED_AS, client, data_dir, metrics, clock)
                    .with_dns_names(listener.dns_names.clone());
                minted.restore();
                Box::new(minted)
            }
        };
        let cell = endpoint.cell();
        let watched = Arc::clone(&cell);
        gauges::watch_certificate(self.metrics.registry(), ADMIN, id.as_str(), Arc::clone(&self.clock), move || {
            watched.current().map(|identity| identity.not_after())
        });
        // Without it nobody is served less: bundles do not depend on the admin listener.
        let health = Gathered::optional(self.readiness.latch(ADMIN), [id.to_string()]);
        self.tasks.spawn("admin identity", endpoint.run(health, self.shutdown.clone()));
        Some(cell)
    }
}
