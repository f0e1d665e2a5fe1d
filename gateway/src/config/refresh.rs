//! Limits of fetching and of accepting.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::config::HumanDuration;

use crate::refresh::{
    limits::KeyType,
    policy::{Drift, Emptied, Mode},
};

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
    /// Networks (`10.0.0.0/8`, `fd00::/8`) or addresses that are not public and may be asked all the same. Without them
    /// nothing is fetched from private, loopback, link-local and other special addresses.
    pub allow_addresses: Vec<String>,
    /// Name servers (`10.0.0.53`, `10.0.0.53:5353`, `[fd00::53]:53`) instead of those of `/etc/resolv.conf`.
    pub nameservers: Vec<String>,
    /// An HTTP proxy on the way to partners, instead of what `HTTPS_PROXY` and `NO_PROXY` say.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// `http://host:port`.
    pub url: String,
    /// Hosts, domains (with all names below them), addresses and networks that are reached without it.
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// User name, if it wants one.
    #[serde(default)]
    pub username: Option<String>,
    /// File with the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
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
            allow_addresses: Vec::new(),
            nameservers: Vec::new(),
            proxy: None,
        }
    }
}
