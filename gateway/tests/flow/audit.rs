//! The audit log over the admin API.

use gateway::api::audit::{Actor, AuditPage, AuditReport, Verifier, read_export_line};
use http::Request;
use serde_json::json;

use crate::support::{
    LOCAL, PARTNER, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    td,
};

#[tokio::test]
async fn who_did_what_when_and_why_is_listed_exported_and_verified() {
    let mut setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("delivery", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered }).await;
    gateway.decide(PARTNER, "freeze", json!({"why": "their \"incident\""})).await.unwrap();

    let page: AuditPage = gateway.admin.get(&format!("/v1/audit?subject={PARTNER}")).await;
    let records: Vec<_> = page.records.into_iter().map(|entry| entry.record.unwrap()).collect();
    let done: Vec<String> = records.iter().map(|record| record.what.name()).collect();
    assert_eq!(done, ["relationship.added", "bundle.accepted", "delivery.confirmed", "relationship.frozen"]);
    assert_eq!((&records[0].who, &records[1].who), (&Actor::Gateway, &Actor::Gateway));
    assert_eq!(records[0].after["url"], json!(partner.url()));
    assert_eq!((&records[1].before, &records[1].after["sequence"]), (&json!(null), &json!(1)));
    assert_eq!(records[1].after["difference"]["x509"], json!({"added": 1, "removed": 0, "kept": 0}));
    assert_eq!(records[2].subject, format!("{PARTNER} at {LOCAL}"));
    let Actor::User { uid, pid, .. } = &records[3].who else { panic!("{:?}", records[3]) };
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(*uid, std::fs::metadata(setup.file("admin.sock")).unwrap().uid());
    assert_eq!(*pid, Some(std::process::id().try_into().unwrap()));
    assert_eq!(records[3].why, "their \"incident\"");
    let own: AuditPage = gateway.admin.get(&format!("/v1/audit?subject={LOCAL}&order=newest&limit=1")).await;
    assert_eq!(own.records[0].record.as_ref().unwrap().what.name(), "own_bundle.changed");

    let report = gateway.verify_audit().await;
    let whole: AuditReport = gateway.admin.get(&format!("/v1/audit/verify?head={}", report.head)).await;
    assert_eq!((whole.ok, whole.copy_found_at), (true, Some(report.last)));
    let other: AuditReport = gateway.admin.get(&format!("/v1/audit/verify?head={}", "ab".repeat(32))).await;
    let slip: gateway::api::Problem = gateway
        .admin
        .try_get::<AuditReport>(&format!("/v1/audit/verify?head={}", &report.head[1..]))
        .await
        .unwrap_err();
    assert_eq!((slip.status, slip.kind.as_str()), (400, "urn:entente:problem:bad-query"));
    assert!(!other.ok && other.problems[0].problem.contains("cut off or rewritten"), "{other:?}");
    assert_eq!(gateway.admin.try_get::<AuditPage>("/v1/audit?lst=1").await.unwrap_err().status, 400);

    // An export in pages is the same log.
    let mut verifier = Verifier::new(Some(&report.head));
    let mut after = 0;
    loop {
        let request = Request::get(format!("/v1/audit/export?after={after}&limit=2")).body(String::new()).unwrap();
        let answer = gateway.admin.send(request).await;
        assert_eq!(answer.headers()["content-type"], "application/jsonl");
        let text = String::from_utf8(answer.into_body()).unwrap();
        if text.is_empty() {
            break;
        }
        for line in text.lines() {
            let (hash, record) = read_export_line(line).unwrap();
            after += 1;
            verifier.record(after, record, hash);
        }
    }
    let exported = verifier.finish(None);
    assert!(exported.ok && exported.last == report.last, "{exported:?}");
    gateway.stop().await;

    // The log goes on after a restart, and the relationship is not added a second time.
    let gateway = setup.start().await;
    let again: AuditReport = gateway.admin.get(&format!("/v1/audit/verify?head={}", report.head)).await;
    assert!(again.ok, "{again:?}");
    let added = gateway.audited().await.into_iter().filter(|(what, _)| what == "relationship.added").count();
    assert_eq!(added, 1);
    gateway.stop().await;
}
