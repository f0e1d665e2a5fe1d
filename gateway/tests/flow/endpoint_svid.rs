//! The endpoint's X509-SVID from a Workload API: chosen among several, replaced, and what happens when it is not.

use federation_specs::proto::workload::X509svid;
use serde_json::json;
use time::Duration;
use tokio::sync::watch;

use crate::support::{
    LOCAL, Setup,
    client::{Connection, spiffe_client},
    eventually, workload_api,
};

const ID: &str = "spiffe://cloud.example/entente/gateway";
const OTHER: &str = "spiffe://cloud.example/other";

#[tokio::test]
async fn the_configured_one_is_presented_until_it_expires_and_again_when_it_is_renewed() {
    let mut setup = Setup::new().await;
    let svid = |id: &str, life: Duration| {
        let state = setup.issuer.state();
        let (x509_svid, x509_svid_key) = state.authority.leaf_living(id, life);
        let bundle = state.own.x509_roots_der();
        X509svid { spiffe_id: id.to_owned(), x509_svid, x509_svid_key, bundle, hint: String::new() }
    };
    let (other, first, second) =
        (svid(OTHER, Duration::HOUR), svid(ID, Duration::seconds(5)), svid(ID, Duration::HOUR));
    // An agent whose words and certificate differ.
    let liar = X509svid { spiffe_id: ID.to_owned(), ..svid(OTHER, Duration::HOUR) };
    let socket = setup.file("agent.sock");
    let (agent, svids) = watch::channel(vec![other.clone(), first.clone()]);
    workload_api::serve_changing(&socket, svids);
    setup.config["trust_domains"][0]["endpoint_svid"] = json!({"workload_api": {"socket_path": socket}});
    let gateway = setup.start().await;
    let remark = || gateway.readiness.snapshot()["listeners"].reason.clone().unwrap_or_default();
    assert_eq!(setup.issuer.state().minted, 0, "the issuer is not asked");

    let config = spiffe_client(&setup, ID);
    let mut open = Connection::open(gateway.spiffe_address, &config).await.unwrap();
    assert_eq!(open.peer, first.x509_svid);

    // Another identity, or a false one, is never presented: the old one goes on.
    agent.send_replace(vec![other.clone()]);
    eventually("the missing identity to be noticed", || async {
        remark().contains("only `spiffe://cloud.example/other`")
    })
    .await;
    assert!(gateway.readiness.is_ready());
    agent.send_replace(vec![liar]);
    eventually("the false identity to be noticed", || async { remark().contains("said to be") }).await;
    assert_eq!(Connection::open(gateway.spiffe_address, &config).await.unwrap().peer, first.x509_svid);

    eventually("the X509-SVID to expire", || async { !gateway.readiness.is_ready() }).await;
    assert!(remark().contains("X509-SVID expired at"), "{}", remark());

    // On the same stream comes a better one.
    agent.send_replace(vec![other, second.clone()]);
    eventually("the renewed X509-SVID", || async { gateway.readiness.is_ready() }).await;
    assert_eq!(Connection::open(gateway.spiffe_address, &config).await.unwrap().peer, second.x509_svid);
    assert_eq!(open.send("GET", &format!("/{LOCAL}"), &[]).await.status(), 200, "the old connection still works");
    gateway.stop().await;
}
