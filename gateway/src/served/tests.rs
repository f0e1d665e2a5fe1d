use federation_specs::bundle::{JwtAuthority, X509Authority};
use time::macros::datetime;

use super::*;
use crate::settings::{IssuerAddress, SourceSettings};

const NOON: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);
const LATER: OffsetDateTime = datetime!(2026-11-22 13:00 UTC);

fn domain(oidc: bool) -> ServedDomain {
    let name = TrustDomain::parse("cloud.example").unwrap();
    let settings = LocalDomain {
        issuer: Some(IssuerAddress::Socket("/nowhere".into())),
        sources: vec![SourceSettings::Issuer],
        path: "/cloud.example".to_owned(),
        hosts: Vec::new(),
        refresh_hint: Duration::from_secs(300),
        endpoint_id: None,
        endpoint_svid: crate::settings::EndpointSvidSettings::Issuer,
        server_names: Vec::new(),
        poll_interval: Duration::from_secs(5),
        oidc: oidc.then(|| OidcSettings {
            issuer: "https://oidc.example".to_owned(),
            jwks_uri: "https://oidc.example/keys".to_owned(),
            discovery_path: "/.well-known/openid-configuration".to_owned(),
            jwks_path: "/keys".to_owned(),
        }),
        publishers: Vec::new(),
        name,
    };
    ServedDomain::new(settings, NOON)
}

fn x509(name: &str) -> X509Authority {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    X509Authority::from_der(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

fn jwt(id: &str) -> JwtAuthority {
    let key = service_kit::keys::PrivateKey::generate(service_kit::keys::KeyType::EcP256).unwrap();
    JwtAuthority::new(id, key.public_key().clone(), None, false).unwrap()
}

fn bundle(x509: &[&X509Authority], jwt: &[&JwtAuthority], sequence: u64) -> Bundle {
    Bundle::new(TrustDomain::parse("cloud.example").unwrap())
        .with_x509_authorities(x509.iter().copied().cloned())
        .with_jwt_authorities(jwt.iter().copied().cloned())
        .with_sequence(Some(sequence))
}

fn headers(document: Document) -> http::HeaderMap {
    match document {
        Document::Rendered(rendered) => rendered.identity().headers().clone(),
        other => panic!("not rendered: {other:?}"),
    }
}

#[test]
fn rendered_once_per_change_whatever_the_order() {
    let domain = domain(false);
    assert!(matches!(domain.bundle_document(), Document::NotYet));
    let (a, b, k, l) = (x509("a"), x509("b"), jwt("k"), jwt("l"));
    domain.publish(&bundle(&[&a, &b], &[&k, &l], 1), NOON).unwrap();
    let first = headers(domain.bundle_document());
    let again = domain.publish(&bundle(&[&b, &a], &[&l, &k], 1), LATER).unwrap();
    assert!(!again);
    assert_eq!(headers(domain.bundle_document()), first);
    domain.publish(&bundle(&[&a], &[&k, &l], 2), LATER).unwrap();
    let second = headers(domain.bundle_document());
    assert_ne!(second["etag"], first["etag"]);
    assert_eq!(second["last-modified"], "Sun, 22 Nov 2026 13:00:00 GMT");
    assert_eq!(second["cache-control"], "public, max-age=75");
}

#[test]
fn the_key_set_keeps_its_date_through_a_rotation_of_certificates() {
    let domain = domain(true);
    assert!(matches!(domain.jwks_document(), Document::NotYet));
    let (a, b, k) = (x509("a"), x509("b"), jwt("k"));
    domain.publish(&bundle(&[&a], &[&k], 1), NOON).unwrap();
    let first = headers(domain.jwks_document());
    domain.publish(&bundle(&[&a, &b], &[&k], 2), LATER).unwrap();
    assert_eq!(headers(domain.jwks_document()), first);
    assert_eq!(first["access-control-allow-origin"], "*");
    domain.publish(&bundle(&[&a, &b], &[], 3), LATER).unwrap();
    assert!(matches!(domain.jwks_document(), Document::NoJwtKeys));
}

#[test]
fn another_document_has_a_later_date_whatever_the_clock_says() {
    let domain = domain(false);
    let (a, b, c) = (x509("a"), x509("b"), x509("c"));
    let mut dates = Vec::new();
    for (authority, at) in [(&a, LATER), (&b, LATER), (&c, NOON)] {
        domain.publish(&bundle(&[authority], &[], 1), at).unwrap();
        dates.push(headers(domain.bundle_document())["last-modified"].to_str().unwrap().to_owned());
    }
    assert_eq!(
        dates,
        ["Sun, 22 Nov 2026 13:00:00 GMT", "Sun, 22 Nov 2026 13:00:01 GMT", "Sun, 22 Nov 2026 13:00:02 GMT"],
        "who asks by date alone would keep the one before for ever"
    );
}

#[test]
fn foreign_and_emptied_bundles_are_not_served() {
    let domain = domain(false);
    let a = x509("a");
    let foreign = Bundle::new(TrustDomain::parse("other.example").unwrap()).with_x509_authorities([a.clone()]);
    let error = domain.publish(&foreign, NOON).unwrap_err();
    assert!(error.to_string().contains("gave the bundle of `other.example`"), "{error}");
    domain.publish(&bundle(&[&a], &[], 1), NOON).unwrap();
    let error = domain.publish(&bundle(&[], &[], 2), NOON).unwrap_err();
    assert!(error.to_string().contains("without keys"), "{error}");
    assert_eq!(domain.current().unwrap().bundle.sequence(), Some(1));
}

#[test]
fn a_taint_is_passed_on_although_the_document_stays() {
    let domain = domain(false);
    let a = x509("a");
    domain.publish(&bundle(&[&a], &[], 1), NOON).unwrap();
    let mut watch = domain.subscribe();
    watch.mark_unchanged();
    domain.publish(&bundle(&[&a.with_tainted(true)], &[], 1), LATER).unwrap();
    assert!(watch.has_changed().unwrap());
    let now = domain.current().unwrap();
    assert!(now.bundle.x509_authorities()[0].tainted());
    assert_eq!(now.changed_at, NOON);
}
