//! A Kubernetes ClusterTrustBundle, by server-side apply. Its version is the newest the cluster serves.

use std::sync::Arc;

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch},
};
use serde_json::json;

use super::{
    BundlePublisher, PublisherError, Seen, Version, format,
    kubernetes::{apply, client, failed},
};
use crate::settings::ClusterTrustBundlePlace;

/// The API group.
const GROUP: &str = "certificates.k8s.io";

/// Its versions that know ClusterTrustBundles, the newest first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A ClusterTrustBundle.
struct ClusterTrustBundle {
    api: Api<DynamicObject>,
    api_version: String,
    place: ClusterTrustBundlePlace,
}

/// Prepares access to one.
pub(super) async fn connect(place: &ClusterTrustBundlePlace) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let client = client(&place.cluster).await?;
    let version = served_version(&client).await?;
    let kind = GroupVersionKind::gvk(GROUP, version, "ClusterTrustBundle");
    let api = Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, "clustertrustbundles"));
    Ok(Arc::new(ClusterTrustBundle { api, api_version: format!("{GROUP}/{version}"), place: place.clone() }))
}

async fn served_version(client: &Client) -> Result<&'static str, PublisherError> {
    for version in VERSIONS {
        match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
            Ok(list) if list.resources.iter().any(|resource| resource.kind == "ClusterTrustBundle") => {
                return Ok(version);
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("reading", &error)),
        }
    }
    Err(PublisherError::Unfit(
        "the cluster serves no ClusterTrustBundles; use Kubernetes 1.37 or newer, or turn on the feature gate \
         ClusterTrustBundle and certificates.k8s.io/v1beta1 (1.33 or newer)"
            .to_owned(),
    ))
}

#[async_trait]
impl BundlePublisher for ClusterTrustBundle {
    fn render(&self, bundle: &Bundle) -> Result<Vec<u8>, PublisherError> {
        format::pem_of_some(bundle, "ClusterTrustBundle")
    }

    async fn read(&self) -> Result<Seen, PublisherError> {
        let found = self.api.get_opt(&self.place.name).await.map_err(|error| failed("reading", &error))?;
        let Some(object) = found else { return Ok(Seen::default()) };
        let document = object.data["spec"]["trustBundle"].as_str().map(|text| text.as_bytes().to_vec());
        Ok(Seen { document, version: Some(Version { e_tag: None, version: object.metadata.resource_version }) })
    }

    async fn write(&self, document: &[u8], seen: &Seen) -> Result<(), PublisherError> {
        let mut object = json!({
            "apiVersion": self.api_version,
            "kind": "ClusterTrustBundle",
            "metadata": { "name": self.place.name },
            "spec": { "trustBundle": String::from_utf8_lossy(document) },
        });
        if let Some(signer) = &self.place.signer_name {
            object["spec"]["signerName"] = json!(signer);
        }
        if let Some(version) = seen.version.as_ref().and_then(|version| version.version.as_ref()) {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        let written = self.api.patch(&self.place.name, &apply(&self.place.cluster), &Patch::Apply(&object)).await;
        written.map(|_| ()).map_err(|error| failed("writing", &error))
    }
}
