//! Limits of fetching and of acceptance, and what becomes of changed bundles.

use std::time::Duration;

use federation_specs::{
    bundle_json,
    public_key::{MAX_RSA_BITS, MIN_RSA_BITS},
};

use super::{
    MAX_BODY_BYTES, MIN_INTERVAL,
    error::{SettingsError, error},
    values::at_least,
};
use crate::{
    config,
    refresh::{limits::AcceptanceLimits, policy::Policy},
};

/// Shortest maximum age that is accepted: shorter, and one missed refresh would take partners away.
const MIN_MAXIMUM_AGE: Duration = Duration::from_secs(5);

/// Limits of fetching.
#[derive(Debug, Clone, Copy)]
pub struct RefreshLimits {
    /// Floor of the interval between two fetches from one partner.
    pub min_interval: Duration,
    /// Ceiling of that interval.
    pub max_interval: Duration,
    /// Total time of one fetch.
    pub timeout: Duration,
    /// Largest document in bytes.
    pub max_body_bytes: usize,
}

pub(super) fn limits(refresh: &config::Refresh) -> Result<RefreshLimits, SettingsError> {
    let limits = RefreshLimits {
        min_interval: at_least("refresh.min_interval".to_owned(), refresh.min_interval.0, MIN_INTERVAL)?,
        max_interval: at_least("refresh.max_interval".to_owned(), refresh.max_interval.0, MIN_INTERVAL)?,
        timeout: at_least("refresh.timeout".to_owned(), refresh.timeout.0, MIN_INTERVAL)?,
        max_body_bytes: refresh.max_body_bytes,
    };
    if limits.max_interval < limits.min_interval {
        return Err(error("refresh.max_interval", "is shorter than refresh.min_interval; make it at least as long"));
    }
    if !(1..=MAX_BODY_BYTES).contains(&limits.max_body_bytes) {
        return Err(error("refresh.max_body_bytes", format!("must lie between 1 and {MAX_BODY_BYTES}")));
    }
    Ok(limits)
}

fn maximum_age(key: &str, age: Option<service_kit::config::HumanDuration>) -> Result<Option<Duration>, SettingsError> {
    let age = age.map(|age| age.0);
    if age.is_some_and(|age| age < MIN_MAXIMUM_AGE) {
        return Err(error(key, format!("is too short; use at least {MIN_MAXIMUM_AGE:?}, or leave it out")));
    }
    Ok(age)
}

/// The policy of relationships that do not say theirs.
pub(super) fn default_policy(refresh: &config::Refresh) -> Result<Policy, SettingsError> {
    Ok(Policy {
        mode: refresh.default_mode,
        emptied: refresh.default_emptied,
        drift: refresh.default_drift,
        maximum_age: maximum_age("refresh.default_maximum_age", refresh.default_maximum_age)?,
    })
}

/// The policy of one relationship.
pub(super) fn policy(key: &str, item: &config::Relationship, default: Policy) -> Result<Policy, SettingsError> {
    Ok(Policy {
        mode: item.mode.unwrap_or(default.mode),
        emptied: item.emptied.unwrap_or(default.emptied),
        drift: item.drift.unwrap_or(default.drift),
        maximum_age: maximum_age(&format!("{key}.maximum_age"), item.maximum_age)?.or(default.maximum_age),
    })
}

/// The limits of acceptance.
pub(super) fn acceptance_limits(accept: &config::Accept) -> Result<AcceptanceLimits, SettingsError> {
    if !(1..=bundle_json::MAX_KEYS).contains(&accept.max_keys) {
        return Err(error("refresh.accept.max_keys", format!("must lie between 1 and {}", bundle_json::MAX_KEYS)));
    }
    if accept.key_types.is_empty() {
        return Err(error("refresh.accept.key_types", "is empty, so that no bundle could be accepted; name key types"));
    }
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&accept.min_rsa_bits) {
        return Err(error(
            "refresh.accept.min_rsa_bits",
            format!("must lie between {MIN_RSA_BITS} and {MAX_RSA_BITS}, the sizes this program verifies with"),
        ));
    }
    Ok(AcceptanceLimits {
        max_keys: accept.max_keys,
        key_types: accept.key_types.iter().copied().collect(),
        min_rsa_bits: accept.min_rsa_bits,
    })
}
