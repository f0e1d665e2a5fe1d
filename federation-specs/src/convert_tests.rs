use super::*;
use crate::test_data::*;

fn certificate(asn1: Vec<u8>) -> types::X509Certificate {
    types::X509Certificate { asn1, tainted: true }
}

#[test]
fn spiffe_ids() {
    let message =
        |trust_domain: &str, path: &str| types::Spiffeid { trust_domain: trust_domain.into(), path: path.into() };
    let id = spiffe_id_from_proto(Some(&message("cloud.example", "/a/b"))).unwrap();
    assert_eq!(spiffe_id_to_proto(&id), message("cloud.example", "/a/b"));
    assert_eq!(spiffe_id_from_proto(Some(&message("spiffe://cloud.example", "/a/b"))).unwrap(), id);
    let error = |message: Option<&types::Spiffeid>| spiffe_id_from_proto(message).unwrap_err().to_string();
    assert_eq!(error(None), "request must specify SPIFFE ID");
    assert_eq!(error(Some(&message("", ""))), "trust domain is missing");
    assert_eq!(error(Some(&message("td", "a"))), "path must have a leading slash");
    assert_eq!(error(Some(&message("td", "/a/"))), "path cannot have a trailing slash");
}

#[test]
fn selectors() {
    let message = |kind: &str, value: &str| types::Selector { r#type: kind.into(), value: value.into() };
    let list = [message("unix", "uid:1"), message("unix", "uid:1")];
    assert_eq!(selectors_from_proto(&list).unwrap().len(), 2);
    assert_eq!(selector_set_from_proto(&list).unwrap().len(), 1);
    assert_eq!(selectors_to_proto(&selectors_from_proto(&list).unwrap()), list);
    assert_eq!(selector_from_proto(&message("", "v")).unwrap_err().to_string(), "missing selector type");
    assert_eq!(selectors_from_proto(&vec![message("a", "b"); MAX_SELECTORS + 1]), Err(ConvertError::TooManySelectors));
    assert_eq!(match_behavior_from_proto(3), Ok(MatchBehavior::Any));
    assert_eq!(match_behavior_from_proto(9), Err(ConvertError::MatchBehavior(9)));
}

#[test]
fn bundles_round_trip_with_taint_and_expiry() {
    let jwt = JwtAuthority::new("k", POOL.1[0].public_key().clone(), Some(7), true).unwrap();
    let bundle = Bundle::new(trust_domain("cloud.example"))
        .with_x509_authorities([POOL.0[0].clone().with_tainted(true), POOL.0[1].clone()])
        .with_jwt_authorities([jwt.clone()])
        .with_wit_authorities([jwt.clone()])
        .with_refresh_hint(Some(Duration::from_secs(300)))
        .with_sequence(Some(4));
    let message = bundle_to_proto(&bundle);
    assert_eq!(bundle_from_proto(&message).unwrap(), bundle);

    let taken = bundle_from_client(&message).unwrap();
    assert!(taken.x509_authorities().iter().all(|authority| !authority.tainted()));
    assert!(!taken.jwt_authorities()[0].tainted() && taken.wit_authorities().is_empty());
    assert_eq!((taken.sequence(), taken.jwt_authorities()[0].expires_at()), (Some(4), Some(7)));
}

#[test]
fn bundle_faults_have_the_words_of_the_wire() {
    let bundle = |asn1: Vec<u8>| types::Bundle {
        trust_domain: "td".into(),
        x509_authorities: vec![certificate(asn1)],
        ..Default::default()
    };
    let error = |message: &types::Bundle| bundle_from_client(message).unwrap_err().to_string();
    assert_eq!(error(&bundle(b"not der".to_vec())), "unable to parse X.509 authority: x509: malformed certificate");
    assert_eq!(error(&bundle(vec![])), "unable to parse X.509 authority: certificate is empty");
    let two = [POOL.0[0].der(), POOL.0[1].der()].concat();
    assert_eq!(
        error(&bundle(two)),
        "unable to parse X.509 authority: exactly one certificate is expected and more bytes follow it"
    );
    assert_eq!(error(&types::Bundle::default()), "trust domain is missing");
    let negative = types::Bundle { trust_domain: "td".into(), refresh_hint: -1, ..Default::default() };
    assert_eq!(bundle_from_proto(&negative), Err(ConvertError::NegativeRefreshHint));
    let key = types::JwtKey { public_key: POOL.1[0].public_key().spki_der().to_vec(), ..Default::default() };
    assert_eq!(jwt_authority_from_proto(&key).unwrap_err().to_string(), "missing key ID");
    assert!(jwt_authority_from_proto(&types::JwtKey { key_id: "k".into(), ..Default::default() }).is_err());
    let many = types::Bundle {
        trust_domain: "td".into(),
        x509_authorities: vec![certificate(vec![]); MAX_AUTHORITIES + 1],
        ..Default::default()
    };
    assert_eq!(bundle_from_proto(&many), Err(ConvertError::TooManyAuthorities));
}

#[test]
fn what_a_spire_server_stored_and_sends_is_read() {
    // AppendBundle took an empty authority and one of two certificates, and a nested server published a key on P-224.
    let p224 = [
        &[0x30, 0x4e, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01][..],
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x21, 0x03, 0x3a, 0x00, 0x04],
        &[7; 56],
    ]
    .concat();
    let key = |id: &str, public_key: Vec<u8>| types::JwtKey { key_id: id.into(), public_key, ..Default::default() };
    let one = types::X509Certificate { asn1: POOL.0[0].der().to_vec(), tainted: false };
    let two = types::X509Certificate { asn1: [POOL.0[1].der(), POOL.0[2].der()].concat(), tainted: true };
    let message = types::Bundle {
        trust_domain: "td".into(),
        x509_authorities: vec![one, certificate(vec![]), two],
        jwt_authorities: vec![key("a", p224), key("b", POOL.1[0].public_key().spki_der().to_vec())],
        ..Default::default()
    };
    let bundle = bundle_from_proto(&message).unwrap();
    let tainted: Vec<_> =
        bundle.x509_authorities().iter().map(|authority| (authority.der(), authority.tainted())).collect();
    assert_eq!(tainted, [(POOL.0[0].der(), false), (POOL.0[1].der(), true), (POOL.0[2].der(), true)]);
    assert_eq!(bundle.jwt_authorities().len(), 1);
    assert!(bundle.find_jwt("b").is_some());
    // Whatever is no certificate at all, and a broken key, still fail.
    let broken = types::Bundle { x509_authorities: vec![certificate(b"not der".to_vec())], ..message.clone() };
    assert!(bundle_from_proto(&broken).is_err());
    assert!(bundle_from_proto(&types::Bundle { jwt_authorities: vec![key("c", vec![1])], ..message }).is_err());
}

#[test]
fn relationships() {
    let message = types::FederationRelationship {
        trust_domain: "f.example".into(),
        bundle_endpoint_url: "https://f.example/bundle".into(),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
            endpoint_spiffe_id: "spiffe://f.example/endpoint".into(),
        })),
    };
    let relationship = relationship_from_proto(&message).unwrap();
    assert_eq!(relationship_to_proto(&relationship), message);

    let error = |change: fn(&mut types::FederationRelationship)| {
        let mut changed = message.clone();
        change(&mut changed);
        relationship_from_proto(&changed).unwrap_err().to_string()
    };
    assert_eq!(error(|m| m.trust_domain.clear()), "failed to parse trust domain: trust domain is missing");
    assert_eq!(error(|m| m.bundle_endpoint_url.clear()), "bundle endpoint URL must use the https scheme");
    assert_eq!(error(|m| m.bundle_endpoint_profile = None), "unsupported bundle endpoint profile type: <nil>");
    assert_eq!(
        error(|m| m.bundle_endpoint_profile =
            Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile::default()))),
        "failed to parse endpoint SPIFFE ID: cannot be empty"
    );
    assert_eq!(
        error(
            |m| m.trust_domain_bundle = Some(types::Bundle { trust_domain: "g.example".into(), ..Default::default() })
        ),
        "trust domain bundle (\"g.example\") must match the trust domain of the federation relationship (\"f.example\")"
    );
    assert_eq!(
        error(|m| m.trust_domain_bundle = Some(types::Bundle {
            trust_domain: "f.example".into(),
            x509_authorities: vec![types::X509Certificate { asn1: b"not der".to_vec(), tainted: false }],
            ..Default::default()
        })),
        "failed to parse bundle: unable to parse X.509 authority: x509: malformed certificate"
    );
}

#[test]
fn reasons_travel_in_status_details() {
    let details = permission_denied_details(Reason::AgentBanned, "agent is banned");
    assert_eq!(permission_denied_reason(&details), Some(Reason::AgentBanned));
    assert_eq!(permission_denied_reason(b"junk"), None);
    assert_eq!(permission_denied_reason(&[]), None);
}
