//! Several trust domains on one listener: by host, by TLS server name, in one document, and presented by another one.

use std::sync::Arc;

use federation_specs::bundle_json;
use rustls::ClientConfig;
use serde_json::json;

use crate::support::{
    LOCAL, Running, Setup,
    authority::Authority,
    client::{Connection, spiffe_client, web_client},
    td,
};

const SECOND: &str = "second.example";

/// A domain that comes from a file.
fn add_second(setup: &mut Setup, more: serde_json::Value) -> Authority {
    let keys = Authority::new(&td(SECOND));
    let file = setup.file("second.json");
    std::fs::write(&file, bundle_json::encode(&keys.bundle(4))).unwrap();
    let mut domain = json!({"name": SECOND, "sources": [{"file": {"path": file}}], "refresh_hint": "1m"});
    domain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    setup.config["trust_domains"].as_array_mut().unwrap().push(domain);
    keys
}

async fn get(gateway: &Running, tls: &Arc<ClientConfig>, host: &str, path: &str) -> http::Response<Vec<u8>> {
    let mut client = Connection::open(gateway.web_address, tls).await.unwrap();
    client.send_to(host, "GET", path, &[]).await
}

#[tokio::test]
async fn one_path_under_two_hosts() {
    let mut setup = Setup::new().await;
    setup.config["trust_domains"][0]["path"] = json!("/bundle");
    add_second(&mut setup, json!({"path": "/bundle", "hosts": ["Second.example", "bundles.second.example"]}));
    let gateway = setup.start().await;
    let tls = web_client(&setup);
    for (host, name) in [
        ("second.example", SECOND),
        ("BUNDLES.second.example:8443", SECOND),
        ("other.example", LOCAL),
        ("127.0.0.1", LOCAL),
    ] {
        let answer = get(&gateway, &tls, host, "/bundle").await;
        let bundle = bundle_json::parse(&td(name), answer.body()).unwrap().bundle;
        assert_eq!(bundle.sequence(), Some(if name == SECOND { 4 } else { 1 }), "{host}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_bundle_map_holds_each_domain_and_changes_with_them() {
    let mut setup = Setup::new().await;
    add_second(&mut setup, json!({}));
    setup.config["bundle_map"] = json!({"path": "/bundles"});
    let gateway = setup.start().await;
    let tls = web_client(&setup);
    let answer = get(&gateway, &tls, "x", "/bundles").await;
    assert_eq!(answer.headers()["cache-control"], "public, max-age=15", "the shortest of its bundles");
    let map: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    let domains = map["trust_domains"].as_object().unwrap();
    assert_eq!(domains.keys().collect::<Vec<_>>(), [LOCAL, SECOND]);
    for (name, sequence) in [(LOCAL, 1), (SECOND, 4)] {
        let bundle = bundle_json::parse(&td(name), domains[name].to_string().as_bytes()).unwrap().bundle;
        assert_eq!((bundle.sequence(), bundle.x509_authorities().len()), (Some(sequence), 1));
    }
    let etag = answer.headers()["etag"].clone();
    let next = setup.issuer.state().own.clone().with_sequence(Some(2));
    setup.issuer.state().own = next;
    crate::support::eventually("the map to change", || async {
        get(&gateway, &tls, "x", "/bundles").await.headers()["etag"] != etag
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_another_domain_serves_a_domain_without_issuer() {
    let mut setup = Setup::new().await;
    let id = format!("spiffe://{LOCAL}/entente/gateway");
    let keys = add_second(&mut setup, json!({"endpoint_id": id}));
    let gateway = setup.start().await;
    let stream = tokio::net::TcpStream::connect(gateway.spiffe_address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(SECOND).unwrap();
    tokio_rustls::TlsConnector::from(spiffe_client(&setup, &id)).connect(name, stream).await.unwrap();
    let mut client = Connection::open(gateway.spiffe_address, &spiffe_client(&setup, &id)).await.unwrap();
    let answer = client.send("GET", &format!("/{SECOND}"), &[]).await;
    let bundle = bundle_json::parse(&td(SECOND), answer.body()).unwrap().bundle;
    assert_eq!(bundle.x509_authorities(), [keys.x509()]);
    assert_eq!(setup.issuer.state().minted, 1, "one X509-SVID for both");
    gateway.stop().await;
}

#[tokio::test]
async fn both_profiles_share_a_listener() {
    let mut setup = Setup::new().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for profile in ["https_web", "https_spiffe"] {
        setup.config["listeners"][profile]["bind_port"] = json!(port);
    }
    setup.config["trust_domains"][0]["server_names"] = json!(["spiffe.gateway.example"]);
    let gateway = setup.start().await;
    assert_eq!(gateway.web_address, gateway.spiffe_address);
    let keys = format!("/{LOCAL}/keys");
    let mut web = Connection::open(gateway.web_address, &web_client(&setup)).await.unwrap();
    assert_eq!(web.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200);
    assert_eq!(web.send("GET", &keys, &[]).await.status(), 200);

    let tls = spiffe_client(&setup, &format!("spiffe://{LOCAL}/entente/gateway"));
    let mut spiffe = Connection::open_as(gateway.web_address, "spiffe.gateway.example", &tls).await.unwrap();
    assert_eq!(spiffe.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200);
    assert_eq!(spiffe.send("GET", &keys, &[]).await.status(), 404, "OIDC is for the web");
    // The domain's own name is a web name here.
    assert!(Connection::open_as(gateway.web_address, LOCAL, &tls).await.is_err());
    gateway.stop().await;
}
