//! The admin API as a whole: what its description says is what it does.

use std::time::Duration;

use gateway::{
    api::{self, Health, Problem, RelationshipList},
    http::admin::page::MAX_LIMIT,
};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::UnixStream};

use crate::support::{
    LOCAL, PARTNER, Running, Setup,
    authority::Authority,
    eventually,
    partner::{Partner, document},
    receiver::{self, Receiver},
    td,
};

type Answer = Response<Vec<u8>>;

async fn send(gateway: &Running, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    gateway.admin.send(request.body(body.to_owned()).unwrap()).await
}

fn problem(answer: &Answer) -> Problem {
    assert_eq!(answer.headers()["content-type"], api::PROBLEM_MEDIA_TYPE, "{answer:?}");
    let problem: Problem = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(answer.status().as_u16(), problem.status);
    problem
}

/// The last part of the type.
fn kind(answer: &Answer) -> String {
    problem(answer).kind.strip_prefix(api::PROBLEM_TYPE_PREFIX).unwrap().to_owned()
}

fn tag(answer: &Answer) -> String {
    answer.headers()["etag"].to_str().unwrap().to_owned()
}

/// A gateway whose partner has a bundle waiting, which only the test refreshes.
async fn held_back() -> (Setup, Running, Authority, Partner) {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    setup.config["relationships"][0]["mode"] = json!("hold");
    Receiver::start(&setup, receiver::Answer::Status(200)).await.configure(&mut setup, "pager", &[]);
    let gateway = setup.start().await;
    eventually("the offer", || async { gateway.relationship(PARTNER).await.waiting.is_some() }).await;
    (setup, gateway, keys, partner)
}

#[tokio::test]
async fn every_operation_of_the_description_is_there_and_answers_as_described() {
    let (_setup, gateway, _keys, _partner) = held_back().await;
    let digest = gateway.relationship(PARTNER).await.waiting.unwrap().digest;
    gateway.decide(PARTNER, "approve", json!({"digest": digest})).await.unwrap();
    let answer = send(&gateway, "GET", "/v1/openapi.json", &[], "").await;
    let description: Value = serde_json::from_slice(answer.body()).unwrap();
    let mut called = 0;
    for (template, methods) in description["paths"].as_object().unwrap() {
        let name = if template.starts_with("/v1/sources") { LOCAL } else { PARTNER };
        let path = template.replace("{trust_domain}", name).replace("{webhook}", "pager");
        assert!(!path.contains('{'), "{template}: teach this test its parameter");
        for (method, operation) in methods.as_object().unwrap() {
            let takes_body = operation.get("requestBody").is_some();
            let body = if takes_body { "{\"bundle\": \"1\"}" } else { "" };
            let answer = send(&gateway, &method.to_uppercase(), &path, &[], body).await;
            let status = answer.status().as_u16();
            let described = &operation["responses"][status.to_string()];
            assert!(described.is_object(), "{method} {path} answers {status}, which is not described: {answer:?}");
            let media_type = answer.headers()["content-type"].to_str().unwrap();
            assert!(described["content"][media_type].is_object(), "{method} {path} answers {media_type}");
            assert!(status != 404 && status != 405, "{method} {path} answers {status}");
            if status == 200 {
                let promised = described["headers"]["ETag"].is_object();
                assert_eq!(answer.headers().contains_key("etag"), promised, "{method} {path}");
            } else {
                let named = described["description"].as_str().unwrap();
                assert!(named.contains(&problem(&answer).kind), "{method} {path}: {answer:?}");
            }
            called += 1;
        }
    }
    assert!(called >= 19, "{called} operations");
    gateway.stop().await;
}

#[tokio::test]
async fn whatever_is_wrong_is_a_problem_document() {
    let (_setup, gateway, _keys, _partner) = held_back().await;
    let json_type = [("content-type", "application/json; charset=utf-8")];
    let relationship = format!("/v1/relationships/{PARTNER}");
    let freeze = format!("{relationship}/freeze");
    let approve = format!("{relationship}/approve");
    let large = format!("{{\"why\": \"{}\"}}", "x".repeat(70_000));
    let long = format!("{{\"why\": \"{}\"}}", "x".repeat(2_000));
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);
    let cases: &[Case<'_>] = &[
        ("GET", "/", &[], "", 404, "unknown-path"),
        ("GET", "/v1/relationships/", &[], "", 404, "unknown-path"),
        ("GET", "/v1/relationships/no.such.example", &[], "", 404, "unknown-relationship"),
        ("GET", "/v1/relationships/%FF", &[], "", 400, "bad-trust-domain"),
        ("GET", "/v1/relationships/UPPER", &[], "", 400, "bad-trust-domain"),
        ("GET", "/v1/sources/no.such.example", &[], "", 404, "unknown-trust-domain"),
        ("POST", "/v1/webhooks/no.such/test", &[], "", 404, "unknown-webhook"),
        ("POST", "/v1/webhooks/%FF/test", &[], "", 404, "unknown-webhook"),
        ("PATCH", &relationship, &[], "", 405, "method-not-allowed"),
        ("GET", &freeze, &[], "", 405, "method-not-allowed"),
        ("POST", &freeze, &json_type, "{", 400, "bad-request-body"),
        ("POST", &freeze, &json_type, "{\"whi\": \"\"}", 400, "bad-request-body"),
        ("POST", &freeze, &json_type, "{\"why\": \"a\", \"why\": \"b\"}", 400, "bad-request-body"),
        ("POST", &freeze, &json_type, "{} {}", 400, "bad-request-body"),
        ("POST", &freeze, &json_type, &long, 400, "bad-request-body"),
        ("POST", &freeze, &json_type, &large, 413, "request-body-too-large"),
        ("POST", &freeze, &[("content-type", "text/plain")], "{}", 415, "request-body-not-json"),
        ("POST", &approve, &[], "", 400, "bad-request-body"),
        ("POST", &approve, &json_type, "{}", 428, "condition-needed"),
        ("POST", &approve, &[("if-match", "*")], "{}", 428, "condition-needed"),
        ("POST", &approve, &[("if-match", "5")], "{}", 400, "bad-condition"),
        ("POST", &approve, &[("if-match", "\"5\"")], "{}", 412, "changed-meanwhile"),
        ("POST", &format!("{relationship}/refresh"), &[("if-match", "\"5\"")], "", 412, "changed-meanwhile"),
        ("POST", &format!("/v1/sources/{LOCAL}/accept"), &[], "", 428, "condition-needed"),
        ("POST", &format!("/v1/sources/{LOCAL}/accept"), &[("if-match", "\"5\"")], "", 412, "changed-meanwhile"),
        ("GET", "/v1/relationships?limit=0", &[], "", 400, "bad-query"),
        ("GET", "/v1/relationships?limit=1001", &[], "", 400, "bad-query"),
        ("GET", "/v1/relationships?health=well", &[], "", 400, "bad-query"),
        ("GET", "/v1/relationships?helth=failing", &[], "", 400, "bad-query"),
        ("GET", "/v1/relationships?page_token=AAAA", &[], "", 400, "bad-page-token"),
        ("GET", "/v1/audit?subject=%20", &[], "", 400, "bad-trust-domain"),
        ("GET", "/v1/audit/export?limit=1001", &[], "", 400, "bad-query"),
    ];
    for (method, path, headers, body, status, expected) in cases {
        let answer = send(&gateway, method, path, headers, body).await;
        assert_eq!(
            (answer.status().as_u16(), kind(&answer).as_str()),
            (*status, *expected),
            "{method} {path}: {answer:?}"
        );
        let problem = problem(&answer);
        assert!(!problem.detail.is_empty() && problem.title == expected.replace('-', " "), "{problem:?}");
        if *status == 405 {
            assert!(answer.headers().contains_key("allow"), "{method} {path}: {answer:?}");
        }
    }
    let now = gateway.relationship(PARTNER).await;
    assert!(now.frozen.is_none() && now.held.is_none() && now.waiting.is_some(), "none of them did anything");
    gateway.stop().await;
}

#[tokio::test]
async fn a_decision_meets_the_state_that_was_looked_at() {
    let (_setup, gateway, keys, partner) = held_back().await;
    let path = format!("/v1/relationships/{PARTNER}");
    let approve = format!("{path}/approve");
    let seen = tag(&send(&gateway, "GET", &path, &[], "").await);

    // A refresh that brings nothing new moves counters and times, and not the tag.
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    let answer = send(&gateway, "GET", &path, &[("if-none-match", &format!("\"x\", W/{seen}"))], "").await;
    assert_eq!((answer.status().as_u16(), answer.body().len(), tag(&answer)), (304, 0, seen.clone()));

    // Another bundle waits now: whoever looked at the first one does not approve it.
    partner.serve(&Authority::new(&td(PARTNER)).bundle(2));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    let refused = send(&gateway, "POST", &approve, &[("if-match", &seen)], "{}").await;
    assert_eq!(kind(&refused), "changed-meanwhile");
    assert!(gateway.relationship(PARTNER).await.held.is_none());
    let again = send(&gateway, "GET", &path, &[("if-none-match", &seen)], "").await;
    assert_eq!(again.status(), 200);
    let waiting: api::Relationship = serde_json::from_slice(again.body()).unwrap();
    assert_eq!(waiting.waiting.unwrap().sequence, Some(2));
    let approved = send(&gateway, "POST", &approve, &[("if-match", &tag(&again))], "{}").await;
    assert_eq!(approved.status(), 200, "{approved:?}");
    let now = tag(&send(&gateway, "GET", &path, &[], "").await);
    assert_eq!(tag(&approved), now, "the answer has the new tag");
    assert_ne!(now, tag(&again));

    // Freezing needs none, and takes one.
    assert_eq!(
        kind(&send(&gateway, "POST", &format!("{path}/freeze"), &[("if-match", &seen)], "").await),
        "changed-meanwhile"
    );
    assert_eq!(send(&gateway, "POST", &format!("{path}/freeze"), &[], "").await.status(), 200);
    let list = send(&gateway, "GET", "/v1/relationships", &[], "").await;
    let same = send(&gateway, "GET", "/v1/relationships", &[("if-none-match", &tag(&list))], "").await;
    assert_eq!(same.status(), 304);
    drop(keys);
    gateway.stop().await;
}

#[tokio::test]
async fn ten_thousand_relationships_are_read_page_by_page_and_filtered() {
    const COUNT: usize = 10_000;
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let nobody = "https://127.0.0.1:1/";
    for number in 1..COUNT {
        let mode = if number % 1000 == 0 { "hold" } else { "auto" };
        let name = format!("p{number}.example");
        setup.relate(json!({"trust_domain": name, "url": nobody, "profile": "https_web", "mode": mode}));
    }
    let gateway = setup.start_unready().await;
    gateway.wait_held(PARTNER, 1).await;

    let walk = async |filter: &str, limit: u32| {
        let mut names = Vec::new();
        let mut token = String::new();
        loop {
            let path = format!("/v1/relationships?limit={limit}&{filter}{token}");
            let page: RelationshipList = gateway.admin.get(&path).await;
            assert!(page.relationships.len() <= limit as usize);
            names.extend(page.relationships.into_iter().map(|relationship| relationship.trust_domain));
            match page.next_page_token {
                Some(next) => token = format!("&page_token={next}"),
                None => return names,
            }
        }
    };
    let all = walk("", MAX_LIMIT).await;
    assert_eq!(all.len(), COUNT);
    assert!(all.windows(2).all(|two| two[0] < two[1]), "by name, each once");
    assert_eq!(walk("mode=hold", 2).await.len(), 9);
    let held: RelationshipList = gateway.admin.get("/v1/relationships?health=healthy").await;
    assert_eq!((held.relationships.len(), held.relationships[0].health), (1, Health::Healthy));
    assert_eq!(walk(&format!("health=healthy,pending,failing&local_trust_domain={LOCAL}"), 999).await.len(), COUNT);
    assert!(walk("state=frozen", 10).await.is_empty());
    gateway.decide("p7.example", "freeze", json!({})).await.unwrap();
    assert_eq!(walk("state=frozen", 10).await, ["p7.example"]);
    // The token of one filter is none of another.
    let first: RelationshipList = gateway.admin.get("/v1/relationships?limit=1&mode=hold").await;
    let token = first.next_page_token.unwrap();
    let path = format!("/v1/relationships?limit=1&mode=auto&page_token={token}");
    assert_eq!(gateway.admin.try_get::<RelationshipList>(&path).await.unwrap_err().title, "bad page token");
    gateway.stop().await;
}

#[tokio::test]
async fn a_decision_is_finished_although_who_took_it_goes_away() {
    let mut setup = Setup::new().await;
    setup.config["refresh"]["min_interval"] = json!("1h");
    setup.config["refresh"]["max_interval"] = json!("2h");
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    for pause in 0..60_u64 {
        let verb = if gateway.relationship(PARTNER).await.frozen.is_some() { "unfreeze" } else { "freeze" };
        let request =
            format!("POST /v1/relationships/{PARTNER}/{verb} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        let mut stream = UnixStream::connect(setup.file("admin.sock")).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_micros(pause * 100)).await;
        drop(stream);
        // Either nothing happened, or all of it: what the log says last is what is shown.
        let mut agreed = false;
        for _ in 0..50 {
            let shown = gateway.relationship(PARTNER).await.frozen.is_some();
            let recorded = gateway.audited().await.into_iter().rev().find_map(|(what, _)| match what.as_str() {
                "relationship.frozen" => Some(true),
                "relationship.unfrozen" => Some(false),
                _ => None,
            });
            agreed = recorded.unwrap_or_default() == shown;
            if agreed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(agreed, "round {pause}: {verb} is stored and not in force");
    }
    gateway.stop().await;
}
