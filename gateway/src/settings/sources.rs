//! Where the bundles of served trust domains come from.

use std::path::PathBuf;

use federation_specs::profile::{EndpointProfile, EndpointUrl};
use ipnet::IpNet;

use super::{
    endpoint_profile::{Endpoint, profile},
    error::{SettingsError, error},
    values::{networks, non_empty},
};
use crate::config::{self, BundleFileFormat};

/// Most sources of one trust domain, its issuer included.
pub(crate) const MAX_SOURCES: usize = 16;

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
        /// Networks that are not public and may be asked for it.
        allow_addresses: Vec<IpNet>,
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
            Ok(SourceSettings::File { path: non_empty(&format!("{key}.file.path"), &file.path)?, format: file.format })
        }
        (None, None, Some(api), None) => Ok(SourceSettings::WorkloadApi {
            socket: non_empty(&format!("{key}.workload_api.socket_path"), &api.socket_path)?,
        }),
        (None, None, None, Some(url)) => url_source(&format!("{key}.url"), url),
        _ => Err(error(key, "needs exactly one of server_api, file, workload_api, url")),
    }
}

fn url_source(key: &str, source: &config::UrlSource) -> Result<SourceSettings, SettingsError> {
    let url = EndpointUrl::parse(&source.url).map_err(|cause| error(format!("{key}.url"), cause.to_string()))?;
    let profile = profile(
        key,
        &Endpoint {
            profile: source.profile,
            endpoint_spiffe_id: source.endpoint_spiffe_id.as_deref(),
            ca: source.ca_file.is_some().then_some("ca_file"),
            bootstrap: source.bootstrap_bundle_file.is_some().then_some("bootstrap_bundle_file"),
        },
    )?;
    Ok(SourceSettings::Url {
        url,
        profile,
        ca_file: source.ca_file.clone(),
        bootstrap_bundle_file: source.bootstrap_bundle_file.clone(),
        allow_addresses: networks(&format!("{key}.allow_addresses"), &source.allow_addresses)?,
    })
}

pub(super) fn issuer_address(key: &str, issuer: &config::Issuer) -> Result<IssuerAddress, SettingsError> {
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
