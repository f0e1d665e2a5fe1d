//! Servers other than the provider's own.

use url::{Host, Url};

use crate::settings::error::{SettingsError, error};

/// A server other than the provider's own: https, or http on a loopback address, so that no credential crosses a
/// network in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its URL without a slash at the end.
    pub url: String,
    /// Whether it is plain HTTP.
    pub plain: bool,
}

impl Endpoint {
    pub(super) fn check(key: String, url: Option<&String>) -> Result<Option<Self>, SettingsError> {
        let Some(text) = url else { return Ok(None) };
        let wrong = |problem: &str| error(key.clone(), format!("`{text}` {problem}"));
        let url = Url::parse(text).map_err(|_| wrong("is no URL; write for example https://storage.example:9000"))?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("has a query, fragment or user; leave them out"));
        }
        let loopback = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            _ => false,
        };
        let plain = match url.scheme() {
            "https" => false,
            "http" if loopback => true,
            _ => return Err(wrong("would send credentials in the clear; use https (http only to a loopback address)")),
        };
        Ok(Some(Self { url: url.as_str().trim_end_matches('/').to_owned(), plain }))
    }

    /// For the words of a place.
    pub(super) fn at(endpoint: Option<&Self>) -> String {
        endpoint.map(|endpoint| format!(" at {}", endpoint.url)).unwrap_or_default()
    }
}
