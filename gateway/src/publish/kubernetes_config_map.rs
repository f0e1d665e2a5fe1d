//! A key of a Kubernetes ConfigMap, by server-side apply: other keys stay whose they are.

use std::sync::Arc;

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::Patch};
use serde_json::json;

use super::{
    BundlePublisher, MAX_DOCUMENT_BYTES, PublisherError, Seen, Version, format,
    kubernetes::{apply, client, failed},
};
use crate::settings::ConfigMapPlace;

/// Most bytes of a ConfigMap's data.
const MAX_DATA_BYTES: usize = 1024 * 1024;

/// A key of a ConfigMap.
struct ConfigMapKey {
    api: Api<ConfigMap>,
    place: ConfigMapPlace,
}

/// Prepares access to one key.
pub(super) async fn connect(place: &ConfigMapPlace) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let api = Api::namespaced(client(&place.cluster).await?, &place.namespace);
    Ok(Arc::new(ConfigMapKey { api, place: place.clone() }))
}

#[async_trait]
impl BundlePublisher for ConfigMapKey {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        let document = format::render(bundle, self.place.content)?;
        if document.len() > MAX_DATA_BYTES {
            return Err(PublisherError::Unfit(format!(
                "the bundle has {} bytes, and a ConfigMap holds at most {MAX_DATA_BYTES}",
                document.len()
            )));
        }
        Ok(document)
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let found = self.api.get_opt(&self.place.name).await.map_err(|error| failed("reading", &error))?;
        let Some(map) = found else { return Ok(Seen::default()) };
        let document = map.data.and_then(|mut data| data.remove(&self.place.key)).map(String::into_bytes);
        let document = document.filter(|document| document.len() <= MAX_DOCUMENT_BYTES);
        Ok(Seen { document, version: Some(Version { e_tag: None, version: map.metadata.resource_version }) })
    }

    async fn write(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError> {
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": self.place.name },
            "data": { (self.place.key.as_str()): String::from_utf8_lossy(document) },
        });
        if let Some(version) = seen.version.as_ref().and_then(|version| version.version.as_ref()) {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        let written = self.api.patch(&self.place.name, &apply(&self.place.cluster), &Patch::Apply(&object)).await;
        written.map(|_| ()).map_err(|error| failed("writing", &error))
    }
}
