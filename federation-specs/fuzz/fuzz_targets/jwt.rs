//! No text verifies as JWT-SVID: nobody has the key of this bundle.
#![no_main]

use federation_specs::bundle::{Bundle, BundleSet, JwtAuthority};
use federation_specs::id::TrustDomain;
use federation_specs::jwt_svid::{JwtSvidError, MAX_TOKEN_BYTES, read_unverified, verify};
use federation_specs::public_key::PublicKey;
use libfuzzer_sys::fuzz_target;
use time::macros::datetime;

const BUNDLE: &[u8] = include_bytes!("../../testdata/jwt/es256-cloud.bundle.json");

fuzz_target!(|token: &str| {
    let now = datetime!(2026-11-22 10:34 UTC);
    let trust_domain = TrustDomain::parse("cloud.example").expect("a valid name");
    let captured = federation_specs::bundle_json::parse(&trust_domain, BUNDLE).expect("a captured bundle").bundle;
    // The keys under other names, so that captured tokens do not verify either.
    let renamed = captured.jwt_authorities().iter().rev().zip(captured.jwt_authorities()).map(|(named, keyed)| {
        let key: &PublicKey = keyed.public_key();
        JwtAuthority::new(named.key_id(), key.clone(), None, false).expect("a key ID")
    });
    let bundles = BundleSet::from_iter([Bundle::new(trust_domain).with_jwt_authorities(renamed).into()]);
    let error = verify(token, None, &bundles, now).expect_err("nobody has the key");
    if token.len() > MAX_TOKEN_BYTES {
        assert!(matches!(error, JwtSvidError::Parse(_)));
    }
    if let Ok((id, _)) = read_unverified(token) {
        assert!(!matches!(error, JwtSvidError::MissingSubject | JwtSvidError::MissingExpiry), "{id}");
    }
});
