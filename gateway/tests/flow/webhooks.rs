//! Webhooks: what is told to whom, in which order, and what becomes of it while the receiver misbehaves.

use std::time::Duration;

use gateway::api::webhooks::{Webhook, WebhookHealth, WebhookList, WebhookTest};
use serde_json::{Value, json};

use crate::support::{
    LOCAL, PARTNER, Running, Setup,
    authority::Authority,
    eventually,
    partner::{Behaviour, Partner, document},
    receiver::{Answer, Receiver, secret},
    td,
};

/// A partner and its keys, related.
async fn partner(setup: &mut Setup) -> (Authority, Partner) {
    let keys = Authority::new(&td(PARTNER));
    let partner = Partner::web(setup.web.server_config(), document(&keys.bundle(1))).await;
    setup.relate_web(PARTNER, &partner.url());
    (keys, partner)
}

async fn webhook(gateway: &Running, name: &str) -> Webhook {
    let list: WebhookList = gateway.admin.get("/v1/webhooks").await;
    list.webhooks.into_iter().find(|webhook| webhook.name == name).unwrap()
}

async fn told(receiver: &Receiver, kind: &str) -> Value {
    eventually(&format!("{kind} to be told"), || async { receiver.kinds().iter().any(|told| told == kind) }).await;
    receiver.taken().iter().rev().find(|item| item.kind() == kind).unwrap().json()
}

#[tokio::test]
async fn what_happens_is_told_signed_in_order_and_once() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Status(200)).await;
    receiver.configure(&mut setup, "pager", &[]);
    let (keys, partner) = partner(&mut setup).await;
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    told(&receiver, "delivery.confirmed").await;
    partner.serve(&keys.bundle(2));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    gateway.decide(PARTNER, "freeze", json!({"why": "their \"incident\""})).await.unwrap();
    let frozen = told(&receiver, "relationship.frozen").await;
    assert_eq!(
        (&frozen["data"]["why"], &frozen["data"]["trust_domain"]),
        (&json!("their \"incident\""), &json!(PARTNER))
    );

    // The audit log says the same in the same order.
    let audited: Vec<String> = gateway.audited().await.into_iter().map(|(what, _)| what).collect();
    eventually("all of it to be told", || async { receiver.kinds().len() >= audited.len() }).await;
    assert_eq!(receiver.kinds(), audited);
    let received = receiver.received();
    let mut ids: Vec<&str> = received.iter().map(|item| item.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), received.len(), "each once");
    for item in &received {
        assert_eq!(item.signed_by(&[&secret(7)]), [0]);
        assert_eq!(item.headers["content-type"], "application/json");
        assert!(item.body.len() < 2048, "{}", String::from_utf8_lossy(&item.body));
    }
    let accepted = received.iter().find(|item| item.kind() == "bundle.accepted").unwrap().json();
    assert_eq!(
        (&accepted["data"]["after"]["sequence"], &accepted["data"]["after"]["x509_authorities"]),
        (&json!(1), &json!(1))
    );

    let status = webhook(&gateway, "pager").await;
    assert_eq!(
        (status.health, status.waiting, status.last_error.clone()),
        (WebhookHealth::Healthy, 0, None),
        "{status:?}"
    );
    assert!(status.last_success.is_some() && status.url.starts_with("https://127.0.0.1:"), "{status:?}");
    assert!(
        !serde_json::to_string(&status).unwrap().contains("secret-path"),
        "what may be secret of the URL is not shown"
    );

    // A restart tells nothing again.
    gateway.stop().await;
    let gateway = setup.start().await;
    gateway.decide(PARTNER, "unfreeze", json!({})).await.unwrap();
    told(&receiver, "relationship.unfrozen").await;
    assert_eq!(receiver.kinds()[audited.len()..], ["relationship.unfrozen"]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_receiver_that_fails_gets_everything_later_in_order_with_the_same_id() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Fail(503, 2)).await;
    let other = Receiver::start(&setup, Answer::Status(200)).await;
    receiver.configure(&mut setup, "flaky", &["relationship.*"]);
    other.configure(&mut setup, "good", &["relationship.frozen"]);
    partner(&mut setup).await;
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 1).await;
    eventually("the first failure to show", || async { webhook(&gateway, "flaky").await.last_error.is_some() }).await;
    let failing = webhook(&gateway, "flaky").await;
    assert_eq!(failing.health, WebhookHealth::Failing);
    assert_eq!(failing.last_error.unwrap(), "the receiver answered 503 Service Unavailable: \"no,  not now\"");
    assert!(failing.waiting == 1 && failing.next_attempt.is_some() && failing.oldest_waiting.is_some());
    gateway.decide(PARTNER, "freeze", json!({})).await.unwrap();
    // The other one does not wait for it.
    told(&other, "relationship.frozen").await;
    told(&receiver, "relationship.frozen").await;
    assert_eq!(receiver.kinds(), ["relationship.added", "relationship.frozen"]);
    let received = receiver.received();
    assert_eq!(received.len(), 4);
    assert!(received[..3].iter().all(|item| item.id == received[0].id && item.body == received[0].body));
    let times: Vec<&str> = received.iter().map(|item| item.headers["webhook-timestamp"].to_str().unwrap()).collect();
    assert!(times[2] > times[0], "the time of the attempt is signed: {times:?}");
    assert_eq!(other.kinds(), ["relationship.frozen"]);
    // A message is there before the sender knows that it was taken.
    for series in [
        "entente_gateway_webhook_deliveries_total{webhook=\"flaky\",result=\"failed\"} 2\n",
        "entente_gateway_webhook_deliveries_total{webhook=\"flaky\",result=\"delivered\"} 2\n",
    ] {
        eventually(series, || async { gateway.metrics.render().contains(series) }).await;
    }
    eventually("the backlog to be gone", || async {
        gateway.metrics.render().contains("entente_gateway_webhook_backlog{webhook=\"good\"} 0\n")
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn each_misbehaviour_has_its_own_words_and_costs_nobody_else() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Status(200)).await;
    receiver.configure(&mut setup, "odd", &["relationship.*"]);
    let gateway = setup.start().await;
    let try_it = || async {
        let outcome: WebhookTest = gateway.admin.post("/v1/webhooks/odd/test", &json!({})).await.unwrap();
        outcome
    };
    let outcome = try_it().await;
    assert!(outcome.delivered && outcome.error.is_none(), "{outcome:?}");
    let sent = receiver.taken().pop().unwrap().json();
    assert_eq!((&sent["type"], &sent["data"]["webhook"]), (&json!("webhook.test"), &json!("odd")));
    let elsewhere = Receiver::start(&setup, Answer::Status(200)).await;
    for (answer, words) in [
        (Answer::Status(500), "answered 500 Internal Server Error: \"no,  not now\""),
        (Answer::Status(410), "answered 410 Gone"),
        (Answer::Redirect(elsewhere.url()), "redirects are not followed"),
        (Answer::Hang, "did not answer within 1s"),
        (Answer::Hangup, "failed"),
        (Answer::RetryAfter(5), "answered 429 Too Many Requests"),
        (Answer::Endless, "answered 500"),
    ] {
        receiver.set(answer.clone());
        let outcome = try_it().await;
        let error = outcome.error.unwrap_or_default();
        assert!(!outcome.delivered && error.contains(words), "{answer:?}: {error}");
        assert!(!error.contains("secret-path") && error.len() < 600, "{error}");
    }
    assert!(elsewhere.received().is_empty());
    assert_eq!(webhook(&gateway, "odd").await.health, WebhookHealth::Pending, "a test changes nothing");

    // Two secrets during a rotation, without a restart.
    receiver.set(Answer::Status(200));
    let secret_file = setup.file("odd.secret");
    std::fs::write(&secret_file, format!("{}\n{}\n", secret(8), secret(7))).unwrap();
    assert!(try_it().await.delivered);
    assert_eq!(receiver.taken().pop().unwrap().signed_by(&[&secret(7), &secret(8)]), [1, 0]);
    std::fs::write(&secret_file, "hunter2").unwrap();
    let error = try_it().await.error.unwrap();
    assert!(error.contains("does not begin with `whsec_`") && !error.contains("hunter2"), "{error}");
    std::fs::remove_file(&secret_file).unwrap();
    assert!(try_it().await.error.unwrap().contains("cannot be read"));

    let unknown: Result<WebhookTest, _> = gateway.admin.post("/v1/webhooks/nobody/test", &json!({})).await;
    assert_eq!(unknown.unwrap_err().status, 404);
    gateway.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_to_special_addresses_unless_they_are_allowed() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Status(200)).await;
    let named = receiver.url().replace("127.0.0.1", "localhost");
    for (index, name) in ["written", "looked-up"].into_iter().enumerate() {
        receiver.configure(&mut setup, name, &["relationship.*"]);
        let webhook = setup.config["webhooks"][index].as_object_mut().unwrap();
        webhook.remove("allow_addresses");
        if name == "looked-up" {
            webhook["url"] = named.clone().into();
        }
    }
    // What partners may have says nothing about receivers.
    assert_eq!(setup.config["refresh"]["allow_addresses"], json!(["127.0.0.0/8"]));
    partner(&mut setup).await;
    let gateway = setup.start().await;
    for name in ["written", "looked-up"] {
        eventually("the refusal to show", || async { webhook(&gateway, name).await.last_error.is_some() }).await;
        let refused = webhook(&gateway, name).await;
        assert_eq!((refused.health, refused.waiting), (WebhookHealth::Failing, 1));
        let error = refused.last_error.unwrap();
        assert!(error.contains(" leads to 127.0.0.1, a loopback address, to which nothing is sent"), "{error}");
        assert!(error.ends_with("add 127.0.0.1 or its network to allow_addresses of the webhook"), "{error}");
        assert!(!error.contains("secret-path"), "{error}");
    }
    let tried: WebhookTest = gateway.admin.post("/v1/webhooks/written/test", &json!({})).await.unwrap();
    assert!(!tried.delivered && tried.error.unwrap().contains("a loopback address"));
    assert!(receiver.received().is_empty());
    gateway.stop().await;

    setup.config["webhooks"].as_array_mut().unwrap().truncate(1);
    setup.config["webhooks"][0]["allow_addresses"] = json!(["127.0.0.1"]);
    let gateway = setup.start().await;
    told(&receiver, "relationship.added").await;
    eventually("the success to show", || async { webhook(&gateway, "written").await.health == WebhookHealth::Healthy })
        .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_asked_again_after_a_restart() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Status(410)).await;
    receiver.configure(&mut setup, "gone", &["relationship.*"]);
    partner(&mut setup).await;
    let gateway = setup.start().await;
    eventually("the receiver to be left alone", || async {
        webhook(&gateway, "gone").await.health == WebhookHealth::Disabled
    })
    .await;
    gateway.wait_held(PARTNER, 1).await;
    gateway.decide(PARTNER, "freeze", json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(webhook(&gateway, "gone").await.waiting, 2);
    gateway.stop().await;
    receiver.set(Answer::Status(200));
    let gateway = setup.start().await;
    told(&receiver, "relationship.frozen").await;
    assert_eq!(receiver.kinds(), ["relationship.added", "relationship.frozen"]);
    gateway.stop().await;
}

#[tokio::test]
async fn failing_and_recovered_partners_issuers_and_rollbacks_are_told_once() {
    let mut setup = Setup::new().await;
    let receiver = Receiver::start(&setup, Answer::Status(200)).await;
    receiver.configure(
        &mut setup,
        "pager",
        &[
            "relationship.failing",
            "relationship.recovered",
            "bundle.*",
            "delivery.failing",
            "delivery.recovered",
            "source.*",
        ],
    );
    setup.config["webhook_thresholds"] = json!({"consecutive_failures": 2, "bundle_age": "1s"});
    let own = setup.issuer.state().authority.bundle(5);
    setup.issuer.state().own = own;
    let (keys, partner) = partner(&mut setup).await;
    partner.serve(&keys.bundle(5));
    let gateway = setup.start().await;
    gateway.wait_held(PARTNER, 5).await;

    partner.serve(&keys.bundle(3));
    for _ in 0..2 {
        assert!(gateway.refused(PARTNER).await.contains("sequence"));
    }
    let refused = told(&receiver, "bundle.rollback_refused").await;
    assert_eq!((&refused["data"]["before"]["sequence"], &refused["data"]["after"]["sequence"]), (&json!(5), &json!(3)));
    let failing = told(&receiver, "relationship.failing").await;
    assert!(failing["data"]["consecutive_failures"].as_u64().unwrap() >= 2, "{failing}");
    assert!(failing["data"]["error"].as_str().unwrap().contains("sequence"), "{failing}");

    // What was told and noted before the restart is not told again.
    eventually("everything to be noted", || async { webhook(&gateway, "pager").await.waiting == 0 }).await;
    gateway.stop().await;
    let gateway = setup.start().await;
    assert!(gateway.refused(PARTNER).await.contains("sequence"));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    partner.serve(&keys.bundle(6));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    let recovered = told(&receiver, "relationship.recovered").await;
    assert_eq!((&recovered["data"]["trust_domain"], &recovered["data"]["error"]), (&json!(PARTNER), &Value::Null));
    let count = |kind: &str| receiver.kinds().iter().filter(|told| *told == kind).count();
    assert_eq!((count("relationship.failing"), count("bundle.rollback_refused")), (1, 1), "{:?}", receiver.kinds());

    // An issuer that is away.
    setup.issuer.stop().await;
    partner.serve(&keys.bundle(7));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    let failing = told(&receiver, "delivery.failing").await;
    assert_eq!(
        (&failing["data"]["trust_domain"], &failing["data"]["local_trust_domain"]),
        (&json!(PARTNER), &json!(LOCAL))
    );
    setup.issuer.resume();
    told(&receiver, "delivery.recovered").await;

    // A partner that is silent for twice its refresh hint of four seconds.
    partner.set(Behaviour::Status(500));
    let stale = told(&receiver, "bundle.stale").await;
    assert!(stale["data"]["age_seconds"].as_u64().unwrap() >= 8, "{stale}");
    partner.serve(&keys.bundle(8));
    gateway.refresh(PARTNER, json!({})).await.unwrap();
    told(&receiver, "bundle.fresh").await;

    // An own source that goes back.
    let own = setup.issuer.state().authority.bundle(4);
    setup.issuer.state().own = own;
    let held = told(&receiver, "source.held").await;
    assert_eq!(held["data"]["trust_domain"], LOCAL);
    gateway.verify_audit().await;
    gateway.stop().await;
}
