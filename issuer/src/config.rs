//! Configuration of the issuer. Keys are named as SPIRE's server options.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use federation_specs::{
    dns_name,
    id::{IdError, SpiffeId, TrustDomain},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service_kit::{
    config::HumanDuration,
    health::HealthConfig,
    keys::KeyType,
    telemetry::{LogConfig, LogFormat, LogLevel},
};

use crate::{attestors::x509pop::X509popConfig, ca::CaSubject};

/// Prefix of environment variables that override settings: `ENTENTE_ISSUER__DATA_DIR`.
pub const ENV_PREFIX: &str = "ENTENTE_ISSUER";

/// Longest lifetime of anything the issuer signs: twenty years.
pub const MAX_TTL: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Shortest lifetime of anything the issuer signs.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// Longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Most IDs in `admin_ids`.
const MAX_ADMIN_IDS: usize = 1024;

/// The configuration file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the trust domain this issuer is the authority of.
    pub trust_domain: String,
    /// Folder for keys, database and lock; created with mode 0700.
    pub data_dir: PathBuf,
    /// Address the API listens on over TLS.
    #[serde(default = "default_bind_address")]
    pub bind_address: String,
    /// Port the API listens on over TLS; 0 takes any free port (it is logged).
    #[serde(default = "default_bind_port")]
    pub bind_port: u16,
    /// Unix socket for local administration.
    #[serde(default = "default_socket_path")]
    pub socket_path: PathBuf,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Shape of a log line.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Appended to this file instead of standard error.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// SPIFFE IDs, of any trust domain, with administration rights.
    #[serde(default)]
    pub admin_ids: Vec<String>,
    /// Lifetime of agents' X509-SVIDs; `default_x509_svid_ttl` when absent.
    #[serde(default)]
    pub agent_ttl: Option<HumanDuration>,
    /// Lifetime of X509-SVIDs whose entry says nothing.
    #[serde(default = "default_x509_svid_ttl")]
    pub default_x509_svid_ttl: HumanDuration,
    /// Lifetime of JWT-SVIDs whose entry says nothing.
    #[serde(default = "default_jwt_svid_ttl")]
    pub default_jwt_svid_ttl: HumanDuration,
    /// Lifetime of the CA certificate and of the JWT signing key.
    #[serde(default = "default_ca_ttl")]
    pub ca_ttl: HumanDuration,
    /// Kind of the CA's key.
    #[serde(default = "default_ca_key_type")]
    pub ca_key_type: KeyType,
    /// Kind of the JWT signing key; `ca_key_type` when absent.
    #[serde(default)]
    pub jwt_key_type: Option<KeyType>,
    /// Subject of the CA certificate.
    #[serde(default)]
    pub ca_subject: CaSubject,
    /// The `iss` claim of JWT-SVIDs; no claim when absent.
    #[serde(default)]
    pub jwt_issuer: Option<String>,
    /// Issue no JWT-SVIDs.
    #[serde(default)]
    pub disable_jwt_svids: bool,
    /// Add an x500UniqueIdentifier to the subjects of workload X509-SVIDs.
    #[serde(default)]
    pub unique_id: bool,
    /// Limits per client address.
    #[serde(default)]
    pub ratelimit: RateLimitConfig,
    /// Write every permitted call to the log.
    #[serde(default)]
    pub audit_log_enabled: bool,
    /// How often entries are looked for again; changes made through this issuer are seen at once.
    #[serde(default = "default_cache_reload_interval")]
    pub cache_reload_interval: HumanDuration,
    /// Where private keys are kept.
    #[serde(default)]
    pub key_manager: KeyManagerConfig,
    /// Where entries, agents and bundles are kept.
    #[serde(default)]
    pub datastore: DatastoreConfig,
    /// CA that signs this issuer's CA certificate; self-signed when absent.
    #[serde(default)]
    pub upstream_authority: Option<UpstreamAuthorityConfig>,
    /// How agents prove which node they run on.
    #[serde(default)]
    pub node_attestors: NodeAttestorsConfig,
    /// Liveness and readiness over HTTP.
    #[serde(default)]
    pub health: HealthConfig,
}

/// Limits per client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitConfig {
    /// One attestation a second.
    pub attestation: bool,
    /// 500 signatures a second.
    pub signing: bool,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self { attestation: true, signing: true }
    }
}

/// Where private keys are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyManagerConfig {
    /// In a file that only this user can read.
    Disk {
        /// The file; `keys.json` in the data folder when absent.
        #[serde(default)]
        keys_path: Option<PathBuf>,
    },
    /// In memory: every start makes new authorities.
    Memory {},
}

impl Default for KeyManagerConfig {
    fn default() -> Self {
        Self::Disk { keys_path: None }
    }
}

/// Where entries, agents and bundles are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatastoreConfig {
    /// SQLite, embedded.
    Sqlite {
        /// The file; `issuer.sqlite3` in the data folder when absent.
        #[serde(default)]
        path: Option<PathBuf>,
    },
}

impl Default for DatastoreConfig {
    fn default() -> Self {
        Self::Sqlite { path: None }
    }
}

/// CA that signs this issuer's CA certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UpstreamAuthorityConfig {
    /// Certificate and key in files, read again at each signature.
    Disk {
        /// PEM certificate of the CA, followed by intermediates.
        cert_file_path: PathBuf,
        /// PEM private key of the CA.
        key_file_path: PathBuf,
        /// PEM roots; needed unless the certificate is a self-signed root.
        #[serde(default)]
        bundle_file_path: Option<PathBuf>,
    },
}

/// How agents prove which node they run on. Only the methods named here are accepted; without this section, join
/// tokens are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeAttestorsConfig {
    /// Join tokens.
    #[serde(default)]
    pub join_token: Option<JoinTokenConfig>,
    /// Possession of an X.509 certificate's key.
    #[serde(default)]
    pub x509pop: Option<X509popConfig>,
}

impl Default for NodeAttestorsConfig {
    fn default() -> Self {
        Self { join_token: Some(JoinTokenConfig {}), x509pop: None }
    }
}

/// Join tokens have no options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenConfig {}

fn default_bind_address() -> String {
    "0.0.0.0".into()
}

fn default_bind_port() -> u16 {
    8081
}

fn default_socket_path() -> PathBuf {
    "/tmp/spire-server/private/api.sock".into()
}

fn default_x509_svid_ttl() -> HumanDuration {
    HumanDuration::from_secs(60 * 60)
}

fn default_jwt_svid_ttl() -> HumanDuration {
    HumanDuration::from_secs(5 * 60)
}

fn default_ca_ttl() -> HumanDuration {
    HumanDuration::from_secs(24 * 60 * 60)
}

fn default_ca_key_type() -> KeyType {
    KeyType::EcP256
}

fn default_cache_reload_interval() -> HumanDuration {
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
    /// A lifetime is out of range.
    #[error("{setting} is {value}; use a value from 1s to 175200h, such as {example}")]
    Ttl {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: HumanDuration,
        /// A usual value.
        example: &'static str,
    },
    /// An admin ID is not valid.
    #[error("admin_ids holds `{id}`, which is not valid: {reason}; write IDs such as spiffe://example.org/admin")]
    AdminId {
        /// As configured.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Too many admin IDs.
    #[error("admin_ids holds more than {MAX} IDs; mark registration entries as admin instead", MAX = MAX_ADMIN_IDS)]
    TooManyAdminIds,
    /// The bind address is neither an address nor a name.
    #[error("bind_address `{0}` is neither an IP address nor a host name; use 0.0.0.0 for every interface")]
    BindAddress(String),
    /// The socket path is too long for the system.
    #[error("socket_path {path} is longer than {MAX} bytes, the longest a Unix socket can have; choose a shorter path", MAX = MAX_SOCKET_PATH_BYTES)]
    SocketPath {
        /// As configured.
        path: String,
    },
    /// No attestor is configured.
    #[error(
        "node_attestors names no method; add join_token or x509pop, or leave node_attestors out to accept join tokens"
    )]
    NoAttestor,
    /// The options of the x509pop attestor are not valid.
    #[error("node_attestors.x509pop: {0}")]
    X509pop(String),
}

/// What a checked configuration means.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// SPIFFE IDs with administration rights.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// Things an operator should look at; each is a sentence.
    pub warnings: Vec<String>,
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
            return Err(ConfigError::Empty("data_dir", "name a folder for keys and database"));
        }
        self.check_listeners()?;
        self.check_lifetimes()?;
        if self.jwt_issuer.as_deref() == Some("") {
            return Err(ConfigError::Empty("jwt_issuer", "leave it out to issue tokens without an iss claim"));
        }
        self.check_files()?;
        self.check_attestors()?;
        let admin_ids = self.check_admin_ids()?;
        Ok(Checked { trust_domain, admin_ids, warnings: self.warnings() })
    }

    /// The log settings.
    pub fn log(&self) -> LogConfig {
        LogConfig { level: self.log_level, format: self.log_format, file: self.log_file.clone() }
    }

    /// Where the keys are kept; `None` in memory.
    pub fn keys_path(&self) -> Option<PathBuf> {
        match &self.key_manager {
            KeyManagerConfig::Disk { keys_path } => {
                Some(keys_path.clone().unwrap_or_else(|| self.data_dir.join("keys.json")))
            }
            KeyManagerConfig::Memory {} => None,
        }
    }

    /// Where the database is kept.
    pub fn database_path(&self) -> PathBuf {
        let DatastoreConfig::Sqlite { path } = &self.datastore;
        path.clone().unwrap_or_else(|| self.data_dir.join("issuer.sqlite3"))
    }

    /// Lifetime of agents' X509-SVIDs.
    pub fn agent_ttl(&self) -> HumanDuration {
        self.agent_ttl.unwrap_or(self.default_x509_svid_ttl)
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        if self.bind_address.is_empty() {
            return Err(ConfigError::Empty("bind_address", "use 0.0.0.0 for every interface"));
        }
        let is_address = self.bind_address.parse::<IpAddr>().is_ok();
        if !is_address && dns_name::check(&self.bind_address).is_err() {
            return Err(ConfigError::BindAddress(self.bind_address.clone()));
        }
        let socket = self.socket_path.as_os_str();
        if socket.is_empty() {
            return Err(ConfigError::Empty("socket_path", "leave it out for the default"));
        }
        if socket.len() > MAX_SOCKET_PATH_BYTES {
            return Err(ConfigError::SocketPath { path: self.socket_path.display().to_string() });
        }
        Ok(())
    }

    fn check_lifetimes(&self) -> Result<(), ConfigError> {
        let lifetimes = [
            ("ca_ttl", Some(self.ca_ttl), "24h"),
            ("default_x509_svid_ttl", Some(self.default_x509_svid_ttl), "1h"),
            ("default_jwt_svid_ttl", Some(self.default_jwt_svid_ttl), "5m"),
            ("agent_ttl", self.agent_ttl, "1h"),
            ("cache_reload_interval", Some(self.cache_reload_interval), "5s"),
        ];
        for (setting, value, example) in lifetimes {
            if let Some(value) = value.filter(|value| !(MIN_TTL..=MAX_TTL).contains(&value.get())) {
                return Err(ConfigError::Ttl { setting, value, example });
            }
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ConfigError> {
        let empty = |path: &Path| path.as_os_str().is_empty();
        if let KeyManagerConfig::Disk { keys_path: Some(path) } = &self.key_manager
            && empty(path)
        {
            return Err(ConfigError::Empty("key_manager.disk.keys_path", "leave it out for data_dir/keys.json"));
        }
        let DatastoreConfig::Sqlite { path } = &self.datastore;
        if path.as_deref().is_some_and(empty) {
            return Err(ConfigError::Empty("datastore.sqlite.path", "leave it out for data_dir/issuer.sqlite3"));
        }
        if let Some(UpstreamAuthorityConfig::Disk { cert_file_path, key_file_path, bundle_file_path }) =
            &self.upstream_authority
        {
            if empty(cert_file_path) {
                return Err(ConfigError::Empty("upstream_authority.disk.cert_file_path", "name the CA's PEM file"));
            }
            if empty(key_file_path) {
                return Err(ConfigError::Empty("upstream_authority.disk.key_file_path", "name the key's PEM file"));
            }
            if bundle_file_path.as_deref().is_some_and(empty) {
                return Err(ConfigError::Empty(
                    "upstream_authority.disk.bundle_file_path",
                    "leave it out when the CA certificate is a self-signed root",
                ));
            }
        }
        Ok(())
    }

    fn check_attestors(&self) -> Result<(), ConfigError> {
        let attestors = &self.node_attestors;
        if attestors.join_token.is_none() && attestors.x509pop.is_none() {
            return Err(ConfigError::NoAttestor);
        }
        if let Some(x509pop) = &attestors.x509pop {
            x509pop.check().map_err(|error| ConfigError::X509pop(error.to_string()))?;
        }
        Ok(())
    }

    fn check_admin_ids(&self) -> Result<BTreeSet<SpiffeId>, ConfigError> {
        if self.admin_ids.len() > MAX_ADMIN_IDS {
            return Err(ConfigError::TooManyAdminIds);
        }
        let parse = |text: &String| {
            let invalid = |reason: String| ConfigError::AdminId { id: text.clone(), reason };
            let id = SpiffeId::parse(text).map_err(|error| invalid(error.to_string()))?;
            if id.path().is_empty() { Err(invalid("path is empty".into())) } else { Ok(id) }
        };
        self.admin_ids.iter().map(parse).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let always_available = always_available_ttl(self.ca_ttl.get());
        let lifetimes = [
            ("default_x509_svid_ttl", self.default_x509_svid_ttl),
            ("default_jwt_svid_ttl", self.default_jwt_svid_ttl),
            ("agent_ttl", self.agent_ttl()),
        ];
        let too_long = lifetimes.into_iter().filter(|(_, ttl)| ttl.get() > always_available);
        let warning = |(setting, ttl)| {
            format!(
                "{setting} ({ttl}) is longer than a CA with ca_ttl {} can always give ({}): SVIDs signed shortly before \
                 the CA rotates end earlier; shorten {setting} or lengthen ca_ttl",
                self.ca_ttl,
                HumanDuration(always_available)
            )
        };
        too_long.map(warning).collect()
    }
}

/// What is left of a CA at any moment of its rotation: a sixth of its lifetime, seven days at most.
fn always_available_ttl(ca_ttl: Duration) -> Duration {
    const AT_MOST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    (ca_ttl / 6).min(AT_MOST)
}

#[cfg(test)]
mod tests;
