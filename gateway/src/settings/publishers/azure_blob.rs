//! An Azure blob.

use std::path::PathBuf;

use super::{
    content::Content,
    endpoint::Endpoint,
    names::{object_name, text},
};
use crate::{
    config,
    settings::{
        error::{SettingsError, error},
        values::non_empty,
    },
};

/// An Azure blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureBlobPlace {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// Name of the blob.
    pub blob: String,
    /// Another server.
    pub endpoint: Option<Endpoint>,
    /// Who asks.
    pub identity: AzureIdentity,
    /// What is written.
    pub content: Content,
}

/// As whom in Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureIdentity {
    /// What the environment of the process says: workload identity, managed identity, or its variables.
    Ambient {
        /// Client ID of a user-assigned managed identity.
        client_id: Option<String>,
    },
    /// Whoever has an access key of the storage account.
    AccountKey {
        /// File with the key.
        file: PathBuf,
    },
    /// An application.
    Application {
        /// Its tenant.
        tenant_id: String,
        /// Its client ID.
        client_id: String,
        /// File with its client secret.
        secret_file: PathBuf,
    },
}

impl AzureBlobPlace {
    pub(super) fn check(key: &str, place: &config::AzureBlobPlace) -> Result<Self, SettingsError> {
        let (tenant, app, secret) = (&place.tenant_id, &place.app_id, &place.app_secret_file);
        let identity = match (&place.storage_account_key_file, tenant, app, secret) {
            (Some(file), None, None, None) => {
                AzureIdentity::AccountKey { file: non_empty(&format!("{key}.storage_account_key_file"), file)? }
            }
            (None, Some(tenant), Some(app), Some(secret)) => AzureIdentity::Application {
                tenant_id: text(format!("{key}.tenant_id"), tenant)?,
                client_id: text(format!("{key}.app_id"), app)?,
                secret_file: non_empty(&format!("{key}.app_secret_file"), secret)?,
            },
            (None, None, client_id, None) => AzureIdentity::Ambient { client_id: client_id.clone() },
            _ => {
                return Err(error(
                    key,
                    "says in several ways who asks; use storage_account_key_file, or tenant_id with app_id and \
                     app_secret_file, or neither for workload or managed identity",
                ));
            }
        };
        Ok(Self {
            account: text(format!("{key}.storage_account_name"), &place.storage_account_name)?,
            container: text(format!("{key}.container_name"), &place.container_name)?,
            blob: object_name(format!("{key}.blob_name"), &place.blob_name)?,
            endpoint: Endpoint::check(format!("{key}.service_endpoint"), place.service_endpoint.as_ref())?,
            identity,
            content: Content::check(key, place.format, place.refresh_hint)?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        let at = Endpoint::at(self.endpoint.as_ref());
        format!("Azure blob {}/{}/{}{at}", self.account, self.container, self.blob)
    }
}
