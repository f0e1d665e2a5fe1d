//! Wiring: what there is, which tasks run, what happens first and last.

mod admin;
mod gauges;
mod serving;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use federation_specs::id::TrustDomain;
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
    config::Config,
    identity::WorkloadIdentity,
    issuer_client::IssuerClient,
    listeners::ListenerError,
    managed::{self, Managed},
    metrics::GatewayMetrics,
    partners::PartnerBundles,
    refresh::{
        clients::Clients, decisions::Decisions, deliver::Deliveries, manager::Manager, updater::Updater,
        work::IssuerWork,
    },
    replicas::coordinator::Coordinator,
    served::ServedDomains,
    settings::{IssuerAddress, Settings, SettingsError},
    store::{Store, StoreError},
    webhook::{Webhooks, watch::Watcher},
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
    metrics: GatewayMetrics,
    https_web: Option<SocketAddr>,
    https_spiffe: Option<SocketAddr>,
    admin: Option<SocketAddr>,
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
        let metrics = GatewayMetrics::new();
        if let Some(listener) = HealthListener::bind(&config.health, readiness.clone()).await? {
            let listener = listener.with_metrics(metrics.registry().clone());
            tasks.spawn("health listener", listener.run(shutdown.clone()));
        }

        let store = Store::open(&settings.datastore, Arc::clone(&clock)).await?;
        // Before anything is read, so that what changes meanwhile is read again.
        let seen = store.latest_change().await?;
        datastore.ready();
        tasks.spawn("datastore check", check(store.clone(), datastore, Arc::clone(&clock), shutdown.clone()));

        // First of all, so that nothing of what follows goes untold.
        let fetching = Arc::new(Clients::new(&settings.network, Arc::clone(&clock)));
        let webhooks = Webhooks::load(&settings.webhooks, &fetching, &store, &clock, &metrics).await?;

        let served = Arc::new(ServedDomains::new(&settings.trust_domains, clock.now()));
        let partners = Arc::new(PartnerBundles::new(store.partner_bundles().await?));
        for domain in served.iter() {
            serving::restore(domain, &store).await?;
        }

        let mut parts =
            Parts { fetching, settings, clock, shutdown, store, served, partners, readiness, metrics, tasks };
        let mut identities = serving::Identities::new();
        let clients = parts.issuer_clients(&mut identities)?;
        let (manager, managed) = parts.relationships(&clients).await?;
        let (https_web, https_spiffe) = parts.listeners(&clients).await?;
        parts.sources(&clients, &mut identities)?;
        let publishers = parts.publishers().await?;
        let admin = parts.admin(&manager, managed.clone(), publishers, &webhooks, &clients).await?;
        parts.webhooks(&webhooks, &manager);
        manager.start();
        parts.replicas(&manager, managed, seen);
        let Parts { store, readiness, metrics, tasks, .. } = parts;
        Ok(Self { tasks, manager, store, readiness, metrics, https_web, https_spiffe, admin, _lock: lock })
    }

    /// Address of the `https_web` listener.
    pub fn https_web(&self) -> Option<SocketAddr> {
        self.https_web
    }

    /// Address of the `https_spiffe` listener.
    pub fn https_spiffe(&self) -> Option<SocketAddr> {
        self.https_spiffe
    }

    /// Address of the admin listener.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The subsystems' latches: `source`, `listeners`, `datastore`.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// What it counts.
    pub fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }

    /// Runs until the shutdown it was started with, or until a task fails.
    ///
    /// # Errors
    /// [`Error::Task`].
    pub async fn run(self) -> Result<(), Error> {
        let outcome = self.tasks.run_until_shutdown(GRACE).await;
        self.manager.stop().await;
        if let Err(error) = self.store.leave().await {
            tracing::warn!(%error, "leases not given back; other gateways take over when they have run out");
        }
        self.store.close().await;
        Ok(outcome?)
    }
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
    fetching: Arc<Clients>,
    settings: Settings,
    clock: SharedClock,
    shutdown: Shutdown,
    store: Store,
    served: Arc<ServedDomains>,
    partners: Arc<PartnerBundles>,
    readiness: Readiness,
    metrics: GatewayMetrics,
    tasks: Tasks,
}

impl Parts {
    /// Divides the work with other gateways on the same database.
    fn replicas(&mut self, manager: &Manager, managed: Managed, seen: i64) {
        gauges::watch_leases(self.metrics.registry(), self.store.leases().clone());
        let coordinator = Coordinator {
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            manager: manager.clone(),
            managed,
            served: Arc::clone(&self.served),
            metrics: self.metrics.clone(),
            seen,
        };
        if self.store.leases().are_shared() {
            self.tasks.spawn("replicas", coordinator.run(self.shutdown.clone()));
        }
    }

    /// A connection to the issuer of each domain that has one, in the order of the domains. Nothing is dialled yet.
    fn issuer_clients(&mut self, identities: &mut serving::Identities) -> Result<Vec<IssuerClient>, Error> {
        let domains = self.settings.trust_domains.clone();
        let with_issuer = domains.iter().filter_map(|domain| Some((&domain.name, domain.issuer.as_ref()?)));
        with_issuer.map(|(name, address)| self.issuer_client(name, address, identities)).collect()
    }

    fn issuer_client(
        &mut self,
        trust_domain: &TrustDomain,
        address: &IssuerAddress,
        identities: &mut serving::Identities,
    ) -> Result<IssuerClient, Error> {
        let clock = Arc::clone(&self.clock);
        let (address, socket) = match address {
            IssuerAddress::Socket(path) => return Ok(IssuerClient::over_socket(trust_domain.clone(), path, clock)),
            IssuerAddress::Tls { address, workload_api_socket } => (address, workload_api_socket),
        };
        let identity = self.workload_identity(socket, identities);
        let bundles: Arc<dyn BundleSource> = identity.bundles();
        let svid: Arc<dyn SvidSource> = identity.svid();
        let expected = PeerPolicy::Exactly(trust_domain.server_id());
        let tls = spiffe_client_config(bundles, Some(svid), expected, Arc::clone(&clock), &[ALPN_H2])?;
        IssuerClient::over_tls(trust_domain.clone(), address, tls, clock)
            .map_err(|source| Error::Issuer { trust_domain: trust_domain.to_string(), source })
    }

    /// The identity a Workload API gives, followed once for everybody who needs it.
    fn workload_identity(&mut self, socket: &Path, identities: &mut serving::Identities) -> Arc<WorkloadIdentity> {
        if let Some((_, known)) = identities.iter().find(|(path, _)| path == socket) {
            return Arc::clone(known);
        }
        let identity = Arc::new(WorkloadIdentity::new(socket.to_owned()));
        identities.push((socket.to_owned(), Arc::clone(&identity)));
        let follow = Arc::clone(&identity).follow(Arc::clone(&self.clock), self.shutdown.clone());
        self.tasks.spawn("identity", follow);
        identity
    }

    /// Everything about partners: what is held, deliveries, and what each issuer wants.
    async fn relationships(&mut self, clients: &[IssuerClient]) -> Result<(Manager, Managed), Error> {
        let locals: Vec<_> = clients.iter().map(|client| client.trust_domain().clone()).collect();
        let deliveries = Deliveries::load(locals, &self.store).await?.with_metrics(self.metrics.clone());
        let deliveries = Arc::new(deliveries);
        let decisions = Decisions::load(
            self.store.clone(),
            Arc::clone(&self.partners),
            Arc::clone(&self.served),
            self.settings.acceptance.clone(),
            Arc::clone(&self.clock),
        );
        let updater = Updater::new(
            self.settings.refresh,
            Arc::clone(&self.fetching),
            Arc::clone(&self.clock),
            self.store.clone(),
            Arc::clone(&self.partners),
            Arc::clone(&self.served),
            decisions.await?,
        );
        let mut stored = self.store.issuer_relationships().await?;
        stored.retain(|local, _| clients.iter().any(|client| client.trust_domain() == local));
        let configured = std::mem::take(&mut self.settings.relationships);
        let rules = self.settings.relationship_rules.clone();
        let partners = configured.iter().map(|item| item.trust_domain.clone()).collect();
        let managed = managed::load(&self.store, &rules, &partners).await?;
        let manager =
            Manager::load(configured, rules.clone(), managed, stored.clone(), updater, Arc::clone(&deliveries)).await?;
        let managed = Managed::new(self.store.clone(), manager.clone(), rules, partners);
        for client in clients {
            let lane = Arc::clone(&deliveries).run(
                client.clone(),
                Arc::clone(&self.partners),
                self.store.clone(),
                Arc::clone(&self.clock),
                self.settings.compare_interval,
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
        gauges::watch_partners(
            self.metrics.registry(),
            manager.clone(),
            Arc::clone(&self.partners),
            Arc::clone(&self.clock),
        );
        Ok((manager, managed))
    }

    /// Starts delivering to webhooks, and watching for what is told when it lasts.
    fn webhooks(&mut self, webhooks: &Webhooks, manager: &Manager) {
        if webhooks.is_empty() {
            return;
        }
        webhooks.start(&mut self.tasks, &self.store, &self.clock, &self.shutdown);
        gauges::watch_webhooks(self.metrics.registry(), webhooks.clone());
        let watcher = Watcher {
            manager: manager.clone(),
            partners: Arc::clone(&self.partners),
            served: Arc::clone(&self.served),
            thresholds: self.settings.thresholds,
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
        };
        self.tasks.spawn("webhook conditions", watcher.run(self.shutdown.clone()));
    }
}
