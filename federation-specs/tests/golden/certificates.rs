use federation_specs::bundle::{Bundle, BundleSet};
use federation_specs::certificate::Certificate;
use federation_specs::id::SpiffeId;
use federation_specs::x509_svid::{
    X509SvidError, check_ca_certificate, check_svid_certificate, leaf_spiffe_id, verify_chain,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::{read, trust_domain};

const CAPTURED: OffsetDateTime = datetime!(2026-11-22 10:28 UTC);
const FIRST_INSTANCE: OffsetDateTime = datetime!(2026-11-22 10:09 UTC);
const MADE: OffsetDateTime = datetime!(2030-01-01 00:00 UTC);

fn chain(file: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&read(file)).map(Result::unwrap).collect()
}

fn roots(domain: &str, file: &str) -> BundleSet {
    let bundle = Bundle::parse_pem_roots(trust_domain(domain), &read(file)).unwrap();
    BundleSet::from_iter([bundle.into()])
}

#[test]
fn captured_chains_verify_against_their_own_bundle() {
    for (roots_file, chain_file, domain, path, now) in [
        ("certs/cloud-ca.pem", "certs/cloud-workload.pem", "cloud.example", "/onrack", CAPTURED),
        ("certs/cloud-ca.pem", "certs/cloud-workload-dns.pem", "cloud.example", "/workload", CAPTURED),
        ("certs/cloud-ca.pem", "certs/cloud-server.pem", "cloud.example", "/spire/server", CAPTURED),
        (
            "certs/cloud-ca-first-instance.pem",
            "certs/cloud-minted-ok-subject-dns.pem",
            "cloud.example",
            "/m",
            FIRST_INSTANCE,
        ),
        (
            "certs/nested-bundle.pem",
            "certs/nested-workload-minted-chain.pem",
            "cloud.example",
            "/nested-minted",
            CAPTURED,
        ),
        (
            "certs/onprem-upstream-root.pem",
            "certs/onprem-workload-minted-chain.pem",
            "onprem.example",
            "/minted",
            CAPTURED,
        ),
    ] {
        let chain = chain(chain_file);
        let svid = verify_chain(&chain, &roots(domain, roots_file), now)
            .unwrap_or_else(|error| panic!("{chain_file}: {error}"));
        let id = SpiffeId::from_parts(&trust_domain(domain), path).unwrap();
        assert_eq!(*svid.id(), id, "{chain_file}");
        check_svid_certificate(&chain[0], &id, now).unwrap();
        assert_eq!(svid.leaf_der(), chain[0].as_ref());
    }
}

#[test]
fn captured_agent_certificate_is_read() {
    let leaf = &chain("certs/cloud-agent-join-token.pem")[0];
    let id = leaf_spiffe_id(leaf).unwrap();
    assert!(id.is_agent() && id.path().starts_with("/spire/agent/join_token/"));
}

#[test]
fn captured_chain_fails_against_any_other_bundle() {
    let workload = chain("certs/cloud-workload.pem");
    let error = |roots: &BundleSet, now| verify_chain(&workload, roots, now).unwrap_err();
    assert_eq!(
        error(&roots("onprem.example", "certs/cloud-ca.pem"), CAPTURED),
        X509SvidError::NoBundle(trust_domain("cloud.example"))
    );
    assert_eq!(
        error(&roots("cloud.example", "certs/onprem-upstream-root.pem"), CAPTURED),
        X509SvidError::UnknownAuthority
    );
    assert_eq!(
        error(&roots("cloud.example", "certs/cloud-ca-first-instance.pem"), CAPTURED),
        X509SvidError::UnknownAuthority
    );
    let own = roots("cloud.example", "certs/cloud-ca.pem");
    assert!(matches!(error(&own, datetime!(2026-11-22 11:27 UTC)), X509SvidError::Expired(_)));
    assert!(matches!(error(&own, datetime!(2026-11-22 10:26 UTC)), X509SvidError::NotYetValid(_)));
    let root = chain("certs/cloud-ca.pem");
    assert_eq!(verify_chain(&root, &own, CAPTURED).unwrap_err(), X509SvidError::LeafIsCa);
}

#[test]
fn an_intermediate_is_needed_where_there_was_one() {
    let nested = chain("certs/nested-workload-minted-chain.pem");
    let bundles = roots("cloud.example", "certs/nested-bundle.pem");
    assert_eq!(verify_chain(&nested[..1], &bundles, CAPTURED).unwrap_err(), X509SvidError::UnknownAuthority);
}

#[test]
fn captured_cas_keep_the_issuers_rules() {
    let domain = trust_domain("cloud.example");
    check_ca_certificate(&chain("certs/cloud-ca.pem")[0], &domain, CAPTURED).unwrap();
    check_ca_certificate(&chain("certs/cloud-downstream-ca.pem")[0], &domain, FIRST_INSTANCE).unwrap();
    check_ca_certificate(&chain("certs/onprem-upstream-root.pem")[0], &domain, CAPTURED).unwrap();
    let wrong = check_ca_certificate(&chain("certs/cloud-ca.pem")[0], &trust_domain("onprem.example"), CAPTURED);
    assert_eq!(wrong.unwrap_err().to_string(), "URI SAN must be spiffe://onprem.example");
}

#[test]
fn odd_roots_are_taken_and_weak_ones_are_not() {
    for (name, outcome) in
        [("v1", Ok(())), ("pss", Ok(())), ("constrained", Ok(())), ("sha1", Err(X509SvidError::BadSignature))]
    {
        let bundles = roots("cloud.example", &format!("made/{name}-root.pem"));
        let result = verify_chain(&chain(&format!("made/{name}-leaf.pem")), &bundles, MADE).map(drop);
        assert_eq!(result, outcome, "{name}");
    }
    let weak = Bundle::parse_pem_roots(trust_domain("cloud.example"), &read("made/rsa1024-root.pem"));
    assert!(weak.unwrap_err().to_string().starts_with("RSA key has 1024 bits"));
    assert!(Certificate::from_der(&chain("made/rsa1024-root.pem")[0]).unwrap().public_key().is_err());
}

#[test]
fn a_uri_name_constraint_holds() {
    let bundles = roots("onprem.example", "made/constrained-root.pem");
    assert_eq!(
        verify_chain(&chain("made/constrained-leaf-outside.pem"), &bundles, MADE).unwrap_err(),
        X509SvidError::NameConstraint("spiffe://onprem.example/made".to_owned())
    );
}
