//! Public listeners and their limits.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use url::Url;

use super::{
    acme::{self, AcmeSettings},
    error::{SettingsError, error},
    values::{at_least, networks, non_empty, socket_address},
};
use crate::config::{self, Config};

/// Shortest time limit of a connection.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);

/// The `https_web` listener.
#[derive(Debug, Clone)]
pub struct WebListener {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Where its certificate comes from.
    pub certificate: WebCertificate,
    /// Networks whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where the certificate of the `https_web` listener comes from.
#[derive(Debug, Clone)]
pub enum WebCertificate {
    /// PEM files, read again when they change.
    Files {
        /// Certificate chain, leaf first.
        cert_file_path: PathBuf,
        /// Private key.
        key_file_path: PathBuf,
    },
    /// An ACME certificate authority.
    Acme(Box<AcmeSettings>),
}

/// The `https_spiffe` listener.
#[derive(Debug, Clone)]
pub struct SpiffeListener {
    /// Address to listen on; the one of `https_web` when both profiles share a listener.
    pub address: SocketAddr,
    /// Networks whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
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

/// Port 0 takes any free port, so that two listeners never meet there.
pub(super) fn same_place(web: &WebListener, spiffe: &SpiffeListener) -> bool {
    web.address == spiffe.address && web.address.port() != 0
}

/// Whether both profiles share a listener, which then believes the same networks.
pub(super) fn shared_listener(
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
    if let WebCertificate::Acme(acme) = &web.certificate {
        for name in &acme.domain_names {
            let mut names = config.trust_domains.iter().flat_map(|domain| &domain.server_names);
            if names.any(|other| other.eq_ignore_ascii_case(name)) {
                return Err(error(
                    "listeners.https_web.acme.domain_names",
                    format!(
                        "`{name}` is in server_names and would be shown an X509-SVID; use different names for the \
                         profiles"
                    ),
                ));
            }
        }
    }
    Ok(true)
}

pub(super) fn web_listener(listener: &config::WebListener) -> Result<WebListener, SettingsError> {
    let certificate = match (&listener.serving_cert_file, &listener.acme) {
        (Some(files), None) => WebCertificate::Files {
            cert_file_path: non_empty("listeners.https_web.serving_cert_file.cert_file_path", &files.cert_file_path)?,
            key_file_path: non_empty("listeners.https_web.serving_cert_file.key_file_path", &files.key_file_path)?,
        },
        (None, Some(acme)) => WebCertificate::Acme(Box::new(acme::settings(acme)?)),
        _ => {
            return Err(error(
                "listeners.https_web",
                "needs exactly one of serving_cert_file (PEM files) and acme (a certificate authority that renews)",
            ));
        }
    };
    Ok(WebListener {
        address: socket_address("listeners.https_web.bind_address", &listener.bind_address, listener.bind_port)?,
        certificate,
        trusted_proxies: networks(
            "listeners.https_web.proxy_protocol_trusted_cidrs",
            &listener.proxy_protocol_trusted_cidrs,
        )?,
    })
}

/// The `https_spiffe` listener.
pub(super) fn spiffe_listener(listener: &config::SpiffeListener) -> Result<SpiffeListener, SettingsError> {
    Ok(SpiffeListener {
        address: socket_address("listeners.https_spiffe.bind_address", &listener.bind_address, listener.bind_port)?,
        trusted_proxies: networks(
            "listeners.https_spiffe.proxy_protocol_trusted_cidrs",
            &listener.proxy_protocol_trusted_cidrs,
        )?,
    })
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
