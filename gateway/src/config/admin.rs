//! The admin API over mTLS.

use schemars::JsonSchema;
use serde::Deserialize;

use super::EndpointSvid;
use crate::api::Role;

/// The admin API over mTLS, for operators and programs on other machines. It is on the local Unix socket anyway.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// IP address to listen on.
    #[serde(default = "default_bind_address")]
    pub bind_address: String,
    /// TCP port.
    #[serde(default = "default_bind_port")]
    pub bind_port: u16,
    /// SPIFFE ID of the X509-SVID the listener presents. Unless `endpoint_svid` says otherwise it is minted at the issuer
    /// of its trust domain, which is served by this gateway.
    pub endpoint_id: String,
    /// Where that X509-SVID comes from, if not from an issuer.
    #[serde(default)]
    pub endpoint_svid: Option<EndpointSvid>,
    /// DNS names in the minted X509-SVID, for clients such as curl that check a name instead of a SPIFFE ID.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Partners whose members may have a role as well. Members of served trust domains always may.
    #[serde(default)]
    pub partner_trust_domains: Vec<String>,
    /// Who may do what. Whoever several entries match has the highest of their roles; whoever none matches may do
    /// nothing.
    pub roles: Vec<RoleEntry>,
}

/// A role and who has it: exactly one of `spiffe_id`, `spiffe_id_prefix` and `trust_domain`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleEntry {
    /// This SPIFFE ID.
    #[serde(default)]
    pub spiffe_id: Option<String>,
    /// Every SPIFFE ID that begins so; it ends with a slash: `spiffe://cloud.example/sre/`.
    #[serde(default)]
    pub spiffe_id_prefix: Option<String>,
    /// Every SPIFFE ID of this trust domain.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// `viewer`, `operator` or `admin`.
    pub role: Role,
}

fn default_bind_address() -> String {
    "127.0.0.1".to_owned()
}

fn default_bind_port() -> u16 {
    8447
}
