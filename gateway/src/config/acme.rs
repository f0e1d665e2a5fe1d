//! Certificates by ACME (RFC 8555).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bind_address::default_bind_address;

/// The public directory whose certificates every client trusts.
pub const DEFAULT_DIRECTORY_URL: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// A certificate from an ACME certificate authority, renewed by itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The directory of the certificate authority.
    #[serde(default = "default_directory_url")]
    pub directory_url: String,
    /// The DNS name the certificate is for.
    #[serde(default)]
    pub domain_name: Option<String>,
    /// The DNS names, if there are several. One certificate has all of them.
    #[serde(default)]
    pub domain_names: Vec<String>,
    /// Where the certificate authority may write to about the account.
    #[serde(default)]
    pub email: Option<String>,
    /// Whether you accept the certificate authority's terms of service. Without that there is no account.
    #[serde(default)]
    pub tos_accepted: bool,
    /// How this gateway proves that the names are its own.
    #[serde(default)]
    pub challenge: AcmeChallenge,
    /// Where HTTP-01 is answered; only with `challenge: http_01`.
    #[serde(default)]
    pub http_01: Option<Http01>,
    /// PEM file of the certificate authorities that sign the directory's own server certificate, for a private one. The
    /// system's do not count then.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// An account the certificate authority already knows you by, if it asks for one.
    #[serde(default)]
    pub external_account: Option<ExternalAccount>,
}

/// A challenge of RFC 8555 or RFC 8737.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// On the `https_web` listener itself, which the certificate authority must reach on port 443.
    #[default]
    #[serde(rename = "tls_alpn_01")]
    TlsAlpn01,
    /// On a listener of its own, which the certificate authority must reach on port 80.
    #[serde(rename = "http_01")]
    Http01,
}

/// The listener of HTTP-01. It answers challenges and nothing else.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http01 {
    /// IP address to listen on.
    pub bind_address: String,
    /// TCP port.
    pub bind_port: u16,
    /// Sends every other request for one of the names to https. Clients of bundles never need it.
    pub redirect_to_https: bool,
    /// As of the public listeners: networks whose connections begin with a PROXY protocol header.
    pub proxy_protocol_trusted_cidrs: Vec<String>,
}

impl Default for Http01 {
    fn default() -> Self {
        Self {
            bind_address: default_bind_address(),
            bind_port: 80,
            redirect_to_https: false,
            proxy_protocol_trusted_cidrs: Vec::new(),
        }
    }
}

/// External account binding (RFC 8555 section 7.3.4).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccount {
    /// The key's name at the certificate authority.
    pub key_id: String,
    /// File with the HMAC key in base64url, as the certificate authority gave it.
    pub hmac_key_file: PathBuf,
}

fn default_directory_url() -> String {
    DEFAULT_DIRECTORY_URL.to_owned()
}
