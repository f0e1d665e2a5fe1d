//! Limits of fetching and of accepting.

use std::time::Duration;

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
