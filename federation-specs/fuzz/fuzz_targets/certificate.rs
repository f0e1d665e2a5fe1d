//! Certificates: exactly one at a time, lists divide without loss, and no
//! chain leads to an authority whose key nobody has.
#![no_main]

use federation_specs::bundle::{Bundle, BundleSet, X509Authority};
use federation_specs::bundle_json;
use federation_specs::certificate::{Certificate, split_der_certificates};
use federation_specs::id::TrustDomain;
use federation_specs::public_key::PublicKey;
use federation_specs::x509_svid::{leaf_spiffe_id, verify_chain};
use libfuzzer_sys::fuzz_target;
use time::macros::datetime;

const BUNDLE: &[u8] = include_bytes!("../../testdata/bundle/https_spiffe.json");

fuzz_target!(|bytes: &[u8]| {
    let now = datetime!(2026-11-22 10:28 UTC);
    let list = split_der_certificates(bytes).unwrap_or_default();
    if !list.is_empty() {
        assert_eq!(list.concat(), bytes);
    }
    if let Ok(certificate) = Certificate::from_der(bytes) {
        assert_eq!(certificate.der(), bytes);
        assert_eq!(list, [bytes]);
        if let Ok(key) = certificate.public_key() {
            assert_eq!(PublicKey::from_spki_der(key.spki_der()).as_ref(), Ok(key));
            assert_eq!(PublicKey::from_jwk(&key.to_jwk()).map(|read| read.kind()), Ok(key.kind()));
            assert!(X509Authority::from_der(bytes).is_ok());
        }
        if let Ok(id) = leaf_spiffe_id(bytes) {
            assert_eq!(certificate.names().uris, [id.as_str()]);
            assert!(!certificate.is_ca() && !id.path().is_empty());
        }
    }
    if list.len() > 1 {
        assert!(Certificate::from_der(bytes).is_err() && X509Authority::from_der(bytes).is_err());
    }

    let trust_domain = TrustDomain::parse("fuzz.example").expect("a valid name");
    let captured = bundle_json::parse(&trust_domain, BUNDLE).expect("a captured bundle").bundle;
    // The bundle of cloud.example held under another name: its leaves do not fit.
    let bundles = BundleSet::from_iter([Bundle::new(trust_domain)
        .with_x509_authorities(captured.x509_authorities().iter().cloned())
        .into()]);
    assert!(verify_chain(&list, &bundles, now).is_err());
});
