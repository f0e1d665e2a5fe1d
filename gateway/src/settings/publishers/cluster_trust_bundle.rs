//! A ClusterTrustBundle.

use super::cluster::{Cluster, object_of_kubernetes};
use crate::{
    config,
    settings::error::{SettingsError, error},
};

/// A ClusterTrustBundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTrustBundlePlace {
    /// Its name: `<signer with : for />:<name>` with a signer, no colon without (KEP-3257).
    pub name: String,
    /// Its signer.
    pub signer_name: Option<String>,
    /// The cluster.
    pub cluster: Cluster,
}

impl ClusterTrustBundlePlace {
    pub(super) fn check(key: &str, place: &config::ClusterTrustBundlePlace) -> Result<Self, SettingsError> {
        let name_key = format!("{key}.name");
        let name = &place.name;
        match &place.signer_name {
            Some(signer) => {
                if signer.split_once('/').is_none_or(|(domain, path)| domain.is_empty() || path.is_empty()) {
                    return Err(error(
                        format!("{key}.signer_name"),
                        format!("`{signer}` is no signer name; write for example cloud.example/entente"),
                    ));
                }
                let prefix = format!("{}:", signer.replace('/', ":"));
                let Some(rest) = name.strip_prefix(&prefix) else {
                    return Err(error(
                        name_key,
                        format!("`{name}` does not start with its signer name; write for example `{prefix}bundle`"),
                    ));
                };
                object_of_kubernetes(name_key, rest)?;
            }
            None if name.contains(':') => {
                return Err(error(
                    name_key,
                    format!("`{name}` has a colon, which needs a signer_name; add it or rename"),
                ));
            }
            None => {
                object_of_kubernetes(name_key, name)?;
            }
        }
        Ok(Self {
            name: name.clone(),
            signer_name: place.signer_name.clone(),
            cluster: Cluster::check(key, place.kubeconfig_path.as_ref(), place.force_conflicts)?,
        })
    }

    /// The place in words.
    pub(super) fn describe(&self) -> String {
        format!("ClusterTrustBundle {}{}", self.name, self.cluster.of())
    }
}
