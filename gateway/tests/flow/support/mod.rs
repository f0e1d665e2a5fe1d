//! A gateway in this process between a fake issuer and hostile or well-behaved partners on real TLS.

pub mod authority;
pub mod client;
pub mod issuer;
pub mod partner;
pub mod receiver;
pub mod spire;
pub mod workload_api;

use std::{path::PathBuf, time::Duration};

use federation_specs::id::TrustDomain;
use gateway::{Gateway, api, config::Config};
use serde_json::{Value, json};
use service_kit::{
    clock::{SharedClock, SystemClock},
    lifecycle::Shutdown,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use self::{authority::WebAuthority, client::Admin, issuer::FakeIssuer};

pub const LOCAL: &str = "cloud.example";
pub const PARTNER: &str = "onprem.example";

pub fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// A folder, a fake issuer of [`LOCAL`] and the configuration of a gateway for it.
pub struct Setup {
    pub folder: TempDir,
    pub issuer: FakeIssuer,
    pub web: WebAuthority,
    pub config: Value,
}

impl Setup {
    pub async fn new() -> Self {
        service_kit::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let issuer = FakeIssuer::start(LOCAL, folder.path().join("issuer.sock")).await;
        let web = WebAuthority::new();
        web.write_server_files(folder.path());
        let config = json!({
            "data_dir": folder.path().join("data"),
            "socket_path": folder.path().join("admin.sock"),
            "listeners": {
                "https_web": {
                    "bind_address": "127.0.0.1",
                    "bind_port": 0,
                    "serving_cert_file": {
                        "cert_file_path": folder.path().join("web.pem"),
                        "key_file_path": folder.path().join("web.key"),
                    },
                },
                "https_spiffe": {"bind_address": "127.0.0.1", "bind_port": 0},
            },
            "trust_domains": [{
                "name": LOCAL,
                "issuer": {"socket_path": issuer.socket()},
                "refresh_hint": "2m",
                "endpoint_id": format!("spiffe://{LOCAL}/entente/gateway"),
                "poll_interval": "1s",
                "oidc": {"issuer": format!("https://oidc.example:8443/{LOCAL}")},
            }],
            "relationships": [],
            "refresh": {
                "min_interval": "1s",
                "timeout": "2s",
                "max_body_bytes": 100_000,
                "allow_addresses": ["127.0.0.0/8"],
            },
        });
        Self { folder, issuer, web, config }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a relationship to the configuration.
    pub fn relate(&mut self, relationship: Value) {
        self.config["relationships"].as_array_mut().unwrap().push(relationship);
    }

    /// A relationship over `https_web` with the test's web authority, for the admin API.
    pub fn web_relationship(&self, trust_domain: &str, url: &str) -> Value {
        json!({"trust_domain": trust_domain, "url": url, "profile": "https_web", "ca_pem": self.web.ca_pem()})
    }

    /// Adds a relationship over `https_web` with the test's web authority.
    pub fn relate_web(&mut self, trust_domain: &str, url: &str) {
        std::fs::write(self.file("partner-ca.pem"), self.web.ca_pem()).unwrap();
        let ca_file = self.file("partner-ca.pem");
        self.relate(json!({"trust_domain": trust_domain, "url": url, "profile": "https_web", "ca_file": ca_file}));
    }

    pub async fn start(&self) -> Running {
        let running = self.start_unready().await;
        eventually("the gateway to be ready", || async { running.readiness.is_ready() }).await;
        running
    }

    pub async fn start_unready(&self) -> Running {
        self.start_config(&self.config).await
    }

    /// Starts another gateway for the same domain, on the same database under this name.
    pub async fn start_replica(&self, name: &str) -> Running {
        self.start_replica_with(name, |_| {}).await
    }

    /// Starts another gateway with a configuration that differs.
    pub async fn start_replica_with(&self, name: &str, differ: impl FnOnce(&mut Value)) -> Running {
        let mut config = self.config.clone();
        config["data_dir"] = json!(self.file(name));
        config["socket_path"] = json!(self.file(&format!("{name}.sock")));
        config["datastore"]["postgres"]["replica_name"] = json!(name);
        differ(&mut config);
        let running = self.start_config(&config).await;
        eventually("the replica to be ready", || async { running.readiness.is_ready() }).await;
        running
    }

    /// Starts a gateway whose time is that of `clock`.
    pub async fn start_at(&self, clock: SharedClock) -> Running {
        self.start_with(&self.config, clock).await
    }

    async fn start_config(&self, config: &Value) -> Running {
        self.start_with(config, SystemClock::shared()).await
    }

    async fn start_with(&self, config: &Value, clock: SharedClock) -> Running {
        let config: Config = serde_json::from_value(config.clone()).unwrap();
        let admin = Admin::new(config.socket_path.clone());
        let shutdown = Shutdown::new();
        let gateway = Gateway::start(&config, clock, shutdown.clone()).await.unwrap();
        Running {
            web_address: gateway.https_web().unwrap(),
            spiffe_address: gateway.https_spiffe().unwrap(),
            admin_address: gateway.admin(),
            readiness: gateway.readiness().clone(),
            metrics: gateway.metrics().registry().clone(),
            admin,
            shutdown,
            task: tokio::spawn(gateway.run()),
        }
    }
}

/// A running gateway.
pub struct Running {
    pub web_address: std::net::SocketAddr,
    pub spiffe_address: std::net::SocketAddr,
    pub admin_address: Option<std::net::SocketAddr>,
    pub readiness: service_kit::health::Readiness,
    pub metrics: service_kit::metrics::Metrics,
    pub admin: Admin,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), gateway::Error>>,
}

impl AsRef<Admin> for Running {
    fn as_ref(&self) -> &Admin {
        &self.admin
    }
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it as a kill would: nothing is given back.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    pub async fn relationship(&self, name: &str) -> api::Relationship {
        self.admin.get(&format!("/v1/relationships/{name}")).await
    }

    /// Waits until the partner's bundle with that sequence is held.
    pub async fn wait_held(&self, name: &str, sequence: u64) -> api::Relationship {
        let path = format!("/v1/relationships/{name}");
        eventually("the partner's bundle to be held", || async {
            let relationship: Option<api::Relationship> = self.admin.try_get(&path).await.ok();
            relationship.and_then(|now| now.held).and_then(|held| held.sequence) == Some(sequence)
        })
        .await;
        self.relationship(name).await
    }

    /// Refreshes, expecting a failure; answers its text.
    pub async fn refused(&self, name: &str) -> String {
        let refresh: Result<api::RefreshResult, api::Problem> =
            self.admin.post(&format!("/v1/relationships/{name}/refresh"), &json!({})).await;
        let problem = refresh.unwrap_err();
        assert_eq!(problem.status, 502, "{problem:?}");
        problem.detail
    }

    /// The digest of the bundle that waits, as the body of a decision about it.
    pub async fn waiting(&self, name: &str) -> Value {
        json!({ "digest": self.relationship(name).await.waiting.map(|waiting| waiting.digest) })
    }

    /// Takes a decision about a relationship.
    pub async fn decide(&self, name: &str, verb: &str, body: Value) -> Result<api::Relationship, api::Problem> {
        let path = format!("/v1/relationships/{name}/{verb}");
        let decided: Result<api::Decided, api::Problem> = self.admin.post(&path, &body).await;
        decided.map(|decided| decided.relationship)
    }

    /// What was done, as the audit log says, in order.
    pub async fn audited(&self) -> Vec<(String, String)> {
        let page: api::audit::AuditPage = self.admin.get("/v1/audit").await;
        let records = page.records.into_iter().map(|entry| entry.record.unwrap());
        records.map(|record| (record.what.name(), record.subject)).collect()
    }

    /// The audit log must be whole.
    pub async fn verify_audit(&self) -> api::audit::AuditReport {
        let report: api::audit::AuditReport = self.admin.get("/v1/audit/verify").await;
        assert!(report.ok, "{report:?}");
        report
    }

    /// Creates or replaces a relationship over the admin API, with these keys of the configuration.
    pub async fn relate(&self, relationship: &Value) {
        let path = format!("/v1/relationships/{}", relationship["trust_domain"].as_str().unwrap());
        let answer = self.admin.send(http::Request::put(path).body(relationship.to_string()).unwrap()).await;
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(answer.body()));
    }

    /// Removes a relationship over the admin API.
    pub async fn end(&self, name: &str) {
        let request = http::Request::delete(format!("/v1/relationships/{name}")).body(String::new()).unwrap();
        let answer = self.admin.send(request).await;
        assert_eq!(answer.status(), 200, "{}", String::from_utf8_lossy(answer.body()));
    }

    pub async fn refresh(&self, name: &str, options: Value) -> Result<api::RefreshResult, api::Problem> {
        self.admin.post(&format!("/v1/relationships/{name}/refresh"), &options).await
    }
}

/// Polls until `condition` holds; fails the test after a while.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..1500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("gave up waiting for {what}");
}
