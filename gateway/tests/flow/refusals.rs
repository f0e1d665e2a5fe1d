//! Each misbehaviour has its own clear error and leaves the bundle held before in force.

use gateway::api::Health;
use serde_json::json;

use crate::support::{
    PARTNER, Running, Setup,
    authority::{Authority, WebAuthority},
    partner::{Behaviour, Partner, document},
    td,
};

async fn held_at_five() -> (Setup, Authority, Partner, Running) {
    let mut setup = Setup::new().await;
    // Only the test decides when to fetch.
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    (setup, keys, partner, gateway)
}

async fn still_five(gateway: &Running) {
    let relationship = gateway.relationship(PARTNER).await;
    assert_eq!(relationship.held.unwrap().sequence, Some(5));
    assert_eq!(relationship.health, Health::Degraded);
    assert!(relationship.consecutive_failures >= 1);
}

#[tokio::test]
async fn bad_documents_are_named() {
    let (_setup, keys, partner, gateway) = held_at_five().await;
    let text = |text: &str| Behaviour::Document(text.as_bytes().to_vec());
    let cases = [
        (text("{}"), "has no `keys`"),
        (text("{\"keys\":[],\"keys\":[]}"), "not acceptable JSON"),
        (text("<html>"), "not acceptable JSON"),
        (text("{\"keys\":[{\"use\":\"x509-svid\",\"kty\":\"EC\"}]}"), "key 0 of the bundle"),
        (text("{\"keys\":[]}"), "has no keys any more"),
        (Behaviour::Document(vec![b' '; 100_001]), "sent more than 100000 bytes"),
        (Behaviour::Endless, "sent more than 100000 bytes"),
        (Behaviour::Status(404), "answered 404"),
        (Behaviour::Status(500), "answered 500"),
        (Behaviour::Hangup, "bundle"),
    ];
    for (behaviour, expected) in cases {
        partner.set(behaviour);
        let error = gateway.refused(PARTNER).await;
        assert!(error.contains(expected), "{expected}: {error}");
        still_five(&gateway).await;
    }
    partner.serve(&keys.bundle(6));
    let result = gateway.refresh(PARTNER, json!({})).await.unwrap();
    assert!(result.changed);
    assert_eq!(result.relationship.health, Health::Healthy);
    assert_eq!(result.relationship.last_error, None);
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_use_and_kty_spoil_only_their_key() {
    let (_setup, keys, partner, gateway) = held_at_five().await;
    let Behaviour::Document(bytes) = document(&keys.bundle(6)) else { unreachable!() };
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let list = value["keys"].as_array_mut().unwrap();
    list.push(json!({"use": "wit-next", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}));
    list.push(json!({"use": "jwt-svid", "kty": "AKP", "kid": "ml-dsa", "pub": "AAAA"}));
    partner.set(Behaviour::Document(serde_json::to_vec(&value).unwrap()));
    let result = gateway.refresh(PARTNER, json!({})).await.unwrap();
    let held = result.relationship.held.unwrap();
    assert_eq!((held.sequence, held.x509_authorities, held.jwt_authorities), (Some(6), 1, 1));
    gateway.stop().await;
}

#[tokio::test]
async fn a_rollback_is_refused_unless_accepted_once() {
    let (_setup, _, partner, gateway) = held_at_five().await;
    let older = Authority::new(&td(PARTNER));
    partner.serve(&older.bundle(3));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("went back from sequence 5 to 3"), "{error}");
    still_five(&gateway).await;

    // A bundle without a sequence is taken, but makes no room for an older one.
    partner.serve(&older.bundle(0));
    assert!(gateway.refresh(PARTNER, json!({})).await.unwrap().changed);
    assert!(!gateway.refresh(PARTNER, json!({})).await.unwrap().changed);
    partner.serve(&older.bundle(4));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("went back from sequence 5 to 4"), "{error}");

    let accepted =
        gateway.refresh(PARTNER, json!({"accept_rollback": true, "why": "they were rebuilt"})).await.unwrap();
    assert!(accepted.changed);
    assert_eq!(accepted.relationship.held.unwrap().sequence, Some(4));
    let page: gateway::api::audit::AuditPage = gateway.admin.get("/v1/audit?order=newest").await;
    let whys: Vec<String> = page.records.into_iter().map(|entry| entry.record.unwrap().why).collect();
    assert!(whys.contains(&"refreshed with accept_rollback: they were rebuilt".to_owned()), "{whys:?}");
    let long = gateway.refresh(PARTNER, json!({"why": "x".repeat(2000)})).await.unwrap_err();
    assert_eq!(long.status, 400);
    partner.serve(&older.bundle(5));
    assert!(gateway.refresh(PARTNER, json!({})).await.unwrap().changed, "the count goes on from there");
    gateway.stop().await;
}

#[tokio::test]
async fn an_emptied_bundle_is_taken_only_when_accepted() {
    let (setup, _, partner, gateway) = held_at_five().await;
    partner.serve(&federation_specs::bundle::Bundle::new(td(PARTNER)).with_sequence(Some(6)));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("refresh once with accept_emptied"), "{error}");
    still_five(&gateway).await;
    let accepted = gateway.refresh(PARTNER, json!({"accept_emptied": true})).await.unwrap();
    assert_eq!(accepted.relationship.held.unwrap().x509_authorities, 0);
    crate::support::eventually("delivery of the revocation", || async {
        setup.issuer.state().federated[PARTNER].is_empty()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let impostor = WebAuthority::new();
    let partner = Partner::web(impostor.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    // Without ca_file the system's authorities count, which do not know the test's.
    let unknown = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate(json!({"trust_domain": "third.example", "url": unknown.url(), "profile": "https_web"}));
    let gateway = setup.start().await;
    for name in [PARTNER, "third.example"] {
        let error = gateway.refused(name).await;
        assert!(error.contains("was not trusted"), "{error}");
        assert_eq!(gateway.relationship(name).await.health, Health::Failing);
    }
    assert_eq!(partner.requests(), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_spiffe_endpoint_must_be_exactly_the_agreed_one() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let forged = Authority::new(&td(PARTNER));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    std::fs::write(setup.file("bootstrap.json"), federation_specs::bundle_json::encode(&keys.bundle(1))).unwrap();
    let other_id = Partner::spiffe(keys.identity(&format!("{endpoint}/other")), document(&keys.bundle(1))).await;
    let forger = Partner::spiffe(forged.identity(&endpoint), document(&forged.bundle(1))).await;
    let good = Partner::spiffe(keys.identity(&endpoint), document(&keys.bundle(1))).await;
    setup.relate(json!({
        "trust_domain": PARTNER,
        "url": good.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
        "bootstrap_bundle_file": setup.file("bootstrap.json"),
    }));
    for (bad, expected) in [(&other_id, "/gateway/other"), (&forger, "was not trusted")] {
        setup.config["relationships"][0]["url"] = json!(bad.url());
        let gateway = setup.start().await;
        let error = gateway.refused(PARTNER).await;
        assert!(error.contains(expected), "{error}");
        assert_eq!(bad.requests(), 0, "nothing is asked of an endpoint that is not the agreed one");
        gateway.stop().await;
    }
    setup.config["relationships"][0]["url"] = json!(good.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    gateway.stop().await;

    // Without anything to verify with, the error says what to do.
    setup.config["relationships"][0]["trust_domain"] = json!("third.example");
    setup.config["relationships"][0]["endpoint_spiffe_id"] = json!("spiffe://third.example/gateway");
    setup.config["relationships"][0].as_object_mut().unwrap().remove("bootstrap_bundle_file");
    let gateway = setup.start().await;
    let error = gateway.refused("third.example").await;
    assert!(error.contains("local copy of bundle not found") && error.contains("bootstrap_bundle_file"), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn trust_is_set_up_again_by_a_changed_bootstrap_bundle() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    let bootstrap = setup.file("bootstrap.json");
    std::fs::write(&bootstrap, federation_specs::bundle_json::encode(&keys.bundle(1))).unwrap();
    let before = Partner::spiffe(keys.identity(&endpoint), document(&keys.bundle(70))).await;
    setup.relate(json!({
        "trust_domain": PARTNER,
        "url": before.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
        "bootstrap_bundle_file": bootstrap,
    }));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 70).await;
    gateway.stop().await;

    // The partner lost its keys and starts again at sequence 1.
    let rebuilt = Authority::new(&td(PARTNER));
    let after = Partner::spiffe(rebuilt.identity(&endpoint), document(&rebuilt.bundle(1))).await;
    setup.config["relationships"][0]["url"] = json!(after.url());
    let gateway = setup.start().await;
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("was not trusted"), "{error}");
    std::fs::write(setup.file("bootstrap.json"), federation_specs::bundle_json::encode(&rebuilt.bundle(1))).unwrap();
    let result = gateway.refresh(PARTNER, json!({})).await.unwrap();
    assert_eq!(result.relationship.held.unwrap().sequence, Some(1));
    gateway.stop().await;
}
