//! AttestAgent: an agent proves which node it runs on and gets its first X509-SVID.
//!
//! A one-time proof is spent in the transaction that stores the node, after the CSR was checked and the SVID signed,
//! so that a request that fails earlier costs the agent nothing.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use federation_specs::{
    proto::{
        server::agent::{AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response},
        types::AttestationData,
    },
    public_key::PublicKey,
    selector::Selector,
};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Shared, caller::Caller, renew, status};
use crate::{
    attestors::{
        Attempt, AttestationError, AttestedAgent, Challenger, MAX_CHALLENGES, MAX_PAYLOAD_BYTES, NodeAttestor,
        join_token,
    },
    ca::X509Svid,
    node::{AttestOutcome, Attestation, JOIN_TOKEN_TYPE, SpentToken},
};

/// Longest time one attestation may take, challenges included.
const MAX_DURATION: std::time::Duration = std::time::Duration::from_secs(60);

type Answer = Result<AttestAgentResponse, Status>;

/// Answers one stream.
pub(super) fn attest(
    shared: Arc<Shared>,
    caller: Caller,
    requests: Streaming<AttestAgentRequest>,
) -> BoxStream<'static, Answer> {
    let (answers, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let too_slow = shared.clock.sleep(MAX_DURATION);
        let outcome = tokio::select! {
            outcome = run(&shared, &caller, requests, &answers) => outcome,
            () = too_slow => Err(Status::deadline_exceeded("attestation took too long")),
        };
        let last = outcome.inspect_err(|failure| {
            tracing::warn!(code = ?failure.code(), reason = failure.message(), address = ?caller.address, "attestation failed");
        });
        // The agent may be gone; then nobody waits for the answer.
        let _ = answers.send(last).await;
    });
    ReceiverStream::new(receiver).boxed()
}

async fn run(
    shared: &Shared,
    caller: &Caller,
    mut requests: Streaming<AttestAgentRequest>,
    answers: &mpsc::Sender<Answer>,
) -> Answer {
    let context = "rejecting request due to attest agent rate limiting";
    status::limited(shared.limits.attest.as_ref(), caller, 1, context).await?;
    let (data, csr) = params(requests.message().await?)?;
    let attestor = attestor(shared, &data.r#type)?;
    if data.payload.len() > MAX_PAYLOAD_BYTES {
        let text = format!("attestation data payload is larger than {MAX_PAYLOAD_BYTES} bytes");
        return Err(status::invalid("malformed param", text));
    }
    let attempt = Attempt { payload: data.payload, client_address: caller.address, now: shared.now() };
    let mut challenger = StreamChallenger { requests, answers, sent: 0 };
    let attested = attestor.attest(attempt, &mut challenger).await;
    let attested = attested.map_err(|error| attestor_failure(attestor.name(), &error))?;
    check_agent_id(shared, &attested, attestor.name())?;
    let public_key = renew::key_of_csr(&csr)?;
    let signed = shared.ca.sign_agent_svid(&attested.agent_id, &public_key).await;
    let svid = signed.map_err(|error| status::internal("failed to sign X509-SVID", &error))?;
    store(shared, attestor.name(), &attested, &public_key, &svid).await?;
    tracing::info!(
        agent = %attested.agent_id, attestor = attestor.name(), serial = svid.serial_decimal,
        address = ?caller.address, "agent attested"
    );
    Ok(AttestAgentResponse {
        step: Some(attest_agent_response::Step::Result(attest_agent_response::Result {
            svid: Some(renew::svid_to_proto(&svid)),
            reattestable: attested.can_reattest,
        })),
    })
}

/// The first message: attestation data and CSR, checked in the order the API documents.
fn params(first: Option<AttestAgentRequest>) -> Result<(AttestationData, Vec<u8>), Status> {
    let missing = |what: &str| Status::invalid_argument(format!("malformed param: missing {what}"));
    let Some(attest_agent_request::Step::Params(params)) = first.and_then(|request| request.step) else {
        return Err(missing("params"));
    };
    let data = params.data.ok_or_else(|| missing("attestation data"))?;
    let svid_params = params.params.ok_or_else(|| missing("X509-SVID parameters"))?;
    if svid_params.csr.is_empty() {
        return Err(missing("CSR"));
    }
    if data.r#type.is_empty() {
        return Err(missing("attestation data type"));
    }
    if data.payload.is_empty() {
        return Err(missing("attestation data payload"));
    }
    Ok((data, svid_params.csr))
}

fn attestor(shared: &Shared, kind: &str) -> Result<Arc<dyn NodeAttestor>, Status> {
    shared.attestors.get(kind).map(Arc::clone).ok_or_else(|| {
        let kind: String = kind.chars().take(64).collect();
        Status::failed_precondition(format!(
            "error getting node attestor: could not find node attestor type \"{kind}\""
        ))
    })
}

/// Join tokens belong to the issuer itself; every other attestor's texts carry its name.
fn attestor_failure(name: &str, error: &AttestationError) -> Status {
    if name == JOIN_TOKEN_TYPE {
        Status::new(error.code, &error.message)
    } else {
        Status::new(error.code, format!("nodeattestor({name}): {error}"))
    }
}

fn check_agent_id(shared: &Shared, attested: &AttestedAgent, name: &str) -> Result<(), Status> {
    let id = &attested.agent_id;
    if !id.is_member_of(&shared.trust_domain) {
        return Err(status::internal("agent ID is invalid", &format_args!("{id} of attestor {name}")));
    }
    if id.is_server() {
        return Err(Status::internal("agent ID cannot collide with the server ID"));
    }
    if !id.path().starts_with(&format!("/spire/agent/{name}/")) {
        tracing::warn!(agent = %id, attestor = name, "agent ID is outside the attestor's own namespace");
    }
    Ok(())
}

async fn store(
    shared: &Shared,
    name: &str,
    attested: &AttestedAgent,
    public_key: &PublicKey,
    svid: &X509Svid,
) -> Result<(), Status> {
    let selectors: BTreeSet<Selector> = attested.selectors.iter().cloned().collect();
    let attestation = Attestation {
        agent_id: attested.agent_id.clone(),
        attestation_type: name.to_owned(),
        serial_number: svid.serial_decimal.clone(),
        expires_at: svid.expires_at,
        can_reattest: attested.can_reattest,
        selectors,
    };
    let spends = attested.spends_token.as_deref().map(|token| SpentToken { token, public_key });
    let stored = shared.store.attest_node(&attestation, spends, shared.now()).await;
    match stored.map_err(|error| status::from_store("failed to update attested agent", "", &error))? {
        AttestOutcome::Stored(_) => Ok(()),
        AttestOutcome::Banned => Err(Status::permission_denied("failed to attest: agent is banned")),
        AttestOutcome::TokenUnknown => Err(attestor_failure(name, &join_token::unknown())),
        AttestOutcome::TokenExpired => Err(attestor_failure(name, &join_token::expired())),
    }
}

/// Sends challenges as answers of the stream and reads the responses from it.
struct StreamChallenger<'a> {
    requests: Streaming<AttestAgentRequest>,
    answers: &'a mpsc::Sender<Answer>,
    sent: usize,
}

#[async_trait]
impl Challenger for StreamChallenger<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestationError> {
        self.sent += 1;
        if self.sent > MAX_CHALLENGES {
            return Err(AttestationError::new(Code::Internal, "too many challenges"));
        }
        let message = AttestAgentResponse { step: Some(attest_agent_response::Step::Challenge(challenge)) };
        let hung_up = || AttestationError::new(Code::Cancelled, "the agent hung up");
        self.answers.send(Ok(message)).await.map_err(|_| hung_up())?;
        let next = self.requests.message().await;
        let next =
            next.map_err(|failure| AttestationError::new(failure.code(), "failed to receive challenge from agent"))?;
        let response = match next.and_then(|request| request.step) {
            Some(attest_agent_request::Step::ChallengeResponse(response)) => response,
            Some(attest_agent_request::Step::Params(_)) | None => {
                return Err(AttestationError::invalid("missing challenge response"));
            }
        };
        if response.len() > MAX_PAYLOAD_BYTES {
            return Err(AttestationError::invalid(format!(
                "challenge response is larger than {MAX_PAYLOAD_BYTES} bytes"
            )));
        }
        Ok(response)
    }
}
