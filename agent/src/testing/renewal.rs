//! The agent's own SVID over time: renewal, attesting again, bans and evictions.

use std::time::Duration;

use service_kit::clock::Clock;
use tonic::Status;

use super::{
    agent::{Node, Running, ids, own_uid, until},
    attestation::x509pop_node,
    issuer::FakeIssuer,
};

async fn serving(issuer: &FakeIssuer, node: &Node) -> Running {
    issuer.token("t-1");
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    let agent = node.start();
    assert_eq!(ids(&node.workload().await.x509().await.unwrap()), ["web"]);
    agent
}

fn saved(node: &Node) -> String {
    std::fs::read_to_string(node.file("data/agent-data.json")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_around_half_life_with_a_new_key() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = serving(&issuer, &node).await;
    let start = issuer.clock.now();
    let first = saved(&node);
    for round in 1..=3 {
        node.advance_by_until(Duration::from_secs(5), "a renewal", async || issuer.calls("RenewAgent") >= round).await;
    }
    let elapsed = issuer.clock.now() - start;
    assert!(elapsed >= time::Duration::minutes(81), "three renewals after {elapsed}");
    assert_ne!(first, saved(&node));
    let keys = std::fs::read_to_string(node.file("data/keys.json")).unwrap();
    assert!(keys.contains("agent-svid-A") && keys.contains("agent-svid-B"));

    // The new SVID is the one in use: the issuer accepts calls only under the present one.
    let before = issuer.calls("SyncAuthorizedEntries");
    issuer.state().entry("e2", "web2", &[&own_uid()], |_| {});
    node.advance_until("a synchronisation", async || issuer.calls("SyncAuthorizedEntries") > before + 1).await;
    assert_eq!(issuer.calls("AttestAgent"), 1);
    until("the new identity", async || ids(&node.workload().await.x509().await.unwrap()) == ["web", "web2"]).await;
    agent.stop().await;

    let agent = node.start();
    node.workload().await.x509().await.unwrap();
    assert_eq!(issuer.calls("AttestAgent"), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reattestable_agent_attests_again() {
    let issuer = FakeIssuer::start().await;
    let node = x509pop_node(&issuer);
    let agent = serving(&issuer, &node).await;
    node.advance_by_until(Duration::from_secs(5), "another attestation", async || issuer.calls("AttestAgent") == 2)
        .await;
    let calls = issuer.calls("SyncAuthorizedEntries");
    node.advance_until("calls under the new SVID", async || issuer.calls("SyncAuthorizedEntries") > calls + 1).await;
    issuer.evict();
    node.advance_until("a third attestation", async || issuer.calls("AttestAgent") == 3).await;
    assert_eq!(issuer.calls("RenewAgent"), 0);
    assert!(agent.is_running());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_renewals_are_repeated() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = serving(&issuer, &node).await;
    issuer.fail("RenewAgent", 3, Status::internal("database"));
    node.advance_by_until(Duration::from_secs(5), "four tries", async || issuer.calls("RenewAgent") == 4).await;
    let first = saved(&node);
    until("the renewed SVID on disk", async || saved(&node) != first || issuer.calls("RenewAgent") == 4).await;
    assert!(agent.is_running());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_that_is_due_is_renewed_at_once_after_a_restart() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    serving(&issuer, &node).await.stop().await;
    issuer.clock.advance(Duration::from_secs(3600 - 15));
    let agent = node.start();
    until("the renewal, while the clock stands still", async || issuer.calls("RenewAgent") == 1).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_comes_back_in_the_last_minute_is_not_missed() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = serving(&issuer, &node).await;
    let start = issuer.clock.now();
    issuer.fail("RenewAgent", usize::MAX, Status::unavailable("down"));
    let elapsed = || issuer.clock.now() - start;
    node.advance_by_until(Duration::from_secs(5), "the last minute", async || elapsed() > time::Duration::minutes(59))
        .await;
    let tries = issuer.calls("RenewAgent");
    issuer.mend("RenewAgent");
    node.advance_until("another try", async || issuer.calls("RenewAgent") > tries).await;
    assert!(elapsed() < time::Duration::seconds(3580), "{}", elapsed());
    until("the renewed SVID", async || issuer.calls("SyncAuthorizedEntries") > 0).await;
    assert!(agent.is_running());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_agent_deletes_its_svid_and_ends() {
    for attestor in ["join_token", "x509pop"] {
        let issuer = FakeIssuer::start().await;
        let node = if attestor == "x509pop" { x509pop_node(&issuer) } else { Node::new(&issuer).with_token("t-1") };
        let agent = serving(&issuer, &node).await;
        issuer.ban();
        node.advance_until("the end", async || !agent.is_running()).await;
        let error = agent.ended().await.unwrap_err();
        assert!(error.contains("was banned at the issuer") && error.contains("entente issuer agent evict"), "{error}");
        let saved = saved(&node);
        assert!(saved.starts_with(r#"{"svid":null,"bundle":["#), "{saved}");
        assert_eq!(issuer.calls("AttestAgent"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_agent_with_a_spent_token_ends() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = serving(&issuer, &node).await;
    issuer.evict();
    node.advance_until("the end", async || !agent.is_running()).await;
    let error = agent.ended().await.unwrap_err();
    assert!(error.contains("is no longer accepted") && error.contains("new join token"), "{error}");
    assert!(saved(&node).starts_with(r#"{"svid":null,"#));

    // A new token lets it in again.
    issuer.token("t-2");
    let node = node.with_token("t-2");
    let agent = node.start();
    node.workload().await.x509().await.unwrap();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_that_expired_while_the_issuer_was_away_ends_the_agent_only_when_refused() {
    let mut issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = serving(&issuer, &node).await;
    issuer.stop().await;
    for _ in 0..100 {
        issuer.clock.advance(Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(agent.is_running(), "nobody has refused it yet");
    issuer.serve("cloud.example").await;
    node.advance_by_until(Duration::from_secs(5), "the end", async || !agent.is_running()).await;
    let error = agent.ended().await.unwrap_err();
    assert!(error.contains("is no longer accepted: it expired at"), "{error}");
}
