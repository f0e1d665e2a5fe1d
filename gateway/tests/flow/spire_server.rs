//! A SPIRE server as the source of the own bundle and as a target of deliveries, with the answers a running one gave.

use federation_specs::{
    bundle::Bundle,
    bundle_json,
    convert::{bundle_to_proto, profile_to_proto},
    profile::EndpointProfile,
    proto::types::{FederationRelationship, X509Certificate},
};
use gateway::{
    api::{Relationship, sources::SourceList},
    issuer_client::{IssuerClient, IssuerError},
};
use serde_json::json;
use service_kit::clock::SystemClock;
use tonic::Code;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    client::{Connection, web_client},
    eventually,
    partner::{Partner, document},
    spire::{LOCAL_CALLER, SpireServer, recorded},
    td,
};

fn server(folder: &std::path::Path) -> (SpireServer, Bundle) {
    let authority = Authority::new(&td(LOCAL));
    let own = authority.bundle(7);
    (SpireServer::start(authority, bundle_to_proto(&own), &folder.join("spire.sock")), own)
}

fn client(folder: &std::path::Path) -> IssuerClient {
    IssuerClient::over_socket(td(LOCAL), &folder.join("spire.sock"), SystemClock::shared())
}

fn refused(outcome: Result<impl std::fmt::Debug, IssuerError>) -> (Code, String) {
    match outcome.unwrap_err() {
        error @ IssuerError::Refused { code, .. } => (code, error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn each_answer_is_understood() {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    let (server, own) = server(folder.path());
    let client = client(folder.path());
    assert_eq!(client.own_bundle().await.unwrap(), own);
    assert!(client.watch_relationships().await.is_err_and(|error| error.is_unimplemented()));

    let partner = Authority::new(&td(PARTNER)).bundle(3);
    assert_eq!(client.federated_bundle(&td(PARTNER)).await.unwrap(), None, "bundle not found");
    client.delete_federated_bundle(&td(PARTNER)).await.unwrap();
    client.set_federated_bundle(&partner).await.unwrap();
    client.set_federated_bundle(&partner.clone().with_sequence(Some(2))).await.unwrap();
    assert_eq!(client.federated_bundle(&td(PARTNER)).await.unwrap().unwrap().sequence(), Some(2));
    client.set_federated_bundle(&Bundle::new(td("empty.example"))).await.unwrap();
    assert_eq!(client.federated_digests().await.unwrap().len(), 2);
    client.delete_federated_bundle(&td(PARTNER)).await.unwrap();
    assert!(server.federated(PARTNER).is_none());

    // Refusals of one item, and of the call.
    for (outcome, said) in [
        (
            refused(client.set_federated_bundle(&own).await),
            "setting a federated bundle for the server's own trust domain",
        ),
        (refused(client.delete_federated_bundle(&td(LOCAL)).await), "removing the bundle for the server trust domain"),
        (
            refused(client.federated_bundle(&td(LOCAL)).await.map(drop)),
            "getting a federated bundle for the server's own",
        ),
    ] {
        assert!(outcome.0 == Code::InvalidArgument && outcome.1.contains(said), "{outcome:?}");
    }
    server.state().caller = "agent";
    let (_, said, _) = recorded("bundle.v1.Bundle/BatchSetFederatedBundle", "agent", "-");
    let (code, text) = refused(client.set_federated_bundle(&partner).await);
    assert!(code == Code::PermissionDenied && text.contains(&said) && text.contains("admin identity"), "{text}");
    assert_eq!(refused(client.list_relationships().await).0, Code::PermissionDenied);
    client.own_bundle().await.unwrap();
}

#[tokio::test]
async fn pages_are_followed_over_the_one_its_own_bundle_leaves_empty_and_do_not_go_on_for_ever() {
    service_kit::crypto::install();
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = server(folder.path());
    let client = client(folder.path());
    let name = |number: usize| format!("partner-{number}.example");
    {
        let mut state = server.state();
        let bundle = bundle_to_proto(&Authority::new(&td(PARTNER)).bundle(1));
        for number in 0..600 {
            let trust_domain = name(number);
            state.federated.push(federation_specs::proto::types::Bundle { trust_domain, ..bundle.clone() });
            state.relationships.push(FederationRelationship {
                trust_domain: name(number),
                bundle_endpoint_url: format!("https://{}/bundle", name(number)),
                bundle_endpoint_profile: Some(profile_to_proto(&EndpointProfile::HttpsWeb)),
                trust_domain_bundle: None,
            });
        }
    }
    assert_eq!(client.federated_digests().await.unwrap().len(), 600);
    assert_eq!(client.list_relationships().await.unwrap().len(), 600);
    // The recorded page of one, with nothing but the own bundle.
    server.state().largest_page = 1;
    let digests = client.federated_digests().await.unwrap();
    assert!(digests.len() == 600 && digests.contains_key(&td(&name(599))));
    assert_eq!(client.list_relationships().await.unwrap().len(), 600);

    server.state().largest_page = 500;
    server.state().endless = true;
    for error in [client.federated_digests().await.unwrap_err(), client.list_relationships().await.unwrap_err()] {
        assert!(error.to_string().contains("pages"), "{error}");
    }
}

#[tokio::test]
async fn its_bundle_is_served_and_partners_bundles_are_delivered_compared_and_removed() {
    let mut setup = Setup::new().await;
    let (server, own) = server(setup.folder.path());
    setup.config["trust_domains"][0]["issuer"] = json!({"socket_path": setup.file("spire.sock")});
    setup.config["refresh"]["compare_interval"] = json!("1s");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(5))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    let relationship = async || -> Relationship { gateway.relationship(PARTNER).await };
    eventually("delivery", || async { server.federated(PARTNER).is_some() }).await;
    eventually("confirmation", || async { relationship().await.deliveries[0].delivered }).await;
    let sets = server.state().sets;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(server.state().sets, sets, "what the server keeps of a bundle is no drift");

    // What SPIRE's AppendBundle stores and its own endpoint then fails on: nothing, and two certificates in one.
    let (one, two) = (Authority::new(&td(LOCAL)), Authority::new(&td(LOCAL)));
    let both = [one.x509().der(), two.x509().der()].concat();
    {
        let mut state = server.state();
        state.own.x509_authorities.extend([Vec::new(), both].map(|asn1| X509Certificate { asn1, tainted: false }));
        state.own.sequence_number = 9;
    }
    let served = async || {
        let mut client = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
        bundle_json::parse(&td(LOCAL), client.send("GET", &format!("/{LOCAL}"), &[]).await.body()).unwrap().bundle
    };
    eventually("the bundle with what can be read", || async { served().await.sequence() == Some(9) }).await;
    let read = served().await.x509_authorities().to_vec();
    let expected = [own.x509_authorities()[0].clone(), one.x509(), two.x509()];
    assert!(read.len() == 3 && expected.iter().all(|authority| read.contains(authority)), "{read:?}");

    // The gateway's rights are taken away and given back.
    server.state().caller = "agent";
    partner.serve(&Authority::new(&td(PARTNER)).bundle(6));
    eventually("the refusal", || async {
        let error = relationship().await.deliveries[0].last_error.clone();
        error.is_some_and(|error| error.contains("authorization denied for method") && error.contains("admin identity"))
    })
    .await;
    let sources: SourceList = gateway.admin.get("/v1/sources").await;
    assert!(sources.sources[0].failing_since.is_none(), "anybody may read the server's own bundle");
    server.state().caller = LOCAL_CALLER;
    eventually("the delivery after all", || async {
        server.federated(PARTNER).is_some_and(|bundle| bundle.sequence_number == 6)
    })
    .await;

    // Changed by hand, deleted by hand.
    server.state().federated[0].jwt_authorities.clear();
    eventually("the correction", || async {
        server.federated(PARTNER).is_some_and(|bundle| !bundle.jwt_authorities.is_empty())
    })
    .await;
    server.state().federated.clear();
    eventually("another delivery", || async { server.federated(PARTNER).is_some() }).await;
    eventually("its confirmation", || async { relationship().await.deliveries[0].delivered }).await;
    gateway.stop().await;
    setup.config["relationships"] = json!([]);
    let gateway = setup.start().await;
    eventually("the removal", || async { server.federated(PARTNER).is_none() }).await;
    gateway.stop().await;
}
