//! The gateway's configuration file as it is written: YAML, unknown keys refused, environment overrides
//! (`ENTENTE_GATEWAY__DATA_DIR`). [`crate::settings::Settings`] is its checked form.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::{
    config::HumanDuration,
    health::HealthConfig,
    telemetry::{LogConfig, LogFormat, LogLevel},
};

use crate::{
    refresh::{
        limits::KeyType,
        policy::{Drift, Emptied, Mode},
    },
    settings::{Settings, SettingsError},
};

/// Default path of the local admin socket.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/entente-gateway/private/api.sock";

/// Prefix of environment variables that override keys.
pub const ENV_PREFIX: &str = "ENTENTE_GATEWAY";

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder for the database and the endpoint's X509-SVIDs. Created with mode 0700, used by one process at a time.
    pub data_dir: PathBuf,
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
}

impl Config {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that cannot be used, with its key and the remedy.
    pub fn check(&self) -> Result<Settings, SettingsError> {
        Settings::check(self)
    }

    /// The logging part.
    pub fn log(&self) -> LogConfig {
        LogConfig { level: self.log_level, format: self.log_format, file: self.log_file.clone() }
    }
}

fn default_socket_path() -> PathBuf {
    PathBuf::from(DEFAULT_SOCKET_PATH)
}

/// Public listeners; at least one is needed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listeners {
    /// Web PKI certificate: bundles and OIDC documents.
    #[serde(default)]
    pub https_web: Option<WebListener>,
    /// X509-SVID: bundles.
    #[serde(default)]
    pub https_spiffe: Option<SpiffeListener>,
}

/// The `https_web` listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebListener {
    /// IP address to listen on.
    #[serde(default = "default_bind_address")]
    pub bind_address: String,
    /// TCP port.
    #[serde(default = "default_web_port")]
    pub bind_port: u16,
    /// Certificate and key from files, read again when they change.
    pub serving_cert_file: ServingCertFile,
    /// Networks (`10.0.0.0/8`, `fd00::/8`) whose connections begin with a PROXY protocol header, version 1 or 2, that
    /// names the client. Nobody else's header is believed.
    #[serde(default)]
    pub proxy_protocol_trusted_cidrs: Vec<String>,
}

/// PEM files of a web server certificate.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServingCertFile {
    /// Certificate chain, leaf first.
    pub cert_file_path: PathBuf,
    /// Private key.
    pub key_file_path: PathBuf,
}

/// The `https_spiffe` listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpiffeListener {
    /// IP address to listen on.
    #[serde(default = "default_bind_address")]
    pub bind_address: String,
    /// TCP port. With the address and port of `https_web` both profiles share one listener: the `server_names` of the
    /// trust domains get an X509-SVID, every other name the web certificate.
    #[serde(default = "default_spiffe_port")]
    pub bind_port: u16,
    /// As in `https_web`.
    #[serde(default)]
    pub proxy_protocol_trusted_cidrs: Vec<String>,
}

fn default_bind_address() -> String {
    "0.0.0.0".to_owned()
}

fn default_web_port() -> u16 {
    443
}

fn default_spiffe_port() -> u16 {
    8443
}

/// One served trust domain.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDomain {
    /// Bare name.
    pub name: String,
    /// Where its bundle comes from and accepted partner bundles go to: an Entente issuer or a SPIRE server. Without it
    /// the domain needs `sources`, and receives no partner's bundle.
    #[serde(default)]
    pub issuer: Option<Issuer>,
    /// Further places its bundle comes from. Their keys and the issuer's are published together.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// URL path of its bundle, `/` followed by the name unless given.
    #[serde(default)]
    pub path: Option<String>,
    /// Host names its documents are served under; every host unless given. Two domains may use the same path under
    /// different hosts.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// How often partners are asked to look; published as `spiffe_refresh_hint`.
    #[serde(default = "default_refresh_hint")]
    pub refresh_hint: HumanDuration,
    /// SPIFFE ID of the X509-SVID presented on the `https_spiffe` listener, minted at the issuer of its trust domain:
    /// this one, or another one served by this gateway.
    #[serde(default)]
    pub endpoint_id: Option<String>,
    /// TLS server names (SNI) that select this domain's X509-SVID when several domains have one; the domain's own
    /// name always does, and the first domain with an `endpoint_id` answers every other name.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// How often the issuer is asked for the bundle.
    #[serde(default = "default_poll_interval")]
    pub poll_interval: HumanDuration,
    /// OIDC discovery of the domain's JWT keys, on the `https_web` listener.
    #[serde(default)]
    pub oidc: Option<Oidc>,
}

fn default_refresh_hint() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

fn default_poll_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

/// One source of a trust domain's bundle: exactly one of the keys.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Another issuer or SPIRE server of the same trust domain, asked every `poll_interval`.
    pub server_api: Option<Issuer>,
    /// A file, looked at every `poll_interval`.
    pub file: Option<FileSource>,
    /// The bundle streams of a Workload API.
    pub workload_api: Option<WorkloadApiSource>,
    /// Another bundle endpoint of the same trust domain, asked as partners are.
    pub url: Option<UrlSource>,
}

/// A bundle in a file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The file. Replace it by renaming another one over it, so that it is never read half written.
    pub path: PathBuf,
    /// What is in it.
    #[serde(default)]
    pub format: BundleFileFormat,
}

/// Format of a bundle file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BundleFileFormat {
    /// A SPIFFE bundle (JWK Set).
    #[default]
    Spiffe,
    /// PEM certificates: X.509 authorities only.
    Pem,
}

/// A Workload API.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadApiSource {
    /// Its Unix socket. The agent must have an entry for this gateway, or serve unauthenticated verifiers.
    pub socket_path: PathBuf,
}

/// A bundle endpoint.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UrlSource {
    /// Its URL.
    pub url: String,
    /// Its profile.
    pub profile: ProfileName,
    /// SPIFFE ID the endpoint must present; required with `https_spiffe`.
    #[serde(default)]
    pub endpoint_spiffe_id: Option<String>,
    /// PEM file of the certificate authorities that replace the system's; `https_web` only.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SPIFFE JSON bundle of the endpoint's trust domain, used until a bundle is held; `https_spiffe` only.
    #[serde(default)]
    pub bootstrap_bundle_file: Option<PathBuf>,
}

/// How an issuer is reached: `socket_path`, or `address` together with `workload_api_socket`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Unix socket of the Server API.
    #[serde(default)]
    pub socket_path: Option<PathBuf>,
    /// `host:port` of the Server API, spoken to over mTLS. The gateway's identity must be an admin there.
    #[serde(default)]
    pub address: Option<String>,
    /// Unix socket of the Workload API that gives this gateway its own X509-SVID for mTLS.
    #[serde(default)]
    pub workload_api_socket: Option<PathBuf>,
}

/// OIDC discovery of one trust domain.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// The issuer URL, exactly as tokens carry it in `iss`. Documents are served below its path.
    pub issuer: String,
}

/// One partner.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Relationship {
    /// The partner's trust domain.
    pub trust_domain: String,
    /// Local trust domains that receive its bundle; all of them unless given.
    #[serde(default)]
    pub local_trust_domains: Vec<String>,
    /// Bundle endpoint URL.
    pub url: String,
    /// Bundle endpoint profile.
    pub profile: ProfileName,
    /// SPIFFE ID the endpoint must present; required with `https_spiffe`.
    #[serde(default)]
    pub endpoint_spiffe_id: Option<String>,
    /// PEM file of the certificate authorities that replace the system's for this partner; `https_web` only.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// SPIFFE JSON bundle of the endpoint's trust domain, used until a bundle is held; `https_spiffe` only.
    #[serde(default)]
    pub bootstrap_bundle_file: Option<PathBuf>,
    /// Who decides about changes of the partner's bundle: `auto` (the gateway), `hold` (an operator approves each one)
    /// or `pinned` (the bundle stays until an operator names another); `refresh.default_mode` unless given.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// What becomes of a bundle without keys: `hold`, `accept` or `refuse`; `refresh.default_emptied` unless given.
    #[serde(default)]
    pub emptied: Option<Emptied>,
    /// What becomes of a bundle that somebody changed at an issuer: `correct` or `show`; `refresh.default_drift` unless
    /// given.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// The bundle is taken from the issuers when the partner has not confirmed it for this long;
    /// `refresh.default_maximum_age` unless given.
    #[serde(default)]
    pub maximum_age: Option<HumanDuration>,
}

/// Name of a bundle endpoint profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProfileName {
    /// Web PKI certificate.
    HttpsWeb,
    /// X509-SVID with an agreed SPIFFE ID.
    HttpsSpiffe,
}

/// Limits of fetching partner bundles.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Refresh {
    /// Never ask a partner more often than this.
    pub min_interval: HumanDuration,
    /// Ask every partner at least this often.
    pub max_interval: HumanDuration,
    /// Total time of one fetch: connection, handshake, redirects and body.
    pub timeout: HumanDuration,
    /// Largest bundle document in bytes.
    pub max_body_bytes: usize,
    /// `mode` of relationships that do not say theirs, as those created at an issuer.
    pub default_mode: Mode,
    /// `emptied` of relationships that do not say theirs.
    pub default_emptied: Emptied,
    /// `drift` of relationships that do not say theirs.
    pub default_drift: Drift,
    /// `maximum_age` of relationships that do not say theirs; without it bundles do not expire.
    pub default_maximum_age: Option<HumanDuration>,
    /// How often each issuer is asked whether it still holds what was delivered.
    pub compare_interval: HumanDuration,
    /// What no accepted bundle may exceed.
    pub accept: Accept,
}

/// Limits of what is accepted from partners, whoever wants it in force.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Accept {
    /// Most keys in one bundle, X.509 and JWT together.
    pub max_keys: usize,
    /// Allowed kinds of keys.
    pub key_types: Vec<KeyType>,
    /// Smallest RSA modulus in bits, at least 2048.
    pub min_rsa_bits: usize,
}

impl Default for Accept {
    fn default() -> Self {
        Self {
            max_keys: 512,
            key_types: KeyType::ALL.to_vec(),
            min_rsa_bits: federation_specs::public_key::MIN_RSA_BITS,
        }
    }
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            min_interval: HumanDuration(Duration::from_secs(15)),
            max_interval: HumanDuration(Duration::from_secs(24 * 60 * 60)),
            timeout: HumanDuration(Duration::from_secs(30)),
            max_body_bytes: federation_specs::bundle_json::MAX_BUNDLE_BYTES,
            default_mode: Mode::Auto,
            default_emptied: Emptied::Hold,
            default_drift: Drift::Correct,
            default_maximum_age: None,
            compare_interval: HumanDuration(Duration::from_secs(60)),
            accept: Accept::default(),
        }
    }
}

/// Limits of serving, for each public listener.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections kept open; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Connections of one client (an IPv4 address, an IPv6 /64 network); further ones are closed at once.
    pub max_connections_per_client: usize,
    /// Requests a second of one client, on average; further ones are answered 429. 0 means no limit.
    pub requests_per_second: u32,
    /// Requests of one client that may come at once.
    pub burst: u32,
    /// Time for the PROXY protocol header and the TLS handshake.
    pub handshake_timeout: HumanDuration,
    /// Time to send the head of a request.
    pub header_timeout: HumanDuration,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: HumanDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_connections_per_client: 512,
            requests_per_second: 50,
            burst: 500,
            handshake_timeout: HumanDuration(Duration::from_secs(10)),
            header_timeout: HumanDuration(Duration::from_secs(10)),
            idle_timeout: HumanDuration(Duration::from_secs(60)),
        }
    }
}

/// A SPIFFE bundle map: the bundles of several served trust domains in one document.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BundleMap {
    /// URL path of the document, on the `https_web` listener.
    pub path: String,
    /// The trust domains in it; all served ones unless given.
    #[serde(default)]
    pub trust_domains: Vec<String>,
}
