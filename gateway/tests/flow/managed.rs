//! Relationships managed over the admin API.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use federation_specs::{bundle_json, proto::types::FederationRelationship};
use gateway::api::{
    Mode, Origin, Problem,
    audit::{Actor, AuditPage, Record},
    managed::{ApplyResult, ChangeKind, ManagedChange, ManagedDefinition},
};
use http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    LOCAL, PARTNER, Running, Setup,
    authority::Authority,
    eventually,
    partner::{Behaviour, Partner, document},
    td,
};

/// A gateway without relationships, and a partner with its keys.
async fn setup() -> (Setup, Authority, Partner) {
    let setup = Setup::new().await;
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    (setup, keys, partner)
}

fn web(setup: &Setup, name: &str, url: &str) -> Value {
    json!({"trust_domain": name, "url": url, "profile": "https_web", "ca_pem": setup.web.ca_pem()})
}

/// Sends a request about one relationship; its status, its entity tag and its answer.
async fn send(
    gateway: &Running,
    method: &str,
    name: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (StatusCode, Option<String>, Value) {
    let mut request = Request::builder().method(method).uri(format!("/v1/relationships/{name}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = gateway.admin.send(request.body(body).unwrap()).await;
    let tag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
    (answer.status(), tag, serde_json::from_slice(answer.body()).unwrap())
}

async fn put(gateway: &Running, headers: &[(&str, &str)], body: &Value) -> (StatusCode, Option<String>, Value) {
    send(gateway, "PUT", body["trust_domain"].as_str().unwrap(), headers, body).await
}

async fn apply(gateway: &Running, relationships: &[Value], options: Value) -> Result<ApplyResult, Problem> {
    let mut request = json!({"relationships": relationships});
    request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    gateway.admin.post("/v1/apply", &request).await
}

/// What happened to whom.
fn outcome(result: &ApplyResult) -> Vec<(&str, ChangeKind)> {
    result.changes.iter().map(|change| (change.trust_domain.as_str(), change.change)).collect()
}

async fn names(gateway: &Running) -> Vec<String> {
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let list: gateway::api::RelationshipList =
            gateway.admin.get(&format!("/v1/relationships?limit=1000{token}")).await;
        names.extend(list.relationships.into_iter().map(|relationship| relationship.trust_domain));
        match list.next_page_token {
            Some(next) => token = format!("&page_token={next}"),
            None => return names,
        }
    }
}

/// What was recorded after a record, newest first.
async fn since(gateway: &Running, last: i64) -> Vec<Record> {
    let page: AuditPage = gateway.admin.get("/v1/audit?order=newest&limit=1000").await;
    page.records.into_iter().filter_map(|entry| entry.record).filter(|record| record.sequence > last).collect()
}

async fn records(gateway: &Running) -> i64 {
    gateway.verify_audit().await.last
}

#[tokio::test]
async fn a_relationship_is_created_replaced_and_removed_at_run_time() {
    let (setup, keys, partner) = setup().await;
    let gateway = setup.start().await;
    let body = web(&setup, PARTNER, &partner.url());
    let (status, _, answer) = put(&gateway, &[("if-none-match", "*")], &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let created: ManagedChange = serde_json::from_value(answer).unwrap();
    assert_eq!((created.change.change, created.managed.set.clone()), (ChangeKind::Added, None));

    // It is fetched and delivered at once.
    let shown = gateway.wait_held(PARTNER, 1).await;
    assert_eq!((shown.origin, shown.managed.as_ref()), (Origin::Managed, Some(&created.managed)));
    eventually("delivery", || async { setup.issuer.state().federated.contains_key(PARTNER) }).await;
    let (_, tag, definition) = send(&gateway, "GET", &format!("{PARTNER}/definition"), &[], &Value::Null).await;
    let definition: ManagedDefinition = serde_json::from_value(definition).unwrap();
    assert_eq!(tag, Some(format!("\"{}\"", created.managed.version)));
    assert_eq!(definition.definition.url, partner.url());
    assert!(definition.definition.ca_pem.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));

    // The same again is no change and leaves no record.
    eventually("the delivery to be recorded", || async { gateway.relationship(PARTNER).await.deliveries[0].delivered })
        .await;
    let before = records(&gateway).await;
    let (status, _, answer) = put(&gateway, &[], &body).await;
    assert_eq!((status, &answer["change"]["change"]), (StatusCode::OK, &json!("unchanged")));
    assert_eq!(records(&gateway).await, before);

    // Preconditions.
    let mut held = body.clone();
    held["mode"] = json!("hold");
    let (status, _, problem) = put(&gateway, &[("if-none-match", "*")], &held).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{problem}");
    let (status, _, problem) = put(&gateway, &[("if-match", "\"1\"")], &held).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{problem}");
    assert_eq!(problem["type"], "urn:entente:problem:changed-meanwhile");
    let (status, old, answer) = put(&gateway, &[("if-match", &tag.unwrap())], &held).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let fields = &answer["change"]["fields"];
    assert_eq!(*fields, json!([{"field": "mode", "before": null, "after": "hold"}]));
    assert_eq!(gateway.relationship(PARTNER).await.mode, Mode::Hold);
    partner.serve(&keys.bundle(2).with_x509_authorities([Authority::new(&td(PARTNER)).x509()]));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    assert!(gateway.relationship(PARTNER).await.waiting.is_some(), "the new mode holds");

    // The entity tag of the relationship itself is as good, as long as nothing happened to it.
    let delete = async |tag: Option<String>| {
        let name = format!("{PARTNER}?why=no%20more");
        send(&gateway, "DELETE", &name, &[("if-match", &tag.unwrap())], &Value::Null).await
    };
    assert_eq!(delete(old).await.0, StatusCode::PRECONDITION_FAILED, "a bundle waits since then");
    let (_, tag, _) = send(&gateway, "GET", PARTNER, &[], &Value::Null).await;

    // Removal takes the bundle from the issuer within seconds.
    let began = Instant::now();
    let (status, _, answer) = delete(tag).await;
    assert_eq!((status, &answer["change"]["change"]), (StatusCode::OK, &json!("removed")), "{answer}");
    eventually("removal", || async { !setup.issuer.state().federated.contains_key(PARTNER) }).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    let (status, ..) = send(&gateway, "DELETE", PARTNER, &[], &Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(names(&gateway).await.is_empty());

    let page: AuditPage = gateway.admin.get(&format!("/v1/audit?subject={PARTNER}")).await;
    let of_people: Vec<_> = page.records.into_iter().map(|entry| entry.record.unwrap()).collect();
    let of_people: Vec<_> =
        of_people.into_iter().filter(|record| record.what.name().starts_with("relationship.")).collect();
    let done: Vec<String> = of_people.iter().map(|record| record.what.name()).collect();
    assert_eq!(done, ["relationship.added", "relationship.changed", "relationship.removed"]);
    assert!(of_people.iter().all(|record| matches!(record.who, Actor::User { .. })), "{of_people:?}");
    assert_eq!(of_people[0].sequence, created.managed.version);
    assert_eq!(of_people[1].after["mode"], json!("hold"));
    assert!(of_people[1].after["ca_pem"].as_str().unwrap().starts_with("sha256:"), "no documents in records");
    assert_eq!((of_people[2].why.as_str(), &of_people[2].after), ("no more", &Value::Null));
    gateway.stop().await;
}

#[tokio::test]
async fn a_first_bundle_is_given_in_place() {
    let (setup, ..) = setup().await;
    let keys = Authority::new(&td(PARTNER));
    let id = format!("spiffe://{PARTNER}/gateway");
    let partner = Partner::spiffe(keys.identity(&id), document(&keys.bundle(1))).await;
    let gateway = setup.start().await;
    let mut body = json!({
        "trust_domain": PARTNER, "url": partner.url(), "profile": "https_spiffe", "endpoint_spiffe_id": id,
    });
    let stranger = Authority::new(&td(PARTNER)).bundle(1);
    body["bootstrap_bundle"] = json!(String::from_utf8(bundle_json::encode(&stranger)).unwrap());
    assert_eq!(put(&gateway, &[], &body).await.0, StatusCode::OK);
    eventually("a failure", || async { gateway.relationship(PARTNER).await.last_error.is_some() }).await;
    // The right bundle is tried at once.
    body["bootstrap_bundle"] = json!(String::from_utf8(bundle_json::encode(&keys.bundle(1))).unwrap());
    assert_eq!(put(&gateway, &[], &body).await.0, StatusCode::OK);
    gateway.wait_held(PARTNER, 1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_set_is_applied_again_changed_and_pruned() {
    let (setup, _, partner) = setup().await;
    let gateway = setup.start().await;
    let one = |name: &str| web(&setup, name, &partner.url());
    let hand = one("by-hand.example");
    put(&gateway, &[], &hand).await;
    let other = apply(&gateway, &[one("other.example")], json!({"set": "team-b"})).await.unwrap();
    assert_eq!(outcome(&other), [("other.example", ChangeKind::Added)]);

    let [a, b, c] = ["a.example", "b.example", "c.example"].map(one);
    let before = records(&gateway).await;
    let dry = apply(&gateway, &[a.clone(), b.clone(), c.clone()], json!({"dry_run": true})).await.unwrap();
    assert_eq!(dry.count(ChangeKind::Added), 3);
    assert_eq!(names(&gateway).await, ["by-hand.example", "other.example"], "a dry run changes nothing");
    let first = apply(&gateway, &[a.clone(), b.clone(), c.clone()], json!({"why": "ticket 7"})).await.unwrap();
    assert_eq!(first.changes, dry.changes);
    let again = apply(&gateway, &[c.clone(), b.clone(), a.clone()], json!({"prune": true})).await.unwrap();
    assert_eq!(again.count(ChangeKind::Unchanged), 3);
    let added = since(&gateway, before).await.into_iter().filter(|record| record.why == "ticket 7");
    assert_eq!(added.count(), 3, "the second apply left no record");

    // One changed, one gone; the set of others and what was made by hand stay.
    let mut changed = b.clone();
    changed["maximum_age"] = json!("90m");
    let options = json!({"prune": true});
    let dry = apply(&gateway, &[a.clone(), changed.clone()], json!({"prune": true, "dry_run": true})).await.unwrap();
    let wanted =
        [("a.example", ChangeKind::Unchanged), ("b.example", ChangeKind::Changed), ("c.example", ChangeKind::Removed)];
    assert_eq!(outcome(&dry), wanted);
    let result = apply(&gateway, &[a.clone(), changed], options.clone()).await.unwrap();
    assert_eq!(outcome(&result), wanted);
    assert_eq!(result.changes[1].fields[0].after, json!("1h30m"));
    assert_eq!(names(&gateway).await, ["a.example", "b.example", "by-hand.example", "other.example"]);

    // More than half only when confirmed.
    let dry = apply(&gateway, &[], json!({"prune": true, "dry_run": true})).await.unwrap();
    assert!(dry.needs_confirmation);
    let refused = apply(&gateway, &[], options).await.unwrap_err();
    assert!(refused.status == 409 && refused.detail.contains("remove 2 of the 2 relationships"), "{refused:?}");
    assert_eq!(names(&gateway).await.len(), 4);
    let result = apply(&gateway, &[], json!({"prune": true, "confirmed": true})).await.unwrap();
    assert_eq!(result.count(ChangeKind::Removed), 2);

    // What was made by hand joins the set that names it; what is another set's does not.
    let result = apply(&gateway, &[hand], json!({})).await.unwrap();
    assert_eq!(result.changes[0].fields[0].field, "set");
    let refused = apply(&gateway, &[one("other.example")], json!({})).await.unwrap_err();
    assert!(refused.status == 409 && refused.detail.contains("belongs to set `team-b`"), "{refused:?}");
    apply(&gateway, &[one("other.example")], json!({"take_over": true})).await.unwrap();
    let shown = gateway.relationship("other.example").await;
    assert_eq!(shown.managed.unwrap().set.as_deref(), Some("default"));
    gateway.stop().await;
}

#[tokio::test]
async fn one_that_cannot_be_used_keeps_all_from_being_applied() {
    let (mut setup, _, partner) = setup().await;
    setup.relate_web("configured.example", &partner.url());
    let gateway = setup.start().await;
    setup.issuer.relate(
        vec![FederationRelationship {
            trust_domain: "issuers.example".to_owned(),
            bundle_endpoint_url: partner.url(),
            bundle_endpoint_profile: Some(
                federation_specs::proto::types::federation_relationship::BundleEndpointProfile::HttpsWeb(
                    federation_specs::proto::types::HttpsWebProfile {},
                ),
            ),
            trust_domain_bundle: None,
        }],
        &[],
    );
    eventually("the issuer's relationship", || async { names(&gateway).await.len() == 2 }).await;
    let good = web(&setup, "good.example", &partner.url());
    let before = records(&gateway).await;
    let with = |changes: Value| {
        let mut bad = web(&setup, "bad.example", &partner.url());
        bad.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        bad
    };
    let cases = [
        (with(json!({"url": "http://a/"})), 422, "relationship `bad.example`.url"),
        (with(json!({"ca_pem": "/etc/ca.pem"})), 422, "ca_pem: holds no PEM certificate"),
        (with(json!({"ca_pem": null, "ca_file": "/etc/ca.pem"})), 422, "give its text in ca_pem"),
        (with(json!({"profile": "https_spiffe"})), 422, "ca_pem: belongs to profile https_web"),
        (with(json!({"maximum_age": "1s"})), 422, "maximum_age: is too short"),
        (with(json!({"local_trust_domains": ["x.example"]})), 422, "is not served by this gateway"),
        (with(json!({"trust_domain": LOCAL})), 422, "is served by this gateway itself"),
        (with(json!({"trust_domain": "configured.example"})), 409, "defined in the configuration file"),
        (with(json!({"trust_domain": "spiffe://good.example"})), 422, "`good.example` is defined twice"),
        (with(json!({"modus": "hold"})), 400, "unknown field `modus`"),
    ];
    for (bad, status, text) in cases {
        let problem = apply(&gateway, &[good.clone(), bad], json!({})).await.unwrap_err();
        assert!(problem.status == status && problem.detail.contains(text), "{text}: {problem:?}");
    }
    for (options, status, text) in [
        (json!({"set": "Team B"}), 400, "is no name of a set"),
        (json!({"dryrun": true}), 400, "unknown field"),
        (json!({"why": "x".repeat(2000)}), 400, "the reason is longer"),
    ] {
        let problem = apply(&gateway, std::slice::from_ref(&good), options).await.unwrap_err();
        assert!(problem.status == status && problem.detail.contains(text), "{text}: {problem:?}");
    }
    // Both problems are told at once.
    let two = [with(json!({"url": "x"})), with(json!({"trust_domain": "worse.example", "url": "y"}))];
    let problem = apply(&gateway, &two, json!({})).await.unwrap_err();
    assert!(problem.detail.contains("bad.example") && problem.detail.contains("worse.example"), "{problem:?}");

    let mut configured = good.clone();
    configured["trust_domain"] = json!("configured.example");
    assert_eq!(put(&gateway, &[], &configured).await.0, StatusCode::CONFLICT);
    for name in ["configured.example", "issuers.example"] {
        assert_eq!(send(&gateway, "DELETE", name, &[], &Value::Null).await.0, StatusCode::CONFLICT);
    }
    let (status, _, problem) = send(&gateway, "PUT", "else.example", &[], &good).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    let of_people = since(&gateway, before).await.into_iter();
    assert_eq!(of_people.filter(|record| matches!(record.who, Actor::User { .. })).count(), 0);
    assert_eq!(names(&gateway).await, ["configured.example", "issuers.example"]);

    // What an issuer has is managed here from then on, and the issuer's own again afterwards.
    let here = web(&setup, "issuers.example", &partner.url());
    assert_eq!(put(&gateway, &[], &here).await.0, StatusCode::OK);
    assert_eq!(gateway.relationship("issuers.example").await.origin, Origin::Managed);
    assert_eq!(send(&gateway, "DELETE", "issuers.example", &[], &Value::Null).await.0, StatusCode::OK);
    assert_eq!(gateway.relationship("issuers.example").await.origin, Origin::Issuer);
    gateway.stop().await;
}

#[tokio::test]
async fn thousands_are_applied_at_once_and_kept_over_a_restart() {
    let (mut setup, _, partner) = setup().await;
    setup.config["refresh"]["timeout"] = json!("1s");
    let gateway = setup.start().await;
    // Nobody listens there.
    let all: Vec<Value> = (0..2_000)
        .map(|number| {
            json!({
                "trust_domain": format!("p{number}.example"), "url": "https://127.0.0.1:1/", "profile": "https_web",
                "mode": "hold",
            })
        })
        .chain([web(&setup, PARTNER, &partner.url())])
        .collect();

    let result = apply(&gateway, &all, json!({})).await.unwrap();

    assert_eq!(result.count(ChangeKind::Added), 2_001);
    let version = gateway.relationship(PARTNER).await.managed.unwrap().version;
    gateway.wait_held(PARTNER, 1).await;

    gateway.stop().await;

    let began = Instant::now();
    let gateway = setup.start().await;

    // Unoptimised, and with 2,000 tasks that begin at once.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(names(&gateway).await.len(), 2_001);
    let kept = gateway.relationship(PARTNER).await;
    assert_eq!((kept.origin, kept.managed.unwrap().version), (Origin::Managed, version));
    let again = apply(&gateway, &all, json!({"prune": true})).await.unwrap();
    assert_eq!(again.count(ChangeKind::Unchanged), 2_001);

    // The configuration comes first when it names the partner, too, and what was managed waits behind it.
    gateway.stop().await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    assert_eq!(gateway.relationship(PARTNER).await.origin, Origin::Config);
    assert_eq!(send(&gateway, "DELETE", PARTNER, &[], &Value::Null).await.0, StatusCode::OK);
    assert_eq!(gateway.relationship(PARTNER).await.origin, Origin::Config);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_before_a_change_is_decided_by_what_the_relationship_says_now() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    setup.config["refresh"]["timeout"] = json!("30s");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    let gateway = setup.start().await;
    let mut relationship = setup.web_relationship(PARTNER, &partner.url());
    gateway.relate(&relationship).await;
    gateway.wait_held(PARTNER, 1).await;

    let go = Arc::new(tokio::sync::Notify::new());
    let next = Authority::new(&td(PARTNER));
    let asked = partner.requests();
    partner.set(Behaviour::Late(bundle_json::encode(&next.bundle(2)), Arc::clone(&go)));
    let change = async {
        eventually("the request", || async { partner.requests() > asked }).await;
        relationship["mode"] = json!("hold");
        gateway.relate(&relationship).await;
        partner.serve(&next.bundle(2));
        go.notify_one();
    };
    let (refreshed, ()) = tokio::join!(gateway.refresh(PARTNER, json!({})), change);
    let problem = refreshed.unwrap_err();
    assert!(problem.detail.contains("was changed during the refresh"), "{problem:?}");
    eventually("it to wait", || async { gateway.relationship(PARTNER).await.waiting.is_some() }).await;
    let shown = gateway.relationship(PARTNER).await;
    assert_eq!((shown.held.unwrap().sequence, shown.last_error), (Some(1), None));
    gateway.stop().await;
}
