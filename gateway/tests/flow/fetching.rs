//! The way to partners: addresses, several URLs, connections used again.

use std::{sync::Arc, time::Duration};

use gateway::{api::Health, refresh::failover::RETURN_AFTER};
use serde_json::json;
use service_kit::clock::ManualClock;
use time::OffsetDateTime;

use crate::support::{
    PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Behaviour, Partner, document},
    td,
};

#[tokio::test]
async fn special_addresses_are_asked_only_if_they_are_allowed() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["allow_addresses"] = json!([]);
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web("refused.example", &partner.url());
    setup.relate_web("named.example", &partner.url().replace("127.0.0.1", "localhost"));
    setup.relate_web("mapped.example", &partner.url().replace("127.0.0.1", "[::ffff:127.0.0.1]"));
    setup.relate_web(PARTNER, &partner.url());
    setup.config["relationships"][3]["allow_addresses"] = json!(["127.0.0.1"]);
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    let asked = partner.requests();
    for name in ["refused.example", "named.example", "mapped.example"] {
        let error = gateway.refused(name).await;
        assert!(error.contains("127.0.0.1, a loopback address, which is not asked"), "{error}");
        assert!(error.contains("to refresh.allow_addresses, or to allow_addresses of the relationship"), "{error}");
    }
    assert_eq!(partner.handshakes().0, 1, "nobody else connected");
    // Redirects are held to the same.
    for to in ["https://127.0.0.2:1/", "https://169.254.169.254/latest/", "https://[::1]:1/", "https://0.0.0.0:1/"] {
        partner.set(Behaviour::Redirect(to.to_owned()));
        let error = gateway.refused(PARTNER).await;
        let expected = format!("{} redirects: {to} leads to ", partner.url());
        assert!(error.starts_with(&expected) && error.contains(" address, which is not asked"), "{error}");
    }
    assert!(partner.requests() > asked);
    gateway.stop().await;
}

#[tokio::test]
async fn another_url_is_asked_when_the_first_gives_no_bundle() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let first = Partner::web(setup.web.server_config(), Behaviour::Status(503)).await;
    let silent = Partner::web(setup.web.server_config(), Behaviour::Silent).await;
    let last = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &first.url());
    setup.config["relationships"][0]["failover_urls"] = json!([silent.url(), last.url()]);
    let gateway = setup.start().await;
    let relationship = gateway.wait_held(PARTNER, 1).await;
    assert_eq!(relationship.health, Health::Healthy);
    assert_eq!(relationship.url_in_use, Some(last.url()));
    assert_eq!(relationship.failover_urls, [silent.url(), last.url()]);
    let asked = (first.requests(), silent.requests());
    last.serve(&keys.bundle(2));
    gateway.wait_held(PARTNER, 2).await;
    eventually("a conditional answer", || async { last.not_modified() > 0 }).await;
    assert_eq!((first.requests(), silent.requests()), asked, "what works is asked first");

    last.set(Behaviour::Document(b"no bundle".to_vec()));
    let error = gateway.refused(PARTNER).await;
    assert!(error.starts_with("none of the 3 URLs of the bundle gives one: "), "{error}");
    for reason in [
        format!("{} answered 503", first.url()),
        format!("{} did not answer within", silent.url()),
        "is not an acceptable SPIFFE bundle".to_owned(),
    ] {
        assert!(error.contains(&reason), "{reason}: {error}");
    }
    let relationship = gateway.relationship(PARTNER).await;
    assert_eq!((relationship.health, relationship.held.unwrap().sequence), (Health::Degraded, Some(2)));

    // A URL that serves what is older is no way back.
    last.set(Behaviour::Status(500));
    first.serve(&keys.bundle(1));
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("went back from sequence 2 to 1"), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn the_first_url_is_tried_again_after_ten_minutes() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let first = Partner::web(setup.web.server_config(), Behaviour::Status(503)).await;
    let second = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &first.url());
    setup.config["relationships"][0]["failover_urls"] = json!([second.url()]);
    let clock = ManualClock::new(OffsetDateTime::now_utc());
    let gateway = setup.start_at(Arc::new(clock.clone())).await;
    assert_eq!(gateway.wait_held(PARTNER, 1).await.url_in_use, Some(second.url()));
    assert_eq!(first.requests(), 1);

    // It is back, but what works is asked for ten minutes.
    first.serve(&keys.bundle(2));
    clock.advance(RETURN_AFTER - Duration::from_secs(1));
    second.serve(&keys.bundle(2));
    assert!(gateway.refresh(PARTNER, json!({})).await.is_ok());
    let relationship = gateway.wait_held(PARTNER, 2).await;
    assert_eq!((relationship.url_in_use, first.requests()), (Some(second.url()), 1));

    // Then the first again, and from then on only the first.
    clock.advance(Duration::from_secs(1));
    first.serve(&keys.bundle(3));
    second.serve(&keys.bundle(3));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    let relationship = gateway.wait_held(PARTNER, 3).await;
    assert_eq!((relationship.url_in_use, relationship.health), (None, Health::Healthy));
    let asked = second.requests();
    clock.advance(RETURN_AFTER);
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    assert_eq!(second.requests(), asked);

    // While it is away, it is asked once in ten minutes.
    first.set(Behaviour::Status(503));
    let asked = first.requests();
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    assert_eq!(gateway.relationship(PARTNER).await.url_in_use, Some(second.url()));
    assert_eq!(first.requests(), asked + 1, "not at each refresh");
    clock.advance(RETURN_AFTER);
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    eventually("the first is tried again", || async { first.requests() == asked + 2 }).await;
    assert_eq!(gateway.relationship(PARTNER).await.health, Health::Healthy);
    gateway.stop().await;
}

#[tokio::test]
async fn connections_and_sessions_last_as_long_as_what_they_were_verified_with() {
    let mut setup = Setup::new().await;
    let (old, new) = (Authority::new(&td(PARTNER)), Authority::new(&td(PARTNER)));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    let partner = Partner::spiffe(old.identity(&endpoint), document(&old.bundle(1))).await;
    let bootstrap = setup.file("bootstrap.json");
    std::fs::write(&bootstrap, federation_specs::bundle_json::encode(&old.bundle(1))).unwrap();
    setup.relate(json!({
        "trust_domain": PARTNER,
        "url": partner.url(),
        "profile": "https_spiffe",
        "endpoint_spiffe_id": endpoint,
        "bootstrap_bundle_file": bootstrap,
    }));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    let asked = partner.requests();
    for _ in 0..3 {
        gateway.refresh(PARTNER, json!({})).await.unwrap();
    }
    assert!(partner.requests() >= asked + 3);
    // The first one was verified with the bootstrap bundle.
    let (handshakes, _) = partner.handshakes();
    assert!(handshakes <= 2, "{handshakes} handshakes for {} requests", partner.requests());

    // The root is gone: neither the connection nor the session is good for anything any more.
    partner.serve(&new.bundle(2));
    gateway.wait_held(PARTNER, 2).await;
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("was not trusted"), "{error}");
    assert_eq!(gateway.relationship(PARTNER).await.held.unwrap().sequence, Some(2));
    gateway.stop().await;
}

#[tokio::test]
async fn sessions_are_resumed_until_the_authorities_change() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let mut config = (*setup.web.server_config()).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let partner = Partner::web(Arc::new(config), document(&keys.bundle(1))).await;
    partner.hang_up_after_answers();
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    for _ in 0..3 {
        gateway.refresh(PARTNER, json!({})).await.unwrap();
    }
    let (handshakes, resumed) = partner.handshakes();
    assert!(resumed >= 2 && handshakes > resumed, "{resumed} of {handshakes} resumed");

    let other = Setup::new().await;
    std::fs::write(setup.file("partner-ca.pem"), other.web.ca_pem()).unwrap();
    let error = gateway.refused(PARTNER).await;
    assert!(error.contains("was not trusted"), "{error}");
    std::fs::write(setup.file("partner-ca.pem"), setup.web.ca_pem()).unwrap();
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    gateway.stop().await;
}
