use federation_specs::bundle::BundleSet;
use federation_specs::bundle_json::parse;
use federation_specs::jwt_svid::{JwtSvidError, read_unverified, verify};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::{read, text, trust_domain};

const CAPTURED: OffsetDateTime = datetime!(2026-11-22 10:34 UTC);

fn bundles(domain: &str, file: &str) -> BundleSet {
    let parsed = parse(&trust_domain(domain), &read(&format!("jwt/{file}.bundle.json"))).unwrap();
    BundleSet::from_iter([parsed.bundle.into()])
}

fn token(name: &str) -> String {
    text(&format!("jwt/{name}.jwt")).trim_end().to_owned()
}

#[test]
fn captured_tokens_verify() {
    for (name, domain, bundle, id, audience) in [
        ("es256-cloud", "cloud.example", "es256-cloud", "spiffe://cloud.example/minted", &["aud1"][..]),
        ("es256-cloud-jti", "cloud.example", "es256-cloud", "spiffe://cloud.example/jti", &["aud1", "aud2"]),
        ("rs256-onprem", "onprem.example", "rs256-onprem", "spiffe://onprem.example/minted", &["aud1"]),
        ("es384-cloud-other-ca", "cloud.example", "es384-cloud-other-ca", "spiffe://cloud.example/minted", &["aud1"]),
    ] {
        let bundles = bundles(domain, bundle);
        for wanted in audience.iter().copied().map(Some).chain([None]) {
            let svid =
                verify(&token(name), wanted, &bundles, CAPTURED).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(svid.id().as_str(), id);
            assert_eq!(svid.audience(), audience);
            assert_eq!(svid.claims()["exp"].as_i64(), Some(svid.expires_at().unix_timestamp()));
        }
        assert_eq!(read_unverified(&token(name)).unwrap().0.as_str(), id);
        let expired = verify(&token(name), None, &bundles, datetime!(2026-11-22 10:40 UTC)).unwrap_err();
        assert_eq!(expired.to_string(), "token has expired");
    }
}

#[test]
fn captured_errors_have_the_same_words() {
    let cloud = bundles("cloud.example", "es256-cloud");
    let error = |token: &str, audience, bundles: &BundleSet| {
        verify(token, Some(audience), bundles, CAPTURED).unwrap_err().to_string()
    };
    let good = token("es256-cloud");
    assert_eq!(
        error("x", "a", &cloud),
        "unable to parse JWT token: go-jose/go-jose: compact JWS format must have three parts"
    );
    assert_eq!(error(&good, "zzz", &cloud), "expected audience in [\"zzz\"] (audience=[\"aud1\"])");
    assert_eq!(
        error(&good, "aud1", &bundles("onprem.example", "rs256-onprem")),
        "no keys found for trust domain \"cloud.example\""
    );
    assert_eq!(
        error(&good, "aud1", &bundles("cloud.example", "es384-cloud-other-ca")),
        "public key \"epeGaA3Wlze8NqXEbrYmBLW8muSEbSH5\" not found in trust domain \"cloud.example\""
    );
    let mut forged = good;
    forged.replace_range(forged.len() - 10.., "AAAAAAAAAA");
    assert_eq!(error(&forged, "aud1", &cloud), "go-jose/go-jose: error in cryptographic primitive");
}

#[test]
fn a_wit_svid_is_no_jwt_svid() {
    let cloud = bundles("cloud.example", "es256-cloud");
    assert_eq!(verify(&token("wit-es256"), None, &cloud, CAPTURED).unwrap_err(), JwtSvidError::Type);
}
