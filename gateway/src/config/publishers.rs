//! Places the bundle of a served trust domain is published to. Keys are those of SPIRE's bundle publishers.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use service_kit::config::HumanDuration;

/// One place: a name and exactly one of the kinds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publisher {
    /// Names it in lists, logs, metrics and the audit log; unique within the trust domain.
    pub name: String,
    /// How often the place is looked at, changed or not.
    #[serde(default = "default_check_interval")]
    pub check_interval: HumanDuration,
    /// A file of this machine.
    #[serde(default)]
    pub file: Option<FilePlace>,
    /// An object in Amazon S3, or in a store that speaks its protocol.
    #[serde(default)]
    pub aws_s3: Option<S3Place>,
    /// An object in Google Cloud Storage.
    #[serde(default)]
    pub gcp_cloudstorage: Option<GcsPlace>,
    /// A blob in Azure Blob Storage.
    #[serde(default)]
    pub azure_blob: Option<AzureBlobPlace>,
    /// A key of a Kubernetes ConfigMap.
    #[serde(default)]
    pub k8s_configmap: Option<ConfigMapPlace>,
    /// A Kubernetes ClusterTrustBundle.
    #[serde(default)]
    pub k8s_cluster_trust_bundle: Option<ClusterTrustBundlePlace>,
    /// A trust anchor of AWS IAM Roles Anywhere.
    #[serde(default)]
    pub aws_rolesanywhere_trustanchor: Option<TrustAnchorPlace>,
}

fn default_check_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

/// How a bundle is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BundleFormat {
    /// The SPIFFE bundle as the bundle endpoint serves it.
    #[default]
    Spiffe,
    /// A JWK Set without SPIFFE's own members: X.509 and JWT authorities.
    Jwks,
    /// PEM certificates: X.509 authorities only.
    Pem,
}

/// A file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePlace {
    /// The file, replaced by renaming a new one over it. Its folder must exist.
    pub path: PathBuf,
    /// What is written.
    #[serde(default)]
    pub format: BundleFormat,
    /// Permission bits in octal.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Instead of the trust domain's refresh hint; format `spiffe` only.
    #[serde(default)]
    pub refresh_hint: Option<HumanDuration>,
}

fn default_mode() -> String {
    "0644".to_owned()
}

/// An S3 object.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Place {
    /// AWS region of the bucket.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Key of the object.
    pub object_key: String,
    /// What is written.
    #[serde(default)]
    pub format: BundleFormat,
    /// Instead of the trust domain's refresh hint; format `spiffe` only.
    #[serde(default)]
    pub refresh_hint: Option<HumanDuration>,
    /// URL of another store that speaks S3; addressed with the bucket in the path.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// An AWS credentials file, its profile `default`. Unless given, the environment, web identity, and the services
    /// of ECS, EKS and EC2 are asked.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}

/// A Google Cloud Storage object.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcsPlace {
    /// The bucket.
    pub bucket_name: String,
    /// Name of the object.
    pub object_name: String,
    /// What is written.
    #[serde(default)]
    pub format: BundleFormat,
    /// Instead of the trust domain's refresh hint; format `spiffe` only.
    #[serde(default)]
    pub refresh_hint: Option<HumanDuration>,
    /// Key file of a service account. Unless given, the application default credentials and the metadata server are
    /// asked.
    #[serde(default)]
    pub service_account_file: Option<PathBuf>,
    /// URL of another server that speaks the same protocol.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// An Azure blob.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AzureBlobPlace {
    /// The storage account.
    pub storage_account_name: String,
    /// The container.
    pub container_name: String,
    /// Name of the blob.
    pub blob_name: String,
    /// What is written.
    #[serde(default)]
    pub format: BundleFormat,
    /// Instead of the trust domain's refresh hint; format `spiffe` only.
    #[serde(default)]
    pub refresh_hint: Option<HumanDuration>,
    /// File with an access key of the storage account, base64.
    #[serde(default)]
    pub storage_account_key_file: Option<PathBuf>,
    /// Tenant of the application below.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// Client ID of an application, or of a user-assigned managed identity.
    #[serde(default)]
    pub app_id: Option<String>,
    /// File with the application's client secret. With neither it nor a key file, workload identity and managed
    /// identity are asked.
    #[serde(default)]
    pub app_secret_file: Option<PathBuf>,
    /// URL of the Blob service instead of `https://<account>.blob.core.windows.net`.
    #[serde(default)]
    pub service_endpoint: Option<String>,
}

/// A key of a ConfigMap.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigMapPlace {
    /// Namespace of the ConfigMap.
    pub namespace: String,
    /// Name of the ConfigMap, made if it is missing.
    pub configmap_name: String,
    /// Key within it.
    pub configmap_key: String,
    /// What is written.
    #[serde(default)]
    pub format: BundleFormat,
    /// Instead of the trust domain's refresh hint; format `spiffe` only.
    #[serde(default)]
    pub refresh_hint: Option<HumanDuration>,
    /// A kubeconfig file; the Pod's service account unless given.
    #[serde(default)]
    pub kubeconfig_path: Option<PathBuf>,
    /// Take the key over if another field manager owns it.
    #[serde(default)]
    pub force_conflicts: bool,
}

/// A ClusterTrustBundle.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterTrustBundlePlace {
    /// Its name, made if it is missing. With a signer name it starts with that, `/` written as `:`, and another `:`.
    pub name: String,
    /// The signer it belongs to.
    #[serde(default)]
    pub signer_name: Option<String>,
    /// A kubeconfig file; the Pod's service account unless given.
    #[serde(default)]
    pub kubeconfig_path: Option<PathBuf>,
    /// Take it over if another field manager owns it.
    #[serde(default)]
    pub force_conflicts: bool,
}

/// A Roles Anywhere trust anchor.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustAnchorPlace {
    /// Its AWS region.
    pub region: String,
    /// Its ID. It must exist.
    pub trust_anchor_id: String,
    /// URL of the service instead of the region's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// As that of `aws_s3`.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}
