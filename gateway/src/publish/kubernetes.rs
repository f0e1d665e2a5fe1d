//! What both places in a Kubernetes cluster have in common: the client, server-side apply, and what failures mean.

use std::{path::Path, time::Duration};

use kube::{
    Client, Config,
    api::PatchParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{
    PublisherError,
    error::{chain, reason},
};
use crate::settings::Cluster;

/// Who owns what is applied.
const FIELD_MANAGER: &str = "entente-gateway";

/// Longest one request takes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the cluster.
pub(super) async fn client(cluster: &Cluster) -> Result<Client, PublisherError> {
    let mut config = match &cluster.kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(|error| {
            PublisherError::Credentials(format!("{}; outside a Pod set kubeconfig_path", chain(&error)))
        })?,
    };
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    Client::try_from(config).map_err(|error| failed("reading", &error))
}

async fn from_file(path: &Path) -> Result<Config, PublisherError> {
    let wrong = |error: &dyn std::fmt::Display| PublisherError::Credentials(format!("{}: {error}", path.display()));
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(&chain(&error)))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(&chain(&error)))
}

/// How objects are applied.
pub(super) fn apply(cluster: &Cluster) -> PatchParams {
    let params = PatchParams::apply(FIELD_MANAGER);
    if cluster.force_conflicts { params.force() } else { params }
}

/// What a failure of the API means.
pub(super) fn failed(action: &'static str, error: &kube::Error) -> PublisherError {
    let kube::Error::Api(status) = error else {
        return match error {
            kube::Error::Auth(_) => PublisherError::Credentials(chain(error)),
            _ => PublisherError::Unreachable(chain(error)),
        };
    };
    let said = reason(&status.message);
    match status.code {
        401 => PublisherError::Credentials(said),
        403 => PublisherError::Denied { action, reason: said },
        404 => PublisherError::Missing(said),
        409 if status.message.contains("conflict with") || status.message.contains("conflicts with") => {
            PublisherError::Owned(said)
        }
        409 => PublisherError::Conflict,
        429 | 500.. => PublisherError::Unreachable(said),
        _ => PublisherError::Refused(said),
    }
}
