//! The way to partners: addresses that may be asked, name servers, a proxy.

use std::{fs, io::Read as _, net::SocketAddr, path::Path};

use ipnet::IpNet;
use service_kit::fetch::Proxy;
use zeroize::Zeroizing;

use super::{
    error::{SettingsError, error},
    values::networks,
};
use crate::config;

/// Most name servers.
const MAX_NAMESERVERS: usize = 8;

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Longest password of a proxy.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// How partners are reached.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// Networks that are not public and may be asked all the same.
    pub allow_addresses: Vec<IpNet>,
    /// Asked for names; those of the system if there are none.
    pub nameservers: Vec<SocketAddr>,
    /// A proxy on the way.
    pub proxy: Option<Proxy>,
}

pub(super) fn network(refresh: &config::Refresh) -> Result<NetworkSettings, SettingsError> {
    Ok(NetworkSettings {
        allow_addresses: networks("refresh.allow_addresses", &refresh.allow_addresses)?,
        nameservers: nameservers(&refresh.nameservers)?,
        proxy: match &refresh.proxy {
            Some(given) => Some(proxy(given)?),
            None => Proxy::from_environment().map_err(|cause| {
                error("refresh.proxy", format!("is not set, and HTTPS_PROXY or NO_PROXY is wrong: {cause}"))
            })?,
        },
    })
}

fn nameservers(given: &[String]) -> Result<Vec<SocketAddr>, SettingsError> {
    if given.len() > MAX_NAMESERVERS {
        return Err(error("refresh.nameservers", format!("has more than {MAX_NAMESERVERS} items; remove some")));
    }
    let parse = |(index, text): (usize, &String)| {
        let address = text.parse::<SocketAddr>().ok();
        let address = address.or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS_PORT)));
        address.ok_or_else(|| {
            error(
                format!("refresh.nameservers[{index}]"),
                format!("`{text}` is no IP address; write for example 10.0.0.53 or [fd00::53]:5353"),
            )
        })
    };
    given.iter().enumerate().map(parse).collect()
}

fn proxy(given: &config::Proxy) -> Result<Proxy, SettingsError> {
    let proxy = Proxy::new(&given.url, given.no_proxy.iter().map(String::as_str))
        .map_err(|cause| error("refresh.proxy", cause.to_string()))?;
    match (&given.username, &given.password_file) {
        (None, None) => Ok(proxy),
        (None, Some(_)) => Err(error("refresh.proxy.username", "is missing; a password needs a user name")),
        (Some(user), _) if user.contains(':') => {
            Err(error("refresh.proxy.username", "holds a colon, which no proxy can tell from the password's"))
        }
        (Some(user), None) => Ok(proxy.with_login(user, "")),
        (Some(user), Some(path)) => Ok(proxy.with_login(user, password(path)?.trim_end_matches(['\r', '\n']))),
    }
}

fn password(path: &Path) -> Result<Zeroizing<String>, SettingsError> {
    let read = || {
        let mut text = Zeroizing::new(String::new());
        fs::File::open(path)?.take(MAX_PASSWORD_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_PASSWORD_BYTES {
            return Err(std::io::Error::other(format!("it is longer than {MAX_PASSWORD_BYTES} bytes")));
        }
        Ok(text)
    };
    let unreadable = |cause: std::io::Error| {
        error("refresh.proxy.password_file", format!("`{}` cannot be read: {cause}", path.display()))
    };
    read().map_err(unreadable)
}
