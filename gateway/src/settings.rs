//! The configuration after every value has been parsed and checked. What is here can be acted upon.

mod acceptance;
mod serving;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use federation_specs::{
    dns_name,
    id::{SpiffeId, TrustDomain},
    profile::{EndpointProfile, EndpointUrl},
};
use ipnet::IpNet;
use url::Url;

use crate::{
    config::{self, Config, ProfileName},
    refresh::{limits::AcceptanceLimits, policy::Policy},
};

pub use serving::{BundleMapSettings, ServingLimits, SourceSettings};

/// Most trust domains one gateway serves.
pub const MAX_TRUST_DOMAINS: usize = 10_000;

/// Most relationships in the file.
pub const MAX_RELATIONSHIPS: usize = 100_000;

/// Longest URL path of a bundle.
pub const MAX_PATH_BYTES: usize = 512;

/// Shortest refresh hint and poll interval that are accepted.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Largest bundle document that may be configured.
pub const MAX_BODY_BYTES: usize = federation_specs::bundle_json::MAX_BUNDLE_BYTES;

/// What is wrong with a configuration, naming the key and what to write instead.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct SettingsError {
    /// Path of the key, for example `trust_domains[0].path`.
    pub key: String,
    /// What is wrong and what to do about it.
    pub problem: String,
}

fn error(key: impl Into<String>, problem: impl Into<String>) -> SettingsError {
    SettingsError { key: key.into(), problem: problem.into() }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for everything the gateway keeps.
    pub data_dir: PathBuf,
    /// Local admin socket.
    pub socket_path: PathBuf,
    /// The `https_web` listener.
    pub https_web: Option<WebListener>,
    /// The `https_spiffe` listener.
    pub https_spiffe: Option<SpiffeListener>,
    /// Served trust domains, in the order of the file.
    pub trust_domains: Vec<LocalDomain>,
    /// Partners from the file.
    pub relationships: Vec<ConfiguredRelationship>,
    /// Limits of fetching.
    pub refresh: RefreshLimits,
    /// Limits of accepting.
    pub acceptance: AcceptanceLimits,
    /// The policy of relationships created at issuers.
    pub default_policy: Policy,
    /// How often issuers are asked whether they still hold what was delivered.
    pub compare_interval: Duration,
    /// Limits of serving.
    pub limits: ServingLimits,
    /// The document with several bundles.
    pub bundle_map: Option<BundleMapSettings>,
}

/// The `https_web` listener.
#[derive(Debug, Clone)]
pub struct WebListener {
    /// Address to listen on.
    pub address: SocketAddr,
    /// PEM certificate chain.
    pub cert_file_path: PathBuf,
    /// PEM private key.
    pub key_file_path: PathBuf,
    /// Networks whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// The `https_spiffe` listener.
#[derive(Debug, Clone)]
pub struct SpiffeListener {
    /// Address to listen on; the one of `https_web` when both profiles share a listener.
    pub address: SocketAddr,
    /// Networks whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

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
    /// TLS server names that select this domain's X509-SVID, lower case.
    pub server_names: Vec<String>,
    /// How often the issuer is asked for the bundle.
    pub poll_interval: Duration,
    /// OIDC discovery.
    pub oidc: Option<OidcSettings>,
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

/// How an issuer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerAddress {
    /// Its local Unix socket.
    Socket(PathBuf),
    /// mTLS with an X509-SVID from a Workload API.
    Tls {
        /// `host:port`.
        address: String,
        /// Unix socket of the Workload API.
        workload_api_socket: PathBuf,
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

/// Limits of fetching.
#[derive(Debug, Clone, Copy)]
pub struct RefreshLimits {
    /// Floor of the interval between two fetches from one partner.
    pub min_interval: Duration,
    /// Ceiling of that interval.
    pub max_interval: Duration,
    /// Total time of one fetch.
    pub timeout: Duration,
    /// Largest document in bytes.
    pub max_body_bytes: usize,
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
        let https_web = config.listeners.https_web.as_ref().map(web_listener).transpose()?;
        let https_spiffe = match &config.listeners.https_spiffe {
            Some(listener) => Some(SpiffeListener {
                address: socket_address(
                    "listeners.https_spiffe.bind_address",
                    &listener.bind_address,
                    listener.bind_port,
                )?,
                trusted_proxies: serving::networks(
                    "listeners.https_spiffe.proxy_protocol_trusted_cidrs",
                    &listener.proxy_protocol_trusted_cidrs,
                )?,
            }),
            None => None,
        };
        if https_web.is_none() && https_spiffe.is_none() {
            return Err(error("listeners", "is empty; configure https_web, https_spiffe or both"));
        }
        let shared = shared_listener(https_web.as_ref(), https_spiffe.as_ref(), config)?;
        let mut paths = serving::UsedPaths::default();
        let trust_domains = local_domains(config, https_web.is_some(), https_spiffe.is_some(), &mut paths)?;
        let bundle_map = match &config.bundle_map {
            Some(_) if https_web.is_none() => {
                return Err(error("bundle_map", "needs the https_web listener; configure listeners.https_web"));
            }
            Some(map) => Some(serving::bundle_map(map, &trust_domains, &mut paths)?),
            None => None,
        };
        if shared && config.trust_domains.iter().all(|domain| domain.server_names.is_empty()) {
            return Err(error(
                "listeners",
                "https_web and https_spiffe share an address, but no trust domain has server_names, so nobody would \
                 be shown an X509-SVID; set server_names, for example spiffe.gateway.example, or use different ports",
            ));
        }
        let relationships = relationships(config, &trust_domains)?;
        Ok(Self {
            data_dir: config.data_dir.clone(),
            socket_path: config.socket_path.clone(),
            https_web,
            https_spiffe,
            trust_domains,
            relationships,
            refresh: refresh_limits(&config.refresh)?,
            acceptance: acceptance::limits(&config.refresh.accept)?,
            default_policy: acceptance::default_policy(&config.refresh)?,
            compare_interval: at_least(
                "refresh.compare_interval".to_owned(),
                config.refresh.compare_interval.0,
                MIN_INTERVAL,
            )?,
            limits: serving::limits(&config.limits)?,
            bundle_map,
        })
    }

    /// Whether one listener serves both profiles.
    pub fn shares_listener(&self) -> bool {
        matches!((&self.https_web, &self.https_spiffe), (Some(web), Some(spiffe)) if same_place(web, spiffe))
    }
}

/// Port 0 takes any free port, so that two listeners never meet there.
fn same_place(web: &WebListener, spiffe: &SpiffeListener) -> bool {
    web.address == spiffe.address && web.address.port() != 0
}

/// Whether both profiles share a listener, which then believes the same networks.
fn shared_listener(
    web: Option<&WebListener>,
    spiffe: Option<&SpiffeListener>,
    config: &Config,
) -> Result<bool, SettingsError> {
    let (Some(web), Some(spiffe)) = (web, spiffe) else { return Ok(false) };
    if !same_place(web, spiffe) {
        return Ok(false);
    }
    if web.trusted_proxies != spiffe.trusted_proxies {
        return Err(error(
            "listeners.https_spiffe.proxy_protocol_trusted_cidrs",
            "differs from that of https_web, whose listener it shares; write the same networks in both",
        ));
    }
    // A name that selects an X509-SVID would never see the web certificate its OIDC issuer needs.
    for (index, domain) in config.trust_domains.iter().enumerate() {
        let host = domain.oidc.as_ref().and_then(|oidc| Url::parse(&oidc.issuer).ok());
        let host = host.as_ref().and_then(Url::host_str).unwrap_or_default();
        let mut names = config.trust_domains.iter().flat_map(|domain| &domain.server_names);
        if names.any(|name| name.eq_ignore_ascii_case(host)) {
            return Err(error(
                format!("trust_domains[{index}].oidc.issuer"),
                format!(
                    "its host `{host}` is in server_names and would be shown an X509-SVID; use different names for the \
                     profiles"
                ),
            ));
        }
    }
    Ok(true)
}

fn web_listener(listener: &config::WebListener) -> Result<WebListener, SettingsError> {
    Ok(WebListener {
        address: socket_address("listeners.https_web.bind_address", &listener.bind_address, listener.bind_port)?,
        cert_file_path: non_empty(
            "listeners.https_web.serving_cert_file.cert_file_path",
            &listener.serving_cert_file.cert_file_path,
        )?,
        key_file_path: non_empty(
            "listeners.https_web.serving_cert_file.key_file_path",
            &listener.serving_cert_file.key_file_path,
        )?,
        trusted_proxies: serving::networks(
            "listeners.https_web.proxy_protocol_trusted_cidrs",
            &listener.proxy_protocol_trusted_cidrs,
        )?,
    })
}

fn non_empty(key: &str, path: &Path) -> Result<PathBuf, SettingsError> {
    if path.as_os_str().is_empty() {
        return Err(error(key, "is empty; name a PEM file"));
    }
    Ok(path.to_owned())
}

fn socket_address(key: &str, address: &str, port: u16) -> Result<SocketAddr, SettingsError> {
    let ip = match address {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        _ => address.parse().map_err(|_| {
            error(key, format!("`{address}` is no IP address; write for example 0.0.0.0, 127.0.0.1 or ::"))
        })?,
    };
    Ok(SocketAddr::new(ip, port))
}

fn at_least(key: String, value: Duration, floor: Duration) -> Result<Duration, SettingsError> {
    if value < floor {
        return Err(error(key, format!("{value:?} is too short; use at least {floor:?}")));
    }
    Ok(value)
}

fn local_domains(
    config: &Config,
    web: bool,
    spiffe: bool,
    paths: &mut serving::UsedPaths,
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
    serving::check_endpoint_ids(&domains)?;
    if spiffe && domains.iter().all(|domain| domain.endpoint_id.is_none()) {
        return Err(error(
            "listeners.https_spiffe",
            "no trust domain has an endpoint_id, so there is no X509-SVID to present; set endpoint_id, for example \
             spiffe://cloud.example/entente/gateway",
        ));
    }
    Ok(domains)
}

fn local_domain(key: &str, domain: &config::TrustDomain) -> Result<LocalDomain, SettingsError> {
    let name = TrustDomain::parse(&domain.name).map_err(|cause| error(format!("{key}.name"), format!("{cause}")))?;
    let path = match &domain.path {
        Some(path) => checked_path(&format!("{key}.path"), path)?,
        None => format!("/{name}"),
    };
    let endpoint_id = match &domain.endpoint_id {
        Some(text) => Some(endpoint_id(&format!("{key}.endpoint_id"), text)?),
        None => None,
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
        sources: serving::sources(key, domain)?,
        path,
        hosts: serving::hosts(&format!("{key}.hosts"), &domain.hosts)?,
        refresh_hint: at_least(format!("{key}.refresh_hint"), domain.refresh_hint.0, MIN_INTERVAL)?,
        endpoint_id,
        server_names,
        poll_interval: at_least(format!("{key}.poll_interval"), domain.poll_interval.0, MIN_INTERVAL)?,
        oidc: domain.oidc.as_ref().map(|oidc| oidc_settings(&format!("{key}.oidc.issuer"), oidc)).transpose()?,
        name,
    })
}

fn endpoint_id(key: &str, text: &str) -> Result<SpiffeId, SettingsError> {
    let id = SpiffeId::parse(text).map_err(|cause| error(key, format!("{cause}")))?;
    if !id.is_workload() {
        return Err(error(
            key,
            format!("`{id}` is no workload's and the issuer will not mint it; choose a path outside /spire"),
        ));
    }
    Ok(id)
}

fn issuer_address(key: &str, issuer: &config::Issuer) -> Result<IssuerAddress, SettingsError> {
    match (&issuer.socket_path, &issuer.address, &issuer.workload_api_socket) {
        (Some(path), None, None) => Ok(IssuerAddress::Socket(path.clone())),
        (None, Some(address), Some(socket)) => {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
                return Err(error(format!("{key}.address"), format!("`{address}` is no host:port")));
            }
            Ok(IssuerAddress::Tls { address: address.clone(), workload_api_socket: socket.clone() })
        }
        (None, Some(_), None) => Err(error(
            format!("{key}.workload_api_socket"),
            "is missing; with `address` the gateway needs an X509-SVID for mTLS, so name the agent's Workload API socket",
        )),
        (None, None, _) => Err(error(key, "names no issuer; set socket_path, or address and workload_api_socket")),
        (Some(_), _, _) => Err(error(key, "has socket_path and other keys; use either socket_path or address")),
    }
}

fn checked_path(key: &str, path: &str) -> Result<String, SettingsError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
    if !path.starts_with('/') {
        return Err(error(key, format!("`{path}` does not start with `/`; write `/{path}`")));
    }
    if path.len() > MAX_PATH_BYTES || !path.bytes().all(allowed) {
        return Err(error(
            key,
            format!("`{path}` is no plain URL path of at most {MAX_PATH_BYTES} bytes; leave out spaces, `?`, `#`, `%`"),
        ));
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(error(key, format!("`{path}` contains a relative segment, which clients remove; leave it out")));
    }
    Ok(path.to_owned())
}

fn oidc_settings(key: &str, oidc: &config::Oidc) -> Result<OidcSettings, SettingsError> {
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

fn relationships(config: &Config, local: &[LocalDomain]) -> Result<Vec<ConfiguredRelationship>, SettingsError> {
    if config.relationships.len() > MAX_RELATIONSHIPS {
        return Err(error("relationships", format!("has more than {MAX_RELATIONSHIPS} items; use several gateways")));
    }
    let without_issuer = local.iter().all(|domain| domain.issuer.is_none());
    if without_issuer && !config.relationships.is_empty() {
        return Err(error("relationships", "no trust domain has an issuer that could receive a partner's bundle"));
    }
    let receivers = local.iter().filter(|domain| domain.issuer.is_some());
    let local: BTreeSet<TrustDomain> = receivers.map(|domain| domain.name.clone()).collect();
    let defaults = acceptance::default_policy(&config.refresh)?;
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
    let profile = match (item.profile, &item.endpoint_spiffe_id) {
        (ProfileName::HttpsWeb, None) => EndpointProfile::HttpsWeb,
        (ProfileName::HttpsWeb, Some(_)) => {
            return Err(error(
                format!("{key}.endpoint_spiffe_id"),
                "belongs to profile https_spiffe; remove it or change the profile",
            ));
        }
        (ProfileName::HttpsSpiffe, None) => {
            return Err(error(
                format!("{key}.endpoint_spiffe_id"),
                format!("is missing; ask the partner for it, for example spiffe://{trust_domain}/spire/server"),
            ));
        }
        (ProfileName::HttpsSpiffe, Some(text)) => EndpointProfile::HttpsSpiffe {
            endpoint_id: SpiffeId::parse(text)
                .map_err(|cause| error(format!("{key}.endpoint_spiffe_id"), format!("{cause}")))?,
        },
    };
    if item.ca_file.is_some() && profile != EndpointProfile::HttpsWeb {
        return Err(error(
            format!("{key}.ca_file"),
            "belongs to profile https_web; with https_spiffe use bootstrap_bundle_file",
        ));
    }
    if item.bootstrap_bundle_file.is_some() && profile == EndpointProfile::HttpsWeb {
        return Err(error(format!("{key}.bootstrap_bundle_file"), "belongs to profile https_spiffe; remove it"));
    }
    Ok(ConfiguredRelationship {
        trust_domain,
        local_trust_domains: receivers,
        url,
        profile,
        ca_file: item.ca_file.clone(),
        bootstrap_bundle_file: item.bootstrap_bundle_file.clone(),
        policy: acceptance::policy(key, item, defaults)?,
    })
}

fn refresh_limits(refresh: &config::Refresh) -> Result<RefreshLimits, SettingsError> {
    let limits = RefreshLimits {
        min_interval: at_least("refresh.min_interval".to_owned(), refresh.min_interval.0, MIN_INTERVAL)?,
        max_interval: at_least("refresh.max_interval".to_owned(), refresh.max_interval.0, MIN_INTERVAL)?,
        timeout: at_least("refresh.timeout".to_owned(), refresh.timeout.0, MIN_INTERVAL)?,
        max_body_bytes: refresh.max_body_bytes,
    };
    if limits.max_interval < limits.min_interval {
        return Err(error("refresh.max_interval", "is shorter than refresh.min_interval; make it at least as long"));
    }
    if !(1..=MAX_BODY_BYTES).contains(&limits.max_body_bytes) {
        return Err(error("refresh.max_body_bytes", format!("must lie between 1 and {MAX_BODY_BYTES}")));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests;
