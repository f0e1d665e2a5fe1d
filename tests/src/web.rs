//! HTTPS requests to a gateway's `https_web` listener.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use reqwest::{Certificate, Client, Response, header::HeaderMap};
use serde_json::Value;

/// A client that trusts only the authority in `ca` and follows no redirects.
pub fn client(ca: &Path) -> Result<Client> {
    crate::install_crypto();
    Ok(Client::builder()
        .tls_certs_only(Certificate::from_pem_bundle(&fs::read(ca)?)?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()?)
}

/// GET that must answer 200 with JSON: headers and body.
pub async fn get_json(client: &Client, url: &str) -> Result<(HeaderMap, Value)> {
    let answer = client.get(url).send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.text().await?;
    ensure!(status == 200, "{url} answers {status}: {body}");
    Ok((headers, serde_json::from_str(&body)?))
}

/// A header as text, empty if it is not there.
pub fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
