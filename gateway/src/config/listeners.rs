//! Public listeners and their limits.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::config::HumanDuration;

use super::{acme::Acme, bind_address::default_bind_address};

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
    /// Certificate and key from files, read again when they change. Either this or `acme`.
    #[serde(default)]
    pub serving_cert_file: Option<ServingCertFile>,
    /// Certificate from an ACME certificate authority. Either this or `serving_cert_file`.
    #[serde(default)]
    pub acme: Option<Acme>,
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

fn default_web_port() -> u16 {
    443
}

fn default_spiffe_port() -> u16 {
    8443
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
