//! The bundle endpoints as any HTTPS client sees them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::Domain,
    rotation::Kind,
    tls, wait,
    web::{self, get_json},
    workload,
};
use rustls::{ClientConfig, NamedGroup, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_bundle_with_conditional_requests() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    let client = web::client(domain.web_ca())?;
    let url = domain.bundle_url_web();
    let answer = client.get(&url).send().await?;
    ensure!(answer.status() == 200, "{}", answer.status());
    ensure!(web::header(&answer, "content-type") == "application/json", "{:?}", answer.headers());
    let tag = web::header(&answer, "etag").to_owned();
    ensure!(!tag.is_empty() && !web::header(&answer, "cache-control").is_empty(), "{:?}", answer.headers());

    let (_, bundle) = get_json(&client, &url).await?;
    let authorities = domain.authorities().await?;
    assert_eq!(bundle["spiffe_refresh_hint"], 60);
    assert_eq!(bundle["spiffe_sequence"].as_u64(), Some(authorities.sequence));
    let of = |kind: &str, member: &str| -> Vec<String> {
        let keys = bundle["keys"].as_array().into_iter().flatten().filter(|key| key["use"] == kind);
        let text = |key: &serde_json::Value| {
            key.pointer(member).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        keys.map(text).collect()
    };
    assert_eq!(of("x509-svid", "/x5c/0"), authorities.x509);
    assert_eq!(of("jwt-svid", "/kid"), authorities.jwt);

    // The same bytes for everybody, and 304 for whoever has them.
    let (first, second) =
        (client.get(&url).send().await?.bytes().await?, client.get(&url).send().await?.bytes().await?);
    assert_eq!(first, second);
    let unchanged = client.get(&url).header("if-none-match", &tag).send().await?;
    ensure!(unchanged.status() == 304, "{}", unchanged.status());
    ensure!(unchanged.bytes().await?.is_empty());

    // A new authority changes bytes, ETag and sequence.
    domain.prepare_authority(Kind::X509).await?;
    wait::until("the new authority is served", || async {
        let changed = client.get(&url).header("if-none-match", &tag).send().await?;
        ensure!(changed.status() == 200, "{}", changed.status());
        ensure!(web::header(&changed, "etag") != tag, "the ETag did not change");
        Ok(())
    })
    .await?;
    let (_, bundle) = get_json(&client, &url).await?;
    ensure!(bundle["spiffe_sequence"].as_u64() > Some(authorities.sequence), "{bundle}");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_other_methods_and_paths() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    let client = web::client(domain.web_ca())?;
    let url = domain.bundle_url_web();
    ensure!(client.post(&url).body("x").send().await?.status() == 405);
    ensure!(client.delete(&url).send().await?.status() == 405);
    for path in ["/", "/other.example", "/cloud.example/x", "/../etc/passwd", "/CLOUD.EXAMPLE"] {
        let url = format!("https://localhost:{}{path}", domain.ports().web);
        let status = client.get(&url).send().await?.status();
        ensure!(status == 404, "{url}: {status}");
    }
    // Whatever was asked, it still serves.
    get_json(&client, &url).await?;
    domain.stop().await
}

/// What a handshake agreed on: protocol version, key exchange and the server's certificate.
async fn handshake(config: ClientConfig, port: u16) -> Result<(rustls::ProtocolVersion, NamedGroup, Vec<u8>)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    let (_, connection) = stream.get_ref();
    let version = connection.protocol_version().context("no version")?;
    let group = connection.negotiated_key_exchange_group().context("no key exchange")?.name();
    let leaf = connection.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
    Ok((version, group, leaf.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_12_and_13_without_a_client_certificate() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    for port in [domain.ports().web, domain.ports().spiffe, domain.ports().issuer] {
        let mut newest = tls::gullible_client_without_certificate();
        newest.alpn_protocols = vec![b"h2".to_vec()];
        let (version, group, leaf) = handshake(newest, port).await?;
        assert_eq!(version, rustls::ProtocolVersion::TLSv1_3);
        assert_eq!(group, NamedGroup::X25519MLKEM768, "port {port}");
        if port == domain.ports().spiffe {
            assert_eq!(workload::spiffe_id(&leaf)?, domain.endpoint_id());
        }
        if port == domain.ports().issuer {
            assert_eq!(workload::spiffe_id(&leaf)?, domain.id("/spire/server"));
        }
        let mut old = tls::gullible_client_of_version(&rustls::version::TLS12);
        old.alpn_protocols = vec![b"h2".to_vec()];
        let (version, _, _) = handshake(old, port).await?;
        assert_eq!(version, rustls::ProtocolVersion::TLSv1_2, "port {port}");
    }
    domain.stop().await
}
