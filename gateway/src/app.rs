//! Wiring: what there is, which tasks run, what happens first and last.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use service_kit::{
    BoxError,
    clock::SharedClock,
    data_dir::{self, DataDirError, DataDirLock},
    grpc::{connect::ConnectError, unix_socket::SocketError},
    health::{HealthError, HealthListener, Latch, Readiness},
    lifecycle::{Shutdown, TaskError, Tasks},
    tls::{ALPN_H2, BundleSource, PeerPolicy, SvidSource, TlsError, spiffe_client_config},
};

use crate::{
    admin_socket::AdminSocket,
    config::Config,
    http::{Routes, admin, public_router},
    identity::WorkloadIdentity,
    issuer_client::IssuerClient,
    listeners::{Certificates, Listener, ListenerError, endpoint_identity::EndpointIdentity},
    partners::PartnerBundles,
    readiness::Gathered,
    refresh::{deliver::Deliveries, manager::Manager, updater::Updater, work::IssuerWork},
    served::{ServedDomain, ServedDomains},
    settings::{IssuerAddress, LocalDomain, Settings, SettingsError},
    source::{self, issuer::IssuerSource},
    store::{Store, StoreError},
};

/// How long tasks may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// How often the database is asked whether it answers.
const DATASTORE_CHECK: Duration = Duration::from_secs(10);

// Names of the parts `/ready` tells about.
const DATASTORE: &str = "datastore";
const LISTENERS: &str = "listeners";
const SOURCE: &str = "source";

/// Why a gateway does not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error("configuration: {0}")]
    Settings(#[from] SettingsError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A listener does not start.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The admin socket cannot be bound.
    #[error("admin socket: {0}")]
    Socket(#[from] SocketError),
    /// The health listener does not start.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// An issuer's address cannot be used.
    #[error("issuer of `{trust_domain}`: {source}")]
    Issuer {
        /// The trust domain.
        trust_domain: String,
        /// The cause.
        source: ConnectError,
    },
    /// TLS towards issuers cannot be set up.
    #[error("TLS towards issuers: {0}")]
    Tls(#[from] TlsError),
    /// A task ended that should not.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// A gateway with its listeners bound, ready to run.
pub struct Gateway {
    tasks: Tasks,
    manager: Manager,
    store: Store,
    readiness: Readiness,
    https_web: Option<SocketAddr>,
    https_spiffe: Option<SocketAddr>,
    // Released last.
    _lock: DataDirLock,
}

impl Gateway {
    /// Takes the data folder, opens the store, binds every listener and starts the tasks. What was served and accepted
    /// before is served and delivered from the store before anybody is asked.
    ///
    /// # Errors
    /// [`Error`] naming what to change.
    pub async fn start(config: &Config, clock: SharedClock, shutdown: Shutdown) -> Result<Self, Error> {
        let settings = Settings::check(config)?;
        let lock = data_dir::lock(&settings.data_dir)?;
        let readiness = Readiness::new();
        // Every latch is there before anybody can ask: not ready until each part says so.
        let datastore = readiness.latch(DATASTORE);
        for part in [LISTENERS, SOURCE] {
            readiness.latch(part);
        }
        let mut tasks = Tasks::new(shutdown.clone(), Arc::clone(&clock));
        if let Some(listener) = HealthListener::bind(&config.health, readiness.clone()).await? {
            tasks.spawn("health listener", listener.run(shutdown.clone()));
        }

        let store = Store::open(&settings.data_dir, Arc::clone(&clock)).await?;
        datastore.ready();
        tasks.spawn("datastore check", check(store.clone(), datastore, Arc::clone(&clock), shutdown.clone()));

        let served = Arc::new(ServedDomains::new(&settings.trust_domains, clock.now()));
        let partners = Arc::new(PartnerBundles::new(store.partner_bundles().await?));
        for domain in served.iter() {
            restore(domain, &store).await?;
        }

        let mut parts = Parts { settings, clock, shutdown, store, served, partners, readiness, tasks };
        let clients = parts.issuer_clients()?;
        let manager = parts.relationships(&clients).await?;
        let (https_web, https_spiffe) = parts.listeners(&clients).await?;
        parts.sources(&clients);
        parts.admin(&manager)?;
        manager.start();
        let Parts { store, readiness, tasks, .. } = parts;
        Ok(Self { tasks, manager, store, readiness, https_web, https_spiffe, _lock: lock })
    }

    /// Address of the `https_web` listener.
    pub fn https_web(&self) -> Option<SocketAddr> {
        self.https_web
    }

    /// Address of the `https_spiffe` listener.
    pub fn https_spiffe(&self) -> Option<SocketAddr> {
        self.https_spiffe
    }

    /// The subsystems' latches: `source`, `listeners`, `datastore`.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Runs until the shutdown it was started with, or until a task fails.
    ///
    /// # Errors
    /// [`Error::Task`].
    pub async fn run(self) -> Result<(), Error> {
        let outcome = self.tasks.run_until_shutdown(GRACE).await;
        self.manager.stop().await;
        self.store.close().await;
        Ok(outcome?)
    }
}

/// Serves what was served before the restart.
async fn restore(domain: &ServedDomain, store: &Store) -> Result<(), StoreError> {
    let trust_domain = domain.name();
    match store.served(trust_domain).await {
        Ok(None) => {}
        Ok(Some(record)) => {
            if let Err(error) = domain.publish(&record.bundle, record.changed_at) {
                tracing::warn!(%trust_domain, %error, "stored own bundle not served");
            }
        }
        // Its source will give it again.
        Err(error @ StoreError::Unreadable { .. }) => {
            tracing::warn!(%trust_domain, %error, "stored own bundle not served");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn check(store: Store, latch: Latch, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
    loop {
        tokio::select! {
            () = clock.sleep(DATASTORE_CHECK) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        match store.ping().await {
            Ok(()) => latch.ready(),
            Err(error) => latch.not_ready(error.to_string()),
        }
    }
}

/// What the parts of a gateway have in common while it is put together.
struct Parts {
    settings: Settings,
    clock: SharedClock,
    shutdown: Shutdown,
    store: Store,
    served: Arc<ServedDomains>,
    partners: Arc<PartnerBundles>,
    readiness: Readiness,
    tasks: Tasks,
}

impl Parts {
    /// A connection to each domain's issuer, in the order of the domains. Nothing is dialled yet.
    fn issuer_clients(&mut self) -> Result<Vec<IssuerClient>, Error> {
        let mut identities: Vec<(PathBuf, Arc<WorkloadIdentity>)> = Vec::new();
        let domains = self.settings.trust_domains.clone();
        domains.iter().map(|domain| self.issuer_client(domain, &mut identities)).collect()
    }

    fn issuer_client(
        &mut self,
        domain: &LocalDomain,
        identities: &mut Vec<(PathBuf, Arc<WorkloadIdentity>)>,
    ) -> Result<IssuerClient, Error> {
        let clock = Arc::clone(&self.clock);
        let (address, socket) = match &domain.issuer {
            IssuerAddress::Socket(path) => return Ok(IssuerClient::over_socket(domain.name.clone(), path, clock)),
            IssuerAddress::Tls { address, workload_api_socket } => (address, workload_api_socket),
        };
        let known = identities.iter().find(|(path, _)| path == socket).map(|(_, identity)| Arc::clone(identity));
        let identity = known.unwrap_or_else(|| {
            let identity = Arc::new(WorkloadIdentity::new(socket.clone()));
            identities.push((socket.clone(), Arc::clone(&identity)));
            self.tasks.spawn("identity", Arc::clone(&identity).follow(Arc::clone(&clock), self.shutdown.clone()));
            identity
        });
        let bundles: Arc<dyn BundleSource> = identity.bundles();
        let svid: Arc<dyn SvidSource> = identity.svid();
        let expected = PeerPolicy::Exactly(domain.name.server_id());
        let tls = spiffe_client_config(bundles, Some(svid), expected, Arc::clone(&clock), &[ALPN_H2])?;
        IssuerClient::over_tls(domain.name.clone(), address, tls, clock)
            .map_err(|source| Error::Issuer { trust_domain: domain.name.to_string(), source })
    }

    /// Everything about partners: what is held, deliveries, and what each issuer wants.
    async fn relationships(&mut self, clients: &[IssuerClient]) -> Result<Manager, Error> {
        let locals = self.settings.trust_domains.iter().map(|domain| domain.name.clone());
        let deliveries = Arc::new(Deliveries::load(locals, &self.store).await?);
        let updater = Updater::new(
            self.settings.refresh,
            Arc::clone(&self.clock),
            self.store.clone(),
            Arc::clone(&self.partners),
            Arc::clone(&self.served),
        );
        let mut stored = self.store.issuer_relationships().await?;
        stored.retain(|local, _| self.served.get(local).is_some());
        let configured = self.settings.relationships.clone();
        let manager = Manager::load(configured, stored.clone(), updater, Arc::clone(&deliveries)).await?;
        for client in clients {
            let lane = Arc::clone(&deliveries).run(
                client.clone(),
                Arc::clone(&self.partners),
                self.store.clone(),
                Arc::clone(&self.clock),
                self.shutdown.clone(),
            );
            self.tasks.spawn("delivery", lane);
            let work = IssuerWork::new(
                client.clone(),
                manager.clone(),
                self.store.clone(),
                Arc::clone(&self.clock),
                stored.remove(client.trust_domain()).unwrap_or_default(),
            );
            self.tasks.spawn("relationships of the issuer", work.run(self.shutdown.clone()));
        }
        Ok(manager)
    }

    /// Binds the public listeners; answers their addresses.
    async fn listeners(&mut self, clients: &[IssuerClient]) -> Result<(Option<SocketAddr>, Option<SocketAddr>), Error> {
        let latch = self.readiness.latch(LISTENERS);
        let mut bound = Vec::new();
        let mut https_web = None;
        if let Some(web) = &self.settings.https_web {
            let certificates = Certificates::web(web, &self.clock)?;
            let router = public_router(Routes::bundles_and_oidc(&self.served));
            let clock = Arc::clone(&self.clock);
            let listener = Listener::bind("https_web", web.address, certificates, router, clock).await?;
            https_web = Some(listener.address());
            bound.push(listener);
        }
        let mut https_spiffe = None;
        let mut endpoints = Vec::new();
        if let Some(address) = self.settings.https_spiffe {
            let mut identities: Vec<(Vec<String>, Arc<dyn SvidSource>)> = Vec::new();
            for (domain, client) in self.served.iter().zip(clients) {
                if let Some(id) = domain.settings().endpoint_id.clone() {
                    let clock = Arc::clone(&self.clock);
                    let data_dir = &self.settings.data_dir;
                    let endpoint = EndpointIdentity::new(id, Arc::clone(domain), client.clone(), data_dir, clock);
                    endpoint.restore();
                    identities.push((domain.settings().server_names.clone(), endpoint.cell()));
                    endpoints.push(endpoint);
                }
            }
            if let Some(certificates) = Certificates::spiffe(&identities, &self.clock)? {
                let router = public_router(Routes::bundles(&self.served));
                let clock = Arc::clone(&self.clock);
                let listener = Listener::bind("https_spiffe", address, certificates, router, clock).await?;
                https_spiffe = Some(listener.address());
                bound.push(listener);
            }
        }
        let health = Gathered::new(latch, endpoints.iter().map(|endpoint| endpoint.id().to_string()));
        for endpoint in endpoints {
            self.tasks.spawn("endpoint identity", endpoint.run(health.clone(), self.shutdown.clone()));
        }
        for listener in bound {
            self.tasks.spawn(listener.name(), listener.run(self.shutdown.clone()));
        }
        Ok((https_web, https_spiffe))
    }

    fn sources(&mut self, clients: &[IssuerClient]) {
        let names = self.served.iter().map(|domain| domain.name().to_string());
        let health = Gathered::new(self.readiness.latch(SOURCE), names);
        for (domain, client) in self.served.iter().zip(clients) {
            if domain.current().is_some() {
                health.ready(domain.name().as_str());
            }
            let interval = domain.settings().poll_interval;
            let source = IssuerSource::new(client.clone(), interval, Arc::clone(&self.clock));
            let follow = source::follow(
                Box::new(source),
                Arc::clone(domain),
                self.store.clone(),
                Arc::clone(&self.clock),
                health.clone(),
                self.shutdown.clone(),
            );
            self.tasks.spawn("bundle source", follow);
        }
    }

    fn admin(&mut self, manager: &Manager) -> Result<(), Error> {
        let socket = AdminSocket::bind(&self.settings.socket_path, Arc::clone(&self.clock))?;
        let router = admin::router(admin::Admin {
            manager: manager.clone(),
            served: Arc::clone(&self.served),
            partners: Arc::clone(&self.partners),
            store: self.store.clone(),
            readiness: self.readiness.clone(),
        });
        self.tasks.spawn("admin socket", socket.serve(router, self.shutdown.clone()));
        Ok(())
    }
}
