//! Partners, from the configuration or managed over the admin API: one check for both.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use federation_specs::{
    bundle::Bundle,
    bundle_json,
    id::TrustDomain,
    profile::{EndpointProfile, EndpointUrl},
};
use ipnet::IpNet;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    MAX_RELATIONSHIPS,
    endpoint_profile::{Endpoint, profile},
    error::{SettingsError, error},
    refresh,
    trust_domains::LocalDomain,
    values::networks,
};
use crate::{
    config::{self, Config},
    refresh::policy::Policy,
};

/// Longest `ca_pem`: dozens of authorities, where a file may have more.
pub const MAX_CA_PEM_BYTES: usize = 64 * 1024;

/// Longest `bootstrap_bundle`: dozens of keys, where a file may have more.
pub const MAX_BOOTSTRAP_BUNDLE_BYTES: usize = 256 * 1024;

/// Most further URLs of one partner: each gets its share of the time of one fetch.
const MAX_FAILOVER_URLS: usize = 3;

/// A document in a file, read each time it is needed, or written where its path would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document<T> {
    /// Its path.
    File(PathBuf),
    /// Itself.
    Inline(T),
}

/// A partner whose every value was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredRelationship {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// Receivers of its bundle, never empty.
    pub local_trust_domains: BTreeSet<TrustDomain>,
    /// Bundle endpoint URL.
    pub url: EndpointUrl,
    /// Further URLs of the same bundle.
    pub failover_urls: Vec<EndpointUrl>,
    /// Networks that are not public and may be asked for it.
    pub allow_addresses: Vec<IpNet>,
    /// Bundle endpoint profile.
    pub profile: EndpointProfile,
    /// PEM authorities instead of the system's.
    pub ca: Option<Document<Arc<str>>>,
    /// First bundle of the endpoint's domain.
    pub bootstrap: Option<Document<Arc<Bundle>>>,
    /// What becomes of changes.
    pub policy: Policy,
}

/// What the rest of the configuration means for a relationship.
#[derive(Debug, Clone)]
pub struct RelationshipRules {
    /// Served trust domains with an issuer that can receive a bundle.
    receivers: BTreeSet<TrustDomain>,
    /// The policy of relationships that do not say theirs.
    defaults: Policy,
}

/// What becomes of a receiver that this gateway does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownReceiver {
    /// The relationship is refused.
    Refused,
    /// It is left out, because the relationship was accepted under an earlier configuration.
    LeftOut,
}

impl RelationshipRules {
    pub(super) fn new(config: &Config, local: &[LocalDomain]) -> Result<Self, SettingsError> {
        let receivers = local.iter().filter(|domain| domain.issuer.is_some());
        Ok(Self {
            receivers: receivers.map(|domain| domain.name.clone()).collect(),
            defaults: refresh::default_policy(&config.refresh)?,
        })
    }

    /// The policy of relationships that do not say theirs.
    pub fn default_policy(&self) -> Policy {
        self.defaults
    }

    /// Checks one relationship. `key` is its place, for errors.
    ///
    /// # Errors
    /// The first value that cannot be used, with its key and the remedy.
    pub fn check(
        &self,
        key: &str,
        item: &config::Relationship,
        unknown: UnknownReceiver,
    ) -> Result<ConfiguredRelationship, SettingsError> {
        let trust_domain = TrustDomain::from_name_or_id(&item.trust_domain)
            .map_err(|cause| error(format!("{key}.trust_domain"), format!("{cause}")))?;
        let local_trust_domains = self.receivers(key, item, &trust_domain, unknown)?;
        let url = EndpointUrl::parse(&item.url).map_err(|cause| error(format!("{key}.url"), format!("{cause}")))?;
        let profile = profile(
            key,
            &Endpoint {
                profile: item.profile,
                endpoint_spiffe_id: item.endpoint_spiffe_id.as_deref(),
                ca: given("ca_file", item.ca_file.is_some()).or(given("ca_pem", item.ca_pem.is_some())),
                bootstrap: given("bootstrap_bundle_file", item.bootstrap_bundle_file.is_some())
                    .or(given("bootstrap_bundle", item.bootstrap_bundle.is_some())),
            },
        )?;
        Ok(ConfiguredRelationship {
            trust_domain,
            local_trust_domains,
            failover_urls: failover_urls(key, item, &url)?,
            allow_addresses: networks(&format!("{key}.allow_addresses"), &item.allow_addresses)?,
            url,
            ca: ca(key, item)?,
            bootstrap: bootstrap(key, item, &profile)?,
            profile,
            policy: refresh::policy(key, item, self.defaults)?,
        })
    }

    fn receivers(
        &self,
        key: &str,
        item: &config::Relationship,
        partner: &TrustDomain,
        unknown: UnknownReceiver,
    ) -> Result<BTreeSet<TrustDomain>, SettingsError> {
        let mut receivers = BTreeSet::new();
        for (index, name) in item.local_trust_domains.iter().enumerate() {
            let key = format!("{key}.local_trust_domains[{index}]");
            let name = TrustDomain::from_name_or_id(name).map_err(|cause| error(key.clone(), format!("{cause}")))?;
            if self.receivers.contains(&name) {
                receivers.insert(name);
            } else if unknown == UnknownReceiver::Refused {
                return Err(error(
                    key,
                    format!("`{name}` is not served by this gateway with an issuer; add it to trust_domains"),
                ));
            }
        }
        if item.local_trust_domains.is_empty() {
            receivers = self.receivers.iter().filter(|name| *name != partner).cloned().collect();
        }
        if unknown == UnknownReceiver::LeftOut {
            receivers.remove(partner);
            return Ok(receivers);
        }
        let key = format!("{key}.trust_domain");
        if self.receivers.is_empty() {
            return Err(error(key, "no trust domain has an issuer that could receive a partner's bundle"));
        }
        if receivers.contains(partner) || receivers.is_empty() {
            return Err(error(
                key,
                format!("`{partner}` is served by this gateway itself; a relationship names another trust domain"),
            ));
        }
        Ok(receivers)
    }
}

pub(super) fn relationships(
    config: &Config,
    rules: &RelationshipRules,
) -> Result<Vec<ConfiguredRelationship>, SettingsError> {
    if config.relationships.len() > MAX_RELATIONSHIPS {
        return Err(error("relationships", format!("has more than {MAX_RELATIONSHIPS} items; use several gateways")));
    }
    if rules.receivers.is_empty() && !config.relationships.is_empty() {
        return Err(error("relationships", "no trust domain has an issuer that could receive a partner's bundle"));
    }
    let mut seen = BTreeSet::new();
    let mut checked = Vec::with_capacity(config.relationships.len());
    for (index, item) in config.relationships.iter().enumerate() {
        let key = format!("relationships[{index}]");
        let relationship = rules.check(&key, item, UnknownReceiver::Refused)?;
        if !seen.insert(relationship.trust_domain.clone()) {
            return Err(error(
                format!("{key}.trust_domain"),
                format!("`{}` is listed twice; list its receivers in local_trust_domains", relationship.trust_domain),
            ));
        }
        checked.push(relationship);
    }
    Ok(checked)
}

fn failover_urls(
    key: &str,
    item: &config::Relationship,
    first: &EndpointUrl,
) -> Result<Vec<EndpointUrl>, SettingsError> {
    if item.failover_urls.len() > MAX_FAILOVER_URLS {
        return Err(error(
            format!("{key}.failover_urls"),
            format!("has more than {MAX_FAILOVER_URLS} items; remove some"),
        ));
    }
    let mut checked = Vec::with_capacity(item.failover_urls.len());
    for (index, text) in item.failover_urls.iter().enumerate() {
        let key = format!("{key}.failover_urls[{index}]");
        let url = EndpointUrl::parse(text).map_err(|cause| error(key.clone(), cause.to_string()))?;
        if url == *first || checked.contains(&url) {
            return Err(error(key, format!("`{url}` is listed twice; remove one")));
        }
        checked.push(url);
    }
    Ok(checked)
}

fn given(name: &'static str, given: bool) -> Option<&'static str> {
    given.then_some(name)
}

fn ca(key: &str, item: &config::Relationship) -> Result<Option<Document<Arc<str>>>, SettingsError> {
    let Some(pem) = &item.ca_pem else { return Ok(item.ca_file.clone().map(Document::File)) };
    let refuse = |problem: String| Err(error(format!("{key}.ca_pem"), problem));
    if item.ca_file.is_some() {
        return refuse("is given besides ca_file; remove one of them".to_owned());
    }
    if pem.len() > MAX_CA_PEM_BYTES {
        return refuse(format!("is longer than {MAX_CA_PEM_BYTES} bytes; give only the authorities that are needed"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = certificate.map_err(|cause| cause.to_string());
        if let Err(cause) = added.and_then(|it| roots.add(it).map_err(|cause| cause.to_string())) {
            return refuse(format!("holds a certificate that cannot be used: {cause}; correct it"));
        }
    }
    if roots.is_empty() {
        return refuse("holds no PEM certificate; give the text of the file, not its path".to_owned());
    }
    Ok(Some(Document::Inline(pem.as_str().into())))
}

fn bootstrap(
    key: &str,
    item: &config::Relationship,
    profile: &EndpointProfile,
) -> Result<Option<Document<Arc<Bundle>>>, SettingsError> {
    let (Some(text), EndpointProfile::HttpsSpiffe { endpoint_id }) = (&item.bootstrap_bundle, profile) else {
        return Ok(item.bootstrap_bundle_file.clone().map(Document::File));
    };
    let refuse = |problem: String| Err(error(format!("{key}.bootstrap_bundle"), problem));
    if item.bootstrap_bundle_file.is_some() {
        return refuse("is given besides bootstrap_bundle_file; remove one of them".to_owned());
    }
    if text.len() > MAX_BOOTSTRAP_BUNDLE_BYTES {
        return refuse(format!(
            "is longer than {MAX_BOOTSTRAP_BUNDLE_BYTES} bytes; ask the partner for one without old keys"
        ));
    }
    match bundle_json::parse(endpoint_id.trust_domain(), text.as_bytes()) {
        Err(cause) => refuse(format!("is no SPIFFE bundle: {cause}; give the JSON text, not its path")),
        Ok(parsed) if parsed.bundle.x509_authorities().is_empty() => {
            refuse("has no X.509 authority, so that no endpoint could be verified with it".to_owned())
        }
        Ok(parsed) => Ok(Some(Document::Inline(Arc::new(parsed.bundle)))),
    }
}
