//! An object in Amazon S3, or in a store that speaks its protocol and its conditional writes.

use std::sync::Arc;

use super::{BundlePublisher, PublisherError, aws_credentials, cloud::said, object::Object};
use crate::settings::S3Place;

/// Prepares access to one object.
pub(super) fn connect(place: &S3Place) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let S3Place { bucket, object_key, account, content } = place;
    let mut builder = aws_credentials::builder(account)?.with_bucket_name(bucket);
    if let Some(endpoint) = &account.endpoint {
        builder = builder.with_endpoint(&endpoint.url).with_virtual_hosted_style_request(false);
    }
    let store = builder.build().map_err(|error| PublisherError::Credentials(said(&error)))?;
    Ok(Arc::new(Object::new(Arc::new(store), object_key, *content)?))
}
