//! A Google Cloud Storage object.

use std::path::PathBuf;

use super::{
    content::Content,
    endpoint::Endpoint,
    names::{object_name, optional_file, text},
};
use crate::{config, settings::error::SettingsError};

/// A Google Cloud Storage object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcsPlace {
    /// The bucket.
    pub bucket: String,
    /// Name of the object.
    pub object_name: String,
    /// Another server.
    pub endpoint: Option<Endpoint>,
    /// Key file of a service account.
    pub service_account_file: Option<PathBuf>,
    /// What is written.
    pub content: Content,
}

impl GcsPlace {
    pub(super) fn check(key: &str, place: &config::GcsPlace) -> Result<Self, SettingsError> {
        Ok(Self {
            bucket: text(format!("{key}.bucket_name"), &place.bucket_name)?,
            object_name: object_name(format!("{key}.object_name"), &place.object_name)?,
            endpoint: Endpoint::check(format!("{key}.endpoint"), place.endpoint.as_ref())?,
            service_account_file: optional_file(
                format!("{key}.service_account_file"),
                place.service_account_file.as_ref(),
            )?,
            content: Content::check(key, place.format, place.refresh_hint)?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        let at = Endpoint::at(self.endpoint.as_ref());
        format!("Google Cloud Storage object {}/{}{at}", self.bucket, self.object_name)
    }
}
