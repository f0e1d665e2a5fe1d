//! What a trust domain will be: its folder, ports and configuration files, fixed before anything runs so that two
//! domains can name each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{ports, web_ca::WebCa};

/// The ports of one domain.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Server API.
    pub issuer: u16,
    /// `/live` and `/ready` of the issuer.
    pub issuer_health: u16,
    /// `/live` and `/ready` of the agent.
    pub agent_health: u16,
    /// `/live` and `/ready` of the gateway.
    pub gateway_health: u16,
    /// Bundle endpoint, `https_web`.
    pub web: u16,
    /// Bundle endpoint, `https_spiffe`.
    pub spiffe: u16,
}

/// A trust domain about to start. Options are set by their configuration key; they replace what is set here.
#[derive(Debug)]
pub struct Plan {
    pub(crate) name: String,
    pub(crate) dir: TempDir,
    pub(crate) ports: Ports,
    pub(crate) web_ca: WebCa,
    issuer: Map<String, Value>,
    agent: Map<String, Value>,
    gateway: Map<String, Value>,
    relationships: Vec<Value>,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Plan {
    /// Folder, ports and ordinary configuration of the trust domain `name`.
    pub fn new(name: &str) -> Result<Self> {
        crate::install_crypto();
        // Short, since a Unix socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("entente-").tempdir_in("/tmp")?;
        let ports = Ports {
            issuer: ports::free()?,
            issuer_health: ports::free()?,
            agent_health: ports::free()?,
            gateway_health: ports::free()?,
            web: ports::free()?,
            spiffe: ports::free()?,
        };
        let web_ca = WebCa::create(dir.path())?;
        let at = |file: &str| dir.path().join(file);
        let health = |port: u16| json!({"listener_enabled": true, "bind_address": "127.0.0.1", "bind_port": port});
        let issuer = json!({
            "trust_domain": name,
            "data_dir": at("issuer"),
            "bind_address": "127.0.0.1",
            "bind_port": ports.issuer,
            "socket_path": at("i/api.sock"),
            "log_level": "debug",
            "node_attestors": {"join_token": {}},
            "health": health(ports.issuer_health),
        });
        let agent = json!({
            "trust_domain": name,
            "data_dir": at("agent"),
            "server_address": "127.0.0.1",
            "server_port": ports.issuer,
            "socket_path": at("a/api.sock"),
            "admin_socket_path": at("aa/admin.sock"),
            "trust_bundle_path": at("bundle.pem"),
            "sync_interval": "1s",
            "log_level": "debug",
            "workload_attestors": {"unix": {"discover_workload_path": true}},
            "health": health(ports.agent_health),
        });
        let gateway = json!({
            "data_dir": at("gateway"),
            "socket_path": at("g/api.sock"),
            "log_level": "debug",
            "health": health(ports.gateway_health),
            "listeners": {
                "https_web": {
                    "bind_address": "127.0.0.1",
                    "bind_port": ports.web,
                    "serving_cert_file": {"cert_file_path": web_ca.certificate, "key_file_path": web_ca.key},
                },
                "https_spiffe": {"bind_address": "127.0.0.1", "bind_port": ports.spiffe},
            },
            "trust_domains": [{
                "name": name,
                "issuer": {"socket_path": at("i/api.sock")},
                "refresh_hint": "1m",
                "poll_interval": "1s",
                "endpoint_id": format!("spiffe://{name}/entente/gateway"),
                "oidc": {"issuer": format!("https://127.0.0.1:{}/{name}", ports.web)},
            }],
            "refresh": {"min_interval": "1s", "allow_addresses": ["127.0.0.1"]},
        });
        Ok(Self {
            name: name.to_owned(),
            dir,
            ports,
            web_ca,
            issuer: object(issuer),
            agent: object(agent),
            gateway: object(gateway),
            relationships: Vec::new(),
        })
    }

    /// Sets one key of the issuer's configuration.
    #[must_use]
    pub fn issuer(mut self, key: &str, value: Value) -> Self {
        self.issuer.insert(key.to_owned(), value);
        self
    }

    /// Sets one key of the agent's configuration.
    #[must_use]
    pub fn agent(mut self, key: &str, value: Value) -> Self {
        self.agent.insert(key.to_owned(), value);
        self
    }

    /// Sets one key of the gateway's configuration.
    #[must_use]
    pub fn gateway(mut self, key: &str, value: Value) -> Self {
        self.gateway.insert(key.to_owned(), value);
        self
    }

    /// Sets one key of the gateway's one served trust domain.
    #[must_use]
    pub fn served_domain(mut self, key: &str, value: Value) -> Self {
        if let Some(Value::Object(domain)) = self.gateway.get_mut("trust_domains").and_then(|all| all.get_mut(0)) {
            domain.insert(key.to_owned(), value);
        }
        self
    }

    /// Adds a relationship, in the words of the gateway's configuration.
    pub fn relationship(&mut self, relationship: Value) {
        self.relationships.push(relationship);
    }

    /// A path inside the domain's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The ports of its listeners.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Bundle URL on the `https_web` listener.
    pub fn bundle_url_web(&self) -> String {
        format!("https://localhost:{}/{}", self.ports.web, self.name)
    }

    /// Bundle URL on the `https_spiffe` listener.
    pub fn bundle_url_spiffe(&self) -> String {
        format!("https://127.0.0.1:{}/{}", self.ports.spiffe, self.name)
    }

    /// SPIFFE ID of the `https_spiffe` endpoint.
    pub fn endpoint_id(&self) -> String {
        format!("spiffe://{}/entente/gateway", self.name)
    }

    /// The CA of the `https_web` listener, PEM.
    pub fn web_ca(&self) -> &Path {
        &self.web_ca.ca
    }

    /// Files of the web CA and the `https_web` listener's certificate.
    pub fn web(&self) -> &WebCa {
        &self.web_ca
    }

    /// The certificate of the `https_web` listener, PEM.
    pub fn web_certificate(&self) -> &Path {
        &self.web_ca.certificate
    }

    /// Its key, PEM.
    pub fn web_key(&self) -> &Path {
        &self.web_ca.key
    }

    /// Writes the configuration file of `service` (`issuer`, `agent` or `gateway`) and tells its path. JSON is YAML.
    pub(crate) fn write(&self, service: &str) -> Result<PathBuf> {
        let mut config = match service {
            "issuer" => self.issuer.clone(),
            "agent" => self.agent.clone(),
            _ => self.gateway.clone(),
        };
        if service == "gateway" {
            config.insert("relationships".to_owned(), Value::Array(self.relationships.clone()));
        }
        let path = self.file(&format!("{service}.yaml"));
        fs::write(&path, serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
