//! A bundle that is read can be written and read again without loss.
#![no_main]

use federation_specs::bundle::Bundle;
use federation_specs::bundle_change::{Comparison, compare};
use federation_specs::bundle_json::{encode, encode_jwks, encode_oidc_jwks, parse};
use federation_specs::convert::{bundle_from_proto, bundle_to_proto};
use federation_specs::id::TrustDomain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| {
    let trust_domain = TrustDomain::parse("fuzz.example").expect("a valid name");
    let Ok(parsed) = parse(&trust_domain, document) else { return };
    let bundle = parsed.bundle.with_wit_authorities([]);
    let bytes = encode(&bundle);
    let again = parse(&trust_domain, &bytes).expect("what was written can be read");
    assert!(again.skipped.is_empty());
    assert_eq!(compare(Some(&bundle), &again.bundle), Comparison::Unchanged);
    assert_eq!(encode(&again.bundle), bytes);
    for key_set in [encode_jwks(&bundle), encode_oidc_jwks(&bundle)] {
        let value: serde_json::Value = serde_json::from_slice(&key_set).expect("JSON");
        assert_eq!(value["keys"].as_array().map(Vec::len), Some(bundle.jwt_authorities().len()));
    }
    let through_protobuf = bundle_from_proto(&bundle_to_proto(&bundle));
    if bundle.refresh_hint().is_none_or(|hint| i64::try_from(hint.as_secs()).is_ok()) {
        assert_eq!(through_protobuf.as_ref(), Ok(&bundle));
    }
    if !bundle.x509_authorities().is_empty() {
        let from_pem = Bundle::parse_pem_roots(trust_domain, bundle.to_pem().as_bytes()).expect("PEM");
        assert_eq!(from_pem.x509_authorities(), bundle.x509_authorities());
    }
});
