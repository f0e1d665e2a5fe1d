use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::json;

use super::*;
use crate::certificate::CertificateError;
use crate::test_data::*;

fn parsed(document: &Value) -> Result<ParsedBundle, BundleJsonError> {
    parse(&trust_domain("cloud.example"), document.to_string().as_bytes())
}

fn error(document: &Value) -> String {
    parsed(document).unwrap_err().to_string()
}

/// A document with one JWT and one X.509 key.
fn document() -> Value {
    let bundle = Bundle::new(trust_domain("cloud.example"))
        .with_x509_authorities([POOL.0[0].clone()])
        .with_jwt_authorities([POOL.1[0].clone()]);
    serde_json::from_slice(&encode(&bundle)).unwrap()
}

fn with_key(index: usize, change: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut document = document();
    change(document["keys"][index].as_object_mut().unwrap());
    document
}

fn skipped(document: &Value) -> Vec<SkipReason> {
    let parsed = parsed(document).unwrap();
    assert_eq!(
        parsed.bundle.x509_authorities().len() + parsed.bundle.jwt_authorities().len(),
        1,
        "the other key stays"
    );
    parsed.skipped.into_iter().map(|key| key.reason).collect()
}

#[test]
fn a_document_reads_back() {
    let parsed = parsed(&document()).unwrap();
    assert_eq!(parsed.bundle.x509_authorities(), &POOL.0[..1]);
    assert_eq!(parsed.bundle.jwt_authorities(), &POOL.1[..1]);
    assert_eq!((parsed.bundle.refresh_hint(), parsed.bundle.sequence()), (None, None));
    assert_eq!(parsed.skipped, []);
}

#[test]
fn keys_must_be_present_and_may_be_empty() {
    assert_eq!(error(&json!({})), "bundle has no `keys`; a SPIFFE bundle must have it, empty or not");
    assert!(parsed(&json!({"keys": []})).unwrap().bundle.is_empty());
    for keys in [json!(null), json!({}), json!("x"), json!([1]), json!([[]])] {
        assert_eq!(error(&json!({ "keys": keys })), "`keys` of the bundle must be an array of objects");
    }
    for document in [json!([]), json!(null), json!("x")] {
        assert!(matches!(parsed(&document), Err(BundleJsonError::NotAnObject { .. })));
    }
}

#[test]
fn what_is_no_json_object_is_shown() {
    let error = |bytes: &[u8]| parse(&trust_domain("cloud.example"), bytes).unwrap_err().to_string();
    for empty in [&b""[..], b" \r\n\t"] {
        assert_eq!(error(empty), "bundle is empty");
    }
    assert_eq!(
        error(b"<!DOCTYPE html><html><body>Please log in.</body></html>"),
        "bundle is not acceptable JSON: it begins with `<!DOCTYPE html><html><body>Please log in` instead of an object"
    );
    assert!(error(b"\x1f\x8b\x08\0\x1b[31m").contains("begins with `\\x1f\\x8b\\x08\\x00\\x1b[31m` instead"));
    assert!(error("\u{feff}{}".as_bytes()).contains("begins with `\\xef\\xbb\\xbf{}` instead"));
    assert!(parse(&trust_domain("cloud.example"), b" \n{\"keys\": []}").is_ok());
}

#[test]
fn a_key_of_unknown_or_missing_use_is_passed_over() {
    assert_eq!(skipped(&with_key(0, |key| drop(key.remove("use")))), [SkipReason::MissingUse]);
    assert_eq!(skipped(&with_key(1, |key| drop(key.insert("use".into(), 5.into())))), [SkipReason::MissingUse]);
    for name in ["sig", "X509-SVID", "", "ssh-svid"] {
        let document = with_key(1, |key| drop(key.insert("use".into(), name.into())));
        assert_eq!(skipped(&document), [SkipReason::UnknownUse(name.into())]);
    }
    let bad_and_unknown = with_key(1, |key| {
        key.insert("use".into(), "new-svid".into());
        key.insert("kty".into(), "EC".into());
        key.insert("x".into(), "!".into());
    });
    assert_eq!(skipped(&bad_and_unknown), [SkipReason::UnknownUse("new-svid".into())], "nothing else is looked at");
}

#[test]
fn a_key_of_unknown_or_missing_kty_is_passed_over() {
    for index in [0, 1] {
        assert_eq!(skipped(&with_key(index, |key| drop(key.remove("kty")))), [SkipReason::MissingKeyType]);
        let unknown = with_key(index, |key| drop(key.insert("kty".into(), "AKP".into())));
        assert_eq!(skipped(&unknown), [SkipReason::UnsupportedKey(PublicKeyError::UnsupportedType("AKP".into()))]);
        let curve = with_key(index, |key| drop(key.insert("crv".into(), "secp256k1".into())));
        assert_eq!(skipped(&curve), [SkipReason::UnsupportedKey(PublicKeyError::UnsupportedCurve("secp256k1".into()))]);
    }
    let parsed = parsed(&with_key(1, |key| drop(key.remove("kty")))).unwrap();
    assert_eq!(parsed.skipped[0].to_string(), "key 1: no `kty`");
}

#[test]
fn an_x509_key_needs_its_certificate() {
    assert_eq!(skipped(&with_key(0, |key| drop(key.remove("x5c")))), [SkipReason::NoCertificate]);
    assert_eq!(skipped(&with_key(0, |key| drop(key.insert("x5c".into(), json!([]))))), [SkipReason::NoCertificate]);
    for x5c in [json!("x"), json!({}), json!([5]), json!(["!"]), json!(null)] {
        let document = with_key(0, |key| drop(key.insert("x5c".into(), x5c)));
        assert_eq!(error(&document), "key 0 of the bundle: `x5c` must be an array with one base64 DER certificate");
    }
    let encode = |der: &[u8]| STANDARD.encode(der);
    let certificate = |der: &[u8]| with_key(0, |key| drop(key.insert("x5c".into(), json!([encode(der)]))));
    assert_eq!(error(&certificate(b"not der")), "key 0 of the bundle: x509: malformed certificate");
    assert_eq!(error(&certificate(b"")), "key 0 of the bundle: certificate is empty");
    let two = [POOL.0[0].der(), POOL.0[1].der()].concat();
    assert!(matches!(
        parsed(&certificate(&two)),
        Err(BundleJsonError::Key {
            index: 0,
            reason: KeyError::Authority(BundleError::Certificate(CertificateError::TrailingBytes))
        })
    ));
    assert!(matches!(
        parsed(&certificate(POOL.0[1].der())),
        Err(BundleJsonError::Key { index: 0, reason: KeyError::OtherKey })
    ));
}

#[test]
fn the_first_certificate_of_several_counts() {
    let document = with_key(0, |key| {
        key["x5c"].as_array_mut().unwrap().push(STANDARD.encode(POOL.0[1].der()).into());
    });
    let parsed = parsed(&document).unwrap();
    assert_eq!(parsed.bundle.x509_authorities(), &POOL.0[..1]);
    assert_eq!(parsed.skipped, [SkippedKey { index: 0, reason: SkipReason::FurtherCertificates(1) }]);
}

#[test]
fn a_jwt_key_needs_its_kid() {
    for change in [json!(null), json!(""), json!(5)] {
        let document = with_key(1, |key| drop(key.insert("kid".into(), change)));
        assert_eq!(
            error(&document),
            "key 1 of the bundle: `kid` is missing or empty; keys that sign tokens must have it"
        );
    }
    assert!(matches!(
        parsed(&with_key(1, |key| drop(key.remove("kid")))),
        Err(BundleJsonError::Key { index: 1, reason: KeyError::MissingKeyId })
    ));
    let long = with_key(1, |key| drop(key.insert("kid".into(), "k".repeat(1025).into())));
    assert!(matches!(
        parsed(&long),
        Err(BundleJsonError::Key { reason: KeyError::Authority(BundleError::KeyIdTooLong), .. })
    ));
}

#[test]
fn one_kid_names_one_key() {
    let mut repeated = document();
    let key = repeated["keys"][1].clone();
    repeated["keys"].as_array_mut().unwrap().push(key);
    assert_eq!(parsed(&repeated).unwrap().bundle.jwt_authorities(), &POOL.1[..1]);
    let mut other = POOL.1[1].public_key().to_jwk();
    other.insert("use".into(), "jwt-svid".into());
    other.insert("kid".into(), POOL.1[0].key_id().into());
    repeated["keys"].as_array_mut().unwrap().push(Value::Object(other));
    assert_eq!(error(&repeated), "key 3 of the bundle: `kid` \"a\" names two different keys");
}

#[test]
fn wit_keys_are_read_and_not_written() {
    let document = with_key(1, |key| drop(key.insert("use".into(), "wit-svid".into())));
    let parsed = parsed(&document).unwrap();
    assert_eq!((parsed.bundle.wit_authorities(), parsed.bundle.jwt_authorities()), (&POOL.1[..1], &[][..]));
    assert!(!String::from_utf8(encode(&parsed.bundle)).unwrap().contains("wit-svid"));
}

#[test]
fn hint_and_sequence_are_integers() {
    let mut document = document();
    document["spiffe_refresh_hint"] = json!(60);
    document["spiffe_sequence"] = json!(u64::MAX);
    let bundle = parsed(&document).unwrap().bundle;
    assert_eq!((bundle.refresh_hint(), bundle.sequence()), (Some(Duration::from_secs(60)), Some(u64::MAX)));
    for name in ["spiffe_refresh_hint", "spiffe_sequence"] {
        for value in [json!(-1), json!(1.5), json!("1"), json!(null), json!([])] {
            let mut document = document.clone();
            document[name] = value;
            assert_eq!(error(&document), format!("`{name}` of the bundle must be an integer from 0 to 2^64 - 1"));
        }
    }
    document["something_new"] = json!({"a": [1, 2]});
    assert!(parsed(&document).is_ok(), "unknown members are ignored");
}

#[test]
fn duplicate_names_are_refused_at_any_level() {
    let text = document().to_string();
    for (part, repeated) in [
        ("{\"keys\":", "{\"keys\":[],\"keys\":"),
        ("\"use\":\"jwt-svid\"", "\"use\":\"jwt-svid\",\"use\":\"jwt-svid\""),
        ("\"kid\":", "\"kid\":\"z\",\"kid\":"),
    ] {
        let document = text.replacen(part, repeated, 1);
        assert_ne!(document, text);
        let message = parse(&trust_domain("td"), document.as_bytes()).unwrap_err().to_string();
        assert!(message.contains("appears twice"), "{message}");
    }
}

#[test]
fn size_depth_and_number_of_keys_are_bounded() {
    assert!(matches!(parse(&trust_domain("td"), &vec![b' '; MAX_BUNDLE_BYTES + 1]), Err(BundleJsonError::TooLong)));
    let deep = format!("{{\"keys\":[],\"x\":{}{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert!(parse(&trust_domain("td"), deep.as_bytes()).unwrap_err().to_string().contains("nested too deeply"));
    let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]});
    assert!(matches!(parsed(&many), Err(BundleJsonError::TooManyKeys)));
    assert!(parsed(&json!({"keys": vec![json!({}); MAX_KEYS]})).is_ok());
}

#[test]
fn malformed_keys_refuse_the_whole_bundle() {
    let document = with_key(1, |key| drop(key.insert("x".into(), "AAAA".into())));
    assert_eq!(error(&document), "key 1 of the bundle: JWK member `x` is missing or malformed");
    let private = with_key(1, |key| drop(key.insert("d".into(), "AAAA".into())));
    assert!(error(&private).contains("private key"));
}

#[test]
fn empty_bundles_have_the_layout_of_the_wire() {
    let bundle = Bundle::new(trust_domain("td"));
    assert_eq!(encode(&bundle), b"{\n    \"keys\": []\n}");
    let bundle = bundle.with_sequence(Some(3)).with_refresh_hint(Some(Duration::from_secs(300)));
    let text = "{\n    \"keys\": [],\n    \"spiffe_sequence\": 3,\n    \"spiffe_refresh_hint\": 300\n}";
    assert_eq!(String::from_utf8(encode(&bundle)).unwrap(), text);
    assert_eq!(encode_jwks(&bundle), b"{\n    \"keys\": []\n}");
}

proptest! {
    #[test]
    fn bundles_round_trip(
        x509 in subsequence(POOL.0.clone(), 0..=4).prop_shuffle(),
        jwt in subsequence(POOL.1.clone(), 0..=4).prop_shuffle(),
        hint in proptest::option::of(1u64..=u64::MAX),
        sequence in proptest::option::of(1u64..=u64::MAX),
    ) {
        let bundle = Bundle::new(trust_domain("cloud.example"))
            .with_x509_authorities(x509)
            .with_jwt_authorities(jwt)
            .with_refresh_hint(hint.map(Duration::from_secs))
            .with_sequence(sequence);
        let bytes = encode(&bundle);
        let read = parse(bundle.trust_domain(), &bytes).unwrap();
        prop_assert!(read.bundle.same_content(&bundle) && read.skipped.is_empty());
        prop_assert_eq!(read.bundle.sequence(), bundle.sequence());
        prop_assert_eq!(encode(&read.bundle), bytes);
    }

    #[test]
    fn altered_documents_never_panic(position in 0usize..2000, value: u8) {
        let mut bytes = document().to_string().into_bytes();
        let length = bytes.len();
        bytes[position % length] = value;
        if let Ok(read) = parse(&trust_domain("td"), &bytes) {
            let again = parse(&trust_domain("td"), &encode(&read.bundle)).unwrap();
            prop_assert!(again.bundle.same_content(&read.bundle.with_wit_authorities([])));
        }
    }
}
