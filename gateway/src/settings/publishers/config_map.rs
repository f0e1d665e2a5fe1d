//! A key of a ConfigMap.

use super::{
    cluster::{Cluster, object_of_kubernetes},
    content::Content,
};
use crate::{
    config,
    settings::error::{SettingsError, error},
};

/// A key of a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigMapPlace {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key.
    pub key: String,
    /// The cluster.
    pub cluster: Cluster,
    /// What is written.
    pub content: Content,
}

impl ConfigMapPlace {
    pub(super) fn check(key: &str, place: &config::ConfigMapPlace) -> Result<Self, SettingsError> {
        let data_key = &place.configmap_key;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if data_key.is_empty() || data_key.len() > 253 || !data_key.bytes().all(plain) {
            return Err(error(
                format!("{key}.configmap_key"),
                format!("`{data_key}` is no ConfigMap key of letters, digits, `-`, `_` and `.`"),
            ));
        }
        Ok(Self {
            namespace: object_of_kubernetes(format!("{key}.namespace"), &place.namespace)?,
            name: object_of_kubernetes(format!("{key}.configmap_name"), &place.configmap_name)?,
            key: data_key.clone(),
            cluster: Cluster::check(key, place.kubeconfig_path.as_ref(), place.force_conflicts)?,
            content: Content::check(key, place.format, place.refresh_hint)?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("key {} of ConfigMap {}/{}{}", self.key, self.namespace, self.name, self.cluster.of())
    }
}
