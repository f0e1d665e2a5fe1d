//! One object in an object store. Every write is conditional on the version that was read, so that one which was given
//! up and arrives late fails instead of overwriting a newer one.

use std::sync::Arc;

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use object_store::{
    Attribute, Attributes, Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion, path::Path,
};

use super::{BundlePublisher, MAX_DOCUMENT_BYTES, PublisherError, Seen, Version, cloud::failed, format};
use crate::{config::BundleFormat, settings::Content};

/// An object.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: Path,
    content: Content,
}

impl Object {
    pub(super) fn new(store: Arc<dyn ObjectStore>, name: &str, content: Content) -> Result<Self, PublisherError> {
        let path = Path::parse(name).map_err(|error| PublisherError::Unfit(format!("no object name: {error}")))?;
        Ok(Self { store, path, content })
    }
}

#[async_trait]
impl BundlePublisher for Object {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        format::render(bundle, self.content)
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let result = match self.store.get(&self.path).await {
            Ok(result) => result,
            Err(error @ Error::NotFound { .. }) if !is_container_missing(&error) => return Ok(Seen::default()),
            Err(error) => return Err(failed("reading", &error)),
        };
        let version = Version { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() };
        let document = match result.meta.size <= MAX_DOCUMENT_BYTES as u64 {
            true => result.bytes().await.map_err(|error| failed("reading", &error))?.to_vec(),
            false => Vec::new(),
        };
        Ok(Seen { document: Some(document), version: Some(version) })
    }

    async fn write(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError> {
        let mode = match &seen.version {
            None => PutMode::Create,
            Some(Version { e_tag, version }) => {
                PutMode::Update(UpdateVersion { e_tag: e_tag.clone(), version: version.clone() })
            }
        };
        let media_type = match self.content.format {
            BundleFormat::Spiffe | BundleFormat::Jwks => "application/json",
            BundleFormat::Pem => "application/x-pem-file",
        };
        let attributes = Attributes::from_iter([(Attribute::ContentType, media_type)]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let written = self.store.put_opts(&self.path, document.to_vec().into(), options).await;
        written.map(|_| ()).map_err(|error| failed("writing", &error))
    }
}

/// Whether it is the bucket or container that is missing, which nobody here makes.
fn is_container_missing(error: &Error) -> bool {
    let text = super::error::causes(error);
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|words| text.contains(words))
}
