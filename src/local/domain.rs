//! One trust domain's issuer, agent and gateway as child processes, with the configuration they run from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::local::issuer_api::IssuerApi;
use crate::local::layout::Layout;
use crate::local::process::Process;
use crate::local::web_ca;

/// How long one process may take until its `/ready` answers 200.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Seconds a join token made for the local agent is valid.
const JOIN_TOKEN_TTL: i32 = 600;

/// What differs between the trust domains that are started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `ca_ttl` of the issuer.
    pub(crate) ca_ttl: &'static str,
    /// The bundle's refresh hint; partners poll at a quarter of it.
    pub(crate) refresh_hint: &'static str,
    /// The least time between two polls of one partner.
    pub(crate) min_refresh_interval: &'static str,
    /// `upstream_authority` of the issuer: (certificate, key) of a root in PEM files.
    pub(crate) upstream: Option<(PathBuf, PathBuf)>,
    /// `relationships` of the gateway's configuration.
    pub(crate) relationships: Vec<Value>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ca_ttl: "24h",
            refresh_hint: "1m",
            min_refresh_interval: "5s",
            upstream: None,
            relationships: Vec::new(),
        }
    }
}

/// A trust domain on loopback. Its processes end when it is dropped; [`Domain::stop`] lets them finish.
#[derive(Debug)]
pub(crate) struct Domain {
    layout: Layout,
    options: Options,
    program: PathBuf,
    issuer: Option<Process>,
    agent: Option<Process>,
    gateway: Option<Process>,
}

impl Domain {
    /// Nothing runs yet.
    pub(crate) fn new(layout: Layout, options: Options) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { layout, options, program, issuer: None, agent: None, gateway: None })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The issuer's API on its Unix socket.
    pub(crate) fn issuer_api(&self) -> IssuerApi {
        IssuerApi::connect(&self.layout.issuer_socket(), self.layout.trust_domain().clone())
    }

    /// Process ids of issuer, agent and gateway, as far as they run.
    pub(crate) fn pids(&self) -> [(&'static str, Option<u32>); 3] {
        let pid = |process: &Option<Process>| process.as_ref().and_then(Process::pid);
        [("issuer", pid(&self.issuer)), ("agent", pid(&self.agent)), ("gateway", pid(&self.gateway))]
    }

    /// Starts the issuer and waits until it signs; writes its bundle for agents and partners.
    pub(crate) async fn start_issuer(&mut self) -> Result<()> {
        let layout = &self.layout;
        let mut config = json!({
            "trust_domain": layout.trust_domain().as_str(),
            "data_dir": layout.file("issuer"),
            "bind_address": "127.0.0.1",
            "bind_port": layout.ports().issuer,
            "socket_path": layout.issuer_socket(),
            "ca_ttl": self.options.ca_ttl,
            "jwt_issuer": layout.oidc_url(),
            "cache_reload_interval": "1s",
            "node_attestors": {"join_token": {}},
            "health": health(layout.ports().issuer_health),
        });
        if let Some((certificate, key)) = &self.options.upstream {
            config["upstream_authority"] = json!({"disk": {"cert_file_path": certificate, "key_file_path": key}});
        }
        let file = write_config(layout, "issuer", &config)?;
        let process = self.issuer.insert(self.run("issuer", &file, Vec::new())?);
        ready(process, self.layout.ports().issuer_health).await?;

        let bundle = self.issuer_api().bundle().await?;
        web_ca::write(&self.layout.bootstrap_bundle(), bundle.to_pem().as_bytes(), 0o644)?;
        web_ca::write(&self.layout.spiffe_bundle(), &federation_specs::bundle_json::encode(&bundle), 0o644)
    }

    /// Starts the agent with a fresh join token and waits until it has attested and serves.
    pub(crate) async fn start_agent(&mut self) -> Result<()> {
        let layout = &self.layout;
        let token = self.issuer_api().join_token(&layout.agent_id()?, JOIN_TOKEN_TTL).await?;
        let config = json!({
            "trust_domain": layout.trust_domain().as_str(),
            "data_dir": layout.file("agent"),
            "server_address": "127.0.0.1",
            "server_port": layout.ports().issuer,
            "socket_path": layout.agent_socket(),
            "admin_socket_path": layout.agent_admin_socket(),
            "trust_bundle_path": layout.bootstrap_bundle(),
            "join_token_file": layout.file("join-token"),
            "sync_interval": "1s",
            "node_attestor": {"join_token": {}},
            // Programs of one user are told apart by their path; hashing each would cost and tell no more.
            "workload_attestors": {"unix": {"discover_workload_path": true, "workload_size_limit": -1}},
            "health": health(layout.ports().agent_health),
        });
        web_ca::write(&layout.file("join-token"), token.as_bytes(), 0o600)?;
        let file = write_config(layout, "agent", &config)?;
        let process = self.agent.insert(self.run("agent", &file, Vec::new())?);
        ready(process, self.layout.ports().agent_health).await
    }

    /// Starts the gateway and waits until it serves this domain's bundle.
    pub(crate) async fn start_gateway(&mut self) -> Result<()> {
        let layout = &self.layout;
        let config = json!({
            "data_dir": layout.file("gateway"),
            "socket_path": layout.gateway_socket(),
            "listeners": {
                "https_web": {
                    "bind_address": "127.0.0.1",
                    "bind_port": layout.ports().web,
                    "serving_cert_file": {
                        "cert_file_path": layout.web_certificate(),
                        "key_file_path": layout.web_key(),
                    },
                },
                "https_spiffe": {"bind_address": "127.0.0.1", "bind_port": layout.ports().spiffe},
            },
            "trust_domains": [{
                "name": layout.trust_domain().as_str(),
                "issuer": {"socket_path": layout.issuer_socket()},
                "refresh_hint": self.options.refresh_hint,
                "endpoint_id": layout.endpoint_id()?.to_string(),
                "poll_interval": "1s",
                "oidc": {"issuer": layout.oidc_url()},
            }],
            "relationships": self.options.relationships,
            "refresh": {
                "min_interval": self.options.min_refresh_interval,
                "allow_addresses": ["127.0.0.0/8", "::1"],
            },
            "health": health(layout.ports().gateway_health),
        });
        let file = write_config(layout, "gateway", &config)?;
        let process = self.gateway.insert(self.run("gateway", &file, Vec::new())?);
        ready(process, self.layout.ports().gateway_health).await
    }

    /// Fails if one of the processes has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        for process in [&mut self.issuer, &mut self.agent, &mut self.gateway].into_iter().flatten() {
            process.check()?;
        }
        Ok(())
    }

    /// Ends the processes in the order in which they depend on each other.
    pub(crate) async fn stop(&mut self) {
        for process in [self.gateway.take(), self.agent.take(), self.issuer.take()].into_iter().flatten() {
            let mut process = process;
            process.stop().await;
        }
    }

    /// The ends of the logs, for an error report.
    pub(crate) fn log_tails(&self) -> String {
        [&self.issuer, &self.agent, &self.gateway].into_iter().flatten().map(Process::log_tail).collect()
    }

    fn run(&self, role: &str, config: &Path, more: Vec<OsString>) -> Result<Process> {
        let name = format!("{} {role}", self.layout.trust_domain());
        let mut arguments: Vec<OsString> = vec![role.into(), "run".into(), "-config".into(), config.into()];
        arguments.extend(more);
        Process::start(&name, &self.program, &arguments, &self.layout.file(&format!("{role}.log")))
    }
}

fn health(port: u16) -> Value {
    json!({"listener_enabled": true, "bind_address": "127.0.0.1", "bind_port": port})
}

fn write_config(layout: &Layout, role: &str, config: &Value) -> Result<PathBuf> {
    let file = layout.file(&format!("{role}.yaml"));
    let text = serde_saphyr::to_string(config).context("cannot write the configuration as YAML")?;
    web_ca::write(&file, text.as_bytes(), 0o600)?;
    Ok(file)
}

/// Waits for `GET /ready` to answer 200; fails at once when the process ends.
async fn ready(process: &mut Process, port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/ready");
    let client = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
    let mut reason = anyhow::anyhow!("no answer from {url}");
    let started = tokio::time::timeout(READY_LIMIT, async {
        loop {
            process.check()?;
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => reason = anyhow::anyhow!("not ready: {}", answer.text().await.unwrap_or_default()),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    })
    .await;
    match started {
        Ok(result) => result,
        Err(_) => bail!("{reason}\n{}", process.log_tail()),
    }
}
