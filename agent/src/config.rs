//! Configuration of the agent. Keys are named as SPIRE's agent options.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use federation_specs::id::{IdError, TrustDomain};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service_kit::{
    config::HumanDuration,
    health::HealthConfig,
    keys::KeyType,
    telemetry::{LogConfig, LogFormat, LogLevel},
};
use url::Url;
use zeroize::Zeroizing;

use crate::node::{
    bootstrap::{BootstrapSource, BundleFormat},
    join_token::TokenSource,
};

/// Prefix of environment variables that override settings: `ENTENTE_AGENT__DATA_DIR`.
pub const ENV_PREFIX: &str = "ENTENTE_AGENT";

/// Shortest and longest `sync_interval`.
const SYNC_INTERVAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60 * 60));

/// Size of a cache whose setting is absent or 0.
pub const DEFAULT_CACHE_SIZE: u32 = 1000;

/// Longest join token, in bytes.
const MAX_TOKEN_BYTES: usize = 2048;

/// Most claims in `allowed_foreign_jwt_claims`.
const MAX_FOREIGN_CLAIMS: usize = 1024;

/// The configuration file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the trust domain this agent belongs to.
    pub trust_domain: String,
    /// Folder for the agent's SVID, key and lock; created with mode 0700.
    pub data_dir: PathBuf,
    /// Host name or IP address of the issuer.
    pub server_address: String,
    /// TCP port of the issuer.
    pub server_port: u16,
    /// Unix socket of the Workload API.
    #[serde(default = "default_socket_path")]
    pub socket_path: PathBuf,
    /// Unix socket for local administration; none when absent. Must not lie in or under the folder of `socket_path`.
    #[serde(default)]
    pub admin_socket_path: Option<PathBuf>,
    /// Join token for the first attestation.
    #[serde(default)]
    pub join_token: Option<String>,
    /// File with the join token for the first attestation.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// Believe any server that claims to be the issuer, at the first connection only.
    #[serde(default)]
    pub insecure_bootstrap: bool,
    /// File with the issuer's bundle, for the first connection.
    #[serde(default)]
    pub trust_bundle_path: Option<PathBuf>,
    /// https URL of the issuer's bundle, for the first connection.
    #[serde(default)]
    pub trust_bundle_url: Option<String>,
    /// Format of the bundle in `trust_bundle_path` or at `trust_bundle_url`.
    #[serde(default)]
    pub trust_bundle_format: BundleFormat,
    /// Kind of the workloads' X509-SVID keys: ec-p256, ec-p384 or rsa-2048.
    #[serde(default = "default_key_type")]
    pub workload_x509_svid_key_type: KeyType,
    /// X509-SVIDs kept for workloads that are not connected; 0 for the default of 1000.
    #[serde(default)]
    pub x509_svid_cache_max_size: u32,
    /// JWT-SVIDs kept; 0 for the default of 1000.
    #[serde(default)]
    pub jwt_svid_cache_max_size: u32,
    /// Time between two synchronisations with the issuer.
    #[serde(default = "default_sync_interval")]
    pub sync_interval: HumanDuration,
    /// Give the trust domain's own bundle to callers without an identity.
    #[serde(default)]
    pub allow_unauthenticated_verifiers: bool,
    /// Claims, besides sub, exp and aud, that ValidateJWTSVID shows of tokens of other trust domains.
    #[serde(default)]
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Shape of a log line.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Appended to this file instead of standard error.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// Where the agent's own key is kept.
    #[serde(default)]
    pub key_manager: KeyManagerConfig,
    /// How this node proves itself to the issuer.
    #[serde(default)]
    pub node_attestor: NodeAttestorConfig,
    /// How callers of the Workload API are told apart.
    #[serde(default)]
    pub workload_attestors: WorkloadAttestorsConfig,
    /// Liveness and readiness over HTTP.
    #[serde(default)]
    pub health: HealthConfig,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The join token is a secret, so the settings are not shown one by one.
        f.debug_struct("Config")
            .field("trust_domain", &self.trust_domain)
            .field("data_dir", &self.data_dir)
            .field("server_address", &self.server_address)
            .field("server_port", &self.server_port)
            .field("socket_path", &self.socket_path)
            .finish_non_exhaustive()
    }
}

/// Where the agent's own key is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyManagerConfig {
    /// In `keys.json`, which only this user can read.
    Disk {
        /// Folder of `keys.json`; the data folder when absent.
        #[serde(default)]
        directory: Option<PathBuf>,
    },
    /// In memory: every start attests anew.
    Memory {},
}

impl Default for KeyManagerConfig {
    fn default() -> Self {
        Self::Disk { directory: None }
    }
}

/// How this node proves itself to the issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeAttestorConfig {
    /// By a join token, from `join_token` or `join_token_file`.
    JoinToken {},
    /// By possession of a certificate's key.
    X509pop {
        /// PEM private key.
        private_key_path: PathBuf,
        /// PEM certificate of that key, intermediates may follow.
        certificate_path: PathBuf,
        /// PEM intermediates, sent after those of `certificate_path`.
        #[serde(default)]
        intermediates_path: Option<PathBuf>,
    },
}

impl Default for NodeAttestorConfig {
    fn default() -> Self {
        Self::JoinToken {}
    }
}

/// How callers of the Workload API are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadAttestorsConfig {
    /// By user, groups and executable of the process.
    #[serde(default)]
    pub unix: Option<UnixConfig>,
}

impl Default for WorkloadAttestorsConfig {
    fn default() -> Self {
        Self { unix: Some(UnixConfig::default()) }
    }
}

/// Options of the `unix` workload attestor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UnixConfig {
    /// Adds the selectors `path` and `sha256`. The agent must then be allowed to look into the workloads' processes.
    pub discover_workload_path: bool,
    /// Largest executable hashed, in bytes; 0 for no limit, negative for no `sha256` selector.
    pub workload_size_limit: i64,
}

fn default_socket_path() -> PathBuf {
    "/tmp/spire-agent/public/api.sock".into()
}

fn default_key_type() -> KeyType {
    KeyType::EcP256
}

fn default_sync_interval() -> HumanDuration {
    HumanDuration::from_secs(5)
}

/// What is wrong with a configuration, and what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The trust domain's name is not valid.
    #[error("trust_domain `{name}` is not valid: {source}; write a bare name such as example.org")]
    TrustDomain {
        /// As configured.
        name: String,
        /// What is wrong.
        source: IdError,
    },
    /// A setting that must not be empty is.
    #[error("{0} must not be empty; {1}")]
    Empty(&'static str, &'static str),
    /// The issuer's address is not usable.
    #[error(
        "server_address `{0}` is neither a host name nor an IP address; give it without scheme and port, the port belongs in server_port"
    )]
    ServerAddress(String),
    /// Port 0.
    #[error("server_port must not be 0; the issuer's default is 8081")]
    ServerPort,
    /// Two settings exclude each other.
    #[error("{0} and {1} exclude each other; keep one of them")]
    Both(&'static str, &'static str),
    /// Nothing to trust the issuer by.
    #[error(
        "there is nothing to trust the issuer by; set trust_bundle_path or trust_bundle_url, or, for a trial only, insecure_bootstrap"
    )]
    NoTrustBundle,
    /// The bundle's URL is not usable.
    #[error("trust_bundle_url `{url}` is not usable: {reason}; write an https URL")]
    TrustBundleUrl {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The key type is not one for workloads.
    #[error("workload_x509_svid_key_type {0} is not possible; use ec-p256, ec-p384 or rsa-2048")]
    KeyType(KeyType),
    /// The interval is out of range.
    #[error("sync_interval is {0}; use a value from 500ms to 1h, such as 5s")]
    SyncInterval(HumanDuration),
    /// The administration socket is where workloads can reach it.
    #[error(
        "admin_socket_path {admin} lies in or under the folder of socket_path, which every workload can enter; choose another folder"
    )]
    AdminSocket {
        /// As configured.
        admin: String,
    },
    /// No workload attestor.
    #[error("workload_attestors names none; add unix, or leave workload_attestors out")]
    NoWorkloadAttestor,
    /// The token cannot be one.
    #[error("join_token is longer than {MAX_TOKEN_BYTES} bytes; give the token itself, or its file in join_token_file")]
    TokenTooLong,
    /// A token for another attestor.
    #[error("{0} is set, but node_attestor is x509pop; remove one of them")]
    TokenWithoutAttestor(&'static str),
    /// Too many claims.
    #[error("allowed_foreign_jwt_claims holds more than {MAX_FOREIGN_CLAIMS} claims")]
    TooManyClaims,
}

/// What a checked configuration means.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The issuer's `host:port`.
    pub address: String,
    /// Where the first bundle comes from.
    pub bootstrap: BootstrapSource,
    /// Where the join token comes from.
    pub token: TokenSource,
}

impl Config {
    /// Checks what the types cannot say. Nothing is opened or created.
    ///
    /// # Errors
    /// [`ConfigError`], the first thing that is wrong.
    pub fn check(&self) -> Result<Checked, ConfigError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|source| ConfigError::TrustDomain { name: self.trust_domain.clone(), source })?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::Empty("data_dir", "name a folder for the agent's state"));
        }
        let address = self.address()?;
        let token = self.token()?;
        let bootstrap = self.bootstrap()?;
        self.check_sockets()?;
        if self.workload_x509_svid_key_type == KeyType::Rsa4096 {
            return Err(ConfigError::KeyType(self.workload_x509_svid_key_type));
        }
        let interval = self.sync_interval.get();
        if interval < SYNC_INTERVAL.0 || interval > SYNC_INTERVAL.1 {
            return Err(ConfigError::SyncInterval(self.sync_interval));
        }
        if self.workload_attestors.unix.is_none() {
            return Err(ConfigError::NoWorkloadAttestor);
        }
        if self.allowed_foreign_jwt_claims.len() > MAX_FOREIGN_CLAIMS {
            return Err(ConfigError::TooManyClaims);
        }
        Ok(Checked { trust_domain, address, bootstrap, token })
    }

    /// The log settings.
    pub fn log(&self) -> LogConfig {
        LogConfig { level: self.log_level, format: self.log_format, file: self.log_file.clone() }
    }

    /// Where the keys are kept; `None` in memory.
    pub fn keys_path(&self) -> Option<PathBuf> {
        match &self.key_manager {
            KeyManagerConfig::Disk { directory } => {
                Some(directory.as_ref().unwrap_or(&self.data_dir).join("keys.json"))
            }
            KeyManagerConfig::Memory {} => None,
        }
    }

    /// X509-SVIDs kept for workloads that are not connected.
    pub fn x509_cache_size(&self) -> usize {
        cache_size(self.x509_svid_cache_max_size)
    }

    /// JWT-SVIDs kept.
    pub fn jwt_cache_size(&self) -> usize {
        cache_size(self.jwt_svid_cache_max_size)
    }

    fn address(&self) -> Result<String, ConfigError> {
        let host = self.server_address.as_str();
        if host.is_empty() {
            return Err(ConfigError::Empty("server_address", "give the issuer's host name or IP address"));
        }
        if self.server_port == 0 {
            return Err(ConfigError::ServerPort);
        }
        // An IPv6 address is written with or without brackets; the joined form needs them.
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if bare.parse::<std::net::Ipv6Addr>().is_ok() {
            return Ok(format!("[{bare}]:{}", self.server_port));
        }
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if !is_name || host.len() > 253 {
            return Err(ConfigError::ServerAddress(host.to_string()));
        }
        Ok(format!("{host}:{}", self.server_port))
    }

    fn token(&self) -> Result<TokenSource, ConfigError> {
        let given = [("join_token", self.join_token.is_some()), ("join_token_file", self.join_token_file.is_some())];
        if let (NodeAttestorConfig::X509pop { .. }, Some((name, _))) =
            (&self.node_attestor, given.into_iter().find(|(_, given)| *given))
        {
            return Err(ConfigError::TokenWithoutAttestor(name));
        }
        match (&self.join_token, &self.join_token_file) {
            (Some(_), Some(_)) => Err(ConfigError::Both("join_token", "join_token_file")),
            (Some(token), None) if token.trim().is_empty() => {
                Err(ConfigError::Empty("join_token", "make one at the issuer (`entente issuer token generate`)"))
            }
            (Some(token), None) if token.len() > MAX_TOKEN_BYTES => Err(ConfigError::TokenTooLong),
            (Some(token), None) => Ok(TokenSource::Value(Zeroizing::new(token.clone()))),
            (None, Some(path)) => Ok(TokenSource::File(path.clone())),
            (None, None) => Ok(TokenSource::Missing),
        }
    }

    fn bootstrap(&self) -> Result<BootstrapSource, ConfigError> {
        match (&self.trust_bundle_path, &self.trust_bundle_url, self.insecure_bootstrap) {
            (Some(_), Some(_), _) => Err(ConfigError::Both("trust_bundle_path", "trust_bundle_url")),
            (Some(_), None, true) => Err(ConfigError::Both("trust_bundle_path", "insecure_bootstrap")),
            (None, Some(_), true) => Err(ConfigError::Both("trust_bundle_url", "insecure_bootstrap")),
            (Some(path), None, false) => Ok(BootstrapSource::File(path.clone(), self.trust_bundle_format)),
            (None, Some(url), false) => {
                let unusable = |reason: String| ConfigError::TrustBundleUrl { url: url.clone(), reason };
                let parsed = Url::parse(url).map_err(|error| unusable(error.to_string()))?;
                if parsed.scheme() != "https" {
                    return Err(unusable("its scheme is not https".into()));
                }
                Ok(BootstrapSource::Url(parsed, self.trust_bundle_format))
            }
            (None, None, true) => Ok(BootstrapSource::Insecure),
            (None, None, false) => Err(ConfigError::NoTrustBundle),
        }
    }

    fn check_sockets(&self) -> Result<(), ConfigError> {
        if self.socket_path.as_os_str().is_empty() {
            return Err(ConfigError::Empty("socket_path", "leave it out for the default"));
        }
        let Some(admin) = &self.admin_socket_path else { return Ok(()) };
        if admin.as_os_str().is_empty() {
            return Err(ConfigError::Empty("admin_socket_path", "leave it out for no such socket"));
        }
        let folder = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
        let (public, private) = (folder(&plain(&self.socket_path)), folder(&plain(admin)));
        if private.starts_with(public) {
            return Err(ConfigError::AdminSocket { admin: admin.display().to_string() });
        }
        Ok(())
    }
}

/// The path without `.` and `..`, absolute if the working folder is known.
fn plain(path: &Path) -> PathBuf {
    use std::path::Component;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
        plain
    })
}

fn cache_size(configured: u32) -> usize {
    let size = if configured == 0 { DEFAULT_CACHE_SIZE } else { configured };
    usize::try_from(size).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
