//! Checks of single values.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use federation_specs::{dns_name, id::SpiffeId};
use ipnet::IpNet;

use super::error::{SettingsError, error};

/// Most host names of one trust domain.
pub(crate) const MAX_HOSTS: usize = 64;

/// Most networks in one list.
pub(crate) const MAX_NETWORKS: usize = 256;

/// Longest URL path of a bundle.
const MAX_PATH_BYTES: usize = 512;

pub(super) fn at_least(key: String, value: Duration, floor: Duration) -> Result<Duration, SettingsError> {
    if value < floor {
        return Err(error(key, format!("{value:?} is too short; use at least {floor:?}")));
    }
    Ok(value)
}

pub(super) fn non_empty(key: &str, path: &Path) -> Result<PathBuf, SettingsError> {
    if path.as_os_str().is_empty() {
        return Err(error(key, "is empty; name a file"));
    }
    Ok(path.to_owned())
}

pub(super) fn socket_address(key: &str, address: &str, port: u16) -> Result<SocketAddr, SettingsError> {
    let ip = match address {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        _ => address.parse().map_err(|_| {
            error(key, format!("`{address}` is no IP address; write for example 0.0.0.0, 127.0.0.1 or ::"))
        })?,
    };
    Ok(SocketAddr::new(ip, port))
}

pub(super) fn checked_path(key: &str, path: &str) -> Result<String, SettingsError> {
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

pub(super) fn endpoint_id(key: &str, text: &str) -> Result<SpiffeId, SettingsError> {
    let id = SpiffeId::parse(text).map_err(|cause| error(key, format!("{cause}")))?;
    if !id.is_workload() {
        return Err(error(
            key,
            format!("`{id}` is no workload's and the issuer will not mint it; choose a path outside /spire"),
        ));
    }
    Ok(id)
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

/// Networks written as CIDR or as single addresses.
pub(super) fn networks(key: &str, cidrs: &[String]) -> Result<Vec<IpNet>, SettingsError> {
    if cidrs.len() > MAX_NETWORKS {
        return Err(error(key, format!("has more than {MAX_NETWORKS} items; join networks")));
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
