//! What is written to a place.

use std::time::Duration;

use service_kit::config::HumanDuration;

use crate::{
    config::BundleFormat,
    settings::{
        MIN_INTERVAL,
        error::{SettingsError, error},
        values::at_least,
    },
};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// How.
    pub format: BundleFormat,
    /// Instead of the served refresh hint.
    pub refresh_hint: Option<Duration>,
}

impl Content {
    pub(super) fn check(
        key: &str,
        format: BundleFormat,
        refresh_hint: Option<HumanDuration>,
    ) -> Result<Self, SettingsError> {
        let key = format!("{key}.refresh_hint");
        let refresh_hint = match refresh_hint {
            Some(_) if format != BundleFormat::Spiffe => {
                return Err(error(key, "belongs to format spiffe; the other formats have no refresh hint"));
            }
            Some(hint) => Some(at_least(key, hint.0, MIN_INTERVAL)?),
            None => None,
        };
        Ok(Self { format, refresh_hint })
    }
}
