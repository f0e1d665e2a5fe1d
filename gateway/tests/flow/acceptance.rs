//! Who decides about a changed bundle, and what stays decided over a restart.

use federation_specs::bundle::Bundle;
use gateway::api::{BundleHistory, Health, Mode, OfferReason, Via};
use serde_json::{Value, json};

use crate::support::{
    LOCAL, PARTNER, Running, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    td,
};

/// A gateway with a partner whose relationship has these keys besides; only the test decides when to fetch.
async fn setup(policy: Value) -> (Setup, Authority, Partner) {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    setup.relate_web(PARTNER, &partner.url());
    for (key, value) in policy.as_object().unwrap() {
        setup.config["relationships"][0][key] = value.clone();
    }
    (setup, keys, partner)
}

async fn refreshed(gateway: &Running) -> gateway::api::Relationship {
    gateway.refresh(PARTNER, json!({})).await.unwrap().relationship
}

fn sequence(relationship: &gateway::api::Relationship) -> Option<u64> {
    relationship.held.as_ref().and_then(|held| held.sequence)
}

async fn at_issuer(setup: &Setup, sequence: u64) {
    eventually("delivery", || async {
        setup.issuer.state().federated.get(PARTNER).and_then(Bundle::sequence) == Some(sequence)
    })
    .await;
}

#[tokio::test]
async fn hold_waits_for_an_operator_who_sees_the_difference() {
    let (setup, keys, partner) = setup(json!({"mode": "hold"})).await;
    let gateway = setup.start().await;
    eventually("the offer", || async {
        let now = gateway.relationship(PARTNER).await;
        now.waiting.is_some() && now.last_success.is_some()
    })
    .await;
    let shown = gateway.relationship(PARTNER).await;
    assert_eq!((shown.mode, shown.health, shown.held.is_none()), (Mode::Hold, Health::Healthy, true));
    let waiting = shown.waiting.unwrap();
    assert_eq!((waiting.reason, waiting.sequence), (OfferReason::Hold, Some(5)));
    assert_eq!((waiting.difference.x509.added.len(), waiting.difference.jwt.added.len()), (1, 1));
    assert!(!setup.issuer.state().federated.contains_key(PARTNER));

    // Restarted while it waits: it still does, and is not offered a second time.
    gateway.stop().await;
    let gateway = setup.start().await;
    assert_eq!(gateway.relationship(PARTNER).await.waiting.unwrap().digest, waiting.digest);
    refreshed(&gateway).await;
    let another = gateway.decide(PARTNER, "approve", json!({"digest": "0123456789"})).await.unwrap_err();
    assert_eq!(another.status, 409);
    assert!(another.detail.contains(&waiting.digest), "{another:?}");
    let approved =
        gateway.decide(PARTNER, "approve", json!({"digest": waiting.digest, "why": "called them"})).await.unwrap();
    assert_eq!((sequence(&approved), approved.waiting.is_none()), (Some(5), true));
    at_issuer(&setup, 5).await;

    // A new sequence with the same keys changes nobody's trust.
    partner.serve(&keys.bundle(6));
    assert_eq!(sequence(&refreshed(&gateway).await), Some(6));

    // A rejected bundle does not wait again; another one does.
    let next = Authority::new(&td(PARTNER));
    partner.serve(&next.bundle(7));
    let difference = refreshed(&gateway).await.waiting.unwrap().difference;
    assert!(difference.replaces_everything && difference.x509.removed.len() == 1, "{difference:?}");
    let rejected = gateway.decide(PARTNER, "reject", gateway.waiting(PARTNER).await).await.unwrap();
    assert!(rejected.waiting.unwrap().rejected_at.is_some());
    let again = refreshed(&gateway).await;
    assert_eq!((sequence(&again), again.waiting.unwrap().rejected_at.is_some()), (Some(6), true));
    let nothing = gateway.decide(PARTNER, "approve", gateway.waiting(PARTNER).await).await.unwrap_err();
    assert!(nothing.detail.contains("no change of `onprem.example` waits"), "{nothing:?}");
    gateway.stop().await;
    let gateway = setup.start().await;
    assert!(refreshed(&gateway).await.waiting.unwrap().rejected_at.is_some(), "a restart does not forget it");
    partner.serve(&next.bundle(8));
    assert!(refreshed(&gateway).await.waiting.unwrap().rejected_at.is_none());
    // What waited is moot once the partner serves the bundle in force again.
    partner.serve(&keys.bundle(6));
    assert!(refreshed(&gateway).await.waiting.is_none());

    let log = gateway.audited().await;
    let done: Vec<&str> = log.iter().filter(|(_, subject)| subject == PARTNER).map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        done,
        [
            "relationship.added",
            "bundle.offered",
            "bundle.approved",
            "bundle.accepted",
            "bundle.offered",
            "bundle.rejected",
            "bundle.offered",
            "bundle.withdrawn"
        ]
    );
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn pinned_changes_only_by_name() {
    let (setup, keys, partner) = setup(json!({"mode": "pinned"})).await;
    let gateway = setup.start().await;
    eventually("the offer", || async { gateway.relationship(PARTNER).await.waiting.is_some() }).await;
    let first = gateway.relationship(PARTNER).await.waiting.unwrap();
    assert_eq!(first.reason, OfferReason::Pinned);
    let refused = gateway.decide(PARTNER, "approve", gateway.waiting(PARTNER).await).await.unwrap_err();
    assert!(refused.detail.contains("is pinned") && refused.detail.contains(&first.digest), "{refused:?}");
    let pinned = gateway.decide(PARTNER, "restore", json!({"bundle": first.digest[..12]})).await.unwrap();
    assert_eq!((sequence(&pinned), pinned.frozen, pinned.waiting), (Some(5), None, None));
    at_issuer(&setup, 5).await;

    partner.serve(&keys.bundle(6));
    let same_keys = refreshed(&gateway).await;
    assert_eq!((sequence(&same_keys), same_keys.waiting), (Some(5), None), "not even the sequence changes");
    partner.serve(&Authority::new(&td(PARTNER)).bundle(7));
    let changed = refreshed(&gateway).await;
    assert_eq!((sequence(&changed), changed.waiting.is_some()), (Some(5), true));
    gateway.stop().await;

    // The relationship becomes `auto`: what the partner serves is accepted, although it was seen before.
    let mut setup = setup;
    setup.config["relationships"][0]["mode"] = json!("auto");
    let gateway = setup.start().await;
    let accepted = refreshed(&gateway).await;
    assert_eq!((sequence(&accepted), accepted.waiting), (Some(7), None));
    gateway.stop().await;
}

#[tokio::test]
async fn freeze_stops_everything_and_unfreeze_fetches_at_once() {
    let (setup, keys, partner) = setup(json!({})).await;
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    let frozen = gateway.decide(PARTNER, "freeze", json!({"why": "their incident"})).await.unwrap().frozen.unwrap();
    assert_eq!(frozen.why, "their incident");
    assert!(frozen.by.contains("uid "), "{frozen:?}");
    let twice = gateway.decide(PARTNER, "freeze", json!({})).await.unwrap_err();
    assert!(twice.status == 409 && twice.detail.contains("frozen already, by"), "{twice:?}");

    partner.serve(&keys.bundle(6));
    let before = partner.requests();
    assert_eq!(sequence(&refreshed(&gateway).await), Some(5));
    assert!(partner.requests() > before, "polling goes on");
    gateway.stop().await;
    let gateway = setup.start().await;
    let shown = refreshed(&gateway).await;
    assert_eq!((sequence(&shown), shown.frozen.is_some()), (Some(5), true), "frozen over a restart");
    assert_eq!(setup.issuer.state().federated[PARTNER].sequence(), Some(5));

    assert!(gateway.decide(PARTNER, "unfreeze", json!({})).await.unwrap().frozen.is_none());
    gateway.wait_held(PARTNER, 6).await;
    eventually("delivery", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    assert_eq!(gateway.decide(PARTNER, "unfreeze", json!({})).await.unwrap_err().status, 409);
    let unknown = gateway.decide("other.example", "freeze", json!({})).await.unwrap_err();
    assert_eq!(unknown.status, 404);
    let long = gateway.decide(PARTNER, "freeze", json!({"why": "x".repeat(2000)})).await.unwrap_err();
    assert_eq!(long.status, 400);
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_earlier_bundle_is_restored_and_stays() {
    let (setup, keys, partner) = setup(json!({})).await;
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
    refreshed(&gateway).await;
    at_issuer(&setup, 6).await;
    let history: BundleHistory = gateway.admin.get(&format!("/v1/bundles/{PARTNER}/history")).await;
    let old = history.bundles.last().unwrap();

    for name in ["99", "no", "deadbeefdeadbeef", ""] {
        let unknown = gateway.decide(PARTNER, "restore", json!({"bundle": name})).await.unwrap_err();
        assert!(unknown.status == 404 && unknown.detail.contains("is named"), "{name}: {unknown:?}");
    }
    let restored = gateway.decide(PARTNER, "restore", json!({"bundle": old.id.to_string()})).await.unwrap();
    assert_eq!((sequence(&restored), restored.frozen.is_some()), (Some(5), true));
    at_issuer(&setup, 5).await;
    assert_eq!(sequence(&refreshed(&gateway).await), Some(5), "the next refresh does not undo it");
    gateway.stop().await;
    let gateway = setup.start().await;
    assert_eq!(sequence(&refreshed(&gateway).await), Some(5));
    let history: BundleHistory = gateway.admin.get(&format!("/v1/bundles/{PARTNER}/history")).await;
    assert_eq!((history.bundles.len(), history.bundles[0].via), (3, Via::Restore));
    assert_eq!(history.bundles[0].digest, old.digest);

    // The partner, too, goes back to it: that is no rollback. An older one still is.
    partner.serve(&keys.bundle(5));
    assert_eq!(refreshed(&gateway).await.last_error, None);
    gateway.decide(PARTNER, "unfreeze", json!({})).await.unwrap();
    partner.serve(&keys.bundle(4));
    assert!(gateway.refused(PARTNER).await.contains("went back from sequence 6 to 4"));
    gateway.stop().await;
}

#[tokio::test]
async fn an_emptied_bundle_is_held_accepted_or_refused_as_the_relationship_says() {
    let emptied = || Bundle::new(td(PARTNER)).with_sequence(Some(6));
    for (policy, error, waits, accepted) in [
        ("hold", Some("held back"), true, false),
        ("refuse", Some("`emptied: refuse`"), false, false),
        ("accept", None, false, true),
    ] {
        let (setup, _, partner) = setup(json!({"emptied": policy})).await;
        let gateway = setup.start().await;
        gateway.wait_held(PARTNER, 5).await;
        partner.serve(&emptied());
        match error {
            Some(text) => assert!(gateway.refused(PARTNER).await.contains(text), "{policy}"),
            None => assert!(gateway.refresh(PARTNER, json!({})).await.unwrap().changed),
        }
        let shown = gateway.relationship(PARTNER).await;
        assert_eq!((shown.waiting.is_some(), sequence(&shown) == Some(6)), (waits, accepted), "{policy}");
        if waits {
            assert_eq!(shown.waiting.unwrap().reason, OfferReason::Emptied);
            let approved = gateway.decide(PARTNER, "approve", gateway.waiting(PARTNER).await).await.unwrap();
            assert_eq!(approved.held.unwrap().x509_authorities, 0);
            eventually("the revocation", || async { setup.issuer.state().federated[PARTNER].is_empty() }).await;
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_key_belongs_to_one_trust_domain() {
    let (mut setup, keys, partner) = setup(json!({})).await;
    let thief = td("thief.example");
    let stolen = Bundle::new(thief.clone()).with_x509_authorities([keys.x509()]).with_sequence(Some(1));
    let second = Partner::web(setup.web.server_config(), document(&stolen)).await;
    setup.relate_web(thief.as_str(), &second.url());
    // The thief comes late.
    second.set(crate::support::partner::Behaviour::Status(503));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    second.serve(&stolen);
    let error = gateway.refused(thief.as_str()).await;
    assert!(
        error.contains("X.509 authority") && error.contains("also a key of trust domain `onprem.example`"),
        "{error}"
    );
    let own = setup.issuer.state().own.jwt_authorities()[0].clone();
    second.serve(&Bundle::new(thief.clone()).with_jwt_authorities([own]).with_sequence(Some(2)));
    let error = gateway.refused(thief.as_str()).await;
    assert!(error.contains("JWT authority") && error.contains(&format!("trust domain `{LOCAL}`")), "{error}");

    // Once its owner has given it up, the key is free.
    partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
    refreshed(&gateway).await;
    second.serve(&stolen);
    assert!(gateway.refresh(thief.as_str(), json!({})).await.unwrap().changed);
    let old: BundleHistory = gateway.admin.get(&format!("/v1/bundles/{PARTNER}/history")).await;
    let digest = &old.bundles[1].digest;
    // Its owner gets it back although another one has it, because its root proves whose it is; the other one is shown.
    gateway.decide(PARTNER, "restore", json!({"bundle": digest})).await.unwrap();
    let thief = gateway.relationship(thief.as_str()).await;
    assert_eq!(thief.health, Health::Degraded);
    let shown = thief.last_error.unwrap();
    assert!(shown.contains("provably belongs to trust domain `onprem.example`"), "{shown}");
    assert_eq!(gateway.relationship(PARTNER).await.health, Health::Healthy);
    gateway.stop().await;
}

#[tokio::test]
async fn a_key_published_first_by_another_partner_does_not_keep_its_owner_from_it() {
    let (mut setup, keys, partner) = setup(json!({})).await;
    let thief = td("thief.example");
    let next = Authority::new(&td(PARTNER));
    let early = Bundle::new(thief.clone()).with_x509_authorities([next.x509()]).with_jwt_authorities([next.jwt()]);
    let second = Partner::web(setup.web.server_config(), document(&early)).await;
    setup.relate_web(thief.as_str(), &second.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    eventually("the early one", || async { gateway.relationship(thief.as_str()).await.held.is_some() }).await;

    partner.serve(&keys.bundle(6).with_x509_authorities([keys.x509(), next.x509()]));
    refreshed(&gateway).await;
    assert_eq!(sequence(&gateway.relationship(PARTNER).await), Some(6));
    // Nothing proves whose a JWT key is: an operator decides, and is asked once.
    partner.serve(&next.bundle(7));
    for _ in 0..2 {
        let error = gateway.refused(PARTNER).await;
        assert!(error.contains("also a key of trust domain `thief.example`, and no certificate proves"), "{error}");
    }
    let waiting = gateway.relationship(PARTNER).await.waiting.unwrap();
    assert_eq!(waiting.reason, OfferReason::SharedKey);
    let body = gateway.waiting(PARTNER).await;
    gateway.decide(PARTNER, "approve", body).await.unwrap();
    assert_eq!(sequence(&gateway.relationship(PARTNER).await), Some(7));
    gateway.stop().await;
}

#[tokio::test]
async fn a_first_bundle_without_keys_and_a_leaping_sequence_wait() {
    let (setup, keys, partner) = setup(json!({})).await;
    partner.serve(&Bundle::new(td(PARTNER)).with_sequence(Some(1)));
    let gateway = setup.start().await;
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("has no keys, so nobody could be verified with it; held back"), "{error}");
    assert_eq!(gateway.relationship(PARTNER).await.health, Health::Failing);

    partner.serve(&keys.bundle(u64::MAX));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("leaps from sequence 0 to 18446744073709551615"), "{error}");
    partner.serve(&keys.bundle(5));
    refreshed(&gateway).await;
    partner.serve(&keys.bundle(6 + (1 << 56)));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("leaps from sequence 5 to 72057594037927942"), "{error}");
    assert_eq!(sequence(&gateway.relationship(PARTNER).await), Some(5));
    let body = gateway.waiting(PARTNER).await;
    gateway.decide(PARTNER, "approve", body).await.unwrap();
    assert_eq!(sequence(&gateway.relationship(PARTNER).await), Some(6 + (1 << 56)));
    gateway.stop().await;
}

#[tokio::test]
async fn limits_are_told_with_their_key() {
    let (mut setup, keys, partner) = setup(json!({})).await;
    setup.config["refresh"]["accept"] = json!({"max_keys": 2, "key_types": ["ec-p256"], "min_rsa_bits": 3072});
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    let (second, third) = (Authority::new(&td(PARTNER)), Authority::new(&td(PARTNER)));
    partner.serve(&keys.bundle(6).with_x509_authorities([keys.x509(), second.x509(), third.x509()]));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("has 4 keys, more than the 2 accepted") && error.contains("max_keys"), "{error}");
    gateway.stop().await;

    setup.config["refresh"]["accept"]["key_types"] = json!(["rsa"]);
    partner.serve(&second.bundle(6));
    let gateway = setup.start().await;
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("is of type ec-p256") && error.contains("key_types"), "{error}");
    assert_eq!(sequence(&gateway.relationship(PARTNER).await), Some(5), "what is in force stays");
    gateway.stop().await;
}
