//! What a gateway says about itself: readiness, metrics, and what its listeners present.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    domain::{Domain, Service, get},
    tls, wait,
};

/// Waits until the gateway's `/ready` answers `status` with a body that contains `text`.
pub async fn says(domain: &Domain, status: u16, text: &str) -> Result<()> {
    wait::until(&format!("/ready says `{text}`"), || async {
        let (now, body) = get(&domain.health_url(Service::Gateway, "/ready")).await?;
        ensure!(now == status && body.contains(text), "{now} {body}");
        Ok(())
    })
    .await
}

/// The value of one series of the gateway's metrics: `name{label="value",…}`.
pub async fn metric(domain: &Domain, series: &str) -> Result<f64> {
    let (_, text) = get(&domain.health_url(Service::Gateway, "/metrics")).await?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {series} in {text}"))?.parse()?)
}

/// Every relationship by trust domain, as `relationship list` shows it.
pub async fn relationships(domain: &Domain) -> Result<HashMap<String, Value>> {
    let list = domain.gateway_json(&["relationship", "list"]).await?;
    let list = list["relationships"].as_array().context("no relationships")?;
    Ok(list.iter().map(|item| (item["trust_domain"].as_str().unwrap_or_default().to_owned(), item.clone())).collect())
}

/// Everything the gateway logged so far.
pub fn gateway_log(domain: &Domain) -> String {
    std::fs::read_to_string(domain.log_file(Service::Gateway)).unwrap_or_default()
}

/// A connection to a listener that believes any certificate: the connection and the leaf.
pub async fn handshake(port: u16, name: &str, alpn: &[&[u8]]) -> Result<(TlsStream<TcpStream>, Vec<u8>)> {
    let mut config = tls::gullible_client_without_certificate();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?.to_vec();
    Ok((stream, leaf))
}
