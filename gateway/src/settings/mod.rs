//! The configuration after every value has been parsed and checked. What is here can be acted upon.

mod acme;
mod admin;
mod datastore;
mod endpoint_profile;
mod error;
mod listeners;
mod network;
mod publishers;
mod refresh;
mod relationships;
mod sources;
mod trust_domains;
mod values;
mod webhooks;

use std::{path::PathBuf, time::Duration};

use crate::{config::Config, refresh::limits::AcceptanceLimits};
use error::error;
use trust_domains::UsedPaths;

pub use acme::{AcmeSettings, ChallengeSettings, ExternalAccountSettings, Http01Settings};
pub use admin::{AdminListener, Roles};
pub use datastore::Datastore;
pub use error::SettingsError;
pub use listeners::{ServingLimits, SpiffeListener, WebCertificate, WebListener};
pub use network::NetworkSettings;
pub use publishers::{
    AwsAccount, AzureBlobPlace, AzureIdentity, Cluster, ClusterTrustBundlePlace, ConfigMapPlace, Content, Endpoint,
    FilePlace, GcsPlace, PlaceSettings, PublisherSettings, S3Place, TrustAnchorPlace,
};
pub use refresh::RefreshLimits;
pub use relationships::{
    ConfiguredRelationship, Document, MAX_BOOTSTRAP_BUNDLE_BYTES, MAX_CA_PEM_BYTES, RelationshipRules, UnknownReceiver,
};
pub use sources::{IssuerAddress, SourceSettings};
pub use trust_domains::{BundleMapSettings, EndpointSvidSettings, LocalDomain, OidcSettings};
pub use webhooks::{MAX_WEBHOOK_TIMEOUT, MAX_WEBHOOKS, Thresholds, WebhookSettings};

/// Most trust domains one gateway serves.
pub const MAX_TRUST_DOMAINS: usize = 10_000;

/// Most relationships of one gateway, from the file and managed ones together.
pub const MAX_RELATIONSHIPS: usize = 100_000;

/// Shortest refresh hint and poll interval that are accepted.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Largest bundle document that may be configured.
pub const MAX_BODY_BYTES: usize = federation_specs::bundle_json::MAX_BUNDLE_BYTES;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for everything the gateway keeps.
    pub data_dir: PathBuf,
    /// The database.
    pub datastore: Datastore,
    /// Local admin socket.
    pub socket_path: PathBuf,
    /// The `https_web` listener.
    pub https_web: Option<WebListener>,
    /// The `https_spiffe` listener.
    pub https_spiffe: Option<SpiffeListener>,
    /// The admin listener.
    pub admin: Option<AdminListener>,
    /// Served trust domains, in the order of the file.
    pub trust_domains: Vec<LocalDomain>,
    /// Partners from the file.
    pub relationships: Vec<ConfiguredRelationship>,
    /// Limits of fetching.
    pub refresh: RefreshLimits,
    /// The way to partners.
    pub network: NetworkSettings,
    /// Limits of accepting.
    pub acceptance: AcceptanceLimits,
    /// How relationships of other origins are checked, and the policy of those that say nothing.
    pub relationship_rules: RelationshipRules,
    /// How often issuers are asked whether they still hold what was delivered.
    pub compare_interval: Duration,
    /// Limits of serving.
    pub limits: ServingLimits,
    /// The document with several bundles.
    pub bundle_map: Option<BundleMapSettings>,
    /// Who is told about events.
    pub webhooks: Vec<WebhookSettings>,
    /// From when on something is worth telling them.
    pub thresholds: Thresholds,
}

impl Settings {
    /// Checks every value of `config`.
    ///
    /// # Errors
    /// The first value that cannot be used, with its key and the remedy.
    pub fn check(config: &Config) -> Result<Self, SettingsError> {
        if config.data_dir.as_os_str().is_empty() {
            return Err(error("data_dir", "is empty; name a folder this user can write"));
        }
        let https_web = config.listeners.https_web.as_ref().map(listeners::web_listener).transpose()?;
        let https_spiffe = config.listeners.https_spiffe.as_ref().map(listeners::spiffe_listener).transpose()?;
        if https_web.is_none() && https_spiffe.is_none() {
            return Err(error("listeners", "is empty; configure https_web, https_spiffe or both"));
        }
        let shared = listeners::shared_listener(https_web.as_ref(), https_spiffe.as_ref(), config)?;
        let mut paths = UsedPaths::default();
        let trust_domains =
            trust_domains::local_domains(config, https_web.is_some(), https_spiffe.is_some(), &mut paths)?;
        let bundle_map = match &config.bundle_map {
            Some(_) if https_web.is_none() => {
                return Err(error("bundle_map", "needs the https_web listener; configure listeners.https_web"));
            }
            Some(map) => Some(trust_domains::bundle_map(map, &trust_domains, &mut paths)?),
            None => None,
        };
        if shared && config.trust_domains.iter().all(|domain| domain.server_names.is_empty()) {
            return Err(error(
                "listeners",
                "https_web and https_spiffe share an address, but no trust domain has server_names, so nobody would \
                 be shown an X509-SVID; set server_names, for example spiffe.gateway.example, or use different ports",
            ));
        }
        let relationship_rules = RelationshipRules::new(config, &trust_domains)?;
        let relationships = relationships::relationships(config, &relationship_rules)?;
        Ok(Self {
            data_dir: config.data_dir.clone(),
            datastore: datastore::datastore(&config.datastore, &config.data_dir)?,
            socket_path: config.socket_path.clone(),
            https_web,
            https_spiffe,
            admin: config.admin.as_ref().map(|admin| admin::listener(admin, &trust_domains)).transpose()?,
            trust_domains,
            relationships,
            refresh: refresh::limits(&config.refresh)?,
            network: network::network(&config.refresh)?,
            acceptance: refresh::acceptance_limits(&config.refresh.accept)?,
            relationship_rules,
            compare_interval: values::at_least(
                "refresh.compare_interval".to_owned(),
                config.refresh.compare_interval.0,
                MIN_INTERVAL,
            )?,
            limits: listeners::limits(&config.limits)?,
            bundle_map,
            webhooks: webhooks::webhooks(config)?,
            thresholds: webhooks::thresholds(&config.webhook_thresholds)?,
        })
    }

    /// Whether one listener serves both profiles.
    pub fn shares_listener(&self) -> bool {
        matches!((&self.https_web, &self.https_spiffe), (Some(web), Some(spiffe)) if listeners::same_place(web, spiffe))
    }
}

#[cfg(test)]
mod tests;
