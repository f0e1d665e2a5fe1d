//! Kubernetes clusters.

use std::path::PathBuf;

use super::names::optional_file;
use crate::settings::error::{SettingsError, error};

/// A Kubernetes cluster, and what to do if somebody else owns the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The kubeconfig; the Pod's own service account without.
    pub kubeconfig: Option<PathBuf>,
    /// Take fields over from other managers.
    pub force_conflicts: bool,
}

impl Cluster {
    pub(super) fn check(key: &str, kubeconfig: Option<&PathBuf>, force_conflicts: bool) -> Result<Self, SettingsError> {
        Ok(Self { kubeconfig: optional_file(format!("{key}.kubeconfig_path"), kubeconfig)?, force_conflicts })
    }

    /// For the words of a place.
    pub(super) fn of(&self) -> String {
        let of = |path: &PathBuf| format!(" of the cluster in {}", path.display());
        self.kubeconfig.as_ref().map(of).unwrap_or_default()
    }
}

/// A name as Kubernetes has them for most objects (RFC 1123 subdomain).
pub(super) fn object_of_kubernetes(key: String, name: &str) -> Result<String, SettingsError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        return Err(error(key, format!("`{name}` is no Kubernetes name of lower-case letters, digits, `-` and `.`")));
    }
    Ok(name.to_owned())
}
