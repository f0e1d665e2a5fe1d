//! The admin API.

use gateway::api::{BundleKind, BundleList, HealthReport, Problem, Relationship};
use http::Request;
use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    partner::{Partner, document},
    td,
};

#[tokio::test]
async fn answers_and_problems() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(3))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 3).await;

    let health: HealthReport = gateway.admin.get("/v1/health").await;
    assert!(health.ready);
    assert_eq!(health.subsystems.keys().collect::<Vec<_>>(), ["datastore", "listeners", "source"]);

    let list: BundleList = gateway.admin.get("/v1/bundles").await;
    assert_eq!((list.bundles[0].kind, list.bundles[1].kind), (BundleKind::Own, BundleKind::Partner));
    assert_eq!((list.bundles[1].x509_authorities, list.bundles[1].refresh_hint_seconds), (1, Some(4)));

    let get = async |path: &str| gateway.admin.send(Request::get(path).body(String::new()).unwrap()).await;
    let spiffe = get(&format!("/v1/bundles/{PARTNER}")).await;
    assert_eq!(spiffe.headers()["content-type"], "application/json");
    let parsed = federation_specs::bundle_json::parse(&td(PARTNER), spiffe.body()).unwrap().bundle;
    assert!(parsed.same_content(&keys.bundle(3)));
    let pem = get(&format!("/v1/bundles/spiffe:%2F%2F{PARTNER}?format=pem")).await;
    assert!(pem.body().starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert_eq!(get(&format!("/v1/bundles/{LOCAL}")).await.status(), 200);

    let cases = [
        ("/v1/relationships/other.example", 404, "no relationship with trust domain `other.example`"),
        ("/v1/relationships/Other", 400, ""),
        ("/v1/bundles/other.example", 404, "is served or held"),
        ("/v1/bundles/other.example/history", 404, "is served or held"),
        ("/v1/bundles/onprem.example?format=der", 400, "unknown variant `der`"),
        ("/v2", 404, "nothing is at `/v2`"),
        ("/v1/relationships/onprem.example/refresh", 405, "does not take GET"),
    ];
    for (path, status, text) in cases {
        let problem: Problem = gateway.admin.try_get::<Relationship>(path).await.unwrap_err();
        assert_eq!(problem.status, status, "{path}: {problem:?}");
        assert!(problem.detail.contains(text), "{path}: {problem:?}");
    }
    let unknown = gateway.refresh("other.example", json!({})).await.unwrap_err();
    assert_eq!(unknown.status, 404);
    let bad = gateway.refresh(PARTNER, json!({"accept_rolback": true})).await.unwrap_err();
    assert_eq!(bad.status, 400);
    assert!(bad.detail.contains("unknown field"), "{bad:?}");
    gateway.stop().await;
}
