//! A Roles Anywhere trust anchor.

use super::aws_account::AwsAccount;
use crate::{
    config,
    settings::error::{SettingsError, error},
};

/// A Roles Anywhere trust anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchorPlace {
    /// Its ID.
    pub id: String,
    /// Where it is and who asks.
    pub account: AwsAccount,
}

impl TrustAnchorPlace {
    pub(super) fn check(key: &str, place: &config::TrustAnchorPlace) -> Result<Self, SettingsError> {
        let id = &place.trust_anchor_id;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.len() != 36 || !id.bytes().all(plain) {
            return Err(error(
                format!("{key}.trust_anchor_id"),
                format!("`{id}` is no trust anchor ID; copy the 36 characters after `trust-anchor/` of its ARN"),
            ));
        }
        Ok(Self {
            id: id.clone(),
            account: AwsAccount::check(key, &place.region, place.endpoint.as_ref(), place.credentials_file.as_ref())?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("Roles Anywhere trust anchor {} in {}", self.id, self.account.describe())
    }
}
