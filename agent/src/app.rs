//! Wiring: what the agent is made of, and the tasks that keep it going.

use futures::future::BoxFuture;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use federation_specs::proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use service_kit::{
    BoxError,
    clock::SharedClock,
    data_dir::{self, DataDirError},
    grpc::{
        connect::{self, ConnectError},
        listen::{SocketError, bind_unix, serve_unix},
    },
    health::{HealthError, HealthListener, Latch, Readiness},
    keys::{KeyError, KeyManager, disk::DiskKeyManager, memory::MemoryKeyManager},
    lifecycle::{Shutdown, TaskError, Tasks},
    telemetry::LogHandle,
    tls::{self, PeerPolicy, TlsError},
};
use tokio::sync::{Notify, watch};

use crate::{
    api::{self, Context, admin},
    cache::{Cache, jwt::JwtCache},
    config::{Config, ConfigError, NodeAttestorConfig},
    identity::{IdentityError, OwnIdentity},
    issuer::IssuerClient,
    node::{NodeAttestor, attest::Attestation, join_token::JoinTokenAttestor, x509pop::X509PopAttestor},
    own_svid::OwnSvidKeeper,
    saved::SavedState,
    sync::{Synchroniser, sign::Signer},
    workload::{
        WorkloadAttestor, WorkloadAttestors,
        unix::{UnixAttestor, UnixOptions},
    },
};

/// How long the tasks may take to stop. The servers themselves give calls in progress ten seconds.
const GRACE: Duration = Duration::from_secs(15);

/// Time between two tries of the own Workload API until it answers, and after.
const PROBE_STARTING: Duration = Duration::from_secs(1);
/// See [`PROBE_STARTING`].
const PROBE_RUNNING: Duration = Duration::from_secs(60);

/// How long a try of the own Workload API may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The saved state cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The health listener cannot start.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The issuer's address is malformed.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// gRPC reflection cannot be set up.
    #[error("gRPC reflection cannot be set up: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A part of the agent failed.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs the agent until the shutdown.
///
/// # Errors
/// [`Error`] when it cannot start, is banned, or cannot attest.
pub fn run(
    config: Config,
    log: LogHandle,
    clock: SharedClock,
    shutdown: Shutdown,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed, so that the whole service is compiled here and not once more in every binary.
    Box::pin(serve(config, log, clock, shutdown))
}

async fn serve(config: Config, log: LogHandle, clock: SharedClock, shutdown: Shutdown) -> Result<(), Error> {
    let started_at = clock.now();
    let checked = config.check()?;
    let trust_domain = checked.trust_domain.clone();
    let lock = data_dir::lock(&config.data_dir)?;

    let readiness = Readiness::new();
    let attested = readiness.latch("attested");
    let synced = readiness.latch("synced");
    let answering = readiness.latch("workload_api");
    let mut tasks = Tasks::new(shutdown.clone(), Arc::clone(&clock));
    if let Some(listener) = HealthListener::bind(&config.health, readiness).await? {
        tasks.spawn("health listener", listener.run(shutdown.clone()));
    }

    let keys: Arc<dyn KeyManager> = match config.keys_path() {
        Some(path) => Arc::new(DiskKeyManager::open(path)?),
        None => Arc::new(MemoryKeyManager::new()),
    };
    let saved = SavedState::new(lock.path(), trust_domain.clone());
    let saved_at = saved.path().display().to_string();
    let identity = Arc::new(OwnIdentity::load(trust_domain.clone(), keys, saved, Arc::clone(&clock)).await?);
    let issuer = Arc::new(issuer_client(&checked.address, &identity, &clock)?);

    let cache = Arc::new(Cache::new(trust_domain, Arc::clone(&clock)));
    let tokens = JwtCache::new(config.jwt_cache_size(), Arc::clone(&clock));
    let last_success = Arc::new(AtomicI64::new(0));
    let context = Context {
        cache: Arc::clone(&cache),
        tokens: tokens.clone(),
        issuer: Arc::clone(&issuer),
        attestors: workload_attestors(&config, &clock),
        allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
        allowed_foreign_jwt_claims: Arc::new(config.allowed_foreign_jwt_claims.iter().cloned().collect()),
        clock: Arc::clone(&clock),
        shutdown: shutdown.clone(),
    };
    let socket = bind_unix(&config.socket_path, api::SOCKET_DIR_MODE, api::SOCKET_MODE)?;
    tasks.spawn("Workload API", serve_unix(socket, api::public(&context)?, Arc::clone(&clock), shutdown.clone()));
    if let Some(path) = &config.admin_socket_path {
        let socket = bind_unix(path, api::ADMIN_SOCKET_DIR_MODE, api::ADMIN_SOCKET_MODE)?;
        let debug = admin::DebugService {
            identity: Arc::clone(&identity),
            cache: Arc::clone(&cache),
            tokens: tokens.clone(),
            last_sync: Arc::clone(&last_success),
            clock: Arc::clone(&clock),
            started_at,
        };
        let service = admin::admin(debug, log);
        tasks.spawn("administration API", serve_unix(socket, service, Arc::clone(&clock), shutdown.clone()));
    }
    tracing::info!(socket = %config.socket_path.display(), issuer = checked.address, "agent started");

    let wake = Arc::new(Notify::new());
    let (has_attested, attestation_done) = watch::channel(false);
    let attestation = Attestation {
        attestor: node_attestor(&config, checked.token),
        bootstrap: checked.bootstrap,
        address: checked.address,
        clock: Arc::clone(&clock),
        saved_at,
    };
    let keeper = OwnSvidKeeper {
        identity: Arc::clone(&identity),
        issuer: Arc::clone(&issuer),
        attestation,
        cache: Arc::clone(&cache),
        clock: Arc::clone(&clock),
        latch: attested,
        done: has_attested,
    };
    let synchroniser = Synchroniser {
        issuer: Arc::clone(&issuer),
        cache: Arc::clone(&cache),
        tokens,
        identity,
        interval: config.sync_interval.get(),
        clock: Arc::clone(&clock),
        latch: synced,
        signer: Arc::clone(&wake),
        last_success,
    };
    let signer = Signer {
        issuer,
        cache,
        key_type: config.workload_x509_svid_key_type,
        max_size: config.x509_cache_size(),
        clock: Arc::clone(&clock),
        wake,
    };
    tasks.spawn("attestation", keeper.run(shutdown.clone()));
    tasks.spawn("synchronisation", after(attestation_done, shutdown.clone(), synchroniser.run(shutdown.clone())));
    tasks.spawn("signing", signer.run(shutdown.clone()));
    tasks.spawn("readiness", probe(config.socket_path.clone(), answering, clock, shutdown));
    let ended = tasks.run_until_shutdown(GRACE).await;
    drop(lock);
    tracing::info!("agent stopped");
    Ok(ended?)
}

/// Runs `task` once the agent has attested.
async fn after(
    mut attested: watch::Receiver<bool>,
    shutdown: Shutdown,
    task: impl Future<Output = Result<(), BoxError>> + Send,
) -> Result<(), BoxError> {
    let done = async { attested.wait_for(|attested| *attested).await.is_ok() };
    tokio::select! {
        // The sender is dropped only when the attestation has failed, which ends the agent.
        done = done => if !done {
            shutdown.cancelled().await;
            return Ok(());
        },
        () = shutdown.cancelled() => return Ok(()),
    }
    task.await
}

fn issuer_client(address: &str, identity: &OwnIdentity, clock: &SharedClock) -> Result<IssuerClient, Error> {
    let expected = PeerPolicy::Exactly(identity.trust_domain().server_id());
    let (bundles, svid) = (Arc::clone(&identity.tls_bundles), Arc::clone(&identity.tls_svid));
    let config = tls::spiffe_client_config(bundles, Some(svid), expected, Arc::clone(clock), &[tls::ALPN_H2])?;
    Ok(IssuerClient::new(address.to_string(), config)?)
}

fn node_attestor(config: &Config, token: crate::node::join_token::TokenSource) -> Arc<dyn NodeAttestor> {
    match &config.node_attestor {
        NodeAttestorConfig::JoinToken {} => Arc::new(JoinTokenAttestor::new(token)),
        NodeAttestorConfig::X509pop { private_key_path, certificate_path, intermediates_path } => Arc::new(
            X509PopAttestor::new(private_key_path.clone(), certificate_path.clone(), intermediates_path.clone()),
        ),
    }
}

fn workload_attestors(config: &Config, clock: &SharedClock) -> WorkloadAttestors {
    let mut attestors: Vec<Arc<dyn WorkloadAttestor>> = Vec::new();
    if let Some(unix) = config.workload_attestors.unix {
        let options = UnixOptions {
            discover_workload_path: unix.discover_workload_path,
            workload_size_limit: unix.workload_size_limit,
        };
        attestors.push(Arc::new(UnixAttestor::new(options, Arc::clone(clock))));
    }
    WorkloadAttestors::new(attestors)
}

/// Calls the own Workload API as a workload would, so that readiness means an answer and not an intention.
async fn probe(socket: PathBuf, latch: Latch, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
    let mut client = HealthClient::new(connect::unix_channel(&socket));
    loop {
        let check = tokio::time::timeout(PROBE_TIMEOUT, client.check(HealthCheckRequest::default()));
        let answer = tokio::select! {
            answer = check => answer,
            () = shutdown.cancelled() => return Ok(()),
        };
        let problem = match answer {
            Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => None,
            Ok(Ok(_)) => Some("not serving yet".to_string()),
            Ok(Err(status)) => Some(connect::explain(&status)),
            Err(_) => Some(format!("no answer on {} within {PROBE_TIMEOUT:?}", socket.display())),
        };
        let wait = match problem {
            None => {
                latch.ready();
                PROBE_RUNNING
            }
            Some(problem) => {
                latch.not_ready(problem);
                PROBE_STARTING
            }
        };
        tokio::select! {
            () = clock.sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
