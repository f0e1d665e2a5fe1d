//! An S3 object.

use super::{
    aws_account::AwsAccount,
    content::Content,
    names::{object_name, text},
};
use crate::{config, settings::error::SettingsError};

/// An S3 object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket.
    pub bucket: String,
    /// Key of the object.
    pub object_key: String,
    /// Where it is and who asks.
    pub account: AwsAccount,
    /// What is written.
    pub content: Content,
}

impl S3Place {
    pub(super) fn check(key: &str, place: &config::S3Place) -> Result<Self, SettingsError> {
        Ok(Self {
            bucket: text(format!("{key}.bucket"), &place.bucket)?,
            object_key: object_name(format!("{key}.object_key"), &place.object_key)?,
            account: AwsAccount::check(key, &place.region, place.endpoint.as_ref(), place.credentials_file.as_ref())?,
            content: Content::check(key, place.format, place.refresh_hint)?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("S3 object {}/{} in {}", self.bucket, self.object_key, self.account.describe())
    }
}
