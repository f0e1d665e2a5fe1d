use rcgen::{KeyPair, PublicKeyData as _};

use super::*;

fn rcgen_key(algorithm: &'static rcgen::SignatureAlgorithm) -> PublicKey {
    PublicKey::from_spki_der(&KeyPair::generate_for(algorithm).unwrap().subject_public_key_info()).unwrap()
}

#[test]
fn every_kind_round_trips_as_jwk() {
    for (algorithm, kind, jws) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::P256, Some(JwsAlgorithm::ES256)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::P384, Some(JwsAlgorithm::ES384)),
        (&rcgen::PKCS_ECDSA_P521_SHA512, KeyKind::P521, Some(JwsAlgorithm::ES512)),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519, None),
    ] {
        let key = rcgen_key(algorithm);
        assert_eq!((key.kind(), key.jws_algorithm()), (kind, jws));
        assert_eq!(PublicKey::from_jwk(&key.to_jwk()).unwrap(), key);
    }
    let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key = PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap();
    assert_eq!((key.kind(), key.jws_algorithm()), (KeyKind::Rsa(2048), Some(JwsAlgorithm::RS256)));
    assert_eq!(PublicKey::from_jwk(&key.to_jwk()).unwrap(), key);
}

#[test]
fn members_come_in_the_order_of_the_wire() {
    let names = |key: &PublicKey| key.to_jwk().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256)), "kty crv x y");
    assert_eq!(names(&rcgen_key(&rcgen::PKCS_ED25519)), "kty crv x");
}

#[test]
fn bad_spki_is_refused() {
    let good = rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256).spki_der().to_vec();
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(PublicKey::from_spki_der(&longer), Err(PublicKeyError::Malformed("bytes follow the key")));
    assert!(matches!(PublicKey::from_spki_der(b"not der"), Err(PublicKeyError::Malformed(_))));
    assert!(matches!(PublicKey::from_spki_der(&[]), Err(PublicKeyError::Malformed(_))));
    let mut off_curve = good.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    assert_eq!(PublicKey::from_spki_der(&off_curve), Err(PublicKeyError::InvalidValue));
    let mut other_curve = good;
    other_curve[22] ^= 1; // 1.2.840.10045.3.1.6, prime239v3
    assert!(PublicKey::from_spki_der(&other_curve).unwrap_err().is_unsupported());
}

#[test]
fn rsa_sizes_and_exponents_are_bounded() {
    let jwk = |modulus: &[u8], exponent: &[u8]| {
        use base64::Engine as _;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        serde_json::json!({"kty": "RSA", "n": encode(modulus), "e": encode(exponent)}).as_object().unwrap().clone()
    };
    let modulus = |bits: usize| {
        let mut bytes = vec![0xff; bits / 8];
        bytes[0] = 0x80;
        bytes
    };
    assert_eq!(PublicKey::from_jwk(&jwk(&modulus(1024), &[1, 0, 1])), Err(PublicKeyError::RsaSize(1024)));
    assert_eq!(PublicKey::from_jwk(&jwk(&modulus(16384), &[1, 0, 1])), Err(PublicKeyError::RsaSize(16384)));
    assert_eq!(PublicKey::from_jwk(&jwk(&modulus(2048), &[1, 0, 1])).unwrap().kind(), KeyKind::Rsa(2048));
    for exponent in [&[1][..], &[4], &[1, 0, 0, 0, 1], &[0xff; 12]] {
        assert_eq!(PublicKey::from_jwk(&jwk(&modulus(2048), exponent)), Err(PublicKeyError::InvalidValue));
    }
}

#[test]
fn jwk_faults_name_the_member() {
    let key = rcgen_key(&rcgen::PKCS_ECDSA_P256_SHA256).to_jwk();
    let with = |name: &str, value: serde_json::Value| {
        let mut members = key.clone();
        members.insert(name.to_owned(), value);
        PublicKey::from_jwk(&members).unwrap_err()
    };
    assert_eq!(with("x", "AAAA".into()), PublicKeyError::JwkMember("x"));
    assert_eq!(with("y", 5.into()), PublicKeyError::JwkMember("y"));
    assert_eq!(with("kty", "oct".into()), PublicKeyError::UnsupportedType("oct".into()));
    assert_eq!(with("crv", "secp256k1".into()), PublicKeyError::UnsupportedCurve("secp256k1".into()));
    assert_eq!(with("d", "AAAA".into()), PublicKeyError::PrivateJwk);
}

#[test]
fn algorithms_fit_their_keys() {
    assert_eq!("PS512".parse::<JwsAlgorithm>().unwrap(), JwsAlgorithm::PS512);
    for name in ["none", "HS256", "EdDSA", "es256", ""] {
        assert_eq!(name.parse::<JwsAlgorithm>(), Err(UnknownAlgorithm(name.to_owned())));
    }
    assert!(JwsAlgorithm::PS256.fits(KeyKind::Rsa(2048)) && !JwsAlgorithm::ES256.fits(KeyKind::P384));
}
