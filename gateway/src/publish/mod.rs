//! Publishing the served bundles to further places: one trait, one file for each kind of place, one task for each
//! configured publisher ([`runner`]).
//!
//! A publisher only reads and writes; what is published, when, and over what is the runner's business. So every kind
//! behaves the same way, and one conformance suite proves it.

#[cfg_attr(
    not(all(feature = "publish-s3", feature = "publish-roles-anywhere", feature = "publish-kubernetes")),
    allow(dead_code, reason = "a build without every publisher needs a part of it")
)]
mod error;
#[cfg_attr(
    not(all(feature = "publish-s3", feature = "publish-roles-anywhere", feature = "publish-kubernetes")),
    allow(dead_code, reason = "a build without every publisher needs a part of it")
)]
mod format;
mod runner;
mod status;

#[cfg(feature = "publish-file")]
mod file;

#[cfg(feature = "publish-s3")]
mod s3;

#[cfg(feature = "publish-gcs")]
mod gcs;

#[cfg(feature = "publish-azure-blob")]
mod azure_blob;

#[cfg(feature = "publish-kubernetes")]
mod kubernetes;
#[cfg(feature = "publish-kubernetes")]
mod kubernetes_cluster_trust_bundle;
#[cfg(feature = "publish-kubernetes")]
mod kubernetes_config_map;

#[cfg(feature = "publish-roles-anywhere")]
mod roles_anywhere;

#[cfg(any(feature = "publish-s3", feature = "publish-roles-anywhere"))]
mod aws_credentials;
#[cfg(any(
    feature = "publish-s3",
    feature = "publish-gcs",
    feature = "publish-azure-blob",
    feature = "publish-roles-anywhere"
))]
mod cloud;
#[cfg(any(feature = "publish-s3", feature = "publish-gcs", feature = "publish-azure-blob"))]
mod object;

use std::sync::Arc;

use async_trait::async_trait;
use federation_specs::{bundle::Bundle, id::TrustDomain};

pub use error::PublisherError;
pub(crate) use runner::{Runner, connector};
pub use status::{Drift, Health, PublisherState, PublisherStatus, PublisherStatuses};

use crate::settings::PlaceSettings;

/// Largest document read back from a place; a larger one is no bundle of ours and counts as an empty one.
pub const MAX_DOCUMENT_BYTES: usize = federation_specs::bundle_json::MAX_BUNDLE_BYTES;

/// What tells one state of a place from the next, as the place names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// Entity tag.
    pub e_tag: Option<String>,
    /// Generation or resource version.
    pub version: Option<String>,
}

/// What a place holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The document; `None` if there is none.
    pub document: Option<Vec<u8>>,
    /// The state of the place; `None` if the place itself is not there yet or tells none.
    pub version: Option<Version>,
}

/// One place a bundle is published to.
#[async_trait]
pub trait BundlePublisher: Send + Sync {
    /// The document this place is to hold for `bundle`, the same bytes for the same content.
    ///
    /// # Errors
    /// [`PublisherError::Unfit`] if this place cannot hold it.
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError>;

    /// What the place holds now.
    ///
    /// # Errors
    /// [`PublisherError`].
    async fn read(&self) -> Result<Seen, PublisherError>;

    /// Puts `document` there, provided that the place is still as it was `seen`: where the provider can promise that,
    /// a write that was given up and arrives late never overwrites a newer one.
    ///
    /// # Errors
    /// [`PublisherError::Conflict`] if it is not; any other [`PublisherError`].
    async fn write(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError>;
}

/// Prepares access to a place. Files with credentials are read here, so that a later call sees new ones.
async fn connect(
    place: &PlaceSettings,
    trust_domain: &TrustDomain,
) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    match place {
        #[cfg(feature = "publish-file")]
        PlaceSettings::File(place) => Ok(Arc::new(file::File::new(place.clone()))),
        #[cfg(feature = "publish-s3")]
        PlaceSettings::S3(place) => s3::connect(place),
        #[cfg(feature = "publish-gcs")]
        PlaceSettings::Gcs(place) => gcs::connect(place),
        #[cfg(feature = "publish-azure-blob")]
        PlaceSettings::AzureBlob(place) => azure_blob::connect(place),
        #[cfg(feature = "publish-kubernetes")]
        PlaceSettings::ConfigMap(place) => kubernetes_config_map::connect(place).await,
        #[cfg(feature = "publish-kubernetes")]
        PlaceSettings::ClusterTrustBundle(place) => kubernetes_cluster_trust_bundle::connect(place).await,
        #[cfg(feature = "publish-roles-anywhere")]
        PlaceSettings::TrustAnchor(place) => roles_anywhere::connect(place, trust_domain),
        #[allow(unreachable_patterns, reason = "reachable in a build without every publisher")]
        _ => Err(PublisherError::Unfit(format!("{} of {trust_domain} is not part of this build", place.describe()))),
    }
}

#[cfg(test)]
mod runner_tests;
