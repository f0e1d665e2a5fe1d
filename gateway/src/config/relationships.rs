//! Partners.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service_kit::config::HumanDuration;
use utoipa::ToSchema;

use crate::refresh::policy::{Drift, Emptied, Mode};

/// One partner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[schema(as = RelationshipDefinition)]
#[serde(deny_unknown_fields)]
pub struct Relationship {
    /// The partner's trust domain.
    pub trust_domain: String,
    /// Local trust domains that receive its bundle; all of them unless given.
    #[serde(default)]
    pub local_trust_domains: Vec<String>,
    /// Bundle endpoint URL.
    pub url: String,
    /// Further URLs of the same bundle, asked in this order when `url` gives none. Profile, SPIFFE ID and authorities are
    /// the same for all.
    #[serde(default)]
    pub failover_urls: Vec<String>,
    /// Networks (`10.0.0.0/8`, `fd00::/8`) or addresses that are not public and may be asked for this partner's bundle,
    /// besides those of `refresh.allow_addresses`.
    #[serde(default)]
    pub allow_addresses: Vec<String>,
    /// Bundle endpoint profile.
    pub profile: ProfileName,
    /// SPIFFE ID the endpoint must present; required with `https_spiffe`.
    #[serde(default)]
    pub endpoint_spiffe_id: Option<String>,
    /// PEM file of the certificate authorities that replace the system's for this partner; `https_web` only.
    #[serde(default)]
    #[schema(ignore)]
    pub ca_file: Option<PathBuf>,
    /// PEM text of these authorities, where there is no file.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// SPIFFE JSON bundle of the endpoint's trust domain, used until a bundle is held; `https_spiffe` only.
    #[serde(default)]
    #[schema(ignore)]
    pub bootstrap_bundle_file: Option<PathBuf>,
    /// JSON text of that bundle, where there is no file.
    #[serde(default)]
    pub bootstrap_bundle: Option<String>,
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
    #[schema(value_type = Option<String>)]
    pub maximum_age: Option<HumanDuration>,
}

/// Name of a bundle endpoint profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProfileName {
    /// Web PKI certificate.
    HttpsWeb,
    /// X509-SVID with an agreed SPIFFE ID.
    HttpsSpiffe,
}
