//! The admin API over mTLS: who gets in, and who may do what.

use std::{net::SocketAddr, sync::Arc};

use federation_specs::bundle::Bundle;
use gateway::api::{Problem, Role, audit::AuditPage};
use http::Response;
use rustls::ClientConfig;
use serde_json::json;
use service_kit::{
    clock::SystemClock,
    tls::{BundleCell, PeerPolicy, SvidCell, SvidSource, X509Identity, spiffe_client_config},
};
use time::Duration;

use crate::support::{
    LOCAL, PARTNER, Running, Setup,
    authority::Authority,
    client::Connection,
    eventually,
    partner::{Partner, document},
    td,
};

const ENDPOINT: &str = "spiffe://cloud.example/entente/admin";
const VIEWER: &str = "spiffe://cloud.example/dashboard";
const OPERATOR: &str = "spiffe://cloud.example/sre/bob";
const ADMIN: &str = "spiffe://cloud.example/sre/ada";

/// A gateway with an admin listener and a partner, which serves `keys`.
async fn start() -> (Setup, Running, Authority, Partner) {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    setup.config["admin"] = json!({
        "bind_port": 0,
        "endpoint_id": ENDPOINT,
        "partner_trust_domains": [PARTNER],
        "roles": [
            {"spiffe_id": VIEWER, "role": "viewer"},
            {"spiffe_id_prefix": "spiffe://cloud.example/sre/", "role": "operator"},
            {"spiffe_id": ADMIN, "role": "admin"},
            {"spiffe_id": "spiffe://onprem.example/auditor", "role": "viewer"},
        ],
    });
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("the admin listener's X509-SVID", || async { gateway.readiness.snapshot()["admin"].reason.is_none() })
        .await;
    (setup, gateway, keys, partner)
}

/// A client that presents `identity`, and believes nobody but the admin endpoint.
fn client(setup: &Setup, identity: Option<X509Identity>) -> Arc<ClientConfig> {
    let bundle = Arc::new(setup.issuer.state().own.clone());
    let bundles = Arc::new(BundleCell::new([bundle].into_iter().collect()));
    let svid = identity.map(|identity| Arc::new(SvidCell::holding(identity)) as Arc<dyn SvidSource>);
    let expected = PeerPolicy::Exactly(ENDPOINT.parse().unwrap());
    spiffe_client_config(bundles, svid, expected, SystemClock::shared(), &[]).unwrap()
}

fn member(setup: &Setup, id: &str) -> Arc<ClientConfig> {
    let identity = setup.issuer.state().authority.identity(id);
    client(setup, Some(identity))
}

async fn ask(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    method: &str,
    path: &str,
    body: &str,
) -> Response<Vec<u8>> {
    let mut connection = Connection::open(address, config).await.unwrap();
    connection.try_send(method, path, &[("content-type", "application/json")], body).await.unwrap()
}

/// Whether the client gets no answer at all.
async fn is_cut_off(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    match Connection::open(address, config).await {
        Err(_) => true,
        // With TLS 1.3 the client learns of its refusal only after its own handshake.
        Ok(mut connection) => connection.try_send("GET", "/v1/health", &[], "").await.is_err(),
    }
}

fn problem(answer: &Response<Vec<u8>>) -> Problem {
    serde_json::from_slice(answer.body()).unwrap()
}

#[tokio::test]
async fn each_role_does_what_it_may() {
    let (setup, gateway, _keys, _partner) = start().await;
    let address = gateway.admin_address.unwrap();
    let (viewer, operator, admin) = (member(&setup, VIEWER), member(&setup, OPERATOR), member(&setup, ADMIN));
    let relationship = format!("/v1/relationships/{PARTNER}");
    let freeze = format!("{relationship}/freeze");
    for caller in [&viewer, &operator, &admin] {
        let answer = ask(address, caller, "GET", &relationship, "").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("etag"));
    }
    let refused = ask(address, &viewer, "POST", &freeze, "{\"why\": \"curious\"}").await;
    assert_eq!(refused.status(), 403);
    let problem_document = problem(&refused);
    assert_eq!(problem_document.kind, "urn:entente:problem:role-needed");
    assert_eq!(problem_document.needed_role, Some(Role::Operator));
    let expected = format!("{VIEWER} has the role viewer, and this needs operator");
    assert!(problem_document.detail.starts_with(&expected), "{problem_document:?}");
    assert!(gateway.relationship(PARTNER).await.frozen.is_none());

    assert_eq!(ask(address, &operator, "POST", &freeze, "{\"why\": \"their incident\"}").await.status(), 200);
    let frozen = gateway.relationship(PARTNER).await.frozen.unwrap();
    assert_eq!((frozen.by, frozen.why), (format!("{OPERATOR} (operator)"), "their incident".to_owned()));
    let page: AuditPage = gateway.admin.get("/v1/audit?order=newest&limit=1").await;
    let record = serde_json::to_value(page.records[0].record.as_ref().unwrap()).unwrap();
    assert_eq!(record["who"], json!({"kind": "spiffe_id", "spiffe_id": OPERATOR, "role": "operator"}));
    gateway.verify_audit().await;

    let refused = ask(address, &operator, "GET", "/v1/audit/export", "").await;
    assert_eq!((refused.status().as_u16(), problem(&refused).needed_role), (403, Some(Role::Admin)));
    assert_eq!(ask(address, &admin, "GET", "/v1/audit/export", "").await.status(), 200);

    // One path that is not there, one method, one large body: the same problems as on the socket.
    assert_eq!(problem(&ask(address, &viewer, "GET", "/v2", "").await).kind, "urn:entente:problem:unknown-path");
    assert_eq!(ask(address, &viewer, "GET", &freeze, "").await.status(), 405);
    assert_eq!(ask(address, &operator, "POST", &freeze, &"x".repeat(70_000)).await.status(), 413);
    gateway.stop().await;
}

#[tokio::test]
async fn strangers_get_nothing() {
    let (setup, gateway, keys, _partner) = start().await;
    let address = gateway.admin_address.unwrap();
    // Known trust domain, no role.
    for id in
        ["spiffe://cloud.example/sre", "spiffe://cloud.example/dashboard/x", "spiffe://cloud.example/sre-evil/ada"]
    {
        let answer = ask(address, &member(&setup, id), "GET", "/v1/health", "").await;
        assert_eq!((answer.status().as_u16(), problem(&answer).needed_role), (403, Some(Role::Viewer)), "{id}");
        assert!(problem(&answer).detail.starts_with(&format!("{id} has no role here")), "{answer:?}");
    }
    // A partner's member has the role of its own SPIFFE ID, not that of the same path here.
    let auditor = client(&setup, Some(keys.identity("spiffe://onprem.example/auditor")));
    assert_eq!(ask(address, &auditor, "GET", "/v1/health", "").await.status(), 200);
    let same_path = client(&setup, Some(keys.identity("spiffe://onprem.example/sre/ada")));
    assert_eq!(ask(address, &same_path, "GET", "/v1/health", "").await.status(), 403);

    let other = Authority::new(&td("other.example"));
    let forger = Authority::new(&td(LOCAL));
    let expired = setup.issuer.state().authority.identity_for(ADMIN, Duration::ZERO);
    let unwelcome = [
        ("nobody", None),
        ("a trust domain without a role", Some(other.identity("spiffe://other.example/sre/ada"))),
        ("the admin's name signed by somebody else", Some(forger.identity(ADMIN))),
        ("the admin's name signed by a partner", Some(keys.identity(ADMIN))),
        ("an X509-SVID that has expired", Some(expired)),
    ];
    for (who, identity) in unwelcome {
        assert!(is_cut_off(address, &client(&setup, identity)).await, "{who}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_is_worth_what_its_svid_is_now() {
    let (setup, gateway, _keys, _partner) = start().await;
    let address = gateway.admin_address.unwrap();
    // It ends with the X509-SVID.
    let short = setup.issuer.state().authority.identity_for(VIEWER, Duration::seconds(3));
    let mut connection = Connection::open(address, &client(&setup, Some(short))).await.unwrap();
    assert_eq!(connection.try_send("GET", "/v1/health", &[], "").await.unwrap().status(), 200);
    eventually("the end of the connection", || async { connection.is_closed() }).await;

    // An authority that was withdrawn is not good for open connections either.
    let mut connection = Connection::open(address, &member(&setup, ADMIN)).await.unwrap();
    assert_eq!(connection.try_send("GET", "/v1/health", &[], "").await.unwrap().status(), 200);
    let next = Authority::new(&td(LOCAL));
    let own: Bundle = next.bundle(100);
    {
        let mut state = setup.issuer.state();
        state.own = own;
        state.authority = next;
    }
    let freeze = format!("/v1/relationships/{PARTNER}/freeze");
    let mut last = None;
    for _ in 0..500 {
        let answer = connection.try_send("GET", "/v1/health", &[], "").await.unwrap();
        if answer.status() == 403 {
            last = Some(answer);
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(problem(&last.unwrap()).kind, "urn:entente:problem:identity-not-valid");
    assert_eq!(connection.try_send("POST", &freeze, &[], "").await.unwrap().status(), 403);
    assert!(gateway.relationship(PARTNER).await.frozen.is_none());
    // Whoever has an X509-SVID of the new authority goes on, with the listener's renewed one.
    let admin = member(&setup, ADMIN);
    eventually("the listener's new X509-SVID", || async { !is_cut_off(address, &admin).await }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_partners_members_lose_their_role_with_the_relationship() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.config["admin"] = json!({
        "bind_port": 0,
        "endpoint_id": ENDPOINT,
        "partner_trust_domains": [PARTNER],
        "roles": [{"spiffe_id": "spiffe://onprem.example/auditor", "role": "viewer"}],
    });
    let relationship = setup.web_relationship(PARTNER, &partner.url());
    for restarted in [false, true] {
        let gateway = setup.start().await;
        gateway.relate(&relationship).await;
        gateway.wait_held(PARTNER, 1).await;
        let ready = || async { gateway.readiness.snapshot()["admin"].reason.is_none() };
        eventually("the admin listener's X509-SVID", ready).await;
        let mut address = gateway.admin_address.unwrap();
        let auditor = client(&setup, Some(keys.identity("spiffe://onprem.example/auditor")));
        let mut open = Connection::open(address, &auditor).await.unwrap();
        assert_eq!(open.try_send("GET", "/v1/health", &[], "").await.unwrap().status(), 200);
        gateway.end(PARTNER).await;
        let refused = open.try_send("GET", "/v1/health", &[], "").await.unwrap();
        assert_eq!(problem(&refused).kind, "urn:entente:problem:identity-not-valid");
        let gateway = if restarted {
            gateway.stop().await;
            setup.start().await
        } else {
            gateway
        };
        address = gateway.admin_address.unwrap_or(address);
        let ready = || async { gateway.readiness.snapshot()["admin"].reason.is_none() };
        eventually("the admin listener's X509-SVID", ready).await;
        assert!(is_cut_off(address, &auditor).await);
        let bundles: gateway::api::BundleList = gateway.admin.get("/v1/bundles").await;
        assert!(bundles.bundles.iter().all(|bundle| bundle.trust_domain != PARTNER), "{bundles:?}");
        gateway.stop().await;
    }
}
