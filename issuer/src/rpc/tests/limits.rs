//! Rate limits as callers meet them.

use std::time::Duration;

use federation_specs::proto::server::agent::{PostStatusRequest, agent_client::AgentClient};
use service_kit::{
    clock::{Clock, SystemClock},
    keys::{KeyType, PrivateKey},
};
use tonic::{Code, Request};

use super::harness::{TestIssuer, agent_csr, attest_request};

#[tokio::test]
async fn attestation_waits_for_its_turn_or_for_the_deadline() {
    let issuer = TestIssuer::start("").await;
    let csr = agent_csr(&PrivateKey::generate(KeyType::EcP256).unwrap());
    let mut client = AgentClient::new(issuer.remote(None).await);
    let mut attest = async |timeout: Option<Duration>| {
        let mut request = Request::new(tokio_stream::once(attest_request("join_token", b"nosuch", csr.clone())));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let mut answers = client.attest_agent(request).await?.into_inner();
        answers.message().await.map(drop)
    };
    let unknown = "failed to attest: join token does not exist or has already been used";
    assert_eq!(attest(None).await.unwrap_err().message(), unknown);
    let refused = attest(Some(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text = "rejecting request due to attest agent rate limiting: rate: Wait(n=1) would exceed context deadline";
    assert_eq!(refused.message(), text);
    let started = SystemClock.now();
    assert_eq!(attest(None).await.unwrap_err().message(), unknown);
    assert!(SystemClock.now() - started > Duration::from_millis(200), "it had to wait");
    issuer.stop().await;
}

#[tokio::test]
async fn status_posts_are_limited_even_with_the_switches_off() {
    let issuer = TestIssuer::start("ratelimit: { attestation: false, signing: false }\n").await;
    let agent = issuer.agent("one").await;
    let mut client = AgentClient::new(issuer.remote(Some(&agent)).await);
    // A busy machine may not answer within so short a deadline, or take so long that the next one is allowed.
    let mut attempts = 0..20;
    let refused = loop {
        for _ in 0..10 {
            client.post_status(PostStatusRequest::default()).await.unwrap();
        }
        let mut request = Request::new(PostStatusRequest::default());
        request.set_timeout(Duration::from_millis(20));
        match client.post_status(request).await {
            Err(status) if status.code() != Code::Cancelled => break status,
            _ => assert!(attempts.next().is_some(), "never refused"),
        }
    };
    assert!(refused.message().starts_with("rejecting request due to post status rate limiting: "), "{refused:?}");
    issuer.stop().await;
}
