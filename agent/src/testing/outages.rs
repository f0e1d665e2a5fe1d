//! The Workload API while the issuer is away, slow or failing.

use std::time::Duration;

use tonic::{Code, Status};

use super::{
    agent::{Node, ids, next, own_uid},
    issuer::FakeIssuer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_are_served_from_the_cache_while_the_issuer_is_away() {
    let mut issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    let mut stream = workload.x509_stream().await.unwrap();
    let before = next(&mut stream).await.unwrap();
    let token = workload.jwt(&["x"], "").await.unwrap().svids[0].svid.clone();
    issuer.stop().await;
    issuer.clock.advance(Duration::from_secs(60));

    // A new workload on a new connection.
    let other = node.workload().await;
    assert_eq!(other.x509().await.unwrap(), before);
    assert_eq!(other.jwt(&["x"], "").await.unwrap().svids[0].svid, token);
    other.validate("x", &token).await.unwrap();
    let status = other.jwt(&["y"], "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "could not fetch JWT-SVID: the issuer cannot be reached");

    issuer.serve("cloud.example").await;
    issuer.state().entry("b", "second", &[&own_uid()], |_| {});
    let update = tokio::spawn(async move { next(&mut stream).await.unwrap() });
    node.advance_until("the new identity", async || update.is_finished()).await;
    assert_eq!(ids(&update.await.unwrap()), ["first", "second"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audiences_that_make_a_token_too_long_are_refused_here() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    for (audience, text) in [
        (vec!["x"; 257], "more than 256 audiences"),
        (vec![&*"x".repeat(16385)], "audiences are longer than 16384 bytes together"),
    ] {
        let status = workload.jwt(&audience, "").await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
    }
    assert_eq!(issuer.calls("NewJWTSVID"), 0);
    workload.jwt(&["x".repeat(16384).as_str()], "").await.unwrap();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_the_issuer_serves_once_it_is_back() {
    let mut issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    node.workload().await.x509().await.unwrap();
    agent.stop().await;
    issuer.stop().await;

    let agent = node.start();
    let workload = node.workload().await;
    let waiting = tokio::spawn(async move { workload.x509().await.unwrap() });
    for _ in 0..20 {
        issuer.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(agent.is_running() && !waiting.is_finished(), "nobody is turned away for want of a synchronisation");
    issuer.serve("cloud.example").await;
    node.advance_until("the identity", async || waiting.is_finished()).await;
    assert_eq!(ids(&waiting.await.unwrap()), ["first"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_batches_shrink_and_come_to_an_end() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    {
        let mut state = issuer.state();
        for number in 0..40 {
            state.entry(&format!("e{number:02}"), &format!("w/{number}"), &[&own_uid()], |_| {});
        }
    }
    issuer.fail("BatchNewX509SVID", 4, Status::resource_exhausted("rate (40) exceeds burst size (1)"));
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    let fetched = tokio::spawn(async move { workload.x509().await.unwrap() });
    node.advance_until("all SVIDs", async || fetched.is_finished()).await;
    assert_eq!(fetched.await.unwrap().svids.len(), 40);
    assert_eq!(issuer.state().batches.first(), Some(&2), "40, 20, 10 and 5 failed");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_ends_open_streams_at_once() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("a", "first", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    let mut stream = workload.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    agent.shutdown.trigger();
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "agent is shutting down"));
    drop((stream, workload));
    agent.stop().await;
    assert!(!node.file("public/api.sock").exists());
}
