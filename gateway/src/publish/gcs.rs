//! An object in Google Cloud Storage.

use std::sync::Arc;

use object_store::gcp::GoogleCloudStorageBuilder;

use super::{
    BundlePublisher, PublisherError,
    cloud::{client_options, no_retries, said},
    object::Object,
};
use crate::settings::GcsPlace;

/// Prepares access to one object, as the service account of the file, or as whoever the application default credentials
/// or the metadata server name.
pub(super) fn connect(place: &GcsPlace) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let GcsPlace { bucket, object_name, endpoint, service_account_file, content } = place;
    let builder = match service_account_file {
        Some(path) => GoogleCloudStorageBuilder::new().with_service_account_path(path.to_string_lossy().into_owned()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let mut builder = builder
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_client_options(client_options(endpoint.as_ref()));
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(&endpoint.url);
    }
    let store = builder.build().map_err(|error| PublisherError::Credentials(said(&error)))?;
    Ok(Arc::new(Object::new(Arc::new(store), object_name, *content)?))
}
