//! Wiring: opens what the issuer needs, starts its tasks, stops them in order.

use futures::future::BoxFuture;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use service_kit::{
    BoxError,
    clock::SharedClock,
    data_dir::{self, DataDirError, DataDirLock},
    database::{Database, DatabaseError},
    grpc::listen::{self, ListenError, SHUTDOWN_GRACE, SocketError, SocketPlace, TlsOptions, UnixSocket},
    health::{HealthError, HealthListener, Latch, Readiness},
    keys::{KeyError, KeyManager, disk::DiskKeyManager, memory::MemoryKeyManager},
    lifecycle::{Shutdown, TaskError, Tasks},
    telemetry::LogHandle,
    tls::{BundleSource, ClientAuth, PeerPolicy, TlsError},
};
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::{
    attestors::{
        NodeAttestors,
        join_token::JoinTokenAttestor,
        x509pop::{X509popAttestor, X509popConfigError},
    },
    authorized::EntryIndex,
    ca::{CaConfig, CaError, CaManager},
    config::{Checked, Config, ConfigError, UpstreamAuthorityConfig},
    rpc::{self, RefreshRequests, Shared, rate_limit::RateLimits},
    store::{MIGRATIONS, Store, StoreError},
    upstream::{
        UpstreamAuthority, UpstreamError,
        disk::{DiskConfig, DiskUpstream},
    },
};

/// Permission bits of the folder the issuer makes for its Unix socket.
const SOCKET_DIR_MODE: u32 = 0o750;

/// Permission bits of the Unix socket.
const SOCKET_MODE: u32 = 0o770;

/// How long the tasks may take to end after the shutdown: the listeners' grace and a little more.
const STOP_GRACE: Duration = SHUTDOWN_GRACE.saturating_add(Duration::from_secs(2));

/// How often expired entries are removed.
const PRUNE_ENTRIES_EVERY: Duration = Duration::from_secs(5 * 60);

/// How often old join tokens are forgotten.
const PRUNE_TOKENS_EVERY: Duration = Duration::from_secs(60 * 60);

/// How often datastore and CA are looked at for the health answer.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// Why the issuer did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The Unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The health listener cannot start.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The stored data cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The upstream authority cannot be used.
    #[error("upstream_authority: {0}")]
    Upstream(#[from] UpstreamError),
    /// The authorities cannot be made or loaded.
    #[error("the CA cannot start: {0}")]
    Ca(#[from] CaError),
    /// The x509pop attestor cannot be used.
    #[error("node_attestors.x509pop: {0}")]
    X509pop(#[from] X509popConfigError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The bound address cannot be read.
    #[error("the address of the API listener cannot be read: {0}")]
    Address(std::io::Error),
    /// A task failed while the issuer was running.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Starts the issuer and serves until the shutdown.
///
/// # Errors
/// [`Error`], naming the setting to change where one is at fault.
pub fn run(
    config: Config,
    log: LogHandle,
    clock: SharedClock,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed, so that the whole service is compiled here and not once more in every binary.
    Box::pin(async move { Issuer::start(config, log, clock, shutdown).await?.serve().await })
}

/// A started issuer: everything is open, the listeners accept.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    socket_path: PathBuf,
    readiness: Readiness,
    tasks: Tasks,
    database: Database,
    _lock: DataDirLock,
}

/// The latches behind the health answer.
#[derive(Debug)]
struct Latches {
    datastore: Latch,
    ca_signed: Latch,
    ca_manager: Latch,
    listeners: Latch,
}

/// What listens, bound before anything is created, so that a port in use is found first.
struct Listeners {
    tcp: TcpListener,
    address: SocketAddr,
    unix: UnixSocket,
    health: Option<HealthListener>,
}

impl Issuer {
    /// Opens data folder, listeners, keys and database, makes the authorities, and begins to serve.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub async fn start(config: Config, log: LogHandle, clock: SharedClock, shutdown: Shutdown) -> Result<Self, Error> {
        let checked = config.check()?;
        let lock = data_dir::lock(&config.data_dir)?;
        let readiness = Readiness::new();
        let latches = Latches {
            datastore: readiness.latch("datastore"),
            ca_signed: readiness.latch("ca_signed"),
            ca_manager: readiness.latch("ca_manager"),
            listeners: readiness.latch("listeners"),
        };
        let listeners = bind(&config, &readiness).await?;
        let keys = open_keys(&config)?;
        let database = Database::open(&config.database_path(), &MIGRATIONS, clock.clone()).await?;
        let store = Store::open(database.clone(), checked.trust_domain.clone()).await?;
        latches.datastore.ready();
        let upstream = upstream(&config, &checked, &clock)?;
        // Before the CA: a service that cannot start makes no authority.
        let attestors = attestors(&config, &store)?;
        let ca = CaManager::start(ca_config(&config, &checked), store.clone(), keys, upstream, clock.clone()).await?;
        latches.ca_signed.ready();
        let index = EntryIndex::start(store.clone()).await?;
        let shared = Arc::new(Shared {
            trust_domain: checked.trust_domain.clone(),
            attestors,
            store: store.clone(),
            database: database.clone(),
            ca: Arc::clone(&ca),
            index: Arc::clone(&index),
            limits: RateLimits::new(config.ratelimit.attestation, config.ratelimit.signing, &clock),
            clock: clock.clone(),
            log,
            started_at: clock.now(),
            jwt_svids_disabled: config.disable_jwt_svids,
            refreshes: RefreshRequests::default(),
            shutdown: shutdown.clone(),
        });
        let access = rpc::Access { admin_ids: checked.admin_ids.clone(), audit_log: config.audit_log_enabled };
        let tls = TlsOptions::new(ca.server_svid(), client_auth(&checked, &store), &clock)?;

        let address = listeners.address;
        let socket = listeners.unix.place();
        let mut tasks = Tasks::new(shutdown.clone(), clock.clone());
        tasks.spawn("CA manager", Arc::clone(&ca).run(shutdown.clone()));
        let reload = config.cache_reload_interval.get();
        tasks.spawn("entry index", Arc::clone(&index).run(reload, clock.clone(), shutdown.clone()));
        let prune = store.clone();
        tasks.spawn("entry pruning", prune_entries(prune, clock.clone(), shutdown.clone()));
        tasks.spawn("join token pruning", prune_join_tokens(store, clock.clone(), shutdown.clone()));
        serve(&mut tasks, listeners, tls, &shared, &access, &clock, &shutdown);
        latches.ca_manager.ready();
        latches.listeners.ready();
        tasks.spawn("health probe", probe(database.clone(), socket, ca, latches, clock, shutdown));
        tracing::info!(
            trust_domain = %checked.trust_domain, %address, socket = %config.socket_path.display(), "issuer started"
        );
        Ok(Self { address, socket_path: config.socket_path, readiness, tasks, database, _lock: lock })
    }

    /// Where the API listens over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The Unix socket for local administration.
    pub fn socket_path(&self) -> &std::path::Path {
        &self.socket_path
    }

    /// The state of the subsystems.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Serves until the shutdown, then lets calls in progress finish and closes the database.
    ///
    /// # Errors
    /// [`Error::Task`] when a task failed.
    pub async fn serve(self) -> Result<(), Error> {
        let outcome = self.tasks.run_until_shutdown(STOP_GRACE).await;
        self.database.close().await;
        tracing::info!("issuer stopped");
        Ok(outcome?)
    }
}

async fn bind(config: &Config, readiness: &Readiness) -> Result<Listeners, Error> {
    let tcp = listen::bind_tcp(&config.bind_address, config.bind_port).await?;
    let address = tcp.local_addr().map_err(Error::Address)?;
    let unix = listen::bind_unix(&config.socket_path, SOCKET_DIR_MODE, SOCKET_MODE)?;
    let health = HealthListener::bind(&config.health, readiness.clone()).await?;
    Ok(Listeners { tcp, address, unix, health })
}

fn open_keys(config: &Config) -> Result<Arc<dyn KeyManager>, Error> {
    Ok(match config.keys_path() {
        Some(path) => Arc::new(DiskKeyManager::open(path)?),
        None => Arc::new(MemoryKeyManager::new()),
    })
}

fn ca_config(config: &Config, checked: &Checked) -> CaConfig {
    CaConfig {
        trust_domain: checked.trust_domain.clone(),
        ca_ttl: config.ca_ttl.get(),
        ca_key_type: config.ca_key_type,
        jwt_key_type: config.jwt_key_type.unwrap_or(config.ca_key_type),
        ca_subject: config.ca_subject.clone(),
        default_x509_svid_ttl: config.default_x509_svid_ttl.get(),
        default_jwt_svid_ttl: config.default_jwt_svid_ttl.get(),
        agent_ttl: config.agent_ttl.map(Duration::from),
        jwt_issuer: config.jwt_issuer.clone(),
        disable_jwt_svids: config.disable_jwt_svids,
        unique_id: config.unique_id,
    }
}

fn upstream(
    config: &Config,
    checked: &Checked,
    clock: &SharedClock,
) -> Result<Option<Arc<dyn UpstreamAuthority>>, Error> {
    let Some(UpstreamAuthorityConfig::Disk { cert_file_path, key_file_path, bundle_file_path }) =
        config.upstream_authority.clone()
    else {
        return Ok(None);
    };
    let disk = DiskConfig { cert_file_path, key_file_path, bundle_file_path };
    Ok(Some(Arc::new(DiskUpstream::new(disk, checked.trust_domain.clone(), clock.clone())?)))
}

fn attestors(config: &Config, store: &Store) -> Result<NodeAttestors, Error> {
    let mut attestors = NodeAttestors::default();
    if config.node_attestors.join_token.is_some() {
        attestors = attestors.with(Arc::new(JoinTokenAttestor::new(store.clone())));
    }
    if let Some(options) = &config.node_attestors.x509pop {
        attestors = attestors.with(Arc::new(X509popAttestor::open(options.clone(), store)?));
    }
    tracing::info!(attestors = attestors.names().join(", "), "node attestors");
    Ok(attestors)
}

/// Clients may come without a certificate; one that is presented must be this trust domain's or an admin's.
fn client_auth(checked: &Checked, store: &Store) -> ClientAuth {
    let admins = checked.admin_ids.iter().cloned().map(PeerPolicy::Exactly);
    let policy = [PeerPolicy::MemberOf(checked.trust_domain.clone())].into_iter().chain(admins).collect();
    let bundles: Arc<dyn BundleSource> = Arc::new(store.clone());
    ClientAuth::Optional { bundles, policy: PeerPolicy::AnyOf(policy) }
}

fn serve(
    tasks: &mut Tasks,
    listeners: Listeners,
    tls: TlsOptions,
    shared: &Arc<Shared>,
    access: &rpc::Access,
    clock: &SharedClock,
    shutdown: &Shutdown,
) {
    let tcp_routes: Routes = rpc::tcp_routes(shared, access);
    let over_tls = listen::serve_tls(listeners.tcp, tls, tcp_routes, clock.clone(), shutdown.clone());
    tasks.spawn("API listener", over_tls);
    let local_routes: Routes = rpc::local_routes(shared, access);
    tasks
        .spawn("local API listener", listen::serve_unix(listeners.unix, local_routes, clock.clone(), shutdown.clone()));
    if let Some(health) = listeners.health {
        tasks.spawn("health listener", health.run(shutdown.clone()));
    }
}

async fn prune_entries(store: Store, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
    while pause(&clock, PRUNE_ENTRIES_EVERY, &shutdown).await {
        match store.prune_entries(clock.now()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "expired entries removed"),
            Err(error) => tracing::error!(%error, "expired entries cannot be removed; trying again later"),
        }
    }
    Ok(())
}

async fn prune_join_tokens(store: Store, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
    while pause(&clock, PRUNE_TOKENS_EVERY, &shutdown).await {
        match store.prune_join_tokens(clock.now()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "expired join tokens removed"),
            Err(error) => tracing::error!(%error, "expired join tokens cannot be removed; trying again later"),
        }
    }
    Ok(())
}

/// Keeps the health answer true.
async fn probe(
    database: Database,
    socket: SocketPlace,
    ca: Arc<CaManager>,
    latches: Latches,
    clock: SharedClock,
    shutdown: Shutdown,
) -> Result<(), BoxError> {
    while pause(&clock, PROBE_EVERY, &shutdown).await {
        match database.check_writable().await {
            Ok(()) => latches.datastore.ready(),
            Err(error) => {
                tracing::error!(%error, "nothing can be stored");
                latches.datastore.not_ready(format!("nothing can be stored: {error}"));
            }
        }
        if socket.is_taken() {
            latches.listeners.ready();
        } else {
            let problem = format!("socket {} was removed; restart the issuer to have it back", socket.path().display());
            tracing::error!(problem, "local administration is cut off");
            latches.listeners.not_ready(problem);
        }
        let now = clock.now().unix_timestamp();
        match ca.x509_authority_state() {
            Ok(state) if state.active.as_ref().is_some_and(|active| active.expires_at > now) => {
                latches.ca_signed.ready();
            }
            Ok(_) => latches.ca_signed.not_ready("the CA certificate has expired"),
            Err(error) => latches.ca_signed.not_ready(error.to_string()),
        }
    }
    latches.listeners.not_ready("shutting down");
    latches.ca_manager.not_ready("shutting down");
    Ok(())
}

/// Waits; `false` when the shutdown came first.
async fn pause(clock: &SharedClock, duration: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = clock.sleep(duration) => true,
        () = shutdown.cancelled() => false,
    }
}
