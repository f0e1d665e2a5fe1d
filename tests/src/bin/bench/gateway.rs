//! Gateways to be measured: real processes with a folder of their own.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{binary, hostile::authority::Keys, ports, process::Process, wait, web_ca::WebCa};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{load::Target, machine::Processors};

/// How long a gateway may take to start before nobody waits any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at a gateway that starts.
const LOOK: Duration = Duration::from_millis(5);

/// A gateway's folder, ports and configuration; it may be started more than once.
pub(crate) struct Setup {
    issuer: Option<Process>,
    dir: TempDir,
    web: WebCa,
    web_port: u16,
    health_port: u16,
    domains: Vec<String>,
    processors: Processors,
    config: Map<String, Value>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Setup {
    /// A gateway that serves `domains` from files, with an X.509 and a JWT authority each.
    pub(crate) fn new(domains: &[&str], processors: &Processors) -> Result<Self> {
        // Short, since a Unix socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("entente-bench-").tempdir_in("/tmp")?;
        let web = WebCa::create(dir.path())?;
        let (web_port, health_port) = (ports::free()?, ports::free()?);
        let mut served = Vec::new();
        for name in domains {
            let file = dir.path().join(format!("{name}.json"));
            std::fs::write(&file, Keys::create(name)?.bundle(1, 300).to_string())?;
            served.push(json!({ "name": name, "sources": [{ "file": { "path": file } }] }));
        }
        let config = json!({
            "data_dir": dir.path().join("data"),
            "socket_path": dir.path().join("api/api.sock"),
            "log_file": dir.path().join("gateway.log"),
            "health": { "listener_enabled": true, "bind_address": "127.0.0.1", "bind_port": health_port },
            "listeners": { "https_web": {
                "bind_address": "127.0.0.1",
                "bind_port": web_port,
                "serving_cert_file": { "cert_file_path": web.certificate, "key_file_path": web.key },
            } },
            "trust_domains": served,
            "limits": { "max_connections_per_client": 8192, "requests_per_second": 0 },
        });
        let Value::Object(config) = config else { unreachable!("an object was written above") };
        let domains = domains.iter().map(|&name| name.to_owned()).collect();
        Ok(Self {
            issuer: None,
            dir,
            web,
            web_port,
            health_port,
            domains,
            processors: processors.clone(),
            config,
            environment: Vec::new(),
        })
    }

    /// Runs an issuer for the first domain, which gives its bundle and receives those of partners. It works beside the
    /// load, not beside the gateway.
    pub(crate) async fn start_issuer(&mut self) -> Result<()> {
        let name = self.domains.first().context("no domain is served")?.clone();
        let socket = self.file("issuer/api.sock");
        let config = json!({
            "trust_domain": name,
            "data_dir": self.file("issuer-data"),
            "bind_address": "127.0.0.1",
            "bind_port": ports::free()?,
            "socket_path": socket,
            "log_level": "warn",
            "node_attestors": { "join_token": {} },
        });
        let file = self.file("issuer.yaml");
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        let mut command = tokio::process::Command::new(binary::entente()?);
        command.args(["issuer", "run", "-config"]).arg(file);
        self.issuer = Some(Process::start("issuer", command, &self.file("issuer.log"))?);
        wait::until("the issuer listens", || async { Ok(tokio::net::UnixStream::connect(&socket).await.map(drop)?) })
            .await?;
        self.set("trust_domains", json!([{ "name": name, "issuer": { "socket_path": socket } }]));
        Ok(())
    }

    /// Sets one key of the configuration.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.config.insert(key.to_owned(), value);
    }

    /// Gives the gateway an environment variable that names a file.
    pub(crate) fn environment(&mut self, name: &'static str, file: PathBuf) {
        self.environment.push((name, file));
    }

    /// A path inside its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The certificate of its web listener.
    pub(crate) fn web(&self) -> &WebCa {
        &self.web
    }

    /// URL of the first domain's bundle.
    pub(crate) fn bundle_url(&self) -> String {
        let name = self.domains.first().map(String::as_str).unwrap_or_default();
        format!("https://127.0.0.1:{}/{name}", self.web_port)
    }

    /// Its admin socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file("api/api.sock")
    }

    /// Starts it and waits until it serves a bundle and is ready: how long each took.
    pub(crate) async fn start(&self) -> Result<Running> {
        let config = self.file("gateway.yaml");
        std::fs::write(&config, serde_json::to_vec(&self.config)?)?;
        let target = Target::resolve(&self.bundle_url()).await?;
        let mut command = self.processors.command(binary::entente()?);
        command.args(["gateway", "run", "-config"]).arg(config).envs(self.environment.iter().map(|(k, v)| (k, v)));
        let begin = Instant::now();
        let mut process = Process::start("gateway", command, &self.file("gateway.out"))?;
        let mut bundle = None;
        let health = format!("http://127.0.0.1:{}/ready", self.health_port);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let ready = loop {
            process.check_running().with_context(|| self.log())?;
            if bundle.is_none() && target.fetch().await.is_ok() {
                bundle = Some(begin.elapsed());
            }
            if bundle.is_some() && client.get(&health).send().await.is_ok_and(|answer| answer.status() == 200) {
                break begin.elapsed();
            }
            ensure!(begin.elapsed() < PATIENCE, "the gateway does not start\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        };
        Ok(Running { process, serving: bundle.unwrap_or(ready), ready })
    }

    fn log(&self) -> String {
        let log = std::fs::read(self.file("gateway.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends the issuer, if there is one.
    pub(crate) async fn stop(mut self) -> Result<()> {
        match &mut self.issuer {
            Some(issuer) => issuer.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// The metrics it shows.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.health_port);
        Ok(reqwest::Client::builder().no_proxy().build()?.get(url).send().await?.text().await?)
    }
}

/// A gateway that runs. Dropping it kills it.
pub(crate) struct Running {
    process: Process,
    /// Time from its start until it served a bundle.
    pub(crate) serving: Duration,
    /// Time from its start until it was ready.
    pub(crate) ready: Duration,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(self.process.pid()?.as_raw_nonzero().get())
    }

    /// Ends it politely.
    pub(crate) async fn stop(mut self) -> Result<Duration> {
        self.process.stop().await
    }
}

/// Waits until something listens on a port of loopback.
pub(crate) async fn listening(port: u16) -> Result<()> {
    wait::until("the server listens", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        Ok(())
    })
    .await
}
