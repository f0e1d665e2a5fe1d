//! Served trust domains: names, paths, hosts, OIDC documents, the bundle map.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use federation_specs::{
    dns_name,
    id::{SpiffeId, TrustDomain},
};
use url::Url;

use super::{
    MAX_TRUST_DOMAINS, MIN_INTERVAL,
    error::{SettingsError, error},
    publishers::{self, PublisherSettings},
    sources::{self, IssuerAddress, SourceSettings, issuer_address},
    values::{at_least, checked_path, endpoint_id, hosts, non_empty},
};
use crate::config::{self, Config};

/// A served trust domain.
#[derive(Debug, Clone)]
pub struct LocalDomain {
    /// Its name.
    pub name: TrustDomain,
    /// How its issuer is reached, if there is one.
    pub issuer: Option<IssuerAddress>,
    /// Where its bundle comes from, never empty.
    pub sources: Vec<SourceSettings>,
    /// URL path of its bundle.
    pub path: String,
    /// Hosts its documents are served under, lower case; every host if empty.
    pub hosts: Vec<String>,
    /// Published refresh hint.
    pub refresh_hint: Duration,
    /// SPIFFE ID of the `https_spiffe` endpoint.
    pub endpoint_id: Option<SpiffeId>,
    /// Where its X509-SVID comes from.
    pub endpoint_svid: EndpointSvidSettings,
    /// TLS server names that select this domain's X509-SVID, lower case.
    pub server_names: Vec<String>,
    /// How often the issuer is asked for the bundle.
    pub poll_interval: Duration,
    /// OIDC discovery.
    pub oidc: Option<OidcSettings>,
    /// Further places its bundle is published to.
    pub publishers: Vec<PublisherSettings>,
}

impl LocalDomain {
    /// Hosts its OIDC documents are served under, that of the issuer URL included; every host if empty.
    pub fn oidc_hosts(&self) -> Vec<String> {
        let mut hosts = self.hosts.clone();
        let issuer = self.oidc.as_ref().and_then(|oidc| Url::parse(&oidc.issuer).ok());
        if let Some(host) = issuer.as_ref().and_then(Url::host_str)
            && !hosts.is_empty()
            && !hosts.iter().any(|other| other == host)
        {
            hosts.push(host.to_owned());
        }
        hosts
    }
}

/// Where the X509-SVID of an endpoint comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSvidSettings {
    /// Minted at the issuer of its trust domain.
    Issuer,
    /// An agent's Workload API.
    WorkloadApi {
        /// Its Unix socket.
        socket: PathBuf,
    },
}

/// OIDC documents of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSettings {
    /// The `issuer` value, exactly as configured.
    pub issuer: String,
    /// The `jwks_uri` value.
    pub jwks_uri: String,
    /// URL path of the discovery document.
    pub discovery_path: String,
    /// URL path of the key set.
    pub jwks_path: String,
}

/// A document with the bundles of several trust domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleMapSettings {
    /// Its URL path.
    pub path: String,
    /// The trust domains in it.
    pub trust_domains: BTreeSet<TrustDomain>,
}

pub(super) fn local_domains(
    config: &Config,
    web: bool,
    spiffe: bool,
    paths: &mut UsedPaths,
) -> Result<Vec<LocalDomain>, SettingsError> {
    if config.trust_domains.is_empty() {
        return Err(error("trust_domains", "is empty; list at least one trust domain to serve"));
    }
    if config.trust_domains.len() > MAX_TRUST_DOMAINS {
        return Err(error("trust_domains", format!("has more than {MAX_TRUST_DOMAINS} items; use several gateways")));
    }
    let mut domains: Vec<LocalDomain> = Vec::with_capacity(config.trust_domains.len());
    let mut names = BTreeSet::new();
    for (index, domain) in config.trust_domains.iter().enumerate() {
        let key = format!("trust_domains[{index}]");
        let checked = local_domain(&key, domain)?;
        if !names.insert(checked.name.clone()) {
            return Err(error(format!("{key}.name"), format!("`{}` is listed twice; remove one", checked.name)));
        }
        let mut served = vec![(checked.path.clone(), "path")];
        if let Some(oidc) = &checked.oidc {
            if !web {
                return Err(error(
                    format!("{key}.oidc"),
                    "needs the https_web listener, because OIDC clients use the Web PKI; configure listeners.https_web",
                ));
            }
            served.push((oidc.discovery_path.clone(), "oidc.issuer"));
            served.push((oidc.jwks_path.clone(), "oidc.issuer"));
        }
        for (path, what) in served {
            let hosts = if what == "path" { checked.hosts.clone() } else { checked.oidc_hosts() };
            paths.take(&hosts, &path, &format!("{key}.{what}"))?;
        }
        domains.push(checked);
    }
    check_endpoint_ids(&domains)?;
    if spiffe && domains.iter().all(|domain| domain.endpoint_id.is_none()) {
        return Err(error(
            "listeners.https_spiffe",
            "no trust domain has an endpoint_id, so there is no X509-SVID to present; set endpoint_id, for example \
             spiffe://cloud.example/entente/gateway",
        ));
    }
    Ok(domains)
}

pub(super) fn local_domain(key: &str, domain: &config::TrustDomain) -> Result<LocalDomain, SettingsError> {
    let name = TrustDomain::parse(&domain.name).map_err(|cause| error(format!("{key}.name"), format!("{cause}")))?;
    let path = match &domain.path {
        Some(path) => checked_path(&format!("{key}.path"), path)?,
        None => format!("/{name}"),
    };
    let endpoint_id = match &domain.endpoint_id {
        Some(text) => Some(endpoint_id(&format!("{key}.endpoint_id"), text)?),
        None => None,
    };
    let endpoint_svid = match &domain.endpoint_svid {
        None => EndpointSvidSettings::Issuer,
        Some(_) if endpoint_id.is_none() => {
            return Err(error(
                format!("{key}.endpoint_svid"),
                "needs endpoint_id, the SPIFFE ID to look for among those the agent has for this gateway",
            ));
        }
        Some(svid) => EndpointSvidSettings::WorkloadApi {
            socket: non_empty(
                &format!("{key}.endpoint_svid.workload_api.socket_path"),
                &svid.workload_api.socket_path,
            )?,
        },
    };
    let mut server_names = vec![name.as_str().to_owned()];
    for (index, server_name) in domain.server_names.iter().enumerate() {
        let lower = server_name.to_ascii_lowercase();
        dns_name::check(&lower).map_err(|cause| error(format!("{key}.server_names[{index}]"), format!("{cause}")))?;
        server_names.push(lower);
    }
    Ok(LocalDomain {
        issuer: match &domain.issuer {
            Some(issuer) => Some(issuer_address(&format!("{key}.issuer"), issuer)?),
            None => None,
        },
        sources: sources::sources(key, domain)?,
        path,
        hosts: hosts(&format!("{key}.hosts"), &domain.hosts)?,
        refresh_hint: at_least(format!("{key}.refresh_hint"), domain.refresh_hint.0, MIN_INTERVAL)?,
        endpoint_id,
        endpoint_svid,
        server_names,
        poll_interval: at_least(format!("{key}.poll_interval"), domain.poll_interval.0, MIN_INTERVAL)?,
        oidc: domain.oidc.as_ref().map(|oidc| oidc_settings(&format!("{key}.oidc.issuer"), oidc)).transpose()?,
        publishers: publishers::publishers(key, &domain.publishers)?,
        name,
    })
}

pub(super) fn oidc_settings(key: &str, oidc: &config::Oidc) -> Result<OidcSettings, SettingsError> {
    let url = Url::parse(&oidc.issuer)
        .map_err(|cause| error(key, format!("`{}` is no URL: {cause}; write https://host/path", oidc.issuer)))?;
    if url.scheme() != "https" || !url.has_host() {
        return Err(error(key, format!("`{}` is no https URL; OIDC requires https", oidc.issuer)));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(error(key, format!("`{}` has a query, fragment or user; leave them out", oidc.issuer)));
    }
    let prefix = checked_path(key, url.path())?;
    let prefix = prefix.trim_end_matches('/');
    let base = oidc.issuer.trim_end_matches('/');
    Ok(OidcSettings {
        issuer: oidc.issuer.clone(),
        jwks_uri: format!("{base}/keys"),
        discovery_path: format!("{prefix}/.well-known/openid-configuration"),
        jwks_path: format!("{prefix}/keys"),
    })
}

/// Says who else uses a URL path under a host; `None` stands for every host not named by another domain.
#[derive(Debug, Default)]
pub(super) struct UsedPaths {
    owners: BTreeMap<(Option<String>, String), String>,
}

impl UsedPaths {
    /// Takes `path` under each of `hosts` for `owner`.
    pub(super) fn take(&mut self, hosts: &[String], path: &str, owner: &str) -> Result<(), SettingsError> {
        let hosts: Vec<Option<String>> =
            if hosts.is_empty() { vec![None] } else { hosts.iter().cloned().map(Some).collect() };
        for host in hosts {
            let place = host.as_ref().map_or_else(|| path.to_owned(), |host| format!("{host}{path}"));
            if let Some(other) = self.owners.insert((host, path.to_owned()), owner.to_owned()) {
                return Err(error(
                    owner,
                    format!("the URL path `{place}` is already used by {other}; choose another one"),
                ));
            }
        }
        Ok(())
    }
}

/// Each endpoint ID comes from one place: an issuer this gateway knows, or a Workload API.
pub(super) fn check_endpoint_ids(domains: &[LocalDomain]) -> Result<(), SettingsError> {
    for (index, domain) in domains.iter().enumerate() {
        let Some(id) = &domain.endpoint_id else { continue };
        let same = |other: &&LocalDomain| other.endpoint_id.as_ref() == Some(id);
        if domains.iter().take(index).find(same).is_some_and(|other| other.endpoint_svid != domain.endpoint_svid) {
            return Err(error(
                format!("trust_domains[{index}].endpoint_svid"),
                format!("`{id}` comes from elsewhere for another trust domain; write the same endpoint_svid for both"),
            ));
        }
        if domain.endpoint_svid != EndpointSvidSettings::Issuer {
            continue;
        }
        let signer = domains.iter().find(|other| other.name == *id.trust_domain());
        if signer.is_none_or(|signer| signer.issuer.is_none()) {
            return Err(error(
                format!("trust_domains[{index}].endpoint_id"),
                format!(
                    "`{id}` is signed by the issuer of `{}`, which this gateway does not know; use an ID of a trust \
                     domain listed here with an issuer, for example spiffe://{}/entente/gateway, or take the \
                     X509-SVID from an agent with endpoint_svid.workload_api",
                    id.trust_domain(),
                    domain.name
                ),
            ));
        }
    }
    Ok(())
}

pub(super) fn bundle_map(
    map: &config::BundleMap,
    domains: &[LocalDomain],
    paths: &mut UsedPaths,
) -> Result<BundleMapSettings, SettingsError> {
    let path = checked_path("bundle_map.path", &map.path)?;
    paths.take(&[], &path, "bundle_map.path")?;
    let mut trust_domains = BTreeSet::new();
    for (index, name) in map.trust_domains.iter().enumerate() {
        let key = format!("bundle_map.trust_domains[{index}]");
        let name = TrustDomain::from_name_or_id(name).map_err(|cause| error(key.clone(), cause.to_string()))?;
        if !domains.iter().any(|domain| domain.name == name) {
            return Err(error(key, format!("`{name}` is not served by this gateway; add it to trust_domains")));
        }
        trust_domains.insert(name);
    }
    if trust_domains.is_empty() {
        trust_domains = domains.iter().map(|domain| domain.name.clone()).collect();
    }
    Ok(BundleMapSettings { path, trust_domains })
}
