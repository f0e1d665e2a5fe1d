//! An agent in this process, started from a configuration as `entente agent run` starts it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use federation_specs::proto::workload::{
    JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    X509BundlesResponse, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use service_kit::{
    clock::ManualClock,
    config,
    grpc::connect,
    lifecycle::Shutdown,
    telemetry::{LogHandle, LogLevel},
};
use tokio::task::JoinHandle;
use tonic::{Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use super::issuer::FakeIssuer;
use crate::{Error, config::Config, saved};

/// Longest time a test waits for something, on the machine's clock.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folder and configuration of an agent, which outlive its process.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    clock: ManualClock,
    /// Lines of YAML.
    config: Vec<String>,
}

/// A running agent.
pub(crate) struct Running {
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Node {
    /// A node that knows the issuer and its bundle.
    pub(crate) fn new(issuer: &FakeIssuer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bundle = saved::pem(&issuer.state().authority.certificate_der());
        std::fs::write(folder.path().join("bundle.pem"), bundle).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = vec![
            "trust_domain: cloud.example".to_string(),
            format!("data_dir: {}", path("data")),
            "server_address: 127.0.0.1".to_string(),
            format!("server_port: {}", issuer.address.port()),
            format!("socket_path: {}", path("public/api.sock")),
            format!("admin_socket_path: {}", path("private/admin.sock")),
            format!("trust_bundle_path: {}", path("bundle.pem")),
        ];
        Self { folder, clock: issuer.clock.clone(), config }
    }

    /// With these lines of configuration; a line replaces the one with the same key, and `key: ~` removes it.
    pub(crate) fn with(mut self, lines: &str) -> Self {
        let key = |line: &str| line.split(':').next().unwrap_or_default().to_string();
        for line in lines.lines() {
            self.config.retain(|kept| key(kept) != key(line));
            if !line.ends_with(": ~") {
                self.config.push(line.into());
            }
        }
        self
    }

    /// With this join token.
    pub(crate) fn with_token(self, token: &str) -> Self {
        self.with(&format!("join_token: {token}"))
    }

    pub(crate) fn start(&self) -> Running {
        let config: Config = config::from_str(&self.config.join("\n"), "test", "ENTENTE_TEST_AGENT", []).unwrap();
        let shutdown = Shutdown::new();
        let log = LogHandle::detached(LogLevel::Info);
        let task = tokio::spawn(crate::run(config, log, Arc::new(self.clock.clone()), shutdown.clone()));
        Running { shutdown, task }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new connection to the Workload API, once the socket is there.
    pub(crate) async fn workload(&self) -> Workload {
        let socket = self.file("public/api.sock");
        until("the socket", async || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        Workload { client: SpiffeWorkloadApiClient::new(connect::unix_channel(&socket)) }
    }

    pub(crate) fn admin(&self) -> Channel {
        connect::unix_channel(&self.file("private/admin.sock"))
    }

    /// Moves the clock in small steps until something has come true.
    pub(crate) async fn advance_until(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        self.advance_by_until(Duration::from_millis(500), what, condition).await;
    }

    pub(crate) async fn advance_by_until(&self, step: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        until(what, async || {
            let done = condition().await;
            if !done {
                self.clock.advance(step);
            }
            done
        })
        .await;
    }
}

/// Waits, on the machine's clock, until something has come true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited too long for {what}");
}

impl Running {
    /// Ends it as SIGTERM would.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.ended().await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), String> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("the agent ends").unwrap();
        ended.map_err(|error| error.to_string())
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

/// A workload with one connection.
#[derive(Clone)]
pub(crate) struct Workload {
    pub(crate) client: SpiffeWorkloadApiClient<Channel>,
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// The next message of a stream, which must come.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a message comes");
    message.map(|message| message.expect("the stream goes on"))
}

/// Whether a stream stays silent for a while.
pub(crate) async fn is_silent<T>(stream: &mut Streaming<T>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), stream.message()).await.is_err()
}

impl Workload {
    pub(crate) async fn x509_stream(&self) -> Result<Streaming<X509svidResponse>, Status> {
        Ok(self.client.clone().fetch_x509svid(with_header(Default::default())).await?.into_inner())
    }

    pub(crate) async fn x509(&self) -> Result<X509svidResponse, Status> {
        next(&mut self.x509_stream().await?).await
    }

    pub(crate) async fn x509_bundles_stream(&self) -> Result<Streaming<X509BundlesResponse>, Status> {
        Ok(self.client.clone().fetch_x509_bundles(with_header(Default::default())).await?.into_inner())
    }

    pub(crate) async fn jwt_bundles_stream(&self) -> Result<Streaming<JwtBundlesResponse>, Status> {
        Ok(self.client.clone().fetch_jwt_bundles(with_header(Default::default())).await?.into_inner())
    }

    pub(crate) async fn jwt(&self, audience: &[&str], spiffe_id: &str) -> Result<JwtsvidResponse, Status> {
        let audience = audience.iter().map(ToString::to_string).collect();
        let request = JwtsvidRequest { audience, spiffe_id: spiffe_id.into() };
        Ok(self.client.clone().fetch_jwtsvid(with_header(request)).await?.into_inner())
    }

    pub(crate) async fn validate(&self, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, Status> {
        let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
        Ok(self.client.clone().validate_jwtsvid(with_header(request)).await?.into_inner())
    }
}

/// The selector this test process has for its user.
pub(crate) fn own_uid() -> String {
    format!("unix:uid:{}", rustix::process::geteuid().as_raw())
}

/// SPIFFE IDs of a response, in order.
pub(crate) fn ids(response: &X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| svid.spiffe_id.trim_start_matches("spiffe://cloud.example/")).collect()
}
