//! What survives a restart, with the issuer and the partner away.

use std::sync::Arc;

use federation_specs::{bundle::BundleSet, bundle_json};
use gateway::{Gateway, api::BundleList, config::Config};
use service_kit::{
    clock::SystemClock,
    lifecycle::Shutdown,
    tls::{BundleCell, PeerPolicy, spiffe_client_config},
};

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    client::Connection,
    eventually,
    partner::{Behaviour, Partner, document},
    td,
};

#[tokio::test]
async fn own_and_partner_bundles_come_from_the_store() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(7))).await;
    setup.relate_web(PARTNER, &partner.url());
    let mut bundles = BundleSet::new();
    bundles.insert(Arc::new(setup.issuer.state().own.clone()));
    let expected = PeerPolicy::Exactly(format!("spiffe://{LOCAL}/entente/gateway").parse().unwrap());
    let client =
        spiffe_client_config(Arc::new(BundleCell::new(bundles)), None, expected, SystemClock::shared(), &[]).unwrap();

    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 7).await;
    eventually("delivery", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    let mut connection = Connection::open(gateway.spiffe_address, &client).await.unwrap();
    let before = connection.send("GET", &format!("/{LOCAL}"), &[]).await;
    drop(connection);
    gateway.stop().await;

    setup.issuer.stop().await;
    partner.set(Behaviour::Status(503));
    let gateway = setup.start().await;
    let mut connection = Connection::open(gateway.spiffe_address, &client).await.unwrap();
    let after = connection.send("GET", &format!("/{LOCAL}"), &[]).await;
    assert_eq!(after.status(), 200);
    assert_eq!(after.body(), before.body());
    assert_eq!(after.headers()["etag"], before.headers()["etag"]);
    assert_eq!(after.headers()["last-modified"], before.headers()["last-modified"]);
    let list: BundleList = gateway.admin.get("/v1/bundles").await;
    let sequences: Vec<_> = list.bundles.iter().map(|item| (item.trust_domain.as_str(), item.sequence)).collect();
    assert_eq!(sequences, [(LOCAL, Some(1)), (PARTNER, Some(7))]);
    assert_eq!(gateway.relationship(PARTNER).await.held.unwrap().sequence, Some(7));

    // The issuer comes back without the partner's bundle and gets it, although the partner is still away.
    setup.issuer.state().federated.clear();
    setup.issuer.resume();
    eventually("delivery from the store", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn relationships_of_an_issuer_are_polled_while_it_is_away() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    let partner = Partner::spiffe(keys.identity(&endpoint), document(&keys.bundle(1))).await;
    let relationship = federation_specs::proto::types::FederationRelationship {
        trust_domain: PARTNER.to_owned(),
        bundle_endpoint_url: partner.url(),
        bundle_endpoint_profile: Some(federation_specs::convert::profile_to_proto(
            &federation_specs::profile::EndpointProfile::HttpsSpiffe { endpoint_id: endpoint.parse().unwrap() },
        )),
        trust_domain_bundle: Some(federation_specs::convert::bundle_to_proto(&keys.bundle(1))),
    };
    setup.issuer.relate(vec![relationship], &[]);
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    gateway.stop().await;

    setup.issuer.stop().await;
    partner.serve(&keys.bundle(2));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 2).await;
    gateway.stop().await;
}

#[tokio::test]
async fn without_issuer_and_store_the_answer_is_500_and_the_gateway_is_not_ready() {
    let mut setup = Setup::new().await;
    setup.issuer.stop().await;
    let gateway = setup.start_unready().await;
    let snapshot = gateway.readiness.snapshot();
    assert!(!snapshot["source"].ready && !snapshot["listeners"].ready && snapshot["datastore"].ready);
    let roots = service_kit::tls::WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    let config = service_kit::tls::web_client_config(&roots, SystemClock::shared(), &[]).unwrap();
    let mut client = Connection::open(gateway.web_address, &config).await.unwrap();
    let answer = client.send("GET", &format!("/{LOCAL}"), &[]).await;
    assert_eq!(
        (answer.status().as_u16(), answer.body().as_slice()),
        (500, &b"500 unable to retrieve local bundle\n"[..])
    );
    eventually("the reason to be named", || async {
        let reason = gateway.readiness.snapshot()["source"].reason.clone().unwrap_or_default();
        reason.contains(LOCAL) && reason.contains("is the service running")
    })
    .await;

    setup.issuer.resume();
    eventually("readiness", || async { gateway.readiness.is_ready() }).await;
    let answer = client.send("GET", &format!("/{LOCAL}"), &[]).await;
    assert!(bundle_json::parse(&td(LOCAL), answer.body()).is_ok());
    gateway.stop().await;
}

#[tokio::test]
async fn a_second_gateway_and_a_used_port_are_refused_with_the_remedy() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let start = |config: &serde_json::Value| {
        let config: Config = serde_json::from_value(config.clone()).unwrap();
        async move { Gateway::start(&config, SystemClock::shared(), Shutdown::new()).await.err().unwrap().to_string() }
    };
    let error = start(&setup.config).await;
    assert!(error.contains("in use by another process"), "{error}");

    let mut config = setup.config.clone();
    config["data_dir"] = serde_json::json!(setup.file("other"));
    config["listeners"]["https_web"]["bind_port"] = serde_json::json!(gateway.web_address.port());
    let error = start(&config).await;
    assert!(error.contains("change listeners.https_web.bind_port"), "{error}");
    config["listeners"]["https_web"]["bind_port"] = serde_json::json!(0);
    let error = start(&config).await;
    assert!(error.contains("socket") && error.contains("in use"), "{error}");
    config["socket_path"] = serde_json::json!(setup.file("other.sock"));
    config["listeners"]["https_web"]["serving_cert_file"]["cert_file_path"] = serde_json::json!("/nowhere.pem");
    let error = start(&config).await;
    assert!(error.contains("/nowhere.pem"), "{error}");
    gateway.stop().await;
}
