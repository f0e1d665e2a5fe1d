//! Partners.

use std::{collections::BTreeSet, path::PathBuf};

use federation_specs::{
    id::{SpiffeId, TrustDomain},
    profile::{EndpointProfile, EndpointUrl},
};

use super::{
    MAX_RELATIONSHIPS,
    error::{SettingsError, error},
    refresh,
    trust_domains::LocalDomain,
};
use crate::{
    config::{self, Config, ProfileName},
    refresh::policy::Policy,
};

/// A partner from the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredRelationship {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// Receivers of its bundle, never empty.
    pub local_trust_domains: BTreeSet<TrustDomain>,
    /// Bundle endpoint URL.
    pub url: EndpointUrl,
    /// Bundle endpoint profile.
    pub profile: EndpointProfile,
    /// PEM authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// First bundle of the endpoint's domain.
    pub bootstrap_bundle_file: Option<PathBuf>,
    /// What becomes of changes.
    pub policy: Policy,
}

pub(super) fn relationships(
    config: &Config,
    local: &[LocalDomain],
) -> Result<Vec<ConfiguredRelationship>, SettingsError> {
    if config.relationships.len() > MAX_RELATIONSHIPS {
        return Err(error("relationships", format!("has more than {MAX_RELATIONSHIPS} items; use several gateways")));
    }
    let without_issuer = local.iter().all(|domain| domain.issuer.is_none());
    if without_issuer && !config.relationships.is_empty() {
        return Err(error("relationships", "no trust domain has an issuer that could receive a partner's bundle"));
    }
    let receivers = local.iter().filter(|domain| domain.issuer.is_some());
    let local: BTreeSet<TrustDomain> = receivers.map(|domain| domain.name.clone()).collect();
    let defaults = refresh::default_policy(&config.refresh)?;
    let mut seen = BTreeSet::new();
    let mut checked = Vec::with_capacity(config.relationships.len());
    for (index, item) in config.relationships.iter().enumerate() {
        let key = format!("relationships[{index}]");
        let relationship = relationship(&key, item, &local, defaults)?;
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

fn relationship(
    key: &str,
    item: &config::Relationship,
    local: &BTreeSet<TrustDomain>,
    defaults: Policy,
) -> Result<ConfiguredRelationship, SettingsError> {
    let trust_domain = TrustDomain::from_name_or_id(&item.trust_domain)
        .map_err(|cause| error(format!("{key}.trust_domain"), format!("{cause}")))?;
    let mut receivers = BTreeSet::new();
    for (index, name) in item.local_trust_domains.iter().enumerate() {
        let key = format!("{key}.local_trust_domains[{index}]");
        let name = TrustDomain::from_name_or_id(name).map_err(|cause| error(key.clone(), format!("{cause}")))?;
        if !local.contains(&name) {
            return Err(error(
                key,
                format!("`{name}` is not served by this gateway with an issuer; add it to trust_domains"),
            ));
        }
        receivers.insert(name);
    }
    if receivers.is_empty() {
        receivers = local.iter().filter(|name| **name != trust_domain).cloned().collect();
    }
    if receivers.contains(&trust_domain) || receivers.is_empty() {
        return Err(error(
            format!("{key}.trust_domain"),
            format!("`{trust_domain}` is served by this gateway itself; a relationship names another trust domain"),
        ));
    }
    let url = EndpointUrl::parse(&item.url).map_err(|cause| error(format!("{key}.url"), format!("{cause}")))?;
    let profile = profile(
        key,
        &Endpoint {
            profile: item.profile,
            endpoint_spiffe_id: item.endpoint_spiffe_id.as_deref(),
            ca_file: item.ca_file.as_ref(),
            bootstrap_bundle_file: item.bootstrap_bundle_file.as_ref(),
        },
    )?;
    Ok(ConfiguredRelationship {
        trust_domain,
        local_trust_domains: receivers,
        url,
        profile,
        ca_file: item.ca_file.clone(),
        bootstrap_bundle_file: item.bootstrap_bundle_file.clone(),
        policy: refresh::policy(key, item, defaults)?,
    })
}

/// Keys that say how a bundle endpoint is authenticated, as partners and sources have them.
pub(super) struct Endpoint<'a> {
    pub(super) profile: ProfileName,
    pub(super) endpoint_spiffe_id: Option<&'a str>,
    pub(super) ca_file: Option<&'a PathBuf>,
    pub(super) bootstrap_bundle_file: Option<&'a PathBuf>,
}

/// The profile, when every key given belongs to it.
pub(super) fn profile(key: &str, endpoint: &Endpoint<'_>) -> Result<EndpointProfile, SettingsError> {
    let refuse = |name: &str, problem: &str| Err(error(format!("{key}.{name}"), problem));
    match (endpoint.profile, endpoint.endpoint_spiffe_id) {
        (ProfileName::HttpsWeb, Some(_)) => {
            refuse("endpoint_spiffe_id", "belongs to profile https_spiffe; remove it or change the profile")
        }
        (ProfileName::HttpsWeb, None) if endpoint.bootstrap_bundle_file.is_some() => {
            refuse("bootstrap_bundle_file", "belongs to profile https_spiffe; remove it")
        }
        (ProfileName::HttpsWeb, None) => Ok(EndpointProfile::HttpsWeb),
        (ProfileName::HttpsSpiffe, _) if endpoint.ca_file.is_some() => {
            refuse("ca_file", "belongs to profile https_web; with https_spiffe use bootstrap_bundle_file")
        }
        (ProfileName::HttpsSpiffe, None) => refuse(
            "endpoint_spiffe_id",
            "is missing; ask the partner for it, for example spiffe://partner.example/spire/server",
        ),
        (ProfileName::HttpsSpiffe, Some(text)) => {
            let endpoint_id =
                SpiffeId::parse(text).map_err(|cause| error(format!("{key}.endpoint_spiffe_id"), cause.to_string()))?;
            Ok(EndpointProfile::HttpsSpiffe { endpoint_id })
        }
    }
}
