//! The X509-SVID of an `https_spiffe` endpoint from a real agent's Workload API, for a domain whose issuer the gateway
//! does not know.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    documented::documented,
    domain::{Domain, Service},
    observe::{gateway_log, handshake, metric, says},
    peer::Peer,
    plan::Plan,
    rotation::Kind,
    wait,
    workload::spiffe_id,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const RENEWAL_OK: &str = "entente_gateway_certificate_renewal_ok{listener=\"https_spiffe\",\
     certificate=\"spiffe://cloud.example/entente/gateway\"}";
const RENEWED: &str = "entente_gateway_certificate_renewals_total{listener=\"https_spiffe\",\
     certificate=\"spiffe://cloud.example/entente/gateway\",result=\"ok\"}";
const EXPIRY: &str = "entente_gateway_certificate_seconds_to_expiry{listener=\"https_spiffe\",\
     certificate=\"spiffe://cloud.example/entente/gateway\"}";

/// One request on a connection that stays open.
async fn fetch(stream: &mut TlsStream<TcpStream>) -> Result<()> {
    stream.write_all(b"GET /cloud.example HTTP/1.1\r\nhost: gateway\r\n\r\n").await?;
    let mut answer = Vec::new();
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
        if body.len() >= length.parse()? {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comes_from_the_agent_and_rotates() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let agent = json!({"workload_api": {"socket_path": plan.file("a/api.sock")}});
    let plan = plan
        .served_domain("issuer", Value::Null)
        .served_domain("sources", json!([agent]))
        .served_domain("endpoint_svid", agent.clone());
    let port = plan.ports().spiffe;
    let mut domain = Domain::start_without_gateway(plan).await?;
    domain.launch(Service::Gateway, &[])?;

    // Step by step to an entry for this gateway.
    let id = domain.endpoint_id();
    says(&domain, 500, documented("the agent has no X509-SVID for this gateway")?).await?;
    domain.create_entry("/other", &[]).await?;
    let wrong = format!("has no X509-SVID `{id}` for this gateway, only `spiffe://cloud.example/other`");
    says(&domain, 500, &wrong).await?;
    ensure!(handshake(port, "cloud.example", &[b"http/1.1"]).await.is_err(), "somebody else's X509-SVID is presented");
    domain.create_entry("/entente/gateway", &[]).await?;
    domain.ready(Service::Gateway).await?;
    let (mut held, first) = handshake(port, "cloud.example", &[b"http/1.1"]).await?;
    assert_eq!(spiffe_id(&first)?, id);
    fetch(&mut held).await?;
    ensure!(metric(&domain, RENEWAL_OK).await? == 1.0);
    ensure!(metric(&domain, EXPIRY).await? > 60.0);
    let renewed = metric(&domain, RENEWED).await?;

    // Go's federation client verifies the endpoint by that SPIFFE ID.
    let (url, bootstrap) = (domain.bundle_url_spiffe(), domain.file("bundle.json").display().to_string());
    let arguments = ["-trust-domain", "cloud.example", "-url", &url, "-profile", "https_spiffe", "-endpoint-id", &id];
    let arguments = [&arguments[..], &["-bootstrap", &bootstrap]].concat();
    let events = Peer::go(&domain.file("."), "federation-client", &arguments)?.run_to_end().await?;
    ensure!(events.first().is_some_and(|event| event["event"] == "bundle"), "{events:?}");

    // The authority rotates, the agent renews, the endpoint follows; the open connection stays.
    let old = domain.active_authority(Kind::X509).await?;
    let new = domain.prepare_authority(Kind::X509).await?;
    domain.activate_authority(Kind::X509, &new).await?;
    domain.taint_authority(Kind::X509, &old).await?;
    wait::until("the endpoint presents the renewed X509-SVID", || async {
        let (_, leaf) = handshake(port, "cloud.example", &[b"http/1.1"]).await?;
        ensure!(leaf != first, "still the first one");
        assert_eq!(spiffe_id(&leaf)?, id);
        Ok(())
    })
    .await?;
    fetch(&mut held).await?;
    ensure!(metric(&domain, RENEWED).await? > renewed);

    // Without its agent it goes on, and says so.
    domain.kill9(Service::Agent).await?;
    says(&domain, 200, "goes on: Workload API").await?;
    ensure!(metric(&domain, RENEWAL_OK).await? == 0.0);
    handshake(port, "cloud.example", &[b"http/1.1"]).await?;
    fetch(&mut held).await?;
    domain.restart(Service::Agent).await?;
    wait::until("the agent is followed again", || async {
        ensure!(metric(&domain, RENEWAL_OK).await? == 1.0);
        Ok(())
    })
    .await?;
    domain.ready(Service::Gateway).await?;
    fetch(&mut held).await?;
    // The key the agent gave is nowhere on this gateway's disk.
    ensure!(!domain.file("gateway/endpoint-svids").exists(), "{}", gateway_log(&domain));
    domain.stop().await
}
