//! The bundle endpoint over both profiles.

use std::sync::Arc;

use federation_specs::{bundle::BundleSet, bundle_json};
use rustls::{ClientConfig, ProtocolVersion};
use service_kit::{
    clock::SystemClock,
    tls::{BundleCell, PeerPolicy, spiffe_client_config},
};
use time::Duration;

use crate::support::{
    LOCAL, Setup,
    client::{Connection, spiffe_client, web_client},
    eventually, td,
};

fn endpoint_id() -> String {
    format!("spiffe://{LOCAL}/entente/gateway")
}

#[tokio::test]
async fn bundle_with_cache_headers_and_conditional_requests() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let mut client = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
    let path = format!("/{LOCAL}");

    let full = client.send("GET", &path, &[]).await;
    assert_eq!(full.status(), 200);
    assert_eq!(full.headers()["content-type"], "application/json");
    assert_eq!(full.headers()["cache-control"], "public, max-age=30", "a quarter of the refresh hint");
    let parsed = bundle_json::parse(&td(LOCAL), full.body()).unwrap().bundle;
    assert_eq!(parsed.refresh_hint().unwrap().as_secs(), 120, "the configured hint, not the issuer's");
    assert_eq!(parsed.sequence(), Some(1));
    assert_eq!(parsed.x509_authorities(), setup.issuer.state().own.x509_authorities());

    let etag = full.headers()["etag"].to_str().unwrap().to_owned();
    let modified = full.headers()["last-modified"].to_str().unwrap().to_owned();
    for header in [("if-none-match", etag.as_str()), ("if-modified-since", modified.as_str())] {
        let unchanged = client.send("GET", &path, &[header]).await;
        assert_eq!(unchanged.status(), 304, "{header:?}");
        assert!(unchanged.body().is_empty());
        assert_eq!(unchanged.headers()["etag"], etag);
    }
    let other = client.send("GET", &path, &[("if-none-match", "\"other\"")]).await;
    assert_eq!(other.status(), 200);

    let head = client.send("HEAD", &path, &[]).await;
    assert_eq!(head.status(), 200);
    assert!(head.body().is_empty());
    assert_eq!(head.headers()["content-length"].to_str().unwrap(), full.body().len().to_string());
    assert_eq!(head.headers()["etag"], etag);

    let query = client.send("GET", &format!("{path}?a=b"), &[]).await;
    assert_eq!(query.status(), 200);
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_paths_and_methods_get_the_known_texts() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let mut client = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
    for path in ["/", "/other", "/cloud.example/", "/CLOUD.example"] {
        let answer = client.send("GET", path, &[]).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (404, &b"404 page not found\n"[..]), "{path}");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    }
    for (method, path) in [("POST", "/cloud.example"), ("OPTIONS", "/cloud.example"), ("DELETE", "/other")] {
        let answer = client.send(method, path, &[]).await;
        let text = &b"405 method not allowed\n"[..];
        assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (405, text), "{method} {path}");
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn both_profiles_speak_tls_12_and_13_without_client_certificate() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    for address in [gateway.web_address, gateway.spiffe_address] {
        let tls12 = (&rustls::version::TLS12, ProtocolVersion::TLSv1_2);
        let tls13 = (&rustls::version::TLS13, ProtocolVersion::TLSv1_3);
        for (offered, spoken) in [tls12, tls13] {
            let mut client = Connection::open(address, &only_version(offered)).await.unwrap();
            assert_eq!(client.version, spoken);
            assert_eq!(client.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200);
        }
    }
    // The documents of OIDC are for the web only.
    let config = spiffe_client(&setup, &endpoint_id());
    let mut client = Connection::open(gateway.spiffe_address, &config).await.unwrap();
    assert_eq!(client.send("GET", &format!("/{LOCAL}/keys"), &[]).await.status(), 404);
    gateway.stop().await;
}

/// One TLS version only.
fn only_version(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(service_kit::crypto::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    Arc::new(config)
}

/// Checks signatures only: which certificate is presented is checked in other tests.
#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = service_kit::crypto::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = service_kit::crypto::provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        service_kit::crypto::provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn http2_gives_the_same_document() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let client = reqwest::Client::builder()
        .no_gzip()
        .tls_backend_preconfigured({
            let mut config = (*web_client(&setup)).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            config
        })
        .build()
        .unwrap();
    let url = format!("https://{}/{LOCAL}", gateway.web_address);
    let full = client.get(&url).send().await.unwrap();
    assert_eq!((full.version(), full.status().as_u16()), (http::Version::HTTP_2, 200));
    let etag = full.headers()["etag"].clone();
    let length = full.bytes().await.unwrap().len();
    let head = client.head(&url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"].to_str().unwrap(), length.to_string());
    let unchanged = client.get(&url).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(unchanged.status(), 304);
    gateway.stop().await;
}

#[tokio::test]
async fn rotation_of_the_own_bundle_changes_document_and_etag() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let mut client = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
    let path = format!("/{LOCAL}");
    let before = client.send("GET", &path, &[]).await;
    let etag = before.headers()["etag"].to_str().unwrap().to_owned();
    {
        let mut state = setup.issuer.state();
        let next = crate::support::authority::Authority::new(&td(LOCAL));
        let roots = [state.authority.x509(), next.x509()];
        state.own = state.own.clone().with_x509_authorities(roots).with_sequence(Some(2));
    }
    let mut after = before;
    for _ in 0..300 {
        after = client.send("GET", &path, &[("if-none-match", &etag)]).await;
        if after.status() == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(after.status(), 200);
    assert_ne!(after.headers()["etag"], etag.as_str());
    let parsed = bundle_json::parse(&td(LOCAL), after.body()).unwrap().bundle;
    assert_eq!((parsed.sequence(), parsed.x509_authorities().len()), (Some(2), 2));

    // An emptied bundle of the own domain is not published.
    setup.issuer.state().own = federation_specs::bundle::Bundle::new(td(LOCAL)).with_sequence(Some(3));
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let held = client.send("GET", &path, &[]).await;
    assert_eq!(bundle_json::parse(&td(LOCAL), held.body()).unwrap().bundle.sequence(), Some(2));
    gateway.stop().await;
}

#[tokio::test]
async fn endpoint_svid_is_renewed_without_dropping_connections() {
    let setup = Setup::new().await;
    setup.issuer.state().svid_life = Duration::seconds(3);
    let gateway = setup.start().await;
    let config = spiffe_client(&setup, &endpoint_id());
    let mut open = Connection::open(gateway.spiffe_address, &config).await.unwrap();
    assert_eq!(open.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200);
    let first = open.peer.clone();

    eventually("the endpoint to present a renewed X509-SVID", || async {
        Connection::open(gateway.spiffe_address, &config).await.is_ok_and(|connection| connection.peer != first)
    })
    .await;
    assert!(setup.issuer.state().minted >= 2);
    assert_eq!(open.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200, "the old connection still works");
    gateway.stop().await;
}

#[tokio::test]
async fn an_issuer_that_signs_for_a_moment_is_not_asked_without_end_and_its_absence_is_told() {
    let setup = Setup::new().await;
    // As of a SPIRE server whose own certificate is about to end: half of its life is over when it arrives.
    setup.issuer.state().svid_life = Duration::seconds(1);
    let gateway = setup.start().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let minted = setup.issuer.state().minted;
    assert!((2..=6).contains(&minted), "{minted} in three seconds");

    setup.issuer.state().svid_life = Duration::seconds(12);
    let before = minted;
    eventually("a longer one", || async { setup.issuer.state().minted > before + 1 }).await;
    let mut setup = setup;
    setup.issuer.stop().await;
    let remark = || gateway.readiness.snapshot()["listeners"].reason.clone().unwrap_or_default();
    eventually("the failing renewal to be told", || async { remark().contains("goes on: ") }).await;
    assert!(gateway.readiness.is_ready() && remark().contains("X509-SVID valid until 20"), "{}", remark());
    eventually("its end", || async { !gateway.readiness.is_ready() }).await;
    setup.issuer.resume();
    eventually("another one", || async { gateway.readiness.is_ready() && remark().is_empty() }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_change_of_authorities_renews_the_endpoint_svid() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let minted = setup.issuer.state().minted;
    {
        // The old authority is revoked and gone.
        let mut state = setup.issuer.state();
        state.authority = crate::support::authority::Authority::new(&td(LOCAL));
        state.own = state.authority.bundle(2);
    }
    eventually("a new X509-SVID", || async { setup.issuer.state().minted > minted }).await;
    let config = spiffe_client(&setup, &endpoint_id());
    eventually("the endpoint to verify with the new authority", || async {
        Connection::open(gateway.spiffe_address, &config).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn several_domains_each_present_their_own_svid_by_server_name() {
    let mut setup = Setup::new().await;
    let other = crate::support::issuer::FakeIssuer::start("second.example", setup.file("second.sock")).await;
    setup.config["trust_domains"].as_array_mut().unwrap().push(serde_json::json!({
        "name": "second.example",
        "issuer": {"socket_path": other.socket()},
        "endpoint_id": "spiffe://second.example/gw",
        "server_names": ["bundles.second.example"],
        "path": "/second/bundle",
    }));
    let gateway = setup.start().await;
    let mut bundles = BundleSet::new();
    bundles.insert(Arc::new(other.state().own.clone()));
    let expected = PeerPolicy::Exactly("spiffe://second.example/gw".parse().unwrap());
    let config =
        spiffe_client_config(Arc::new(BundleCell::new(bundles)), None, expected, SystemClock::shared(), &[b"http/1.1"])
            .unwrap();
    for name in ["second.example", "Bundles.Second.example"] {
        let stream = tokio::net::TcpStream::connect(gateway.spiffe_address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        connector.connect(name, stream).await.unwrap();
    }
    // Any other name gets the first domain's, which does not verify as the second's.
    assert!(Connection::open(gateway.spiffe_address, &config).await.is_err());
    let mut client = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
    let answer = client.send("GET", "/second/bundle", &[]).await;
    assert_eq!(bundle_json::parse(&td("second.example"), answer.body()).unwrap().bundle.sequence(), Some(1));
    gateway.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_a_wrong_client_does_no_harm() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    // Not TLS at all: closed at once.
    let mut stream = tokio::net::TcpStream::connect(gateway.web_address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
    // One byte of a request and then nothing.
    let config = web_client(&setup);
    let stream = tokio::net::TcpStream::connect(gateway.web_address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    tls.write_all(b"G").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(13), tls.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "a client that sends no head is cut off after ten seconds");
    gateway.stop().await;
}
