//! Webhooks of a gateway that is killed again and again: no event is lost, and the Standard Webhooks library of PyPI
//! verifies what comes.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    peer,
    plan::Plan,
    receiver::{Receiver, Taken},
    wait,
};
use serde_json::{Value, json};
use tokio::process::Command;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A domain whose gateway tells `receiver` everything, with a partner that is never reached.
async fn domain(receiver: &Receiver) -> Result<Domain> {
    let mut plan = Plan::new("cloud.example")?;
    fs::write(plan.file("webhook.secret"), SECRET)?;
    let webhook = json!({
        "name": "pager", "url": receiver.url(), "secret_file": plan.file("webhook.secret"),
        "allow_addresses": ["127.0.0.1"],
    });
    plan = plan.gateway("webhooks", json!([webhook]));
    plan.relationship(json!({
        "trust_domain": "onprem.example", "url": "https://127.0.0.1:9/", "profile": "https_web",
    }));
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    domain.start_gateway().await?;
    Ok(domain)
}

/// The number of the last audit record.
async fn last_record(domain: &Domain) -> Result<i64> {
    let report = domain.gateway_json(&["audit", "verify"]).await?;
    ensure!(report["ok"] == true, "{report}");
    report["last"].as_i64().context("no last record")
}

/// The events about audit records by the record's number: each record exactly once, however often it was sent, and the
/// first time in order.
fn by_record(taken: &[Taken]) -> Result<BTreeMap<i64, String>> {
    let mut ids: BTreeMap<i64, String> = BTreeMap::new();
    for item in taken {
        let body = item.json()?;
        let Some(sequence) = body["data"]["audit_sequence"].as_i64() else { continue };
        let id = item.headers.get("webhook-id").context("no ID")?;
        if let Some(known) = ids.get(&sequence) {
            ensure!(known == id, "record {sequence} was sent as {known} and as {id}");
            continue;
        }
        let last = ids.last_key_value().map(|(last, _)| *last);
        ensure!(last.is_none_or(|last| last < sequence), "record {sequence} came after {last:?}");
        ids.insert(sequence, id.clone());
    }
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_lost_when_the_gateway_is_killed() -> Result<()> {
    let receiver = Receiver::start().await?;
    let mut domain = domain(&receiver).await?;
    for round in 0..4_u64 {
        // The receiver is away half of the time.
        receiver.answer(if round % 2 == 0 { 200 } else { 503 });
        let deciding = async {
            for verb in ["freeze", "unfreeze"].iter().cycle() {
                let answer = domain.gateway_cli(&["relationship", verb, "onprem.example"]).await;
                // It may have been frozen before the kill; the end is when nobody answers any more.
                if answer.is_ok_and(|answer| answer.stderr.contains("no gateway answers")) {
                    break;
                }
            }
        };
        let pid = domain.pid(Service::Gateway)?;
        let killing = async {
            tokio::time::sleep(Duration::from_millis(400 + 270 * round)).await;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        };
        let ((), killed) = tokio::join!(deciding, killing);
        killed?;
        domain.restart(Service::Gateway).await?;
    }
    receiver.answer(200);
    let last = last_record(&domain).await?;
    ensure!(last > 10, "only {last} records");
    wait::until("every record to be told", || async {
        let ids = by_record(&receiver.taken())?;
        let missing: Vec<i64> = (1..=last).filter(|sequence| !ids.contains_key(sequence)).collect();
        ensure!(missing.is_empty(), "of {last} records {missing:?} are missing");
        Ok(())
    })
    .await?;
    let list = domain.gateway_json(&["webhook", "list"]).await?;
    let webhook = &list["webhooks"][0];
    ensure!(webhook["health"] == "healthy" && webhook["dropped"] == 0, "{list}");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_verifies_the_signatures() -> Result<()> {
    let receiver = Receiver::start().await?;
    let domain = domain(&receiver).await?;
    domain.gateway_cli(&["webhook", "test", "pager"]).await?.ok()?;
    let taken = receiver.taken();
    let item = taken.iter().rev().find(|item| item.body.contains("webhook.test")).context("no test event")?;
    let file = domain.file("message.json");
    fs::write(&file, serde_json::to_vec(&json!({"headers": item.headers, "body": item.body}))?)?;
    let program = "import json, sys\nfrom standardwebhooks import Webhook\nmessage = json.load(open(sys.argv[2]))\n\
                   print(json.dumps(Webhook(sys.argv[1]).verify(message['body'], message['headers'])))";
    let verify = async |secret: &str| {
        Command::new(peer::python()?).args(["-c", program, secret]).arg(&file).output().await.context("python")
    };
    let answer = verify(SECRET).await?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let verified: Value = serde_json::from_slice(&answer.stdout)?;
    ensure!(verified["type"] == "webhook.test" && verified["data"]["webhook"] == "pager", "{verified}");
    let refused = verify("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").await?;
    ensure!(!refused.status.success(), "any secret verifies it");

    receiver.answer(503);
    let answer = domain.gateway_cli(&["webhook", "test", "pager"]).await?;
    answer.refused(&["the receiver answered 503"])?;
    domain.gateway_cli(&["webhook", "test", "nobody"]).await?.refused(&["no webhook is named"])?;
    domain.stop().await
}
