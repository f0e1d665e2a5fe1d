//! Served trust domains and the sources of their bundles.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::config::HumanDuration;

use super::{ProfileName, Publisher};

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
    /// SPIFFE ID of the X509-SVID presented on the `https_spiffe` listener. Unless `endpoint_svid` says otherwise it is
    /// minted at the issuer of its trust domain: this one, or another one served by this gateway.
    #[serde(default)]
    pub endpoint_id: Option<String>,
    /// Where the X509-SVID `endpoint_id` comes from, if not from an issuer.
    #[serde(default)]
    pub endpoint_svid: Option<EndpointSvid>,
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
    /// Further places its bundle is published to.
    #[serde(default)]
    pub publishers: Vec<Publisher>,
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

/// Where the X509-SVID of an endpoint comes from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointSvid {
    /// An agent of the trust domain of `endpoint_id`, with an entry of that SPIFFE ID for this gateway.
    pub workload_api: WorkloadApiSource,
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
    /// As for a partner: networks that are not public and may be asked, besides those of `refresh.allow_addresses`.
    #[serde(default)]
    pub allow_addresses: Vec<String>,
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
