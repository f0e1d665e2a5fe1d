//! Partners that behave: accepted, followed, delivered.

use federation_specs::bundle::Bundle;
use gateway::api::{BundleHistory, Health, Profile, RelationshipList};
use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Behaviour, Partner, document},
    td,
};

#[tokio::test]
async fn a_web_partner_is_fetched_followed_and_delivered() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;

    let relationship = gateway.wait_held(PARTNER, 5).await;
    assert_eq!((relationship.profile, relationship.health), (Profile::HttpsWeb, Health::Healthy));
    assert_eq!(relationship.local_trust_domains, [LOCAL]);
    assert!(relationship.next_refresh.unwrap() > relationship.last_success.unwrap());
    eventually("delivery", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    {
        let state = setup.issuer.state();
        let delivered = &state.federated[PARTNER];
        assert_eq!(delivered.x509_authorities(), keys.bundle(5).x509_authorities());
        assert_eq!(delivered.jwt_authorities(), keys.bundle(5).jwt_authorities());
        assert_eq!(delivered.sequence(), Some(5));
    }

    // Unchanged: conditional requests, nothing stored, nothing delivered again.
    eventually("conditional requests", || async { partner.not_modified() >= 2 }).await;
    let history: BundleHistory = gateway.admin.get(&format!("/v1/bundles/{PARTNER}/history")).await;
    assert_eq!(history.bundles.len(), 1);
    assert_eq!(setup.issuer.state().sets, 1);

    // Rotation: one authority comes, one goes.
    let next = Authority::new(&td(PARTNER));
    partner.serve(&next.bundle(6));
    let relationship = gateway.wait_held(PARTNER, 6).await;
    assert_eq!(relationship.consecutive_failures, 0);
    let history: BundleHistory = gateway.admin.get(&format!("/v1/bundles/{PARTNER}/history")).await;
    let newest = &history.bundles[0];
    assert_eq!((newest.sequence, newest.x509_added, newest.x509_removed), (Some(6), 1, 1));
    assert_eq!((newest.jwt_added, newest.jwt_removed), (1, 1));
    assert_eq!(newest.source_url, partner.url());
    assert_eq!(history.bundles[1].sequence, Some(5));
    eventually("delivery of the new bundle", || async {
        setup.issuer.state().federated.get(PARTNER).and_then(|bundle| bundle.sequence()) == Some(6)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_spiffe_partner_is_bootstrapped_and_then_verified_with_its_own_latest_bundle() {
    let mut setup = Setup::new().await;
    let first = Authority::new(&td(PARTNER));
    let second = Authority::new(&td(PARTNER));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    std::fs::write(setup.file("bootstrap.json"), federation_specs::bundle_json::encode(&first.bundle(1))).unwrap();
    // The partner already announces its second authority, but its endpoint is still signed by the first.
    let both = first.bundle(2).with_x509_authorities([first.x509(), second.x509()]);
    let old_endpoint = Partner::spiffe(first.identity(&endpoint), document(&both)).await;
    setup.relate(json!({
        "trust_domain": PARTNER,
        "url": old_endpoint.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
        "bootstrap_bundle_file": setup.file("bootstrap.json"),
    }));
    let gateway = setup.start().await;
    let relationship = gateway.wait_held(PARTNER, 2).await;
    assert_eq!(relationship.endpoint_spiffe_id.as_deref(), Some(endpoint.as_str()));
    gateway.stop().await;

    // Now the endpoint is signed by the second one, which only the held bundle knows.
    let new_endpoint = Partner::spiffe(second.identity(&endpoint), document(&second.bundle(3))).await;
    setup.config["relationships"][0]["url"] = json!(new_endpoint.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_a_third_domain_is_verified_with_that_domains_bundle() {
    let mut setup = Setup::new().await;
    let hub = Authority::new(&td("hub.example"));
    let member = Authority::new(&td(PARTNER));
    let endpoint = "spiffe://hub.example/gateway";
    let for_hub = Partner::web(setup.web.server_config(), document(&hub.bundle(1))).await;
    let for_member = Partner::spiffe(hub.identity(endpoint), document(&member.bundle(9))).await;
    setup.relate_web("hub.example", &for_hub.url());
    setup.relate(json!({
        "trust_domain": PARTNER,
        "url": for_member.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
    }));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 9).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_silent_partner_costs_only_itself() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let good = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    let silent = Partner::web(setup.web.server_config(), Behaviour::Silent).await;
    setup.relate_web("silent.example", &silent.url());
    setup.relate_web(PARTNER, &good.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    for sequence in 2..5 {
        good.serve(&keys.bundle(sequence));
        gateway.wait_held(PARTNER, sequence).await;
    }
    eventually("the silent partner's error", || async {
        gateway.relationship("silent.example").await.last_error.is_some()
    })
    .await;
    let list: RelationshipList = gateway.admin.get("/v1/relationships").await;
    let by_name = |name: &str| list.relationships.iter().find(|item| item.trust_domain == name).unwrap().clone();
    let silent = by_name("silent.example");
    assert_eq!(silent.health, Health::Failing);
    assert!(silent.last_error.unwrap().contains("did not answer within 2s"));
    assert_eq!(by_name(PARTNER).health, Health::Healthy);
    assert_eq!(by_name(PARTNER).consecutive_failures, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn redirects_are_followed_to_https_only() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let target = Partner::web(setup.web.server_config(), document(&keys.bundle(3))).await;
    let front = Partner::web(setup.web.server_config(), Behaviour::Redirect(target.url())).await;
    setup.relate_web(PARTNER, &front.url());
    let gateway = setup.start().await;
    let relationship = gateway.wait_held(PARTNER, 3).await;
    assert_eq!(relationship.url, front.url(), "a redirect is never stored");

    front.set(Behaviour::Redirect("http://127.0.0.1:1/bundle".to_owned()));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("only https is allowed"), "{error}");
    front.set(Behaviour::Redirect(front.url()));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("redirects more than"), "{error}");
    assert_eq!(gateway.relationship(PARTNER).await.held.unwrap().sequence, Some(3));
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_the_issuer_refuses_is_retried_and_shown() {
    let mut setup = Setup::new().await;
    setup.issuer.state().refuse_sets = true;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("the delivery's error", || async {
        gateway.relationship(PARTNER).await.deliveries[0].last_error.is_some()
    })
    .await;
    let delivery = gateway.relationship(PARTNER).await.deliveries.remove(0);
    assert!(!delivery.delivered);
    assert!(delivery.last_error.unwrap().contains("the test refuses"));

    // Only the latest bundle matters by the time the issuer takes one.
    partner.serve(&keys.bundle(2));
    gateway.wait_held(PARTNER, 2).await;
    setup.issuer.state().refuse_sets = false;
    eventually("the delivery", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    assert_eq!(setup.issuer.state().federated[PARTNER].sequence(), Some(2));
    assert_eq!(gateway.relationship(PARTNER).await.deliveries[0].last_error, None);
    gateway.stop().await;
}

#[tokio::test]
async fn what_the_issuer_already_holds_is_confirmed_without_writing() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    setup.issuer.state().federated.insert(PARTNER.to_owned(), keys.bundle(1));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    assert_eq!(setup.issuer.state().sets, 0);
    gateway.stop().await;
}

#[tokio::test]
async fn what_the_issuer_lost_is_delivered_again() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    eventually("the first delivery", || async { setup.issuer.state().sets == 1 }).await;
    // The issuer is restored from a backup made before.
    setup.issuer.stop().await;
    setup.issuer.state().federated.clear();
    setup.issuer.resume();
    eventually("the second delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_a_domain_whose_relationship_ended_is_not_believed() {
    let setup = Setup::new().await;
    let hub = Authority::new(&td("hub.example"));
    let member = Authority::new(&td(PARTNER));
    let endpoint = "spiffe://hub.example/gateway";
    let for_hub = Partner::web(setup.web.server_config(), document(&hub.bundle(1))).await;
    let for_member = Partner::spiffe(hub.identity(endpoint), document(&member.bundle(9))).await;
    let gateway = setup.start().await;
    gateway.relate(&setup.web_relationship("hub.example", &for_hub.url())).await;
    gateway.wait_held("hub.example", 1).await;
    gateway
        .relate(&json!({
            "trust_domain": PARTNER,
            "url": for_member.url(),
            "profile": "https_spiffe",
            "endpoint_spiffe_id": endpoint,
        }))
        .await;
    gateway.wait_held(PARTNER, 9).await;
    gateway.end("hub.example").await;
    for_member.serve(&member.bundle(10));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("there is no bundle of `hub.example`"), "{error}");
    // The hub's key is free for whoever has it now.
    let heir = Authority::new(&td("heir.example"));
    let inherited = heir.bundle(1).with_jwt_authorities([hub.jwt()]);
    let for_heir = Partner::web(setup.web.server_config(), document(&inherited)).await;
    gateway.relate(&setup.web_relationship("heir.example", &for_heir.url())).await;
    gateway.wait_held("heir.example", 1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn authorities_that_were_withdrawn_do_not_come_back_with_the_bootstrap_bundle() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    let bootstrap = |bundle: &Bundle| {
        std::fs::write(setup.folder.path().join("bootstrap.json"), federation_specs::bundle_json::encode(bundle))
    };
    bootstrap(&keys.bundle(1)).unwrap();
    let partner = Partner::spiffe(keys.identity(&endpoint), document(&keys.bundle(5))).await;
    let file = setup.file("bootstrap.json");
    setup.config["relationships"] = json!([{
        "trust_domain": PARTNER,
        "url": partner.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
        "bootstrap_bundle_file": file,
        "emptied": "accept",
    }]);
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;
    partner.serve(&Bundle::new(td(PARTNER)).with_sequence(Some(6)));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    gateway.wait_held(PARTNER, 6).await;

    // Whoever has the old key now serves the old bundle.
    partner.serve(&keys.bundle(5));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("has no X.509 authority to verify"), "{error}");
    assert_eq!(gateway.relationship(PARTNER).await.held.unwrap().sequence, Some(6));
    gateway.stop().await;

    // The partner starts anew, and says so to the operator.
    let rebuilt = Authority::new(&td(PARTNER));
    bootstrap(&rebuilt.bundle(1)).unwrap();
    let partner = Partner::spiffe(rebuilt.identity(&endpoint), document(&rebuilt.bundle(2))).await;
    setup.config["relationships"][0]["url"] = json!(partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 2).await;
    gateway.stop().await;
}
