//! Places the bundle of a served trust domain is published to: one file for each kind of place.

mod aws_account;
mod azure_blob;
mod cluster;
mod cluster_trust_bundle;
mod config_map;
mod content;
mod endpoint;
mod file;
mod gcs;
mod names;
mod s3;
mod trust_anchor;

use std::{collections::BTreeSet, time::Duration};

use super::{
    MIN_INTERVAL,
    error::{SettingsError, error},
    values::at_least,
};
use crate::config::{self, BundleFormat};

pub use aws_account::AwsAccount;
pub use azure_blob::{AzureBlobPlace, AzureIdentity};
pub use cluster::Cluster;
pub use cluster_trust_bundle::ClusterTrustBundlePlace;
pub use config_map::ConfigMapPlace;
pub use content::Content;
pub use endpoint::Endpoint;
pub use file::FilePlace;
pub use gcs::GcsPlace;
pub use s3::S3Place;
pub use trust_anchor::TrustAnchorPlace;

/// Most publishers of one trust domain.
pub(crate) const MAX_PUBLISHERS: usize = 64;

/// Longest name of a publisher.
const MAX_NAME_BYTES: usize = 63;

/// A publisher of one trust domain's bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherSettings {
    /// Unique within the trust domain.
    pub name: String,
    /// How often the place is looked at.
    pub check_interval: Duration,
    /// Where to.
    pub place: PlaceSettings,
}

/// A place a bundle is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceSettings {
    /// A file.
    File(FilePlace),
    /// An S3 object.
    S3(S3Place),
    /// A Google Cloud Storage object.
    Gcs(GcsPlace),
    /// An Azure blob.
    AzureBlob(AzureBlobPlace),
    /// A key of a ConfigMap.
    ConfigMap(ConfigMapPlace),
    /// A ClusterTrustBundle.
    ClusterTrustBundle(ClusterTrustBundlePlace),
    /// A Roles Anywhere trust anchor.
    TrustAnchor(TrustAnchorPlace),
}

impl PlaceSettings {
    /// The key of the configuration that makes such a place.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::S3(_) => "aws_s3",
            Self::Gcs(_) => "gcp_cloudstorage",
            Self::AzureBlob(_) => "azure_blob",
            Self::ConfigMap(_) => "k8s_configmap",
            Self::ClusterTrustBundle(_) => "k8s_cluster_trust_bundle",
            Self::TrustAnchor(_) => "aws_rolesanywhere_trustanchor",
        }
    }

    /// The place in words: what names it in the store and in messages.
    pub fn describe(&self) -> String {
        match self {
            Self::File(place) => place.describe(),
            Self::S3(place) => place.describe(),
            Self::Gcs(place) => place.describe(),
            Self::AzureBlob(place) => place.describe(),
            Self::ConfigMap(place) => place.describe(),
            Self::ClusterTrustBundle(place) => place.describe(),
            Self::TrustAnchor(place) => place.describe(),
        }
    }

    /// Whether each gateway has a place of its own under these names, where several share a database.
    pub fn is_of_gateway(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// The format it is published in.
    pub fn format(&self) -> BundleFormat {
        match self {
            Self::File(place) => place.content.format,
            Self::S3(place) => place.content.format,
            Self::Gcs(place) => place.content.format,
            Self::AzureBlob(place) => place.content.format,
            Self::ConfigMap(place) => place.content.format,
            Self::ClusterTrustBundle(_) | Self::TrustAnchor(_) => BundleFormat::Pem,
        }
    }

    /// The cargo feature it needs, and whether this build has it.
    fn feature(&self) -> (&'static str, bool) {
        match self {
            Self::File(_) => ("publish-file", cfg!(feature = "publish-file")),
            Self::S3(_) => ("publish-s3", cfg!(feature = "publish-s3")),
            Self::Gcs(_) => ("publish-gcs", cfg!(feature = "publish-gcs")),
            Self::AzureBlob(_) => ("publish-azure-blob", cfg!(feature = "publish-azure-blob")),
            Self::ConfigMap(_) | Self::ClusterTrustBundle(_) => {
                ("publish-kubernetes", cfg!(feature = "publish-kubernetes"))
            }
            Self::TrustAnchor(_) => ("publish-roles-anywhere", cfg!(feature = "publish-roles-anywhere")),
        }
    }
}

/// The publishers of one trust domain.
pub(super) fn publishers(key: &str, list: &[config::Publisher]) -> Result<Vec<PublisherSettings>, SettingsError> {
    if list.len() > MAX_PUBLISHERS {
        return Err(error(format!("{key}.publishers"), format!("has more than {MAX_PUBLISHERS} items")));
    }
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::with_capacity(list.len());
    for (index, publisher) in list.iter().enumerate() {
        let key = format!("{key}.publishers[{index}]");
        let settings = check(&key, publisher)?;
        if !names.insert(settings.name.clone()) {
            return Err(error(format!("{key}.name"), format!("`{}` is used twice; rename one", settings.name)));
        }
        if !places.insert(settings.place.describe()) {
            let place = settings.place.describe();
            return Err(error(key, format!("{place} is published to twice; remove one of them")));
        }
        in_this_build(&format!("{key}.{}", settings.place.kind()), settings.place.feature())?;
        checked.push(settings);
    }
    Ok(checked)
}

fn in_this_build(key: &str, (feature, there): (&'static str, bool)) -> Result<(), SettingsError> {
    if there {
        return Ok(());
    }
    Err(error(key, format!("is not part of this build; build it with `cargo build --features {feature}`")))
}

fn check(key: &str, publisher: &config::Publisher) -> Result<PublisherSettings, SettingsError> {
    let name = &publisher.name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err(error(
            format!("{key}.name"),
            format!("`{name}` is no name of 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` and `.`"),
        ));
    }
    let mut places = Vec::new();
    if let Some(place) = &publisher.file {
        places.push(PlaceSettings::File(FilePlace::check(&format!("{key}.file"), place)?));
    }
    if let Some(place) = &publisher.aws_s3 {
        places.push(PlaceSettings::S3(S3Place::check(&format!("{key}.aws_s3"), place)?));
    }
    if let Some(place) = &publisher.gcp_cloudstorage {
        places.push(PlaceSettings::Gcs(GcsPlace::check(&format!("{key}.gcp_cloudstorage"), place)?));
    }
    if let Some(place) = &publisher.azure_blob {
        places.push(PlaceSettings::AzureBlob(AzureBlobPlace::check(&format!("{key}.azure_blob"), place)?));
    }
    if let Some(place) = &publisher.k8s_configmap {
        places.push(PlaceSettings::ConfigMap(ConfigMapPlace::check(&format!("{key}.k8s_configmap"), place)?));
    }
    if let Some(place) = &publisher.k8s_cluster_trust_bundle {
        places.push(PlaceSettings::ClusterTrustBundle(ClusterTrustBundlePlace::check(
            &format!("{key}.k8s_cluster_trust_bundle"),
            place,
        )?));
    }
    if let Some(place) = &publisher.aws_rolesanywhere_trustanchor {
        places.push(PlaceSettings::TrustAnchor(TrustAnchorPlace::check(
            &format!("{key}.aws_rolesanywhere_trustanchor"),
            place,
        )?));
    }
    let (Some(place), true) = (places.pop(), places.is_empty()) else {
        return Err(error(
            key,
            "needs exactly one of file, aws_s3, gcp_cloudstorage, azure_blob, k8s_configmap, k8s_cluster_trust_bundle, \
             aws_rolesanywhere_trustanchor",
        ));
    };
    let check_interval = at_least(format!("{key}.check_interval"), publisher.check_interval.0, MIN_INTERVAL)?;
    Ok(PublisherSettings { name: name.clone(), check_interval, place })
}

#[cfg(test)]
mod tests;
