//! Readiness latches of subsystems, and the listener that answers `/live` and `/ready`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use crate::{
    BoxError,
    clock::{Clock, SystemClock},
    lifecycle::Shutdown,
    metrics::{self, Metrics},
};

/// Path of the metrics, where a service has them.
pub const METRICS_PATH: &str = "/metrics";

/// Requests answered at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// State of one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubsystemState {
    /// It can go on by itself; `false` means that only a restart helps.
    pub live: bool,
    /// It does its work now.
    pub ready: bool,
    /// Why it is not ready or not live, or what an operator should know although it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// State of every subsystem, by name.
pub type Snapshot = BTreeMap<String, SubsystemState>;

/// The latches of a service: it is ready when every latch is, live while none has failed.
#[derive(Debug, Clone)]
pub struct Readiness {
    states: Arc<watch::Sender<Snapshot>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// No subsystem yet. A service without latches is live and ready.
    pub fn new() -> Self {
        Self { states: Arc::new(watch::Sender::new(Snapshot::new())) }
    }

    /// Adds a subsystem, not ready ("starting") at first.
    pub fn latch(&self, name: &str) -> Latch {
        let latch = Latch { name: name.to_string(), readiness: self.clone() };
        latch.not_ready("starting");
        latch
    }

    /// The state of every subsystem.
    pub fn snapshot(&self) -> Snapshot {
        self.states.borrow().clone()
    }

    /// Whether every subsystem is ready (and live).
    pub fn is_ready(&self) -> bool {
        self.states.borrow().values().all(|state| state.ready && state.live)
    }

    /// Whether no subsystem has failed for good.
    pub fn is_live(&self) -> bool {
        self.states.borrow().values().all(|state| state.live)
    }

    /// Completes once every subsystem is ready.
    pub async fn wait_ready(&self) {
        let mut states = self.states.subscribe();
        let _ = states.wait_for(|states| states.values().all(|state| state.ready && state.live)).await;
    }
}

/// One subsystem's hand on its own state. Clones speak for the same subsystem.
#[derive(Debug, Clone)]
pub struct Latch {
    name: String,
    readiness: Readiness,
}

impl Latch {
    /// It works.
    pub fn ready(&self) {
        self.set(SubsystemState { live: true, ready: true, reason: None });
    }

    /// It works, but an operator should know something.
    pub fn ready_but(&self, remark: impl Into<String>) {
        self.set(SubsystemState { live: true, ready: true, reason: Some(remark.into()) });
    }

    /// It does not work now, and will try again by itself.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(SubsystemState { live: true, ready: false, reason: Some(reason.into()) });
    }

    /// It will not work again without a restart: the service is no longer live.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(SubsystemState { live: false, ready: false, reason: Some(reason.into()) });
    }

    fn set(&self, state: SubsystemState) {
        self.readiness.states.send_if_modified(|states| {
            if states.get(&self.name) == Some(&state) {
                return false;
            }
            match (&state.reason, state.live) {
                (None, _) => tracing::debug!(subsystem = %self.name, "ready"),
                (Some(reason), true) => {
                    tracing::debug!(subsystem = %self.name, ready = state.ready, %reason, "state changed");
                }
                (Some(reason), false) => tracing::error!(subsystem = %self.name, %reason, "failed"),
            }
            states.insert(self.name.clone(), state);
            true
        });
    }
}

/// The health listener, off unless `listener_enabled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Whether to listen at all.
    pub listener_enabled: bool,
    /// Address to listen on.
    pub bind_address: String,
    /// TCP port to listen on; 0 takes any free port (it is logged).
    pub bind_port: u16,
    /// Path that answers 200 while the service is live, 500 otherwise.
    pub live_path: String,
    /// Path that answers 200 while the service is ready, 500 otherwise.
    pub ready_path: String,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            listener_enabled: false,
            bind_address: "localhost".into(),
            bind_port: 80,
            live_path: "/live".into(),
            ready_path: "/ready".into(),
        }
    }
}

/// Why the health listener could not start.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address cannot be bound.
    #[error("health listener cannot bind {address}: {source}; choose another health.bind_address or health.bind_port")]
    Bind {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configured path is not usable.
    #[error(
        "health path `{path}` is not valid; write it as `/name`, not {METRICS_PATH}, and live_path and ready_path must \
         differ"
    )]
    Path {
        /// The path.
        path: String,
    },
}

/// A bound health listener, to be run as a task.
#[derive(Debug)]
pub struct HealthListener {
    listener: TcpListener,
    router: Router,
    address: SocketAddr,
}

impl HealthListener {
    /// Binds the listener; `None` when the configuration leaves it off.
    ///
    /// # Errors
    /// [`HealthError`] naming the setting to change.
    pub async fn bind(config: &HealthConfig, readiness: Readiness) -> Result<Option<Self>, HealthError> {
        if !config.listener_enabled {
            return Ok(None);
        }
        for path in [&config.live_path, &config.ready_path] {
            if path == METRICS_PATH
                || !path.starts_with('/')
                || path.contains(['{', '}', '?', '#', '*', ' '])
                || config.live_path == config.ready_path
            {
                return Err(HealthError::Path { path: path.clone() });
            }
        }
        let bind =
            |source| HealthError::Bind { address: format!("{}:{}", config.bind_address, config.bind_port), source };
        let listener = TcpListener::bind((config.bind_address.as_str(), config.bind_port)).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let live = readiness.clone();
        let router = Router::new()
            .route(&config.live_path, get(move || async move { answer(live.is_live(), live.snapshot()) }))
            .route(&config.ready_path, get(move || async move { answer(readiness.is_ready(), readiness.snapshot()) }));
        tracing::info!(%address, "health listener started");
        Ok(Some(Self { listener, router, address }))
    }

    /// Answers Prometheus on [`METRICS_PATH`] as well.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        let text = move || {
            let metrics = metrics.clone();
            async move {
                // Thousands of series take a while, in which everything else goes on.
                let text = tokio::task::spawn_blocking(move || metrics.render()).await.unwrap_or_default();
                ([(http::header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text)
            }
        };
        self.router = self.router.route(METRICS_PATH, get(text));
        self
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown.
    ///
    /// # Errors
    /// None at present; single connections never end it.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let service = TowerToHyperService::new(self.router);
        let accept_all = async {
            loop {
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        tokio::spawn(answer_one(stream, service.clone(), permit));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "health listener cannot accept a connection");
                        SystemClock.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept_all => {}
            () = shutdown.cancelled() => {}
        }
        Ok(())
    }
}

/// Answers the one request of a connection.
async fn answer_one(stream: TcpStream, service: TowerToHyperService<Router>, _permit: OwnedSemaphorePermit) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "health request failed");
    }
}

/// Binds and serves in one call; returns at the shutdown when the listener is off.
///
/// # Errors
/// [`HealthError`], or the listener's failure.
pub async fn serve(config: HealthConfig, readiness: Readiness, shutdown: Shutdown) -> Result<(), BoxError> {
    match HealthListener::bind(&config, readiness).await? {
        Some(listener) => listener.run(shutdown).await,
        None => {
            shutdown.cancelled().await;
            Ok(())
        }
    }
}

fn answer(well: bool, snapshot: Snapshot) -> impl IntoResponse {
    let status = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, [(http::header::CACHE_CONTROL, "no-store")], axum::Json(snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, serde_json::Value) {
        crate::crypto::install();
        let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/json");
        (status, response.json().await.unwrap())
    }

    #[tokio::test]
    async fn answers_from_the_latches() {
        let readiness = Readiness::new();
        let (ca, store) = (readiness.latch("ca"), readiness.latch("datastore"));
        let config = HealthConfig { listener_enabled: true, bind_port: 0, ..HealthConfig::default() };
        let listener = HealthListener::bind(&config, readiness.clone()).await.unwrap().unwrap();
        let address = listener.address();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(listener.run(shutdown.clone()));

        ca.ready();
        store.not_ready("disk full");
        assert_eq!(get(address, "/live").await.0, 200);
        let (status, body) = get(address, "/ready").await;
        assert_eq!(status, 500);
        assert_eq!(
            body,
            serde_json::json!({
                "ca": {"live": true, "ready": true},
                "datastore": {"live": true, "ready": false, "reason": "disk full"},
            })
        );
        store.ready();
        readiness.wait_ready().await;
        assert_eq!(get(address, "/ready").await.0, 200);
        ca.failed("panicked");
        assert_eq!(get(address, "/live").await.0, 500);
        assert_eq!(get(address, "/ready").await.0, 500);
        shutdown.trigger();
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn off_by_default_and_clear_errors() {
        assert!(HealthListener::bind(&HealthConfig::default(), Readiness::new()).await.unwrap().is_none());
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = HealthConfig {
            listener_enabled: true,
            bind_address: "127.0.0.1".into(),
            bind_port: taken.local_addr().unwrap().port(),
            ..HealthConfig::default()
        };
        let error = HealthListener::bind(&config, Readiness::new()).await.unwrap_err();
        assert!(error.to_string().contains("health.bind_port"), "{error}");
        let config = HealthConfig { ready_path: "ready".into(), ..config };
        assert!(matches!(HealthListener::bind(&config, Readiness::new()).await, Err(HealthError::Path { .. })));
    }
}
