//! Attesting: the first time, after a restart, with bad evidence, a wrong bundle, a wrong clock, an issuer that is away.

use std::time::Duration;

use service_kit::clock::Clock;
use tonic::Status;

use super::{
    agent::{Node, ids, own_uid, until},
    authority::Authority,
    issuer::FakeIssuer,
};
use crate::saved;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_token_then_restarts_without_it() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    assert_eq!(ids(&node.workload().await.x509().await.unwrap()), ["web"]);
    assert_eq!(issuer.calls("PostStatus"), 1);
    agent.stop().await;

    let data = std::fs::read_to_string(node.file("data/agent-data.json")).unwrap();
    assert!(data.contains(r#""reattestable":false"#), "{data}");

    // The token is spent, and the bundle file may be gone: the agent goes on from its folder.
    std::fs::remove_file(node.file("bundle.pem")).unwrap();
    let agent = node.start();
    assert_eq!(ids(&node.workload().await.x509().await.unwrap()), ["web"]);
    assert_eq!(issuer.calls("AttestAgent"), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_svid_is_kept_while_the_first_bundle_cannot_be_had() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.fail("GetBundle", usize::MAX, Status::internal("down"));
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with("insecure_bootstrap: true\ntrust_bundle_path: ~").with_token("t-1");
    let agent = node.start();
    until("the first tries", async || issuer.calls("GetBundle") > 0).await;
    assert!(agent.is_running());
    agent.stop().await;

    // Even a restart in between does not cost the token.
    let agent = node.start();
    node.advance_until("another try", async || issuer.calls("GetBundle") > 2).await;
    issuer.mend("GetBundle");
    let workload = node.workload().await;
    let fetched = tokio::spawn(async move { workload.x509().await.unwrap() });
    node.advance_until("the bundle", async || fetched.is_finished()).await;
    assert_eq!(ids(&fetched.await.unwrap()), ["web"]);
    assert_eq!(issuer.calls("AttestAgent"), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x509pop_answers_the_challenge() {
    let issuer = FakeIssuer::start().await;
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    let node = x509pop_node(&issuer);
    let agent = node.start();
    assert_eq!(ids(&node.workload().await.x509().await.unwrap()), ["web"]);
    agent.stop().await;
}

/// A node with a certificate of its own.
pub(super) fn x509pop_node(issuer: &FakeIssuer) -> Node {
    let node = Node::new(issuer);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(node.file("node.key"), key.serialize_pem()).unwrap();
    std::fs::write(node.file("node.pem"), certificate.pem()).unwrap();
    let (key, certificate) = (node.file("node.key"), node.file("node.pem"));
    let attestor = format!(
        "node_attestor: {{x509pop: {{private_key_path: {}, certificate_path: {}}}}}",
        key.display(),
        certificate.display()
    );
    node.with(&attestor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_evidence_ends_the_agent_with_the_remedy() {
    let issuer = FakeIssuer::start().await;
    let error = |node: Node| async move { node.start().ended().await.unwrap_err() };

    let used = error(Node::new(&issuer).with_token("used")).await;
    assert_eq!(
        used,
        "attestation failed: the issuer refused the attestation: failed to attest: join token does not exist or has \
         already been used; a join token works once and only until it expires; make another (`entente issuer token \
         generate`)"
    );
    let none = error(Node::new(&issuer)).await;
    assert!(none.contains("no join token is given") && none.contains("entente issuer token generate"), "{none}");

    let refusals = [
        (Status::invalid_argument("join token expired"), "make another (`entente issuer token generate`)"),
        (Status::permission_denied("failed to attest: agent is banned"), "entente issuer agent evict"),
        (Status::failed_precondition("could not find node attestor type"), "configure the same node attestor"),
    ];
    for (status, remedy) in refusals {
        let message = status.message().to_string();
        issuer.fail("AttestAgent", 1, status);
        let error = error(Node::new(&issuer).with_token("t")).await;
        assert!(error.contains(&message) && error.contains(remedy), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_another_authority_is_told_apart_from_another_server() {
    let mut issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t");
    std::fs::write(node.file("bundle.pem"), saved::pem(&Authority::new("cloud.example").certificate_der())).unwrap();
    let error = node.start().ended().await.unwrap_err();
    assert!(error.contains("is not vouched for by the trust bundle from"), "{error}");
    assert!(error.contains("bundle.pem") && error.contains("entente issuer bundle show"), "{error}");

    issuer.stop().await;
    issuer.serve("onprem.example").await;
    let error = Node::new(&issuer).with_token("t").start().ended().await.unwrap_err();
    assert!(error.contains("is not the issuer of this trust domain"), "{error}");
    assert!(error.contains("onprem.example") && error.contains("check server_address"), "{error}");
    let insecure = Node::new(&issuer).with("insecure_bootstrap: true\ntrust_bundle_path: ~").with_token("t");
    let error = insecure.start().ended().await.unwrap_err();
    assert!(error.contains("is not the issuer of this trust domain"), "{error}");
    assert_eq!(issuer.calls("AttestAgent"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_before_the_certificates_start_is_named() {
    let issuer = FakeIssuer::start().await;
    let node = Node::new(&issuer).with_token("t");
    // Within the authority's validity, but before the issuer's own certificate.
    issuer.clock.set(issuer.clock.now() - time::Duration::hours(2));
    let error = node.start().ended().await.unwrap_err();
    assert!(error.contains("the system clock (") && error.contains("is before the start of the issuer's"), "{error}");
    issuer.clock.set(issuer.clock.now() - time::Duration::days(1000));
    let error = node.start().ended().await.unwrap_err();
    assert!(
        error.contains("the system clock (") && error.contains("is before the start of the trust bundle"),
        "{error}"
    );
    assert_eq!(issuer.calls("AttestAgent"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_is_waited_for() {
    let mut issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    issuer.stop().await;
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    let workload = node.workload().await;
    let fetched = tokio::spawn(async move { workload.x509().await.unwrap() });
    for _ in 0..20 {
        issuer.clock.advance(Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(agent.is_running() && !fetched.is_finished());
    issuer.serve("cloud.example").await;
    node.advance_until("the attestation", async || fetched.is_finished()).await;
    assert_eq!(ids(&fetched.await.unwrap()), ["web"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_do_not_share_a_folder_or_a_socket() {
    let issuer = FakeIssuer::start().await;
    issuer.token("t-1");
    issuer.state().entry("e1", "web", &[&own_uid()], |_| {});
    let node = Node::new(&issuer).with_token("t-1");
    let agent = node.start();
    node.workload().await.x509().await.unwrap();
    let error = node.start().ended().await.unwrap_err();
    assert!(error.contains("is in use by another process"), "{error}");

    let data = format!("data_dir: {}", node.file("other").display());
    let other = node.with(&data);
    let error = other.start().ended().await.unwrap_err();
    assert!(error.contains("api.sock is in use by a running process"), "{error}");
    assert_eq!(ids(&other.workload().await.x509().await.unwrap()), ["web"], "the first goes on");
    agent.stop().await;
}
