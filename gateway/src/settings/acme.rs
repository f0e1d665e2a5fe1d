//! Certificates by ACME.

use std::{net::SocketAddr, path::PathBuf};

use federation_specs::dns_name;
use ipnet::IpNet;
use url::Url;

use super::{
    error::{SettingsError, error},
    values::{networks, non_empty, socket_address},
};
use crate::config::{self, AcmeChallenge};

/// Most DNS names of one certificate; public certificate authorities take no more.
pub(crate) const MAX_DOMAIN_NAMES: usize = 100;

/// Longest e-mail address (RFC 5321 section 4.5.3.1).
const MAX_EMAIL_BYTES: usize = 254;

/// Where a certificate is ordered, and how.
#[derive(Debug, Clone)]
pub struct AcmeSettings {
    /// The certificate authority's directory, https.
    pub directory_url: Url,
    /// DNS names of the certificate, lower case, each once, never empty.
    pub domain_names: Vec<String>,
    /// Contact of the account.
    pub email: Option<String>,
    /// How the names are proven.
    pub challenge: ChallengeSettings,
    /// PEM authorities that sign the directory's own certificate; the system's if `None`.
    pub ca_file: Option<PathBuf>,
    /// External account binding.
    pub external_account: Option<ExternalAccountSettings>,
}

/// How names are proven.
#[derive(Debug, Clone)]
pub enum ChallengeSettings {
    /// TLS-ALPN-01 on the `https_web` listener.
    TlsAlpn01,
    /// HTTP-01 on a listener of its own.
    Http01(Http01Settings),
}

/// The listener of HTTP-01.
#[derive(Debug, Clone)]
pub struct Http01Settings {
    /// Address to listen on.
    pub address: SocketAddr,
    /// Whether other requests for one of the names are sent to https.
    pub redirect_to_https: bool,
    /// Networks whose PROXY protocol headers are believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// External account binding.
#[derive(Debug, Clone)]
pub struct ExternalAccountSettings {
    /// The key's name.
    pub key_id: String,
    /// File with the HMAC key, base64url.
    pub hmac_key_file: PathBuf,
}

fn key(name: &str) -> String {
    format!("listeners.https_web.acme.{name}")
}

pub(super) fn settings(acme: &config::Acme) -> Result<AcmeSettings, SettingsError> {
    let url = &acme.directory_url;
    let directory_url = Url::parse(url)
        .map_err(|cause| error(key("directory_url"), format!("`{url}` is no URL: {cause}; write https://host/path")))?;
    if directory_url.scheme() != "https" || !directory_url.has_host() {
        return Err(error(key("directory_url"), format!("`{url}` is no https URL; ACME requires https")));
    }
    if !acme.tos_accepted {
        return Err(error(
            key("tos_accepted"),
            format!("is not true; read the terms of service the directory {url} names, and write tos_accepted: true"),
        ));
    }
    if let Some(email) = &acme.email
        && (email.len() > MAX_EMAIL_BYTES
            || !email.contains('@')
            || !email.bytes().all(|byte| byte.is_ascii_graphic() && !b",<>?\"".contains(&byte)))
    {
        return Err(error(
            key("email"),
            format!("`{email}` is no plain e-mail address; write for example a@b.example"),
        ));
    }
    Ok(AcmeSettings {
        directory_url,
        domain_names: domain_names(acme)?,
        email: acme.email.clone(),
        challenge: challenge(acme)?,
        ca_file: acme.ca_file.as_ref().map(|path| non_empty(&key("ca_file"), path)).transpose()?,
        external_account: acme.external_account.as_ref().map(external_account).transpose()?,
    })
}

fn domain_names(acme: &config::Acme) -> Result<Vec<String>, SettingsError> {
    let names = match (&acme.domain_name, acme.domain_names.as_slice()) {
        (Some(name), []) => std::slice::from_ref(name),
        (None, names) if !names.is_empty() => names,
        _ => {
            return Err(error(
                key("domain_name"),
                "write exactly one of domain_name and domain_names: the DNS names clients find this gateway by",
            ));
        }
    };
    if names.len() > MAX_DOMAIN_NAMES {
        return Err(error(
            key("domain_names"),
            format!("has more than {MAX_DOMAIN_NAMES} items; no certificate has as many, use several gateways"),
        ));
    }
    let mut checked: Vec<String> = Vec::new();
    for name in names {
        let name = name.to_ascii_lowercase();
        let refused = |reason: String| error(key("domain_names"), format!("`{name}`: {reason}"));
        dns_name::check(&name).map_err(|cause| refused(format!("{cause}; write a DNS name without port")))?;
        if name.contains('*') {
            return Err(refused(
                "neither TLS-ALPN-01 nor HTTP-01 can prove a wildcard; list the names one by one".into(),
            ));
        }
        if !checked.contains(&name) {
            checked.push(name);
        }
    }
    Ok(checked)
}

fn challenge(acme: &config::Acme) -> Result<ChallengeSettings, SettingsError> {
    match (acme.challenge, &acme.http_01) {
        (AcmeChallenge::TlsAlpn01, None) => Ok(ChallengeSettings::TlsAlpn01),
        (AcmeChallenge::TlsAlpn01, Some(_)) => Err(error(
            key("http_01"),
            "belongs to challenge http_01, but the challenge is tls_alpn_01; remove one or change the other",
        )),
        (AcmeChallenge::Http01, listener) => {
            let listener = listener.clone().unwrap_or_default();
            Ok(ChallengeSettings::Http01(Http01Settings {
                address: socket_address(&key("http_01.bind_address"), &listener.bind_address, listener.bind_port)?,
                redirect_to_https: listener.redirect_to_https,
                trusted_proxies: networks(
                    &key("http_01.proxy_protocol_trusted_cidrs"),
                    &listener.proxy_protocol_trusted_cidrs,
                )?,
            }))
        }
    }
}

fn external_account(account: &config::ExternalAccount) -> Result<ExternalAccountSettings, SettingsError> {
    if account.key_id.is_empty() {
        return Err(error(key("external_account.key_id"), "is empty; write the name the certificate authority gave"));
    }
    Ok(ExternalAccountSettings {
        key_id: account.key_id.clone(),
        hmac_key_file: non_empty(&key("external_account.hmac_key_file"), &account.hmac_key_file)?,
    })
}
