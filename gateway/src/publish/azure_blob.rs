//! A blob in Azure Blob Storage.

use std::{path::Path, sync::Arc};

use object_store::azure::MicrosoftAzureBuilder;

use super::{
    BundlePublisher, PublisherError,
    cloud::{client_options, no_retries, said},
    object::Object,
};
use crate::settings::{AzureBlobPlace, AzureIdentity};

/// Largest file with a key or a secret.
const MAX_SECRET_BYTES: usize = 4096;

/// Prepares access to one blob.
pub(super) fn connect(place: &AzureBlobPlace) -> Result<Arc<dyn BundlePublisher>, PublisherError> {
    let AzureBlobPlace { account, container, blob, endpoint, identity, content } = place;
    let builder = match identity {
        AzureIdentity::Ambient { client_id: None } => MicrosoftAzureBuilder::from_env(),
        AzureIdentity::Ambient { client_id: Some(id) } => MicrosoftAzureBuilder::from_env().with_client_id(id),
        AzureIdentity::AccountKey { file } => MicrosoftAzureBuilder::new().with_access_key(secret(file)?),
        AzureIdentity::Application { tenant_id, client_id, secret_file } => {
            MicrosoftAzureBuilder::new().with_client_secret_authorization(client_id, secret(secret_file)?, tenant_id)
        }
    };
    let mut builder = builder
        .with_account(account)
        .with_container_name(container)
        .with_retry(no_retries())
        .with_client_options(client_options(endpoint.as_ref()));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.url.clone());
    }
    let store = builder.build().map_err(|error| PublisherError::Credentials(said(&error)))?;
    Ok(Arc::new(Object::new(Arc::new(store), blob, *content)?))
}

fn secret(path: &Path) -> Result<String, PublisherError> {
    let wrong = |problem: &str| PublisherError::Credentials(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
    let secret = text.trim();
    if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
        return Err(wrong("holds no key or secret; put it there alone"));
    }
    Ok(secret.to_owned())
}
