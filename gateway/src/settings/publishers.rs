//! Places the bundle of a served trust domain is published to.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use url::{Host, Url};

use super::{
    MIN_INTERVAL,
    error::{SettingsError, error},
    values::{at_least, non_empty},
};
use crate::config::{self, BundleFormat};

/// Most publishers of one trust domain.
pub(crate) const MAX_PUBLISHERS: usize = 64;

/// Longest name of a publisher.
const MAX_NAME_BYTES: usize = 63;

/// Longest name of an object, a bucket or another thing at a provider.
const MAX_TEXT_BYTES: usize = 1024;

/// A publisher of one trust domain's bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherSettings {
    /// Unique within the trust domain.
    pub name: String,
    /// How often the place is looked at.
    pub check_interval: Duration,
    /// Where to.
    pub place: PlaceSettings,
}

/// A place a bundle is published to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceSettings {
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What is written.
        content: Content,
    },
    /// An S3 object.
    S3 {
        /// The bucket.
        bucket: String,
        /// Key of the object.
        object_key: String,
        /// Where it is and who asks.
        account: AwsAccount,
        /// What is written.
        content: Content,
    },
    /// A Google Cloud Storage object.
    Gcs {
        /// The bucket.
        bucket: String,
        /// Name of the object.
        object_name: String,
        /// Another server.
        endpoint: Option<Endpoint>,
        /// Key file of a service account.
        service_account_file: Option<PathBuf>,
        /// What is written.
        content: Content,
    },
    /// An Azure blob.
    AzureBlob {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// Name of the blob.
        blob: String,
        /// Another server.
        endpoint: Option<Endpoint>,
        /// Who asks.
        identity: AzureIdentity,
        /// What is written.
        content: Content,
    },
    /// A key of a ConfigMap.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
        /// The cluster.
        cluster: Cluster,
        /// What is written.
        content: Content,
    },
    /// A ClusterTrustBundle.
    ClusterTrustBundle {
        /// Its name.
        name: String,
        /// Its signer.
        signer_name: Option<String>,
        /// The cluster.
        cluster: Cluster,
    },
    /// A Roles Anywhere trust anchor.
    TrustAnchor {
        /// Its ID.
        id: String,
        /// Where it is and who asks.
        account: AwsAccount,
    },
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// How.
    pub format: BundleFormat,
    /// Instead of the served refresh hint.
    pub refresh_hint: Option<Duration>,
}

/// A server other than the provider's own: https, or http on a loopback address, so that no credential crosses a
/// network in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its URL without a slash at the end.
    pub url: String,
    /// Whether it is plain HTTP.
    pub plain: bool,
}

/// Where in AWS, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsAccount {
    /// The region.
    pub region: String,
    /// Another server.
    pub endpoint: Option<Endpoint>,
    /// File with static credentials.
    pub credentials_file: Option<PathBuf>,
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

/// A Kubernetes cluster, and what to do if somebody else owns the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The kubeconfig; the Pod's own service account without.
    pub kubeconfig: Option<PathBuf>,
    /// Take fields over from other managers.
    pub force_conflicts: bool,
}

impl PlaceSettings {
    /// The key of the configuration that makes such a place.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::S3 { .. } => "aws_s3",
            Self::Gcs { .. } => "gcp_cloudstorage",
            Self::AzureBlob { .. } => "azure_blob",
            Self::ConfigMap { .. } => "k8s_configmap",
            Self::ClusterTrustBundle { .. } => "k8s_cluster_trust_bundle",
            Self::TrustAnchor { .. } => "aws_rolesanywhere_trustanchor",
        }
    }

    /// The place in words: what names it in the store and in messages.
    pub fn describe(&self) -> String {
        let at = |endpoint: &Option<Endpoint>| match endpoint {
            Some(endpoint) => format!(" at {}", endpoint.url),
            None => String::new(),
        };
        let cluster = |cluster: &Cluster| match &cluster.kubeconfig {
            Some(path) => format!(" of the cluster in {}", path.display()),
            None => String::new(),
        };
        match self {
            Self::File { path, .. } => format!("file {}", path.display()),
            Self::S3 { bucket, object_key, account, .. } => {
                format!("S3 object {bucket}/{object_key} in {}{}", account.region, at(&account.endpoint))
            }
            Self::Gcs { bucket, object_name, endpoint, .. } => {
                format!("Google Cloud Storage object {bucket}/{object_name}{}", at(endpoint))
            }
            Self::AzureBlob { account, container, blob, endpoint, .. } => {
                format!("Azure blob {account}/{container}/{blob}{}", at(endpoint))
            }
            Self::ConfigMap { namespace, name, key, cluster: place, .. } => {
                format!("key {key} of ConfigMap {namespace}/{name}{}", cluster(place))
            }
            Self::ClusterTrustBundle { name, cluster: place, .. } => {
                format!("ClusterTrustBundle {name}{}", cluster(place))
            }
            Self::TrustAnchor { id, account } => {
                format!("Roles Anywhere trust anchor {id} in {}{}", account.region, at(&account.endpoint))
            }
        }
    }

    /// Whether each gateway has a place of its own under these names, where several share a database.
    pub fn is_of_gateway(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The format it is published in.
    pub fn format(&self) -> BundleFormat {
        match self {
            Self::File { content, .. }
            | Self::S3 { content, .. }
            | Self::Gcs { content, .. }
            | Self::AzureBlob { content, .. }
            | Self::ConfigMap { content, .. } => content.format,
            Self::ClusterTrustBundle { .. } | Self::TrustAnchor { .. } => BundleFormat::Pem,
        }
    }

    /// The cargo feature it needs, and whether this build has it.
    fn feature(&self) -> (&'static str, bool) {
        match self {
            Self::File { .. } => ("publish-file", cfg!(feature = "publish-file")),
            Self::S3 { .. } => ("publish-s3", cfg!(feature = "publish-s3")),
            Self::Gcs { .. } => ("publish-gcs", cfg!(feature = "publish-gcs")),
            Self::AzureBlob { .. } => ("publish-azure-blob", cfg!(feature = "publish-azure-blob")),
            Self::ConfigMap { .. } | Self::ClusterTrustBundle { .. } => {
                ("publish-kubernetes", cfg!(feature = "publish-kubernetes"))
            }
            Self::TrustAnchor { .. } => ("publish-roles-anywhere", cfg!(feature = "publish-roles-anywhere")),
        }
    }
}

/// The publishers of one trust domain.
pub(super) fn publishers(key: &str, list: &[config::Publisher]) -> Result<Vec<PublisherSettings>, SettingsError> {
    if list.len() > MAX_PUBLISHERS {
        return Err(error(format!("{key}.publishers"), format!("has more than {MAX_PUBLISHERS} items")));
    }
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::with_capacity(list.len());
    for (index, publisher) in list.iter().enumerate() {
        let key = format!("{key}.publishers[{index}]");
        let settings = check(&key, publisher)?;
        if !names.insert(settings.name.clone()) {
            return Err(error(format!("{key}.name"), format!("`{}` is used twice; rename one", settings.name)));
        }
        if !places.insert(settings.place.describe()) {
            let place = settings.place.describe();
            return Err(error(key, format!("{place} is published to twice; remove one of them")));
        }
        in_this_build(&format!("{key}.{}", settings.place.kind()), settings.place.feature())?;
        checked.push(settings);
    }
    Ok(checked)
}

fn in_this_build(key: &str, (feature, there): (&'static str, bool)) -> Result<(), SettingsError> {
    if there {
        return Ok(());
    }
    Err(error(key, format!("is not part of this build; build it with `cargo build --features {feature}`")))
}

fn check(key: &str, publisher: &config::Publisher) -> Result<PublisherSettings, SettingsError> {
    let name = &publisher.name;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        return Err(error(
            format!("{key}.name"),
            format!("`{name}` is no name of 1 to {MAX_NAME_BYTES} letters, digits, `-`, `_` and `.`"),
        ));
    }
    let mut places = Vec::new();
    if let Some(place) = &publisher.file {
        places.push(file(&format!("{key}.file"), place)?);
    }
    if let Some(place) = &publisher.aws_s3 {
        places.push(s3(&format!("{key}.aws_s3"), place)?);
    }
    if let Some(place) = &publisher.gcp_cloudstorage {
        places.push(gcs(&format!("{key}.gcp_cloudstorage"), place)?);
    }
    if let Some(place) = &publisher.azure_blob {
        places.push(azure_blob(&format!("{key}.azure_blob"), place)?);
    }
    if let Some(place) = &publisher.k8s_configmap {
        places.push(config_map(&format!("{key}.k8s_configmap"), place)?);
    }
    if let Some(place) = &publisher.k8s_cluster_trust_bundle {
        places.push(cluster_trust_bundle(&format!("{key}.k8s_cluster_trust_bundle"), place)?);
    }
    if let Some(place) = &publisher.aws_rolesanywhere_trustanchor {
        places.push(trust_anchor(&format!("{key}.aws_rolesanywhere_trustanchor"), place)?);
    }
    let (Some(place), true) = (places.pop(), places.is_empty()) else {
        return Err(error(
            key,
            "needs exactly one of file, aws_s3, gcp_cloudstorage, azure_blob, k8s_configmap, k8s_cluster_trust_bundle, \
             aws_rolesanywhere_trustanchor",
        ));
    };
    let check_interval = at_least(format!("{key}.check_interval"), publisher.check_interval.0, MIN_INTERVAL)?;
    Ok(PublisherSettings { name: name.clone(), check_interval, place })
}

fn content(
    key: &str,
    format: BundleFormat,
    refresh_hint: Option<service_kit::config::HumanDuration>,
) -> Result<Content, SettingsError> {
    let key = format!("{key}.refresh_hint");
    let refresh_hint = match refresh_hint {
        Some(_) if format != BundleFormat::Spiffe => {
            return Err(error(key, "belongs to format spiffe; the other formats have no refresh hint"));
        }
        Some(hint) => Some(at_least(key, hint.0, MIN_INTERVAL)?),
        None => None,
    };
    Ok(Content { format, refresh_hint })
}

fn text(key: String, value: &str) -> Result<String, SettingsError> {
    if value.is_empty() || value.len() > MAX_TEXT_BYTES || value.chars().any(char::is_control) {
        return Err(error(key, format!("must be 1 to {MAX_TEXT_BYTES} bytes without control characters")));
    }
    Ok(value.to_owned())
}

/// A name in a bucket: parts with slashes between them.
fn object_name(key: String, value: &str) -> Result<String, SettingsError> {
    let name = text(key.clone(), value)?;
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(error(key, format!("`{name}` has an empty or relative part; write for example bundles/td.json")));
    }
    Ok(name)
}

fn optional_file(key: String, file: Option<&PathBuf>) -> Result<Option<PathBuf>, SettingsError> {
    file.map(|path| non_empty(&key, path)).transpose()
}

fn endpoint(key: String, url: Option<&String>) -> Result<Option<Endpoint>, SettingsError> {
    let Some(text) = url else { return Ok(None) };
    let wrong = |problem: &str| error(key.clone(), format!("`{text}` {problem}"));
    let url = Url::parse(text).map_err(|_| wrong("is no URL; write for example https://storage.example:9000"))?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a query, fragment or user; leave them out"));
    }
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let plain = match url.scheme() {
        "https" => false,
        "http" if loopback => true,
        _ => return Err(wrong("would send credentials in the clear; use https (http only to a loopback address)")),
    };
    Ok(Some(Endpoint { url: url.as_str().trim_end_matches('/').to_owned(), plain }))
}

fn file(key: &str, place: &config::FilePlace) -> Result<PlaceSettings, SettingsError> {
    let mode = u32::from_str_radix(&place.mode, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o400 != 0);
    let Some(mode) = mode else {
        return Err(error(
            format!("{key}.mode"),
            format!(
                "`{}` are no octal permission bits with which the owner may read; write for example 0644",
                place.mode
            ),
        ));
    };
    let path = non_empty(&format!("{key}.path"), &place.path)?;
    Ok(PlaceSettings::File { path, mode, content: content(key, place.format, place.refresh_hint)? })
}

fn aws_account(
    key: &str,
    region: &str,
    url: Option<&String>,
    credentials_file: Option<&PathBuf>,
) -> Result<AwsAccount, SettingsError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.is_empty() || region.len() > MAX_NAME_BYTES || !region.bytes().all(plain) {
        return Err(error(
            format!("{key}.region"),
            format!("`{region}` is no AWS region; write for example eu-west-1"),
        ));
    }
    Ok(AwsAccount {
        region: region.to_owned(),
        endpoint: endpoint(format!("{key}.endpoint"), url)?,
        credentials_file: optional_file(format!("{key}.credentials_file"), credentials_file)?,
    })
}

fn s3(key: &str, place: &config::S3Place) -> Result<PlaceSettings, SettingsError> {
    Ok(PlaceSettings::S3 {
        bucket: text(format!("{key}.bucket"), &place.bucket)?,
        object_key: object_name(format!("{key}.object_key"), &place.object_key)?,
        account: aws_account(key, &place.region, place.endpoint.as_ref(), place.credentials_file.as_ref())?,
        content: content(key, place.format, place.refresh_hint)?,
    })
}

fn gcs(key: &str, place: &config::GcsPlace) -> Result<PlaceSettings, SettingsError> {
    Ok(PlaceSettings::Gcs {
        bucket: text(format!("{key}.bucket_name"), &place.bucket_name)?,
        object_name: object_name(format!("{key}.object_name"), &place.object_name)?,
        endpoint: endpoint(format!("{key}.endpoint"), place.endpoint.as_ref())?,
        service_account_file: optional_file(
            format!("{key}.service_account_file"),
            place.service_account_file.as_ref(),
        )?,
        content: content(key, place.format, place.refresh_hint)?,
    })
}

fn azure_blob(key: &str, place: &config::AzureBlobPlace) -> Result<PlaceSettings, SettingsError> {
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
    Ok(PlaceSettings::AzureBlob {
        account: text(format!("{key}.storage_account_name"), &place.storage_account_name)?,
        container: text(format!("{key}.container_name"), &place.container_name)?,
        blob: object_name(format!("{key}.blob_name"), &place.blob_name)?,
        endpoint: endpoint(format!("{key}.service_endpoint"), place.service_endpoint.as_ref())?,
        identity,
        content: content(key, place.format, place.refresh_hint)?,
    })
}

fn cluster(key: &str, kubeconfig: Option<&PathBuf>, force_conflicts: bool) -> Result<Cluster, SettingsError> {
    Ok(Cluster { kubeconfig: optional_file(format!("{key}.kubeconfig_path"), kubeconfig)?, force_conflicts })
}

/// A name as Kubernetes has them for most objects (RFC 1123 subdomain).
fn object_of_kubernetes(key: String, name: &str) -> Result<String, SettingsError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        return Err(error(key, format!("`{name}` is no Kubernetes name of lower-case letters, digits, `-` and `.`")));
    }
    Ok(name.to_owned())
}

fn config_map(key: &str, place: &config::ConfigMapPlace) -> Result<PlaceSettings, SettingsError> {
    let data_key = &place.configmap_key;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if data_key.is_empty() || data_key.len() > 253 || !data_key.bytes().all(plain) {
        return Err(error(
            format!("{key}.configmap_key"),
            format!("`{data_key}` is no ConfigMap key of letters, digits, `-`, `_` and `.`"),
        ));
    }
    Ok(PlaceSettings::ConfigMap {
        namespace: object_of_kubernetes(format!("{key}.namespace"), &place.namespace)?,
        name: object_of_kubernetes(format!("{key}.configmap_name"), &place.configmap_name)?,
        key: data_key.clone(),
        cluster: cluster(key, place.kubeconfig_path.as_ref(), place.force_conflicts)?,
        content: content(key, place.format, place.refresh_hint)?,
    })
}

/// The names of ClusterTrustBundles: `<signer with : for />:<name>` with a signer, no colon without (KEP-3257).
fn cluster_trust_bundle(key: &str, place: &config::ClusterTrustBundlePlace) -> Result<PlaceSettings, SettingsError> {
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
            return Err(error(name_key, format!("`{name}` has a colon, which needs a signer_name; add it or rename")));
        }
        None => {
            object_of_kubernetes(name_key, name)?;
        }
    }
    Ok(PlaceSettings::ClusterTrustBundle {
        name: name.clone(),
        signer_name: place.signer_name.clone(),
        cluster: cluster(key, place.kubeconfig_path.as_ref(), place.force_conflicts)?,
    })
}

fn trust_anchor(key: &str, place: &config::TrustAnchorPlace) -> Result<PlaceSettings, SettingsError> {
    let id = &place.trust_anchor_id;
    if id.len() != 36 || !id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(error(
            format!("{key}.trust_anchor_id"),
            format!("`{id}` is no trust anchor ID; copy the 36 characters after `trust-anchor/` of its ARN"),
        ));
    }
    Ok(PlaceSettings::TrustAnchor {
        id: id.clone(),
        account: aws_account(key, &place.region, place.endpoint.as_ref(), place.credentials_file.as_ref())?,
    })
}

#[cfg(test)]
mod tests;
