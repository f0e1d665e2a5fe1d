use std::{io, sync::Arc};

use federation_specs::id::{SpiffeId, TrustDomain};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::{
    clock::{ManualClock, SharedClock, SystemClock},
    keys::{KeyType, PrivateKey},
    test_pki::{TestCa, bundles},
};

const SERVER: &str = "spiffe://example.org/spire/server";

fn clock() -> SharedClock {
    SystemClock::shared()
}

fn source(identity: X509Identity) -> Arc<dyn SvidSource> {
    Arc::new(SvidCell::holding(identity))
}

fn cell(authorities: &[&TestCa]) -> Arc<BundleCell> {
    Arc::new(BundleCell::new(bundles(authorities)))
}

fn member_of(trust_domain: &str) -> PeerPolicy {
    PeerPolicy::MemberOf(TrustDomain::parse(trust_domain).unwrap())
}

fn exactly(id: &str) -> PeerPolicy {
    PeerPolicy::Exactly(SpiffeId::parse(id).unwrap())
}

/// Runs a handshake in memory, and a byte in each direction.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), io::Error> {
    let name = ServerName::try_from("issuer.example").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets().map_err(io::Error::other)?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes)?;
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets().map_err(io::Error::other)?;
        }
    }
    Ok((client, server))
}

/// The same client configuration, held to one protocol version.
fn only(
    version: &'static SupportedProtocolVersion,
    expected: &PeerPolicy,
    ca: &TestCa,
    svid: Option<&str>,
) -> Arc<ClientConfig> {
    let full =
        spiffe_client_config(cell(&[ca]), svid.map(|id| source(ca.svid(id))), expected.clone(), clock(), &[ALPN_H2]);
    let full = full.unwrap();
    let builder =
        ClientConfig::builder_with_provider(crate::crypto::provider()).with_protocol_versions(&[version]).unwrap();
    let verifier = super::verifier::SpiffeServerVerifier {
        check: super::verifier::PeerCheck { bundles: cell(&[ca]), policy: expected.clone(), clock: clock() },
        provider: crate::crypto::provider(),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = builder.with_client_cert_resolver(Arc::clone(&full.client_auth_cert_resolver));
    config.alpn_protocols.clone_from(&full.alpn_protocols);
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn refusal_text(error: &io::Error) -> String {
    refusal(error).map_or_else(|| format!("no refusal: {error}"), |refusal| refusal.to_string())
}

#[test]
fn both_versions_work_with_and_without_a_client_certificate() {
    let ca = TestCa::new("example.org");
    let client_auth = ClientAuth::Optional { bundles: cell(&[&ca]), policy: member_of("example.org") };
    let server = server_config(source(ca.svid(SERVER)), &client_auth, &clock(), &[ALPN_H2]).unwrap();
    for version in [&TLS12, &TLS13] {
        for svid in [None, Some("spiffe://example.org/spire/agent/one")] {
            let (client, server) = handshake(&only(version, &exactly(SERVER), &ca, svid), &server).unwrap();
            assert_eq!(client.protocol_version(), Some(version.version));
            assert_eq!(server.alpn_protocol(), Some(ALPN_H2));
            let peer = verified_peer(&server, &client_auth, &clock()).unwrap();
            assert_eq!(peer.map(|peer| peer.id().to_string()), svid.map(str::to_string));
        }
    }
}

#[test]
fn required_client_certificates_are_insisted_on() {
    let ca = TestCa::new("example.org");
    let client_auth = ClientAuth::Required { bundles: cell(&[&ca]), policy: member_of("example.org") };
    let server = server_config(source(ca.svid(SERVER)), &client_auth, &clock(), &[ALPN_H2]).unwrap();
    for version in [&TLS12, &TLS13] {
        let agent = "spiffe://example.org/agent";
        let (_, accepted) = handshake(&only(version, &exactly(SERVER), &ca, Some(agent)), &server).unwrap();
        let peer = verified_peer(&accepted, &client_auth, &clock()).unwrap();
        assert_eq!(peer.map(|peer| peer.id().to_string()).as_deref(), Some(agent));
        assert!(handshake(&only(version, &exactly(SERVER), &ca, None), &server).is_err());
    }
}

#[test]
fn the_hybrid_key_exchange_is_preferred() {
    let ca = TestCa::new("example.org");
    let server = server_config(source(ca.svid(SERVER)), &ClientAuth::None, &clock(), &[]).unwrap();
    let client = spiffe_client_config(cell(&[&ca]), None, exactly(SERVER), clock(), &[]).unwrap();
    let (client, _) = handshake(&client, &server).unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn sessions_are_never_resumed() {
    let ca = TestCa::new("example.org");
    let server = server_config(source(ca.svid(SERVER)), &ClientAuth::None, &clock(), &[]).unwrap();
    for version in [&TLS12, &TLS13] {
        let client = only(version, &exactly(SERVER), &ca, None);
        for _ in 0..2 {
            let (client, server) = handshake(&client, &server).unwrap();
            assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn strangers_are_refused_by_either_side() {
    let (ours, theirs, forged) = (TestCa::new("example.org"), TestCa::new("other.example"), TestCa::new("example.org"));
    let client_auth = ClientAuth::Optional { bundles: cell(&[&ours, &theirs]), policy: member_of("example.org") };
    let server = server_config(source(ours.svid(SERVER)), &client_auth, &clock(), &[]).unwrap();
    let connect = |identity: X509Identity| {
        let client =
            spiffe_client_config(cell(&[&ours]), Some(source(identity)), exactly(SERVER), clock(), &[]).unwrap();
        handshake(&client, &server).map(drop).unwrap_err()
    };
    for identity in [
        theirs.svid("spiffe://other.example/agent"),
        // Another authority under our name, and our authority under another name.
        forged.svid("spiffe://example.org/agent"),
        ours.svid("spiffe://other.example/agent"),
        ours.svid_ending("spiffe://example.org/agent", clock().now() - Duration::MINUTE),
    ] {
        let error = connect(identity);
        let refused = rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        assert_eq!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(&refused), "{error}");
    }
    let check = super::verifier::PeerCheck {
        bundles: cell(&[&ours, &theirs]),
        policy: member_of("example.org"),
        clock: clock(),
    };
    let error = check.verify(theirs.svid("spiffe://other.example/agent").chain()).unwrap_err();
    assert!(error.to_string().contains("presents spiffe://other.example/agent, which is not expected"), "{error}");

    let to = |bundles: Arc<BundleCell>, policy| {
        let client = spiffe_client_config(bundles, None, policy, clock(), &[]).unwrap();
        handshake(&client, &server).map(drop)
    };
    to(cell(&[&ours]), member_of("example.org")).unwrap();
    let error = to(cell(&[&ours]), exactly("spiffe://example.org/other")).unwrap_err();
    assert!(refusal_text(&error).contains("the peer presents spiffe://example.org/spire/server"), "{error}");
    assert!(refusal(&to(cell(&[&forged]), exactly(SERVER)).unwrap_err()).is_some());
    assert!(refusal(&to(cell(&[&theirs]), exactly(SERVER)).unwrap_err()).is_some());
}

#[test]
fn rotation_and_revocation_need_no_restart() {
    let (old, new) = (TestCa::new("example.org"), TestCa::new("example.org"));
    let svid = Arc::new(SvidCell::new());
    let trust = cell(&[&old]);
    let server = server_config(Arc::clone(&svid) as Arc<dyn SvidSource>, &ClientAuth::None, &clock(), &[]).unwrap();
    let bundles = Arc::clone(&trust) as Arc<dyn BundleSource>;
    let client = spiffe_client_config(bundles, None, exactly(SERVER), clock(), &[]).unwrap();
    assert!(handshake(&client, &server).is_err(), "there is no SVID yet");
    svid.set(Arc::new(old.svid(SERVER)));
    handshake(&client, &server).unwrap();
    svid.set(Arc::new(new.svid(SERVER)));
    assert!(handshake(&client, &server).is_err());
    trust.set(Arc::new(crate::test_pki::bundles(&[&new])));
    handshake(&client, &server).unwrap();
    svid.clear();
    assert!(handshake(&client, &server).is_err());
}

#[test]
fn time_comes_from_the_clock() {
    let ca = TestCa::new("example.org");
    let start = clock().now();
    let manual = ManualClock::new(start);
    let server = server_config(source(ca.svid(SERVER)), &ClientAuth::None, &clock(), &[]).unwrap();
    let client = spiffe_client_config(cell(&[&ca]), None, exactly(SERVER), Arc::new(manual.clone()), &[]).unwrap();
    handshake(&client, &server).unwrap();
    manual.advance(std::time::Duration::from_secs(2 * 3600));
    assert!(refusal(&handshake(&client, &server).unwrap_err()).is_some());
    manual.set(start - Duration::days(3650));
    assert!(refusal(&handshake(&client, &server).unwrap_err()).is_some());
}

#[test]
fn bootstrap_checks_the_id_only() {
    let ca = TestCa::new("example.org");
    let server = server_config(source(ca.svid(SERVER)), &ClientAuth::None, &clock(), &[]).unwrap();
    let client = insecure_bootstrap_client_config(SpiffeId::parse(SERVER).unwrap(), &[]).unwrap();
    handshake(&client, &server).unwrap();
    let other = insecure_bootstrap_client_config(SpiffeId::parse("spiffe://example.org/other").unwrap(), &[]).unwrap();
    let error = handshake(&other, &server).unwrap_err();
    assert!(refusal_text(&error).contains("which is not expected"), "{error}");
}

#[test]
fn policies() {
    let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
    assert!(exactly("spiffe://example.org/web").allows(&id) && !exactly(SERVER).allows(&id));
    assert!(member_of("example.org").allows(&id) && !member_of("other.example").allows(&id));
    assert!(PeerPolicy::AnyOf(vec![exactly(SERVER), member_of("example.org")]).allows(&id));
    assert!(!PeerPolicy::AnyOf(vec![]).allows(&id));
    assert!(PeerPolicy::Custom(Arc::new(|id| id.path() == "/web")).allows(&id));
}

#[test]
fn an_identity_needs_its_own_key() {
    let ca = TestCa::new("example.org");
    let chain: Vec<CertificateDer<'static>> = ca.svid(SERVER).chain().to_vec();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    assert!(matches!(X509Identity::new(chain, &key), Err(TlsError::KeyMismatch)));
    assert!(matches!(X509Identity::new(vec![], &key), Err(TlsError::EmptyChain)));
    assert!(X509Identity::new(vec![CertificateDer::from(vec![1, 2, 3])], &key).is_err());
    let svid = ca.svid(SERVER);
    assert_eq!(svid.id().to_string(), SERVER);
    assert!(svid.not_before() < svid.not_after());
    assert!(!format!("{svid:?}").contains("key"));
}

#[test]
fn web_certificates_follow_their_files_and_keep_the_last_good() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let write = |(certificate_pem, key_pem): (String, String)| {
        std::fs::write(&certificate, certificate_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
    };
    let (first, second) = (TestCa::new("first.example"), TestCa::new("second.example"));
    write(first.web_server("issuer.example"));
    let manual = ManualClock::new(clock().now());
    let (server, handle) = web_server_config(&certificate, &key, Arc::new(manual.clone()), &[]).unwrap();
    assert!(handle.not_after().unwrap() > OffsetDateTime::UNIX_EPOCH);
    let trusts = |ca: &TestCa| {
        let client = web_client_config(&WebRoots::Pem(ca.pem().into_bytes()), clock(), &[]).unwrap();
        handshake(&client, &server).is_ok()
    };
    assert!(trusts(&first) && !trusts(&second));

    manual.advance(std::time::Duration::from_secs(2));
    std::fs::write(&certificate, "half a cert").unwrap();
    assert!(trusts(&first));

    write(second.web_server("issuer.example"));
    assert!(trusts(&first), "the files are not looked at again within a second");
    manual.advance(std::time::Duration::from_secs(2));
    assert!(trusts(&second) && !trusts(&first));
}

#[test]
fn web_files_and_roots_that_are_not_usable_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let open = || web_server_config(&certificate, &key, clock(), &[]).map(drop).unwrap_err();
    assert!(matches!(open(), TlsError::File { what: "certificate file", .. }));
    let ca = TestCa::new("example.org");
    let (certificate_pem, key_pem) = ca.web_server("a.example");
    std::fs::write(&certificate, &certificate_pem).unwrap();
    assert!(matches!(open(), TlsError::File { what: "key file", .. }));
    std::fs::write(&key, "none").unwrap();
    assert!(matches!(open(), TlsError::Pem { what: "key file", .. }));
    std::fs::write(&key, ca.web_server("a.example").1).unwrap();
    assert!(matches!(open(), TlsError::KeyMismatch));
    std::fs::write(&key, key_pem).unwrap();
    std::fs::write(&certificate, "").unwrap();
    assert!(matches!(open(), TlsError::Pem { what: "certificate file", .. }));

    for roots in [&b""[..], b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let made = web_client_config(&WebRoots::Pem(roots.to_vec()), clock(), &[]);
        assert!(matches!(made, Err(TlsError::Roots { .. })));
    }
    // The system may have no roots at all; either way there is no panic.
    let _ = web_client_config(&WebRoots::System, clock(), &[]);
}
