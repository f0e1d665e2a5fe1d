//! Attesting, renewing, banning and evicting agents.

use std::sync::Arc;

use federation_specs::{
    convert,
    proto::{
        server::{
            agent::{
                AgentX509svidParams, AttestAgentRequest, BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest,
                GetAgentRequest, PostStatusRequest, RenewAgentRequest, agent_client::AgentClient, attest_agent_request,
                attest_agent_response,
            },
            bundle::{GetBundleRequest, GetFederatedBundleRequest, bundle_client::BundleClient},
            entry::{GetAuthorizedEntriesRequest, entry_client::EntryClient},
        },
        types::permission_denied_details::Reason,
    },
};
use service_kit::keys::{KeyType, PrivateKey};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::harness::{Svid, TestIssuer, agent_csr, attest_request, id, id_of};

fn key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

async fn post_status(issuer: &TestIssuer, agent: &Svid) -> Result<(), Status> {
    let mut client = AgentClient::new(issuer.remote(Some(agent)).await);
    let status = PostStatusRequest { current_bundle_serial: 7, agent_version: "1.15.3".into() };
    client.post_status(status).await.map(drop)
}

async fn renew(issuer: &TestIssuer, agent: &Svid) -> Result<Svid, Status> {
    let key = key();
    let params = Some(AgentX509svidParams { csr: agent_csr(&key) });
    let mut client = AgentClient::new(issuer.remote(Some(agent)).await);
    let svid = client.renew_agent(RenewAgentRequest { params }).await?.into_inner().svid.unwrap();
    Ok(Svid { chain: svid.cert_chain, key: Arc::new(key) })
}

fn reason(status: &Status) -> Option<Reason> {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    convert::permission_denied_reason(status.details())
}

#[tokio::test]
async fn a_join_token_makes_an_agent_once() {
    let issuer = TestIssuer::start("ratelimit: { attestation: false }\n").await;
    let agent = issuer.agent("token-1").await;
    assert_eq!(agent.id(), "spiffe://cloud.example/spire/agent/join_token/token-1");
    let again = issuer.attest("join_token", b"token-1", agent_csr(&key())).await.unwrap_err();
    assert_eq!(again.message(), "failed to attest: join token does not exist or has already been used");
    post_status(&issuer, &agent).await.unwrap();
    let mut local = AgentClient::new(issuer.local());
    let stored = local.get_agent(GetAgentRequest { id: id_of(&agent.id()), output_mask: None }).await.unwrap();
    let stored = stored.into_inner();
    assert_eq!((stored.attestation_type.as_str(), stored.agent_version.as_str()), ("join_token", "1.15.3"));
    assert!(!stored.banned && !stored.can_reattest && stored.selectors.is_empty());
    let recreate = CreateJoinTokenRequest { ttl: 60, token: "token-1".into(), agent_id: None };
    let refused = local.create_join_token(recreate).await.unwrap_err();
    assert!(refused.message().starts_with("failed to create token: "), "{}", refused.message());
    issuer.stop().await;
}

#[tokio::test]
async fn a_bad_csr_does_not_cost_the_token() {
    let issuer = TestIssuer::start("ratelimit: { attestation: false }\n").await;
    issuer.token("token-1").await;
    let mut unsigned = agent_csr(&key());
    *unsigned.last_mut().unwrap() ^= 1;
    for csr in [b"no csr".to_vec(), unsigned] {
        let refused = issuer.attest("join_token", b"token-1", csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with("failed to parse CSR: "), "{}", refused.message());
    }
    issuer.attest("join_token", b"token-1", agent_csr(&key())).await.unwrap();
    issuer.stop().await;
}

#[tokio::test]
async fn token_values_must_be_able_to_name_an_agent() {
    let issuer = TestIssuer::start("").await;
    let mut local = AgentClient::new(issuer.local());
    for token in ["a/b", "a b", "..", "é"] {
        let request = CreateJoinTokenRequest { ttl: 60, token: token.into(), agent_id: None };
        let refused = local.create_join_token(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{token}");
    }
    let long = CreateJoinTokenRequest { ttl: i32::MAX, token: String::new(), agent_id: None };
    assert_eq!(local.create_join_token(long).await.unwrap_err().code(), Code::InvalidArgument);
    issuer.stop().await;
}

#[tokio::test]
async fn a_token_may_name_the_node() {
    let issuer = TestIssuer::start("").await;
    let request = CreateJoinTokenRequest { ttl: 60, token: "named".into(), agent_id: id("/node/one") };
    AgentClient::new(issuer.local()).create_join_token(request).await.unwrap();
    let child = super::harness::entry("child", "spiffe://cloud.example/node/one", "/web");
    issuer.create(vec![child]).await;
    let key = key();
    let svid = issuer.attest("join_token", b"named", agent_csr(&key)).await.unwrap();
    let agent = Svid { chain: svid.cert_chain, key: Arc::new(key) };
    let mut client = EntryClient::new(issuer.remote(Some(&agent)).await);
    let entries = client.get_authorized_entries(GetAuthorizedEntriesRequest::default()).await.unwrap().into_inner();
    let ids: Vec<_> = entries.entries.iter().map(|entry| entry.spiffe_id.clone().unwrap().path).collect();
    assert!(ids.contains(&"/web".to_owned()) && ids.contains(&"/node/one".to_owned()), "{ids:?}");
    issuer.stop().await;
}

#[tokio::test]
async fn a_renewed_svid_takes_over_at_its_first_use() {
    let issuer = TestIssuer::start("").await;
    let r0 = issuer.agent("renewing").await;
    let r1 = renew(&issuer, &r0).await.unwrap();
    post_status(&issuer, &r0).await.unwrap();
    let r2 = renew(&issuer, &r0).await.unwrap();
    assert_eq!(reason(&post_status(&issuer, &r1).await.unwrap_err()), Some(Reason::AgentNotActive), "overwritten");
    post_status(&issuer, &r2).await.unwrap();
    assert_eq!(reason(&post_status(&issuer, &r0).await.unwrap_err()), Some(Reason::AgentNotActive), "replaced");
    assert_eq!(reason(&renew(&issuer, &r0).await.err().unwrap()), Some(Reason::AgentNotActive));
    let mut old = BundleClient::new(issuer.remote(Some(&r0)).await);
    let foreign = GetFederatedBundleRequest { trust_domain: "x.example".into(), output_mask: None };
    assert_eq!(reason(&old.get_federated_bundle(foreign).await.unwrap_err()), Some(Reason::AgentNotActive));
    old.get_bundle(GetBundleRequest::default()).await.expect("the own bundle is open to everybody");

    let mut local = AgentClient::new(issuer.local());
    local.ban_agent(BanAgentRequest { id: id_of(&r2.id()) }).await.unwrap();
    assert_eq!(reason(&post_status(&issuer, &r2).await.unwrap_err()), Some(Reason::AgentBanned));
    assert_eq!(reason(&renew(&issuer, &r2).await.err().unwrap()), Some(Reason::AgentBanned));
    let mut entries = EntryClient::new(issuer.remote(Some(&r2)).await);
    let sync = entries.sync_authorized_entries(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(reason(&sync), Some(Reason::AgentBanned));
    local.delete_agent(DeleteAgentRequest { id: id_of(&r2.id()) }).await.unwrap();
    assert_eq!(reason(&post_status(&issuer, &r2).await.unwrap_err()), Some(Reason::AgentNotAttested));
    issuer.stop().await;
}

#[tokio::test]
async fn agents_and_authorities_survive_a_restart() {
    let issuer = TestIssuer::start("").await;
    let agent = issuer.agent("staying").await;
    let bundle = issuer.bundle().await;
    let folder = issuer.stop().await;
    let issuer = TestIssuer::start_in(folder, "").await;
    assert_eq!(issuer.bundle().await, bundle);
    post_status(&issuer, &agent).await.unwrap();
    issuer.stop().await;
}

/// Attests with x509pop; the challenge is answered with `sign`.
async fn attest_x509pop(
    issuer: &TestIssuer,
    payload: &[u8],
    csr: Vec<u8>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<attest_agent_response::Result, Status> {
    let (requests, stream) = mpsc::channel(2);
    requests.send(attest_request("x509pop", payload, csr)).await.unwrap();
    let mut client = AgentClient::new(issuer.remote(None).await);
    let mut answers = client.attest_agent(ReceiverStream::new(stream)).await?.into_inner();
    let Some(attest_agent_response::Step::Challenge(challenge)) = answers.message().await?.unwrap().step else {
        panic!("expected a challenge");
    };
    let step = Some(attest_agent_request::Step::ChallengeResponse(sign(&challenge)));
    requests.send(AttestAgentRequest { step }).await.unwrap();
    match answers.message().await?.unwrap().step {
        Some(attest_agent_response::Step::Result(result)) => Ok(result),
        other => panic!("expected a result, got {other:?}"),
    }
}

#[tokio::test]
async fn a_certificate_makes_an_agent_that_attests_again() {
    use crate::attestors::x509pop::testing;
    let pki = testing::pki(|_| ());
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("node-roots.pem");
    std::fs::write(&roots, pki.root.pem()).unwrap();
    let options = format!(
        "ratelimit: {{ attestation: false }}\nnode_attestors: {{ x509pop: {{ ca_bundle_path: {} }} }}\n",
        roots.display()
    );
    let issuer = TestIssuer::start_in(folder, &options).await;
    let payload = testing::payload(&[pki.leaf.der().to_vec()]);
    let first_key = key();
    let attest = async |key: &PrivateKey| {
        attest_x509pop(&issuer, &payload, agent_csr(key), |challenge| testing::sign(&pki.leaf_key, challenge)).await
    };
    let result = attest(&first_key).await.unwrap();
    assert!(result.reattestable);
    let agent = Svid { chain: result.svid.unwrap().cert_chain, key: Arc::new(first_key) };
    let refused = renew(&issuer, &agent).await.err().unwrap();
    assert_eq!(refused.message(), "agent must reattest instead of renew");
    assert_eq!(reason(&refused), Some(Reason::AgentMustReattest));
    let stored = GetAgentRequest { id: id_of(&agent.id()), output_mask: None };
    let stored = AgentClient::new(issuer.local()).get_agent(stored).await.unwrap().into_inner();
    assert!(stored.can_reattest && stored.selectors.iter().all(|selector| selector.r#type == "x509pop"));
    assert!(!stored.selectors.is_empty());

    let second_key = key();
    let second = attest(&second_key).await.unwrap().svid.unwrap();
    let second = Svid { chain: second.cert_chain, key: Arc::new(second_key) };
    post_status(&issuer, &second).await.unwrap();
    assert_eq!(reason(&post_status(&issuer, &agent).await.unwrap_err()), Some(Reason::AgentNotActive));

    AgentClient::new(issuer.local()).ban_agent(BanAgentRequest { id: id_of(&agent.id()) }).await.unwrap();
    let banned = attest(&key()).await.unwrap_err();
    assert_eq!((banned.code(), banned.message()), (Code::PermissionDenied, "failed to attest: agent is banned"));
    let wrong = attest_x509pop(&issuer, &payload, agent_csr(&key()), |_| b"{}".to_vec()).await.unwrap_err();
    assert!(wrong.message().starts_with("nodeattestor(x509pop): challenge response verification failed"), "{wrong:?}");
    let disabled = issuer.attest("join_token", b"any", agent_csr(&key())).await.unwrap_err();
    assert_eq!(disabled.code(), Code::FailedPrecondition);
    issuer.stop().await;
}

#[tokio::test]
async fn a_second_issuer_on_the_same_folder_or_port_is_refused_with_the_reason() {
    use service_kit::{
        clock::SystemClock,
        lifecycle::Shutdown,
        telemetry::{LogHandle, LogLevel},
    };
    let issuer = TestIssuer::start("").await;
    let start = |config| {
        crate::Issuer::start(config, LogHandle::detached(LogLevel::Info), SystemClock::shared(), Shutdown::new())
    };
    let same_folder = start(super::harness::config(issuer.folder.path(), "")).await.unwrap_err();
    assert!(same_folder.to_string().contains("is in use by another process"), "{same_folder}");
    let other = tempfile::tempdir().unwrap();
    let mut config = super::harness::config(other.path(), "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.bind_port = taken.local_addr().unwrap().port();
    let same_port = start(config).await.unwrap_err();
    assert!(same_port.to_string().contains("choose another bind_address or bind_port"), "{same_port}");
    let mut config = super::harness::config(other.path(), "");
    config.socket_path = issuer.folder.path().join("private/api.sock");
    let same_socket = start(config).await.unwrap_err();
    assert!(same_socket.to_string().contains("in use by a running process"), "{same_socket}");
    issuer.stop().await;
}
