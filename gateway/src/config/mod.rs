//! The gateway's configuration file as it is written: YAML, unknown keys refused, environment overrides
//! (`ENTENTE_GATEWAY__DATA_DIR`). [`crate::settings::Settings`] is its checked form.

mod acme;
mod admin;
mod bind_address;
mod datastore;
mod listeners;
mod publishers;
mod refresh;
mod relationships;
mod resources;
mod trust_domains;
mod webhooks;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::{
    health::HealthConfig,
    telemetry::{LogConfig, LogFormat, LogLevel},
};

pub use acme::{Acme, AcmeChallenge, DEFAULT_DIRECTORY_URL, ExternalAccount, Http01};
pub use admin::{Admin, RoleEntry};
pub use datastore::{DEFAULT_MAX_CONNECTIONS, Datastore};
pub use listeners::{Limits, Listeners, ServingCertFile, SpiffeListener, WebListener};
pub use publishers::{
    AzureBlobPlace, BundleFormat, ClusterTrustBundlePlace, ConfigMapPlace, FilePlace, GcsPlace, Publisher, S3Place,
    TrustAnchorPlace,
};
pub use refresh::{Accept, Proxy, Refresh};
pub use relationships::{ProfileName, Relationship};
pub use resources::Resources;
pub use trust_domains::{
    BundleFileFormat, BundleMap, EndpointSvid, FileSource, Issuer, Oidc, Source, TrustDomain, UrlSource,
    WorkloadApiSource,
};
pub use webhooks::{Webhook, WebhookThresholds};

/// Default path of the local admin socket.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/entente-gateway/private/api.sock";

/// Prefix of environment variables that override keys.
pub const ENV_PREFIX: &str = "ENTENTE_GATEWAY";

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder for the SQLite database, the endpoint's X509-SVIDs and ACME certificates. Created with mode 0700, used by
    /// one process at a time.
    pub data_dir: PathBuf,
    /// The database; SQLite in the data folder unless given.
    #[serde(default)]
    pub datastore: Datastore,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Text for people or JSON for machines.
    #[serde(default)]
    pub log_format: LogFormat,
    /// File the log is appended to; standard error unless given.
    #[serde(default)]
    pub log_file: Option<PathBuf>,
    /// `/live` and `/ready`.
    #[serde(default)]
    pub health: HealthConfig,
    /// Unix socket of the local admin API.
    #[serde(default = "default_socket_path")]
    pub socket_path: PathBuf,
    /// Where bundles are served.
    #[serde(default)]
    pub listeners: Listeners,
    /// The admin API over mTLS; off unless given.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// The trust domains this gateway serves.
    pub trust_domains: Vec<TrustDomain>,
    /// Partners, besides those created at the issuers.
    #[serde(default)]
    pub relationships: Vec<Relationship>,
    /// Limits of fetching.
    #[serde(default)]
    pub refresh: Refresh,
    /// Limits of serving, for each public listener.
    #[serde(default)]
    pub limits: Limits,
    /// One document with the bundles of several served trust domains.
    #[serde(default)]
    pub bundle_map: Option<BundleMap>,
    /// Who is told about events.
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
    /// From when on something is worth telling them.
    #[serde(default)]
    pub webhook_thresholds: WebhookThresholds,
}

impl Config {
    /// The logging part.
    pub fn log(&self) -> LogConfig {
        LogConfig { level: self.log_level, format: self.log_format, file: self.log_file.clone() }
    }
}

fn default_socket_path() -> PathBuf {
    PathBuf::from(DEFAULT_SOCKET_PATH)
}
