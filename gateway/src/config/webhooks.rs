//! Webhooks: who is told about events, and from when on something is worth telling.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::config::HumanDuration;

/// One receiver of events.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name here: lowercase letters, digits, `-`, `_` and `.`. Where a receiver goes on after a restart is kept
    /// under this name.
    pub name: String,
    /// Where events are posted: https, or http to a loopback address.
    pub url: String,
    /// File with the secret that signs them: `whsec_` and base64, one a line, read anew for each delivery. Several
    /// during a rotation; each signs.
    pub secret_file: PathBuf,
    /// Types of events (`bundle.accepted`) and groups of them (`bundle.*`); every event unless given.
    #[serde(default)]
    pub events: Vec<String>,
    /// Total time of one delivery.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// PEM file of the certificate authorities that replace the system's for this receiver.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Networks (`10.0.0.0/8`, `fd00::/8`) or addresses that are not public and may be posted to all the same. Without
    /// them nothing is sent to private, loopback, link-local and other special addresses.
    #[serde(default)]
    pub allow_addresses: Vec<String>,
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(15))
}

/// From when on something is worth telling.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookThresholds {
    /// Failed refreshes of a partner in a row (`relationship.failing`), and failed deliveries to an issuer
    /// (`delivery.failing`).
    pub consecutive_failures: u32,
    /// Time since a partner last confirmed its bundle (`bundle.stale`), or a source what is served
    /// (`own_bundle.stale`). Never less than twice the bundle's refresh hint.
    pub bundle_age: HumanDuration,
    /// Time until the last X.509 authority of a bundle expires, with no newer one published (`bundle.expiring`,
    /// `own_bundle.expiring`). Never more than a sixth of that authority's life.
    pub expiry: HumanDuration,
}

impl Default for WebhookThresholds {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            bundle_age: HumanDuration(Duration::from_secs(60 * 60)),
            expiry: HumanDuration(Duration::from_secs(14 * 24 * 60 * 60)),
        }
    }
}
