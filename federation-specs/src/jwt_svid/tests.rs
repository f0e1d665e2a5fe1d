use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self as aws, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    EcdsaKeyPair, RsaKeyPair,
};
use proptest::prelude::*;
use rcgen::KeyPair;
use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::bundle::{Bundle, JwtAuthority};
use crate::public_key::KeyKind;
use crate::test_data::{public_key, trust_domain};

const NOW: OffsetDateTime = datetime!(2030-06-01 12:00 UTC);
const KEY_ID: &str = "key-1";

/// A signer such as the issuer's key manager: PKCS#8 in, DER out.
struct TestKey {
    pair: KeyPair,
}

impl TestKey {
    fn new(algorithm: JwsAlgorithm) -> Self {
        let pair = match algorithm {
            JwsAlgorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            JwsAlgorithm::ES384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            JwsAlgorithm::ES512 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            _ => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        };
        Self { pair: pair.unwrap() }
    }

    fn sign(&self, algorithm: JwsAlgorithm, message: &[u8]) -> Vec<u8> {
        let pkcs8 = self.pair.serialize_der();
        let random = SystemRandom::new();
        let ecdsa = |signing| {
            EcdsaKeyPair::from_pkcs8(signing, &pkcs8).unwrap().sign(&random, message).unwrap().as_ref().to_vec()
        };
        let rsa = |padding: &'static dyn aws::RsaEncoding| {
            let key = RsaKeyPair::from_pkcs8(&pkcs8).unwrap();
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            JwsAlgorithm::ES256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            JwsAlgorithm::ES384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            JwsAlgorithm::ES512 => ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING),
            JwsAlgorithm::RS256 => rsa(&aws::RSA_PKCS1_SHA256),
            JwsAlgorithm::RS384 => rsa(&aws::RSA_PKCS1_SHA384),
            JwsAlgorithm::RS512 => rsa(&aws::RSA_PKCS1_SHA512),
            JwsAlgorithm::PS256 => rsa(&aws::RSA_PSS_SHA256),
            JwsAlgorithm::PS384 => rsa(&aws::RSA_PSS_SHA384),
            JwsAlgorithm::PS512 => rsa(&aws::RSA_PSS_SHA512),
        }
    }

    fn token(&self, algorithm: JwsAlgorithm, claims: &Value) -> String {
        let input = signing_input(algorithm, KEY_ID, "JWT", claims.as_object().unwrap());
        let signature = self.sign(algorithm, input.as_bytes());
        input.assemble(&signature).unwrap()
    }

    /// A token with a header of one's own, signed by ES256.
    fn token_with_header(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(JwsAlgorithm::ES256, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(raw_ecdsa_from_der(&signature, 32).unwrap()))
    }

    fn bundles(&self) -> BundleSet {
        let authority = JwtAuthority::new(KEY_ID, public_key(&self.pair), None, false).unwrap();
        BundleSet::from_iter([Bundle::new(trust_domain("cloud.example")).with_jwt_authorities([authority]).into()])
    }
}

fn claims() -> Value {
    let now = NOW.unix_timestamp();
    json!({"aud": ["one", "two"], "exp": now + 300, "iat": now, "sub": "spiffe://cloud.example/billing"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// The error of ES256 tokens with each of these claims.
fn errors(cases: &[Value]) -> Vec<String> {
    let key = TestKey::new(JwsAlgorithm::ES256);
    let bundles = key.bundles();
    let error = |claims: &Value| match verify(&key.token(JwsAlgorithm::ES256, claims), Some("one"), &bundles, NOW) {
        Ok(_) => "verified".to_owned(),
        Err(error) => error.to_string(),
    };
    cases.iter().map(error).collect()
}

#[test]
fn all_nine_algorithms_verify() {
    for algorithm in JwsAlgorithm::ALL {
        let key = TestKey::new(algorithm);
        let token = key.token(algorithm, &claims());
        let svid =
            verify(&token, Some("two"), &key.bundles(), NOW).unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(svid.id().as_str(), "spiffe://cloud.example/billing");
        assert_eq!(svid.audience(), ["one", "two"]);
        assert_eq!(svid.issued_at(), Some(NOW));
        assert_eq!(Value::Object(svid.claims().clone()), claims());

        let mut altered = token.clone().into_bytes();
        let position = altered.len() - 20;
        altered[position] = if altered[position] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        assert_eq!(verify(&altered, Some("two"), &key.bundles(), NOW), Err(JwtSvidError::Signature), "{algorithm}");
        let other = TestKey::new(algorithm).bundles();
        assert_eq!(verify(&token, Some("two"), &other, NOW), Err(JwtSvidError::Signature), "{algorithm}");
    }
}

#[test]
fn the_algorithm_must_fit_the_key() {
    let key = TestKey::new(JwsAlgorithm::ES256);
    for algorithm in JwsAlgorithm::ALL.into_iter().filter(|algorithm| !algorithm.fits(KeyKind::P256)) {
        let header = format!("{{\"alg\":\"{algorithm}\",\"kid\":\"{KEY_ID}\"}}");
        let token = key.token_with_header(&header, &claims().to_string());
        assert_eq!(verify(&token, None, &key.bundles(), NOW), Err(JwtSvidError::Signature), "{algorithm}");
    }
}

#[test]
fn header_rules() {
    let key = TestKey::new(JwsAlgorithm::ES256);
    let bundles = key.bundles();
    let result = |header: &str| {
        verify(&key.token_with_header(header, &claims().to_string()), Some("one"), &bundles, NOW)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(result(r#"{"alg":"ES256","kid":"key-1"}"#), Ok(()));
    for typ in ["JWT", "JOSE"] {
        assert_eq!(result(&format!(r#"{{"alg":"ES256","kid":"key-1","typ":"{typ}"}}"#)), Ok(()));
    }
    for typ in ["\"at+jwt\"", "\"wit+jwt\"", "\"jwt\"", "5"] {
        assert!(result(&format!(r#"{{"alg":"ES256","kid":"key-1","typ":{typ}}}"#)).unwrap_err().contains("type"));
    }
    for name in ["none", "HS256", "EdDSA", ""] {
        assert_eq!(
            result(&format!(r#"{{"alg":"{name}","kid":"key-1"}}"#)).unwrap_err(),
            format!(
                "unable to parse JWT token: unexpected signature algorithm \"{name}\"; expected [\"ES256\" \"ES384\" \"ES512\" \"RS256\" \"RS384\" \"RS512\" \"PS256\" \"PS384\" \"PS512\"]"
            )
        );
    }
    for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":""}"#, r#"{"alg":"ES256","kid":1}"#] {
        assert_eq!(result(header).unwrap_err(), "token header missing key id");
    }
    assert_eq!(
        result(r#"{"alg":"ES256","kid":"other"}"#).unwrap_err(),
        "public key \"other\" not found in trust domain \"cloud.example\""
    );
    for header in [
        r#"{"alg":"ES256","kid":"key-1","crit":["b64"],"b64":false}"#,
        r#"{"alg":"ES256","alg":"ES256","kid":"key-1"}"#,
        "[]",
        "x",
        "",
    ] {
        assert!(result(header).unwrap_err().starts_with("unable to parse JWT token: "), "{header}");
    }
}

#[test]
fn claim_rules_and_their_words() {
    let now = NOW.unix_timestamp();
    let cases = [
        (claims(), "verified"),
        (with("aud", json!("one")), "verified"),
        (without("iat"), "verified"),
        (without("sub"), "token missing subject claim"),
        (with("sub", json!("")), "token missing subject claim"),
        (with("sub", json!(null)), "token missing subject claim"),
        (with("sub", json!("billing")), "token has in invalid subject claim: scheme is missing or invalid"),
        (with("sub", json!("spiffe://cloud.example")), "token has in invalid subject claim: path is empty"),
        (with("sub", json!("spiffe://other.example/a")), "no keys found for trust domain \"other.example\""),
        (without("exp"), "token missing exp claim"),
        (with("exp", json!(null)), "token missing exp claim"),
        (without("aud"), "expected audience in [\"one\"] (audience=[])"),
        (with("aud", json!([])), "expected audience in [\"one\"] (audience=[])"),
        (with("aud", json!(["x", "y"])), "expected audience in [\"one\"] (audience=[\"x\" \"y\"])"),
        (with("exp", json!(now - 60)), "verified"),
        (with("exp", json!(now - 61)), "token has expired"),
        (with("exp", json!(1)), "token has expired"),
        (with("exp", json!((now + 5) as f64 + 0.5)), "verified"),
        (with("iat", json!(now + 60)), "verified"),
        (with("iat", json!(now + 61)), "go-jose/go-jose/jwt: validation field, token issued in the future (iat)"),
        (with("nbf", json!(now + 60)), "verified"),
        (with("nbf", json!(now + 61)), "go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)"),
    ];
    let (inputs, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    assert_eq!(errors(&inputs), expected);

    let malformed = [
        with("exp", json!("soon")),
        with("exp", json!(1e300)),
        with("exp", json!(i64::MAX)),
        with("iat", json!([])),
        with("nbf", json!(-1e300)),
        with("aud", json!(5)),
        with("aud", json!([5])),
        with("sub", json!(5)),
    ];
    for error in errors(&malformed) {
        assert!(error.starts_with("unable to parse JWT token: claim "), "{error}");
    }
}

#[test]
fn an_audience_is_demanded_even_if_none_is_wanted() {
    let key = TestKey::new(JwsAlgorithm::ES256);
    let token = key.token(JwsAlgorithm::ES256, &without("aud"));
    assert_eq!(verify(&token, None, &key.bundles(), NOW), Err(JwtSvidError::MissingAudience));
    let token = key.token(JwsAlgorithm::ES256, &claims());
    assert!(verify(&token, None, &key.bundles(), NOW).is_ok());
}

#[test]
fn presence_comes_before_signature_and_signature_before_audience() {
    let key = TestKey::new(JwsAlgorithm::ES256);
    let bundles = key.bundles();
    let unsigned = |claims: &Value| {
        let token = key.token(JwsAlgorithm::ES256, claims);
        format!("{}.AAAA", token.rsplit_once('.').unwrap().0)
    };
    let error = |claims: &Value| verify(&unsigned(claims), Some("zzz"), &bundles, NOW).unwrap_err();
    assert_eq!(error(&without("exp")), JwtSvidError::MissingExpiry);
    assert!(matches!(error(&with("sub", json!("spiffe://other.example/a"))), JwtSvidError::NoBundle(_)));
    assert_eq!(error(&with("exp", json!(1))), JwtSvidError::Signature);
    assert_eq!(error(&claims()), JwtSvidError::Signature);
}

#[test]
fn the_subject_decides_which_bundle_is_used() {
    let (cloud, onprem) = (TestKey::new(JwsAlgorithm::ES256), TestKey::new(JwsAlgorithm::ES256));
    let bundle = |name: &str, key: &TestKey| {
        let authority = JwtAuthority::new(KEY_ID, public_key(&key.pair), None, false).unwrap();
        Bundle::new(trust_domain(name)).with_jwt_authorities([authority]).into()
    };
    let both = BundleSet::from_iter([bundle("cloud.example", &cloud), bundle("onprem.example", &onprem)]);
    let forged = cloud.token(JwsAlgorithm::ES256, &with("sub", json!("spiffe://onprem.example/x")));
    assert_eq!(verify(&forged, None, &both, NOW), Err(JwtSvidError::Signature));
    let own = onprem.token(JwsAlgorithm::ES256, &with("sub", json!("spiffe://onprem.example/x")));
    assert!(verify(&own, None, &both, NOW).is_ok());
}

#[test]
fn form_is_strict() {
    let key = TestKey::new(JwsAlgorithm::ES256);
    let bundles = key.bundles();
    let token = key.token(JwsAlgorithm::ES256, &claims());
    let error = |token: &str| verify(token, None, &bundles, NOW).unwrap_err().to_string();
    for text in ["", "x", "a.b", "a.b.c.d", &format!("{token}.x")] {
        assert_eq!(error(text), "unable to parse JWT token: go-jose/go-jose: compact JWS format must have three parts");
    }
    for text in [format!(" {token}"), format!("{token} "), format!("{token}="), token.replacen('.', "=.", 1)] {
        assert!(error(&text).starts_with("unable to parse JWT token: "), "{text}");
    }
    assert!(error(&"a".repeat(MAX_TOKEN_BYTES + 1)).contains("longer"));
    let twice = key.token_with_header(
        r#"{"alg":"ES256","kid":"key-1"}"#,
        r#"{"sub":"spiffe://cloud.example/a","sub":"spiffe://cloud.example/b","exp":9999999999,"aud":"x"}"#,
    );
    assert!(error(&twice).contains("appears twice"));
    assert_eq!(read_unverified(&token).unwrap().0.as_str(), "spiffe://cloud.example/billing");
}

#[test]
fn layout_of_a_signed_token() {
    let input = signing_input(JwsAlgorithm::RS256, "k", "JWT", json!({"sub": "s"}).as_object().unwrap());
    let text = std::str::from_utf8(input.as_bytes()).unwrap().to_owned();
    let (header, body) = text.split_once('.').unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"RS256","kid":"k","typ":"JWT"}"#);
    assert_eq!(URL_SAFE_NO_PAD.decode(body).unwrap(), br#"{"sub":"s"}"#);
    assert_eq!(input.assemble(&[1, 2, 3]).unwrap(), format!("{text}.AQID"));
}

#[test]
fn ecdsa_numbers_are_padded_to_the_curve() {
    let der = [0x30, 0x07, 0x02, 0x01, 0x05, 0x02, 0x02, 0x00, 0x80];
    let raw = raw_ecdsa_from_der(&der, 32).unwrap();
    assert_eq!((raw.len(), raw[31], raw[63]), (64, 5, 0x80));
    assert_eq!(raw.iter().filter(|byte| **byte != 0).count(), 2);
    assert_eq!(raw_ecdsa_from_der(&der, 66).unwrap().len(), 132);
    for bad in [&der[..8], &[der.as_slice(), &[0]].concat(), &[], &[0x30, 0x00]] {
        assert_eq!(raw_ecdsa_from_der(bad, 32), Err(SigningError::EcdsaSignature(32)));
    }
    let too_long = [&[0x30, 0x26, 0x02, 0x21][..], &[1; 33], &[0x02, 0x01, 0x01]].concat();
    assert_eq!(raw_ecdsa_from_der(&too_long, 32), Err(SigningError::EcdsaSignature(32)));
}

proptest! {
    #[test]
    fn no_text_makes_the_verifier_panic(text in "[A-Za-z0-9_.=-]{0,80}", header in ".{0,40}", claims in ".{0,40}") {
        let bundles = BundleSet::new();
        prop_assert!(verify(&text, None, &bundles, NOW).is_err());
        let token = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        prop_assert!(verify(&token, None, &bundles, NOW).is_err());
    }
}
