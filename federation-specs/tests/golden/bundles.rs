use std::time::Duration;

use federation_specs::bundle::Bundle;
use federation_specs::bundle_change::{Comparison, compare};
use federation_specs::bundle_json::{encode, encode_jwks, encode_oidc_jwks, parse};
use federation_specs::convert::{bundle_from_proto, bundle_to_proto};
use federation_specs::public_key::KeyKind;

use crate::{read, text, trust_domain};

fn bundle(domain: &str, file: &str) -> Bundle {
    let parsed = parse(&trust_domain(domain), &read(file)).unwrap();
    assert_eq!(parsed.skipped, []);
    parsed.bundle
}

#[test]
fn captured_documents_are_encoded_to_the_same_bytes() {
    for (domain, file) in [
        ("cloud.example", "bundle/https_spiffe.json"),
        ("onprem.example", "bundle/https_web.json"),
        ("cloud.example", "jwt/es256-cloud.bundle.json"),
        ("cloud.example", "jwt/es384-cloud-other-ca.bundle.json"),
        ("rot.example", "rotation/1-start.json"),
    ] {
        let encoded = String::from_utf8(encode(&bundle(domain, file))).unwrap();
        assert_eq!(encoded, text(file).trim_end(), "{file}");
    }
}

#[test]
fn contents_of_a_captured_bundle() {
    let cloud = bundle("cloud.example", "bundle/https_spiffe.json");
    assert_eq!((cloud.sequence(), cloud.refresh_hint()), (Some(1), Some(Duration::from_secs(120))));
    let [root] = cloud.x509_authorities() else { panic!("one root") };
    assert_eq!(root.key_id_hex(), "fd966b2bf9fe3e5b14402d5d47074667add39036");
    assert_eq!(root.certificate().serial_decimal(), "284701330787757378198779361223424583425");
    assert_eq!(root.certificate().names().uris, ["spiffe://cloud.example"]);
    assert!(root.certificate().is_self_signed() && !root.tainted());
    assert_eq!(cloud.find_jwt("epeGaA3Wlze8NqXEbrYmBLW8muSEbSH5").unwrap().public_key().kind(), KeyKind::P256);

    let onprem = bundle("onprem.example", "bundle/https_web.json");
    assert_eq!(onprem.x509_authorities()[0].certificate().public_key().unwrap().kind(), KeyKind::Rsa(2048));
}

#[test]
fn order_in_a_captured_document_does_not_matter() {
    let held = bundle("rot.example", "rotation/2-prepared-two-roots.json");
    let other = bundle("rot.example", "rotation/2-same-sequence-other-order.json");
    assert_ne!(read("rotation/2-prepared-two-roots.json"), read("rotation/2-same-sequence-other-order.json"));
    assert!(held.same_content(&other));
    assert_eq!(compare(Some(&held), &other), Comparison::Unchanged);
    assert_eq!(encode(&held), encode(&other));
}

#[test]
fn captured_rotation_keeps_the_old_roots() {
    let steps = ["1-start", "2-prepared-two-roots", "3-second-rotation-three-roots"]
        .map(|step| bundle("rot.example", &format!("rotation/{step}.json")));
    for (index, pair) in steps.windows(2).enumerate() {
        let Comparison::Changed(change) = compare(Some(&pair[0]), &pair[1]) else { panic!("a change") };
        assert_eq!((change.x509.kept.len(), change.x509.added.len(), change.x509.removed.len()), (index + 1, 1, 0));
        assert_eq!((change.jwt.kept.len(), change.jwt.added.len(), change.jwt.removed.len()), (index + 1, 1, 0));
        let back = compare(Some(&pair[1]), &pair[0]);
        assert!(matches!(back, Comparison::Rollback { held, fetched } if fetched < held));
    }
}

#[test]
fn key_sets_for_workloads_and_for_oidc() {
    let cloud = bundle("cloud.example", "jwt/es256-cloud.bundle.json");
    let value = |bytes: &[u8]| {
        let mut document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        document["keys"].as_array_mut().unwrap().sort_by_key(|key| key["kid"].as_str().unwrap().to_owned());
        document
    };
    let jwks = encode_jwks(&cloud);
    assert_eq!(value(&jwks), value(&read("jwt/workload-api-jwks-cloud.json")));
    let line_lengths = |text: &str| {
        let mut lengths: Vec<usize> = text.lines().map(str::len).collect();
        lengths.sort_unstable();
        lengths
    };
    assert_eq!(
        line_lengths(&String::from_utf8(jwks).unwrap()),
        line_lengths(&text("jwt/workload-api-jwks-cloud.json")),
        "same layout"
    );

    let oidc = String::from_utf8(encode_oidc_jwks(&cloud)).unwrap();
    assert_eq!(value(oidc.as_bytes()), value(&read("oidc/keys-with-use.json")));
    let without_use: String =
        oidc.lines().filter(|line| !line.contains("\"use\"")).map(|line| format!("{line}\n")).collect();
    assert_eq!(without_use, text("oidc/keys.json"));
}

#[test]
fn protobuf_form_keeps_everything() {
    for (domain, file) in
        [("rot.example", "rotation/3-second-rotation-three-roots.json"), ("onprem.example", "bundle/https_web.json")]
    {
        let bundle = bundle(domain, file);
        assert_eq!(bundle_from_proto(&bundle_to_proto(&bundle)).unwrap(), bundle);
    }
}

#[test]
fn pem_form_round_trips() {
    let pem = text("certs/nested-bundle.pem");
    let bundle = Bundle::parse_pem_roots(trust_domain("cloud.example"), pem.as_bytes()).unwrap();
    assert_eq!(bundle.to_pem(), pem);
}
