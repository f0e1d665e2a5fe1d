//! Where in AWS, and as whom.

use std::path::PathBuf;

use super::{endpoint::Endpoint, names::optional_file};
use crate::settings::error::{SettingsError, error};

/// Longest name of a region.
const MAX_REGION_BYTES: usize = 63;

/// Where in AWS, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsAccount {
    /// The region.
    pub region: String,
    /// Another server.
    pub endpoint: Option<Endpoint>,
    /// File with static credentials.
    pub credentials_file: Option<PathBuf>,
}

impl AwsAccount {
    pub(super) fn check(
        key: &str,
        region: &str,
        url: Option<&String>,
        credentials_file: Option<&PathBuf>,
    ) -> Result<Self, SettingsError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || region.len() > MAX_REGION_BYTES || !region.bytes().all(plain) {
            return Err(error(
                format!("{key}.region"),
                format!("`{region}` is no AWS region; write for example eu-west-1"),
            ));
        }
        Ok(Self {
            region: region.to_owned(),
            endpoint: Endpoint::check(format!("{key}.endpoint"), url)?,
            credentials_file: optional_file(format!("{key}.credentials_file"), credentials_file)?,
        })
    }

    /// For the words of a place.
    pub(super) fn describe(&self) -> String {
        format!("{}{}", self.region, Endpoint::at(self.endpoint.as_ref()))
    }
}
