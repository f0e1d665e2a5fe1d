//! A running trust domain.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    binary,
    cli::{self, Answer},
    plan::Plan,
    process::{self, Process},
    wait,
};

/// The three services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Authority of the trust domain.
    Issuer,
    /// Workload API.
    Agent,
    /// Bundle endpoints and refresh.
    Gateway,
}

impl Service {
    /// Its word on the command line and in file names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Agent => "agent",
            Self::Gateway => "gateway",
        }
    }
}

/// A trust domain of real processes. Dropping it kills them; [`Domain::stop`] ends them politely and checks that they
/// took it well. A test that leaves before `stop` prints the end of every log.
#[derive(Debug)]
pub struct Domain {
    plan: Plan,
    issuer: Option<Process>,
    agent: Option<Process>,
    gateway: Option<Process>,
    stopped: bool,
}

impl Deref for Domain {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

impl Domain {
    /// Issuer, agent and gateway of `name` with the ordinary configuration, all ready.
    pub async fn start(name: &str) -> Result<Self> {
        let mut domain = Self::from_plan(Plan::new(name)?);
        domain.start_all().await?;
        Ok(domain)
    }

    /// Issuer and agent alone.
    pub async fn start_without_gateway(plan: Plan) -> Result<Self> {
        let mut domain = Self::from_plan(plan);
        domain.start_issuer().await?;
        domain.start_agent().await?;
        Ok(domain)
    }

    /// Nothing runs yet.
    pub fn from_plan(plan: Plan) -> Self {
        Self { plan, issuer: None, agent: None, gateway: None, stopped: false }
    }

    /// Starts whatever does not run yet.
    pub async fn start_all(&mut self) -> Result<()> {
        self.start_issuer().await?;
        self.start_agent().await?;
        self.start_gateway().await
    }

    /// Starts the issuer, waits until it is ready and writes its bundle to `bundle.pem` and `bundle.json`.
    pub async fn start_issuer(&mut self) -> Result<()> {
        self.launch(Service::Issuer, &[])?;
        self.ready(Service::Issuer).await?;
        for (format, file) in [("pem", "bundle.pem"), ("spiffe", "bundle.json")] {
            let bundle = self.issuer_cli(&["bundle", "show", "-format", format]).await?.ok()?;
            std::fs::write(self.file(file), bundle)?;
        }
        Ok(())
    }

    /// Starts the agent with a new join token that makes it `/node`, and waits until it is ready.
    pub async fn start_agent(&mut self) -> Result<()> {
        let node = self.id("/node");
        let token = self.join_token(Some(&node)).await?;
        self.launch(Service::Agent, &["-joinToken", &token])?;
        self.ready(Service::Agent).await
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start_gateway(&mut self) -> Result<()> {
        self.launch(Service::Gateway, &[])?;
        self.ready(Service::Gateway).await
    }

    /// Starts one service without waiting.
    pub fn launch(&mut self, service: Service, arguments: &[&str]) -> Result<()> {
        let config = self.write_config(service)?;
        let mut command = Command::new(binary::entente()?);
        command.arg(service.word()).arg("run").arg("-config").arg(config).args(arguments);
        let name = format!("{} {}", self.plan.name, service.word());
        let process = Process::start(&name, command, &self.log_file(service))?;
        *self.slot(service) = Some(process);
        Ok(())
    }

    /// Writes the configuration file of a service: its path.
    pub fn write_config(&self, service: Service) -> Result<PathBuf> {
        self.plan.write(service.word())
    }

    /// Starts a service that was killed or stopped again from its folder, and waits until it is ready. The agent gets
    /// no new token: it must go on with what it holds.
    pub async fn restart(&mut self, service: Service) -> Result<()> {
        self.launch(service, &[])?;
        self.ready(service).await
    }

    /// Waits until `/ready` answers 200; fails at once if the process ends.
    pub async fn ready(&mut self, service: Service) -> Result<()> {
        let url = self.health_url(service, "/ready");
        let mut gone = None;
        let slot = self.slot(service);
        let outcome = wait::until(&format!("{} is ready", service.word()), || {
            if let Some(Err(error)) = slot.as_mut().map(Process::check_running) {
                gone = Some(error);
            }
            let (url, ended) = (url.clone(), gone.is_some());
            async move {
                if ended {
                    return Ok(());
                }
                let (status, body) = get(&url).await?;
                ensure!(status == 200, "{url} answers {status}: {body}");
                Ok(())
            }
        })
        .await;
        match gone {
            Some(error) => Err(error),
            None => outcome,
        }
    }

    /// SIGTERM to every process, in the order gateway, agent, issuer; fails unless each ends with 0.
    pub async fn stop(mut self) -> Result<()> {
        for service in [Service::Gateway, Service::Agent, Service::Issuer] {
            if let Some(mut process) = self.slot(service).take() {
                process.stop().await?;
            }
        }
        self.stopped = true;
        Ok(())
    }

    /// SIGTERM to one process: how long it took to end with 0.
    pub async fn stop_service(&mut self, service: Service) -> Result<Duration> {
        let mut process = self.slot(service).take().with_context(|| format!("the {} does not run", service.word()))?;
        process.stop().await
    }

    /// SIGKILL to one process.
    pub async fn kill9(&mut self, service: Service) -> Result<()> {
        let mut process = self.slot(service).take().with_context(|| format!("the {} does not run", service.word()))?;
        process.kill9().await
    }

    /// The running process of a service.
    pub fn process(&mut self, service: Service) -> Result<&mut Process> {
        self.slot(service).as_mut().with_context(|| format!("the {} does not run", service.word()))
    }

    /// The process id of a running service.
    pub fn pid(&self, service: Service) -> Result<Pid> {
        let process = match service {
            Service::Issuer => &self.issuer,
            Service::Agent => &self.agent,
            Service::Gateway => &self.gateway,
        };
        process.as_ref().with_context(|| format!("the {} does not run", service.word()))?.pid()
    }

    fn slot(&mut self, service: Service) -> &mut Option<Process> {
        match service {
            Service::Issuer => &mut self.issuer,
            Service::Agent => &mut self.agent,
            Service::Gateway => &mut self.gateway,
        }
    }

    /// `spiffe://<trust domain><path>`.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.plan.name)
    }

    /// The trust domain's name.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Local socket of the issuer.
    pub fn issuer_socket(&self) -> PathBuf {
        self.file("i/api.sock")
    }

    /// Workload API socket of the agent.
    pub fn agent_socket(&self) -> PathBuf {
        self.file("a/api.sock")
    }

    /// Admin socket of the gateway.
    pub fn gateway_socket(&self) -> PathBuf {
        self.file("g/api.sock")
    }

    /// What `SPIFFE_ENDPOINT_SOCKET` holds for workloads.
    pub fn endpoint_socket(&self) -> String {
        format!("unix://{}", self.agent_socket().display())
    }

    /// `host:port` of the issuer's Server API.
    pub fn issuer_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.issuer)
    }

    /// URL of a health path of a service.
    pub fn health_url(&self, service: Service, path: &str) -> String {
        let port = match service {
            Service::Issuer => self.ports.issuer_health,
            Service::Agent => self.ports.agent_health,
            Service::Gateway => self.ports.gateway_health,
        };
        format!("http://127.0.0.1:{port}{path}")
    }

    /// Log file of a service.
    pub fn log_file(&self, service: Service) -> PathBuf {
        self.file(&format!("{}.log", service.word()))
    }

    /// `entente issuer <arguments> -socketPath <this issuer>`.
    pub async fn issuer_cli(&self, arguments: &[&str]) -> Result<Answer> {
        cli::entente(&with_socket("issuer", arguments, &self.issuer_socket())).await
    }

    /// The same with `-output json`, which must succeed.
    pub async fn issuer_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = with_socket("issuer", arguments, &self.issuer_socket());
        all.extend(["-output".to_owned(), "json".to_owned()]);
        cli::entente(&all).await?.json()
    }

    /// `entente agent <arguments> -socketPath <this agent>`.
    pub async fn agent_cli(&self, arguments: &[&str]) -> Result<Answer> {
        cli::entente(&with_socket("agent", arguments, &self.agent_socket())).await
    }

    /// `entente gateway <arguments> -socketPath <this gateway>`.
    pub async fn gateway_cli(&self, arguments: &[&str]) -> Result<Answer> {
        cli::entente(&with_socket("gateway", arguments, &self.gateway_socket())).await
    }

    /// The same with `--output json`, which must succeed.
    pub async fn gateway_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = with_socket("gateway", arguments, &self.gateway_socket());
        all.extend(["--output".to_owned(), "json".to_owned()]);
        cli::entente(&all).await?.json()
    }

    /// A new join token, for an agent known as `spiffe_id` if given.
    pub async fn join_token(&self, spiffe_id: Option<&str>) -> Result<String> {
        let mut arguments = vec!["token", "generate"];
        arguments.extend(spiffe_id.iter().flat_map(|id| ["-spiffeID", id]));
        let answer = self.issuer_json(&arguments).await?;
        let token = answer.get("value").and_then(Value::as_str);
        Ok(token.with_context(|| format!("no token in {answer}"))?.to_owned())
    }

    /// An entry for every process of the user who runs the tests, with more flags of `entry create`; its entry ID.
    pub async fn create_entry(&self, path: &str, flags: &[&str]) -> Result<String> {
        let (node, id) = (self.id("/node"), self.id(path));
        let uid = format!("unix:uid:{}", rustix::process::getuid().as_raw());
        let mut arguments = vec!["entry", "create", "-parentID", &node, "-spiffeID", &id, "-selector", &uid];
        arguments.extend(flags);
        let answer = self.issuer_json(&arguments).await?;
        let result = &answer["results"][0];
        ensure!(result["status"]["code"] == json!(0), "entry {path} was not created: {answer}");
        Ok(result["entry"]["id"].as_str().with_context(|| format!("no entry ID in {answer}"))?.to_owned())
    }

    /// The key IDs of the X.509 authorities in the issuer's own bundle, in the issuer's order, and the JWT key IDs.
    pub async fn authorities(&self) -> Result<Authorities> {
        Authorities::of(&self.issuer_json(&["bundle", "show"]).await?)
    }

    /// The bundle of another domain this issuer holds.
    pub async fn federated_authorities(&self, trust_domain: &str) -> Result<Authorities> {
        Authorities::of(&self.issuer_json(&["bundle", "list", "-id", trust_domain]).await?)
    }

    /// How many entries, agents and bundles the issuer holds: what a refused request must not change.
    pub async fn counts(&self) -> Result<Vec<Value>> {
        let mut counts = Vec::new();
        for kind in ["entry", "agent", "bundle"] {
            counts.push(self.issuer_json(&[kind, "count"]).await?["count"].clone());
        }
        Ok(counts)
    }
}

/// The authorities of a bundle in the Server API's JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Certificates, base64 DER, sorted.
    pub x509: Vec<String>,
    /// Key IDs, sorted.
    pub jwt: Vec<String>,
    /// Sequence number.
    pub sequence: u64,
}

impl Authorities {
    fn of(bundle: &Value) -> Result<Self> {
        let list = |list: &str, member: &str| -> Result<Vec<String>> {
            let mut found = Vec::new();
            for authority in bundle[list].as_array().with_context(|| format!("no {list} in {bundle}"))? {
                found.push(
                    authority[member].as_str().with_context(|| format!("no {member} in {authority}"))?.to_owned(),
                );
            }
            found.sort();
            Ok(found)
        };
        let sequence = match &bundle["sequence_number"] {
            Value::String(text) => text.parse()?,
            Value::Null => 0,
            other => bail!("sequence_number is {other}"),
        };
        Ok(Self { x509: list("x509_authorities", "asn1")?, jwt: list("jwt_authorities", "key_id")?, sequence })
    }

    /// Whether the authorities are the same, whatever the sequence number.
    pub fn same_keys(&self, other: &Self) -> bool {
        self.x509 == other.x509 && self.jwt == other.jwt
    }
}

fn with_socket(service: &str, arguments: &[&str], socket: &Path) -> Vec<String> {
    let mut all = vec![service.to_owned()];
    all.extend(arguments.iter().map(|&argument| argument.to_owned()));
    all.extend(["-socketPath".to_owned(), socket.display().to_string()]);
    all
}

/// GET over plain HTTP: status and body.
pub async fn get(url: &str) -> Result<(u16, String)> {
    crate::install_crypto();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
    let answer = client.get(url).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

impl Drop for Domain {
    #[expect(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
    fn drop(&mut self) {
        if !self.stopped {
            for service in [Service::Issuer, Service::Agent, Service::Gateway] {
                let log = self.log_file(service);
                if log.exists() {
                    eprintln!("{}", process::tail(&format!("{} {}", self.plan.name, service.word()), &log));
                }
            }
        }
    }
}
