//! Relationships created at the issuer.

use federation_specs::{
    convert::{bundle_to_proto, profile_to_proto},
    profile::EndpointProfile,
    proto::types::FederationRelationship,
};
use gateway::api::{Health, Origin, RelationshipList};

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    td,
};

fn spiffe_relationship(keys: &Authority, endpoint: &str, url: &str) -> FederationRelationship {
    FederationRelationship {
        trust_domain: PARTNER.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        bundle_endpoint_profile: Some(profile_to_proto(&EndpointProfile::HttpsSpiffe {
            endpoint_id: endpoint.parse().unwrap(),
        })),
        trust_domain_bundle: Some(bundle_to_proto(&keys.bundle(0))),
    }
}

async fn partner(keys: &Authority, sequence: u64) -> (String, Partner) {
    let endpoint = format!("spiffe://{PARTNER}/gateway");
    let partner = Partner::spiffe(keys.identity(&endpoint), document(&keys.bundle(sequence))).await;
    (endpoint, partner)
}

#[tokio::test]
async fn a_relationship_of_the_issuer_is_polled_refreshed_on_request_and_ended() {
    let setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let (endpoint, partner) = partner(&keys, 1).await;
    let gateway = setup.start().await;
    let list: RelationshipList = gateway.admin.get("/v1/relationships").await;
    assert!(list.relationships.is_empty());

    let relationship = spiffe_relationship(&keys, &endpoint, &partner.url());
    setup.issuer.relate(vec![relationship.clone()], &[]);
    let shown = gateway.wait_held(PARTNER, 1).await;
    assert_eq!(shown.origin, Origin::Issuer);
    eventually("health", || async { gateway.relationship(PARTNER).await.health == Health::Healthy }).await;
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;

    // Refresh requests are served at once and reported.
    partner.serve(&keys.bundle(2));
    setup.issuer.relate(vec![relationship.clone()], &[(PARTNER, "r1"), ("unknown.example", "r2")]);
    eventually("both reports", || async { setup.issuer.state().reports.len() == 2 }).await;
    {
        let state = setup.issuer.state();
        let report = |id: &str| state.reports.iter().find(|report| report.request_id == id).unwrap();
        assert!(report("r1").ok, "{:?}", report("r1"));
        assert!(!report("r2").ok);
        assert_eq!(report("r2").error, "no relationship with trust domain \"unknown.example\"");
    }
    assert_eq!(gateway.relationship(PARTNER).await.held.unwrap().sequence, Some(2));

    // Removal ends the polling at once and takes the bundle from the issuer.
    setup.issuer.relate(Vec::new(), &[]);
    eventually("removal", || async {
        gateway.admin.get::<RelationshipList>("/v1/relationships").await.relationships.is_empty()
    })
    .await;
    let requests = partner.requests();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(partner.requests(), requests);
    assert!(!setup.issuer.state().federated.contains_key(PARTNER));
    gateway.stop().await;
}

#[tokio::test]
async fn a_spire_server_is_listed_instead_of_watched() {
    let setup = Setup::new().await;
    setup.issuer.state().without_work = true;
    let keys = Authority::new(&td(PARTNER));
    let (endpoint, partner) = partner(&keys, 1).await;
    setup.issuer.state().relationships = vec![spiffe_relationship(&keys, &endpoint, &partner.url())];
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_issuer_that_names_another_endpoint_than_the_configuration_is_a_conflict() {
    let mut setup = Setup::new().await;
    let second = crate::support::issuer::FakeIssuer::start("second.example", setup.file("second.sock")).await;
    setup.config["trust_domains"].as_array_mut().unwrap().push(serde_json::json!({
        "name": "second.example", "issuer": {"socket_path": second.socket()},
    }));
    let keys = Authority::new(&td(PARTNER));
    let web = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &web.url());
    setup.config["relationships"][0]["local_trust_domains"] = serde_json::json!([LOCAL]);
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;

    let (endpoint, other) = partner(&keys, 1).await;
    second.relate(vec![spiffe_relationship(&keys, &endpoint, &other.url())], &[(PARTNER, "r1")]);
    eventually("the report", || async { second.state().reports.len() == 1 }).await;
    let report = second.state().reports[0].clone();
    assert!(!report.ok && report.error.contains("give both the same endpoint"), "{report:?}");
    let relationship = gateway.relationship(PARTNER).await;
    assert_eq!(
        (relationship.origin, relationship.conflicts.as_slice()),
        (Origin::Config, &["second.example".to_owned()][..])
    );
    assert!(second.state().federated.is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn a_bundle_set_by_hand_sets_up_trust_again_and_is_then_replaced() {
    let setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let (endpoint, lost) = partner(&keys, 9).await;
    let gateway = setup.start().await;
    setup.issuer.relate(vec![spiffe_relationship(&keys, &endpoint, &lost.url())], &[]);
    gateway.wait_held(PARTNER, 9).await;

    let rebuilt = Authority::new(&td(PARTNER));
    let (_, found) = partner(&rebuilt, 2).await;
    let mut relationship = spiffe_relationship(&keys, &endpoint, &found.url());
    setup.issuer.relate(vec![relationship.clone()], &[]);
    eventually("the refusal", || async { gateway.relationship(PARTNER).await.last_error.is_some() }).await;
    // `bundle set` at the issuer.
    setup.issuer.state().federated.insert(PARTNER.to_owned(), rebuilt.bundle(0));
    relationship.trust_domain_bundle = Some(bundle_to_proto(&rebuilt.bundle(0)));
    setup.issuer.relate(vec![relationship], &[]);
    gateway.wait_held(PARTNER, 2).await;
    gateway.stop().await;
}
