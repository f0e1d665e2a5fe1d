use std::collections::BTreeMap;

use super::*;
use crate::test_data::*;

fn bundle(x509: &[X509Authority], jwt: &[JwtAuthority]) -> Bundle {
    Bundle::new(trust_domain("cloud.example"))
        .with_x509_authorities(x509.iter().cloned())
        .with_jwt_authorities(jwt.iter().cloned())
}

#[test]
fn an_authority_is_exactly_one_certificate() {
    let (a, b) = (x509_authority("a"), x509_authority("b"));
    assert_eq!(X509Authority::from_der(&[]), Err(CertificateError::Empty.into()));
    assert_eq!(X509Authority::from_der(&[a.der(), b.der()].concat()), Err(CertificateError::TrailingBytes.into()));
    assert_eq!(X509Authority::from_der(b"not der").unwrap_err().to_string(), "x509: malformed certificate");
    assert_eq!(X509Authority::from_der(a.der()).unwrap(), a);
    assert_eq!(a.key_id_hex().len(), 40);
}

#[test]
fn key_ids_are_neither_empty_nor_endless() {
    let key = public_key(&p256());
    assert_eq!(JwtAuthority::new("", key.clone(), None, false).unwrap_err().to_string(), "missing key ID");
    assert_eq!(JwtAuthority::new("k".repeat(1025), key.clone(), None, false), Err(BundleError::KeyIdTooLong));
    assert_eq!(JwtAuthority::new("k", key, Some(0), false).unwrap().expires_at(), None);
}

#[test]
fn duplicates_are_dropped() {
    let (a, k) = (x509_authority("a"), jwt_authority("k"));
    let newer = jwt_authority("k");
    let bundle = bundle(&[a.clone(), a.clone()], &[k, newer.clone()]);
    assert_eq!((bundle.x509_authorities(), bundle.jwt_authorities()), (&[a][..], &[newer.clone()][..]));
    assert_eq!(bundle.find_jwt("k"), Some(&newer));
    assert_eq!(bundle.find_jwt("other"), None);
}

#[test]
fn content_is_compared_without_order_and_sequence() {
    let (x509, jwt) = (&POOL.0, &POOL.1);
    let held = bundle(&x509[..2], &jwt[..2]);
    let reversed = bundle(&[x509[1].clone(), x509[0].clone()], &[jwt[1].clone(), jwt[0].clone()]);
    assert!(held.same_content(&reversed.clone().with_sequence(Some(9))));
    assert!(!held.same_content(&reversed.clone().with_refresh_hint(Some(Duration::from_secs(9)))));
    assert!(!held.same_content(&bundle(&x509[..1], &jwt[..2])));
    assert!(!held.same_content(&bundle(&x509[..2], &jwt[1..3])));
    assert!(!held.same_content(&bundle(&[x509[0].clone().with_tainted(true), x509[1].clone()], &jwt[..2])));
    let renamed = Bundle::new(trust_domain("other.example"));
    assert!(!renamed.same_content(&Bundle::new(trust_domain("cloud.example"))));
}

#[test]
fn hint_and_sequence_zero_say_nothing() {
    let bundle = Bundle::new(trust_domain("td"));
    assert_eq!(bundle.clone().with_sequence(Some(0)).sequence(), None);
    assert_eq!(bundle.clone().with_refresh_hint(Some(Duration::ZERO)).refresh_hint(), None);
    assert_eq!(
        bundle.with_refresh_hint(Some(Duration::from_millis(61_900))).refresh_hint(),
        Some(Duration::from_secs(61))
    );
}

#[test]
fn pem_round_trip_and_faults() {
    let made = bundle(&POOL.0, &[]);
    let pem = made.to_pem();
    assert!(pem.lines().all(|line| line.len() <= 64));
    assert_eq!(Bundle::parse_pem_roots(trust_domain("cloud.example"), pem.as_bytes()).unwrap(), made);
    let with_key = format!("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n{pem}");
    assert_eq!(Bundle::parse_pem_roots(trust_domain("cloud.example"), with_key.as_bytes()).unwrap(), made);

    let error = |pem: &str| Bundle::parse_pem_roots(trust_domain("td"), pem.as_bytes()).unwrap_err();
    assert_eq!(error(""), BundleError::NoCertificate);
    assert_eq!(error("not pem"), BundleError::NoCertificate);
    assert!(matches!(
        error("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        BundleError::Certificate(CertificateError::Malformed)
    ));
    assert!(matches!(error("-----BEGIN CERTIFICATE-----\n!\n"), BundleError::Pem(_)));
    assert_eq!(error(&" ".repeat(MAX_PEM_BYTES + 1)), BundleError::PemTooLong);
}

#[test]
fn a_set_finds_bundles_by_their_own_name_only() {
    let mut set = BundleSet::new();
    let (one, other) = (Arc::new(Bundle::new(trust_domain("one"))), Arc::new(Bundle::new(trust_domain("other"))));
    assert_eq!(set.insert(one.clone()), None);
    let before = set.clone();
    assert_eq!(set.insert(other.clone()), None);
    assert_eq!((before.len(), set.len()), (1, 2), "a clone does not change along");
    assert_eq!(set.get(&trust_domain("one")), Some(&one));
    assert_eq!(set.get(&trust_domain("on")), None);
    assert_eq!(set.iter().map(|bundle| bundle.trust_domain().as_str()).collect::<Vec<_>>(), ["one", "other"]);
    let newer = Arc::new(Bundle::new(trust_domain("one")).with_sequence(Some(2)));
    assert_eq!(set.insert(newer.clone()), Some(one));
    assert_eq!(set.remove(&trust_domain("one")), Some(newer));
    assert_eq!(set.remove(&trust_domain("one")), None);
    assert!(!set.is_empty());
}

proptest::proptest! {
    /// Every version of a set goes on saying what a map says that went through the same changes.
    #[test]
    fn a_set_and_its_earlier_versions_agree_with_a_map(
        changes in proptest::collection::vec((0_usize..40, proptest::option::of(1_u64..1000)), 0..200)
    ) {
        let (mut set, mut map) = (BundleSet::new(), BTreeMap::<TrustDomain, Arc<Bundle>>::new());
        let mut versions = Vec::new();
        for (number, sequence) in changes {
            let name = trust_domain(&format!("td-{number}.example"));
            match sequence {
                Some(_) => {
                    let bundle = Arc::new(Bundle::new(name.clone()).with_sequence(sequence));
                    proptest::prop_assert_eq!(set.insert(bundle.clone()), map.insert(name, bundle));
                }
                None => proptest::prop_assert_eq!(set.remove(&name), map.remove(&name)),
            }
            versions.push((set.clone(), map.clone()));
        }
        for (set, map) in versions {
            proptest::prop_assert_eq!(set.iter().collect::<Vec<_>>(), map.values().collect::<Vec<_>>());
            proptest::prop_assert_eq!((set.len(), set.is_empty()), (map.len(), map.is_empty()));
            for number in 0..40 {
                let name = trust_domain(&format!("td-{number}.example"));
                proptest::prop_assert_eq!(set.get(&name), map.get(&name));
            }
            proptest::prop_assert_eq!(&map.values().cloned().collect::<BundleSet>(), &set);
        }
    }
}
