//! What the issuers hold: taken back when a relationship ends or its bundle expires, compared with what was delivered.

use std::time::Duration;

use federation_specs::bundle::Bundle;
use gateway::api::Health;
use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Behaviour, Partner, document},
    td,
};

async fn delivered(setup: &Setup) {
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
}

async fn gone(setup: &Setup) {
    eventually("the removal", || async { !setup.issuer.state().federated.contains_key(PARTNER) }).await;
}

async fn setup() -> (Setup, Authority, Partner) {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["compare_interval"] = json!("1s");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    setup.relate_web(PARTNER, &partner.url());
    (setup, keys, partner)
}

#[tokio::test]
async fn a_removed_relationship_takes_its_bundle_along() {
    let (mut setup, _, _partner) = setup().await;
    let gateway = setup.start().await;
    delivered(&setup).await;
    eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    gateway.stop().await;

    // Removed while the gateway is down, and the issuer is away at its start.
    setup.config["relationships"] = json!([]);
    setup.issuer.stop().await;
    let gateway = setup.start_unready().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(setup.issuer.state().federated.contains_key(PARTNER));
    setup.issuer.resume();
    gone(&setup).await;
    let log = gateway.audited().await;
    let about = |what: &str, subject: &str| log.contains(&(what.to_owned(), subject.to_owned()));
    assert!(about("relationship.removed", PARTNER) && about("delivery.confirmed", &format!("{PARTNER} at {LOCAL}")));
    eventually("the record", || async {
        gateway.audited().await.contains(&("delivery.removed".to_owned(), format!("{PARTNER} at {LOCAL}")))
    })
    .await;
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_bundle_changed_by_hand_is_not_ours_to_remove() {
    let (mut setup, _, _partner) = setup().await;
    let gateway = setup.start().await;
    eventually("confirmation", || async {
        let relationship: Option<gateway::api::Relationship> =
            gateway.admin.try_get(&format!("/v1/relationships/{PARTNER}")).await.ok();
        relationship.is_some_and(|relationship| relationship.deliveries[0].delivered)
    })
    .await;
    gateway.stop().await;
    let by_hand = Authority::new(&td(PARTNER)).bundle(1);
    setup.issuer.state().federated.insert(PARTNER.to_owned(), by_hand.clone());
    setup.config["relationships"] = json!([]);
    let gateway = setup.start().await;
    eventually("the decision to leave it", || async {
        gateway.audited().await.contains(&("delivery.left".to_owned(), format!("{PARTNER} at {LOCAL}")))
    })
    .await;
    assert!(setup.issuer.state().federated[PARTNER].same_content(&by_hand));
    gateway.stop().await;
}

#[tokio::test]
async fn drift_is_corrected_after_the_next_refresh() {
    let (setup, keys, _partner) = setup().await;
    let gateway = setup.start().await;
    delivered(&setup).await;
    eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    setup.issuer.state().federated.insert(PARTNER.to_owned(), Authority::new(&td(PARTNER)).bundle(1));
    eventually("the correction", || async {
        setup.issuer.state().federated[PARTNER].x509_authorities() == keys.bundle(5).x509_authorities()
    })
    .await;
    eventually("its state", || async { gateway.relationship(PARTNER).await.deliveries[0].drift.is_none() }).await;
    // Removed by hand: delivered again without waiting for the partner.
    setup.issuer.state().federated.clear();
    delivered(&setup).await;
    gateway.stop().await;
}

#[tokio::test]
async fn drift_is_only_shown_where_the_relationship_says_so() {
    let (mut setup, keys, partner) = setup().await;
    setup.config["relationships"][0]["drift"] = json!("show");
    let gateway = setup.start().await;
    delivered(&setup).await;
    eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    let drift = async || gateway.relationship(PARTNER).await.deliveries[0].drift.clone();
    let by_hand = Authority::new(&td(PARTNER)).bundle(1);
    setup.issuer.state().federated.insert(PARTNER.to_owned(), by_hand.clone());
    eventually("the drift", || async { drift().await.is_some_and(|drift| drift.content_digest.is_some()) }).await;
    let asked = partner.requests();
    eventually("refreshes", || async { partner.requests() > asked + 1 }).await;
    assert!(setup.issuer.state().federated[PARTNER].same_content(&by_hand));
    setup.issuer.state().federated.clear();
    eventually("the loss", || async { drift().await.is_some_and(|drift| drift.content_digest.is_none()) }).await;
    setup.issuer.state().federated.insert(PARTNER.to_owned(), keys.bundle(5));
    eventually("it to settle", || async { drift().await.is_none() }).await;
    let log: Vec<String> = gateway.audited().await.into_iter().map(|(what, _)| what).collect();
    assert_eq!(log.iter().filter(|what| *what == "delivery.drifted").count(), 2, "{log:?}");
    assert!(log.contains(&"delivery.settled".to_owned()));
    // A new bundle is delivered all the same.
    partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
    eventually("the new bundle", || async {
        setup.issuer.state().federated.get(PARTNER).and_then(Bundle::sequence) == Some(6)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_bundle_beyond_its_maximum_age_leaves_the_issuers_until_it_is_confirmed() {
    let (mut setup, keys, partner) = setup().await;
    setup.config["relationships"][0]["maximum_age"] = json!("5s");
    let gateway = setup.start().await;
    delivered(&setup).await;
    partner.set(Behaviour::Status(503));
    eventually("expiry", || async { gateway.relationship(PARTNER).await.health == Health::Expired }).await;
    gone(&setup).await;
    let shown = gateway.relationship(PARTNER).await;
    assert!(shown.expired_at.is_some() && shown.held.is_some() && shown.last_error.is_some());
    gateway.stop().await;

    let gateway = setup.start().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(gateway.relationship(PARTNER).await.health, Health::Expired, "expired over a restart");
    assert!(!setup.issuer.state().federated.contains_key(PARTNER));
    partner.serve(&keys.bundle(5));
    delivered(&setup).await;
    assert_ne!(gateway.relationship(PARTNER).await.health, Health::Expired);
    let log: Vec<String> = gateway.audited().await.into_iter().map(|(what, _)| what).collect();
    assert!(log.contains(&"relationship.expired".to_owned()) && log.contains(&"relationship.renewed".to_owned()));
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_removal_does_not_wait_for_other_deliveries() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let gateway = setup.start().await;
    let mut partners = Vec::new();
    for number in 0..60 {
        let name = format!("p{number:02}.example");
        let partner = Partner::web(setup.web.server_config(), document(&Authority::new(&td(&name)).bundle(1))).await;
        gateway.relate(&setup.web_relationship(&name, &partner.url())).await;
        partners.push((name, partner));
    }
    eventually("every delivery", || async { setup.issuer.state().federated.len() == 60 }).await;
    gateway.stop().await;

    // After a start all of them are looked at again.
    setup.issuer.state().slow_reads = Duration::from_millis(250);
    let gateway = setup.start().await;
    eventually("the first answers", || async {
        let about = gateway.relationship("p00.example").await;
        about.deliveries[0].delivered
    })
    .await;
    gateway.end("p59.example").await;
    let removed = async {
        while setup.issuer.state().federated.contains_key("p59.example") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(4), removed).await.expect("removed before the others were looked at");
    gateway.stop().await;
}

#[tokio::test]
async fn an_issuer_that_was_away_for_long_is_served_within_seconds() {
    let mut setup = Setup::new().await;
    setup.issuer.state().without_work = true;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    let gateway = setup.start().await;
    gateway.relate(&setup.web_relationship(PARTNER, &partner.url())).await;
    delivered(&setup).await;
    eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;

    setup.issuer.stop().await;
    gateway.end(PARTNER).await;
    // Pauses that double would have grown beyond ten seconds.
    tokio::time::sleep(Duration::from_secs(16)).await;
    setup.issuer.resume();
    tokio::time::timeout(Duration::from_secs(7), gone(&setup)).await.expect("removed within seconds");
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_without_an_answer_is_taken_back_as_well() {
    let setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    let gateway = setup.start().await;
    // The first delivery of all, and one that replaces another.
    for first in [true, false] {
        setup.issuer.state().lose_answers = first;
        partner.serve(&keys.bundle(5));
        gateway.relate(&setup.web_relationship(PARTNER, &partner.url())).await;
        delivered(&setup).await;
        if !first {
            eventually("confirmation", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
            setup.issuer.state().lose_answers = true;
            partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
            gateway.refresh(PARTNER, json!({})).await.unwrap();
            eventually("the delivery", || async { setup.issuer.state().federated[PARTNER].sequence() == Some(6) })
                .await;
        }
        eventually("the failure", || async { gateway.relationship(PARTNER).await.deliveries[0].last_error.is_some() })
            .await;
        gateway.end(PARTNER).await;
        gone(&setup).await;
    }
    gateway.verify_audit().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_delivery_without_an_answer_is_known_after_a_restart() {
    let (mut setup, _, _partner) = setup().await;
    setup.issuer.state().lose_answers = true;
    let gateway = setup.start().await;
    delivered(&setup).await;
    gateway.stop().await;
    setup.config["relationships"] = json!([]);
    let gateway = setup.start().await;
    gone(&setup).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_bundle_the_partner_does_not_serve_any_more_ages_although_the_partner_answers() {
    let (mut setup, keys, partner) = setup().await;
    setup.config["relationships"][0]["maximum_age"] = json!("5s");
    setup.config["relationships"][0]["mode"] = json!("hold");
    let gateway = setup.start().await;
    eventually("the offer", || async { gateway.relationship(PARTNER).await.waiting.is_some() }).await;
    gateway.decide(PARTNER, "approve", gateway.waiting(PARTNER).await).await.unwrap();
    delivered(&setup).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(gateway.relationship(PARTNER).await.health, Health::Healthy, "the partner confirms it");

    // Nobody decides about the keys it has now.
    partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
    eventually("the next offer", || async { gateway.relationship(PARTNER).await.waiting.is_some() }).await;
    eventually("its age", || async { gateway.relationship(PARTNER).await.bundle_age_seconds >= Some(3) }).await;
    eventually("expiry", || async { gateway.relationship(PARTNER).await.health == Health::Expired }).await;
    gone(&setup).await;
    assert_eq!(gateway.relationship(PARTNER).await.consecutive_failures, 0);
    partner.serve(&keys.bundle(5));
    delivered(&setup).await;

    // What was stopped in place stays in place.
    gateway.decide(PARTNER, "freeze", json!({})).await.unwrap();
    partner.set(Behaviour::Status(503));
    eventually("its age", || async { gateway.relationship(PARTNER).await.bundle_age_seconds >= Some(7) }).await;
    assert_ne!(gateway.relationship(PARTNER).await.health, Health::Expired);
    assert!(setup.issuer.state().federated.contains_key(PARTNER));
    gateway.decide(PARTNER, "unfreeze", json!({})).await.unwrap();
    eventually("expiry", || async { gateway.relationship(PARTNER).await.health == Health::Expired }).await;
    gone(&setup).await;
    gateway.verify_audit().await;
    gateway.stop().await;
}
