//! Checks of what serving is made of: sources, hosts, listeners' networks and limits, the bundle map.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use federation_specs::{
    dns_name,
    id::{SpiffeId, TrustDomain},
    profile::{EndpointProfile, EndpointUrl},
};
use ipnet::IpNet;

use super::{IssuerAddress, LocalDomain, SettingsError, at_least, checked_path, error, issuer_address};
use crate::config::{self, BundleFileFormat, ProfileName};

/// Most sources of one trust domain, its issuer included.
pub(crate) const MAX_SOURCES: usize = 16;

/// Most host names of one trust domain.
pub(crate) const MAX_HOSTS: usize = 64;

/// Most networks whose PROXY protocol headers are believed.
pub(crate) const MAX_TRUSTED_NETWORKS: usize = 256;

/// Shortest time limit of a connection.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// Where the bundle of a served trust domain comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSettings {
    /// The domain's own issuer.
    Issuer,
    /// Another issuer of the same domain.
    ServerApi(IssuerAddress),
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// What is in it.
        format: BundleFileFormat,
    },
    /// The bundle streams of a Workload API.
    WorkloadApi {
        /// Its Unix socket.
        socket: PathBuf,
    },
    /// A bundle endpoint.
    Url {
        /// Its URL.
        url: EndpointUrl,
        /// Its profile.
        profile: EndpointProfile,
        /// PEM authorities instead of the system's.
        ca_file: Option<PathBuf>,
        /// First bundle of the endpoint's trust domain.
        bootstrap_bundle_file: Option<PathBuf>,
    },
}

impl SourceSettings {
    /// What names the source in the store and in logs. Two sources of a domain never have the same.
    pub fn key(&self) -> String {
        let issuer = |address: &IssuerAddress| match address {
            IssuerAddress::Socket(path) => path.display().to_string(),
            IssuerAddress::Tls { address, .. } => address.clone(),
        };
        match self {
            Self::Issuer => "issuer".to_owned(),
            Self::ServerApi(address) => format!("server_api {}", issuer(address)),
            Self::File { path, .. } => format!("file {}", path.display()),
            Self::WorkloadApi { socket } => format!("workload_api {}", socket.display()),
            Self::Url { url, .. } => format!("url {url}"),
        }
    }
}

/// Limits of serving, for each public listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServingLimits {
    /// Connections kept open.
    pub max_connections: usize,
    /// Connections of one client.
    pub max_connections_per_client: usize,
    /// Requests a second of one client, on average; `None` for no limit.
    pub requests_per_second: Option<u32>,
    /// Requests of one client that may come at once.
    pub burst: u32,
    /// Time for the PROXY protocol header and the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time to send the head of a request.
    pub header_timeout: Duration,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: Duration,
}

/// A document with the bundles of several trust domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleMapSettings {
    /// Its URL path.
    pub path: String,
    /// The trust domains in it.
    pub trust_domains: BTreeSet<TrustDomain>,
}

/// Every source of a domain: its issuer first, then those listed.
pub(super) fn sources(key: &str, domain: &config::TrustDomain) -> Result<Vec<SourceSettings>, SettingsError> {
    let mut checked = Vec::new();
    if domain.issuer.is_some() {
        checked.push(SourceSettings::Issuer);
    }
    for (index, source) in domain.sources.iter().enumerate() {
        let key = format!("{key}.sources[{index}]");
        let source = self::source(&key, source)?;
        if checked.iter().any(|other: &SourceSettings| other.key() == source.key()) {
            return Err(error(key, format!("`{}` is listed twice; remove one", source.key())));
        }
        checked.push(source);
    }
    if checked.is_empty() {
        return Err(error(
            key,
            "has neither issuer nor sources; say where its bundle comes from, for example \
             issuer: { socket_path: /tmp/spire-server/private/api.sock }",
        ));
    }
    if checked.len() > MAX_SOURCES {
        return Err(error(format!("{key}.sources"), format!("makes more than {MAX_SOURCES} sources; remove some")));
    }
    Ok(checked)
}

fn source(key: &str, source: &config::Source) -> Result<SourceSettings, SettingsError> {
    match (&source.server_api, &source.file, &source.workload_api, &source.url) {
        (Some(issuer), None, None, None) => {
            Ok(SourceSettings::ServerApi(issuer_address(&format!("{key}.server_api"), issuer)?))
        }
        (None, Some(file), None, None) => {
            Ok(SourceSettings::File { path: present(&format!("{key}.file.path"), &file.path)?, format: file.format })
        }
        (None, None, Some(api), None) => Ok(SourceSettings::WorkloadApi {
            socket: present(&format!("{key}.workload_api.socket_path"), &api.socket_path)?,
        }),
        (None, None, None, Some(url)) => url_source(&format!("{key}.url"), url),
        _ => Err(error(key, "needs exactly one of server_api, file, workload_api, url")),
    }
}

fn present(key: &str, path: &std::path::Path) -> Result<PathBuf, SettingsError> {
    if path.as_os_str().is_empty() {
        return Err(error(key, "is empty; name a file"));
    }
    Ok(path.to_owned())
}

fn url_source(key: &str, source: &config::UrlSource) -> Result<SourceSettings, SettingsError> {
    let url = EndpointUrl::parse(&source.url).map_err(|cause| error(format!("{key}.url"), cause.to_string()))?;
    let profile = match (source.profile, &source.endpoint_spiffe_id) {
        (ProfileName::HttpsWeb, None) => EndpointProfile::HttpsWeb,
        (ProfileName::HttpsWeb, Some(_)) => {
            return Err(error(
                format!("{key}.endpoint_spiffe_id"),
                "belongs to profile https_spiffe; remove it or change the profile",
            ));
        }
        (ProfileName::HttpsSpiffe, None) => {
            return Err(error(format!("{key}.endpoint_spiffe_id"), "is missing; name the endpoint's SPIFFE ID"));
        }
        (ProfileName::HttpsSpiffe, Some(text)) => EndpointProfile::HttpsSpiffe {
            endpoint_id: SpiffeId::parse(text)
                .map_err(|cause| error(format!("{key}.endpoint_spiffe_id"), cause.to_string()))?,
        },
    };
    let web = profile == EndpointProfile::HttpsWeb;
    if source.ca_file.is_some() && !web {
        return Err(error(format!("{key}.ca_file"), "belongs to profile https_web; use bootstrap_bundle_file"));
    }
    if source.bootstrap_bundle_file.is_some() && web {
        return Err(error(format!("{key}.bootstrap_bundle_file"), "belongs to profile https_spiffe; remove it"));
    }
    Ok(SourceSettings::Url {
        url,
        profile,
        ca_file: source.ca_file.clone(),
        bootstrap_bundle_file: source.bootstrap_bundle_file.clone(),
    })
}

/// Host names in lower case, without port.
pub(super) fn hosts(key: &str, hosts: &[String]) -> Result<Vec<String>, SettingsError> {
    if hosts.len() > MAX_HOSTS {
        return Err(error(key, format!("has more than {MAX_HOSTS} items; leave it out to serve every host")));
    }
    let mut checked = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let host = host.to_ascii_lowercase();
        let address = host.parse::<std::net::IpAddr>().is_ok();
        if !address {
            dns_name::check(&host).map_err(|cause| {
                error(format!("{key}[{index}]"), format!("{cause}; write a host name without port"))
            })?;
        }
        if !checked.contains(&host) {
            checked.push(host);
        }
    }
    Ok(checked)
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

/// The endpoint IDs must be minted by an issuer this gateway knows.
pub(super) fn check_endpoint_ids(domains: &[LocalDomain]) -> Result<(), SettingsError> {
    for (index, domain) in domains.iter().enumerate() {
        let Some(id) = &domain.endpoint_id else { continue };
        let signer = domains.iter().find(|other| other.name == *id.trust_domain());
        if signer.is_none_or(|signer| signer.issuer.is_none()) {
            return Err(error(
                format!("trust_domains[{index}].endpoint_id"),
                format!(
                    "`{id}` is signed by the issuer of `{}`, which this gateway does not know; use an ID of a trust \
                     domain listed here with an issuer, for example spiffe://{}/entente/gateway",
                    id.trust_domain(),
                    domain.name
                ),
            ));
        }
    }
    Ok(())
}

/// Networks written as CIDR or as single addresses.
pub(super) fn networks(key: &str, cidrs: &[String]) -> Result<Vec<IpNet>, SettingsError> {
    if cidrs.len() > MAX_TRUSTED_NETWORKS {
        return Err(error(key, format!("has more than {MAX_TRUSTED_NETWORKS} items; join networks")));
    }
    let parse = |(index, text): (usize, &String)| {
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        network.map(|network| network.trunc()).ok_or_else(|| {
            error(
                format!("{key}[{index}]"),
                format!("`{text}` is no network; write for example 10.0.0.0/8 or fd00::/8"),
            )
        })
    };
    cidrs.iter().enumerate().map(parse).collect()
}

pub(super) fn limits(limits: &config::Limits) -> Result<ServingLimits, SettingsError> {
    let positive = |key: &str, value: usize| {
        if value == 0 { Err(error(key, "is 0, so nobody would be served; write a positive number")) } else { Ok(value) }
    };
    Ok(ServingLimits {
        max_connections: positive("limits.max_connections", limits.max_connections)?,
        max_connections_per_client: positive("limits.max_connections_per_client", limits.max_connections_per_client)?,
        requests_per_second: Some(limits.requests_per_second).filter(|rate| *rate > 0),
        burst: u32::try_from(positive("limits.burst", limits.burst as usize)?).unwrap_or(u32::MAX),
        handshake_timeout: at_least("limits.handshake_timeout".into(), limits.handshake_timeout.0, MIN_TIMEOUT)?,
        header_timeout: at_least("limits.header_timeout".into(), limits.header_timeout.0, MIN_TIMEOUT)?,
        idle_timeout: at_least("limits.idle_timeout".into(), limits.idle_timeout.0, MIN_TIMEOUT)?,
    })
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
