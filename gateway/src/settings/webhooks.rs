//! Webhooks.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use service_kit::{config::HumanDuration, fetch::check_post_url};
use url::Url;

use super::{
    MIN_INTERVAL,
    error::{SettingsError, error},
    values::{at_least, networks, non_empty},
};
use crate::{
    config::{self, Config},
    webhook::event::{EventFilter, types},
};

/// Most webhooks of one gateway.
pub const MAX_WEBHOOKS: usize = 16;

/// Longest time of one delivery that may be configured.
pub const MAX_WEBHOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest name of a webhook.
const MAX_NAME_BYTES: usize = 63;

/// One receiver of events.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Its name.
    pub name: String,
    /// Where events are posted.
    pub url: Url,
    /// Where the secrets are.
    pub secret_file: PathBuf,
    /// What it wants.
    pub events: EventFilter,
    /// Total time of one delivery.
    pub timeout: Duration,
    /// PEM authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Networks that are not public and may be posted to all the same.
    pub allow_addresses: Vec<IpNet>,
}

/// From when on something is worth telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Time without confirmation.
    pub bundle_age: Duration,
    /// Time until the last X.509 authority expires.
    pub expiry: Duration,
}

pub(super) fn webhooks(config: &Config) -> Result<Vec<WebhookSettings>, SettingsError> {
    if config.webhooks.len() > MAX_WEBHOOKS {
        return Err(error("webhooks", format!("has more than {MAX_WEBHOOKS} items; let one receiver pass them on")));
    }
    let mut checked: Vec<WebhookSettings> = Vec::with_capacity(config.webhooks.len());
    for (index, item) in config.webhooks.iter().enumerate() {
        let key = format!("webhooks[{index}]");
        let webhook = webhook(&key, item)?;
        if checked.iter().any(|other| other.name == webhook.name) {
            return Err(error(format!("{key}.name"), format!("`{}` is listed twice; choose another", webhook.name)));
        }
        checked.push(webhook);
    }
    Ok(checked)
}

fn webhook(key: &str, item: &config::Webhook) -> Result<WebhookSettings, SettingsError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if item.name.is_empty() || item.name.len() > MAX_NAME_BYTES || !item.name.bytes().all(allowed) {
        return Err(error(
            format!("{key}.name"),
            format!("must have 1 to {MAX_NAME_BYTES} lowercase letters, digits, `-`, `_` and `.`"),
        ));
    }
    // The URL may carry a secret of its own, so it is not repeated.
    let bad_url = |reason: &str| error(format!("{key}.url"), format!("cannot be used: {reason}"));
    let url: Url = item.url.parse().map_err(|_| bad_url("it is no absolute URL; write https://…"))?;
    check_post_url(&url).map_err(bad_url)?;
    let events = EventFilter::new(&item.events).map_err(|unknown| {
        error(
            format!("{key}.events"),
            format!(
                "`{}` is no type of event; there are {}, and groups of them such as bundle.*",
                unknown.chars().take(64).collect::<String>(),
                types().join(", ")
            ),
        )
    })?;
    let timeout = at_least(format!("{key}.timeout"), item.timeout.0, MIN_INTERVAL)?;
    if timeout > MAX_WEBHOOK_TIMEOUT {
        let most = HumanDuration(MAX_WEBHOOK_TIMEOUT);
        return Err(error(format!("{key}.timeout"), format!("is too long; use at most {most}")));
    }
    Ok(WebhookSettings {
        name: item.name.clone(),
        url,
        secret_file: non_empty(&format!("{key}.secret_file"), &item.secret_file)?,
        events,
        timeout,
        ca_file: item.ca_file.as_ref().map(|path| non_empty(&format!("{key}.ca_file"), path)).transpose()?,
        allow_addresses: networks(&format!("{key}.allow_addresses"), &item.allow_addresses)?,
    })
}

pub(super) fn thresholds(config: &config::WebhookThresholds) -> Result<Thresholds, SettingsError> {
    if config.consecutive_failures == 0 {
        return Err(error("webhook_thresholds.consecutive_failures", "must be at least 1"));
    }
    Ok(Thresholds {
        consecutive_failures: config.consecutive_failures,
        bundle_age: at_least("webhook_thresholds.bundle_age".to_owned(), config.bundle_age.0, MIN_INTERVAL)?,
        expiry: at_least("webhook_thresholds.expiry".to_owned(), config.expiry.0, MIN_INTERVAL)?,
    })
}
