//! The attestation itself: from trust and evidence to an agent SVID and the first bundle from the issuer.

use std::{sync::Arc, time::Duration};

use federation_specs::{
    bundle::BundleSet,
    proto::{
        server::agent::{
            AgentX509svidParams, AttestAgentRequest, AttestAgentResponse,
            agent_client::AgentClient,
            attest_agent_request::{self, Params},
            attest_agent_response::{self, Result as Attested},
        },
        types::AttestationData,
    },
    x509_svid::X509SvidError,
};
use service_kit::{
    backoff::Backoff,
    clock::SharedClock,
    grpc::connect,
    tls::{self, BundleCell, PeerPolicy, TlsError},
};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    MAX_CHALLENGE_BYTES, MAX_CHALLENGES, NodeAttestor, NodeAttestorError,
    bootstrap::{self, BootstrapError, BootstrapSource, BootstrapTrust},
};
use crate::{
    identity::{AgentSvid, IdentityError, OwnIdentity},
    issuer::{self, IssuerError, MAX_MESSAGE_BYTES, RPC_TIMEOUT},
    sync::bundles,
};

/// First wait after a failed attestation.
const RETRY_BASE: Duration = Duration::from_secs(5);
/// Longest wait between attestations.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// First wait while the issuer cannot be reached at all.
const UNREACHABLE_BASE: Duration = Duration::from_secs(1);
/// Longest wait while the issuer cannot be reached at all.
const UNREACHABLE_MAX: Duration = Duration::from_secs(15);

/// Why an attestation failed.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Nothing to trust the issuer by.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No evidence to send.
    #[error(transparent)]
    Evidence(#[from] NodeAttestorError),
    /// The result cannot be used or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configured address is malformed.
    #[error(transparent)]
    Address(#[from] connect::ConnectError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers.
    #[error("the issuer at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// The server's certificate does not lead to the bundle.
    #[error(
        "the certificate of the issuer at {address} is not vouched for by the trust bundle from {place} ({reason}); give the agent the bundle of that issuer (`entente issuer bundle show`), or, if its authority was replaced on purpose, move the saved agent state away"
    )]
    UnknownAuthority {
        /// Where the issuer is.
        address: String,
        /// Where the bundle is from.
        place: String,
        /// What the verification said.
        reason: String,
    },
    /// The server is somebody else.
    #[error(
        "the server at {address} is not the issuer of this trust domain: {reason}; check server_address, server_port and trust_domain"
    )]
    NotTheIssuer {
        /// Where it is.
        address: String,
        /// Who it is.
        reason: String,
    },
    /// The server's certificate starts later than this machine's clock.
    #[error(
        "the system clock ({now}) is before the start of the issuer's certificate ({not_before}); set the clock of this machine or of the issuer"
    )]
    ClockBehind {
        /// This machine's time.
        now: OffsetDateTime,
        /// Start of the certificate.
        not_before: OffsetDateTime,
    },
    /// The issuer refused for good.
    #[error("the issuer refused the attestation: {message}; {remedy}")]
    Refused {
        /// What the issuer said.
        message: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The issuer failed, for now.
    #[error("attestation failed: {0}")]
    Failed(String),
    /// The issuer's answer breaks the protocol.
    #[error("the issuer's answer to the attestation {0}")]
    Malformed(&'static str),
}

impl AttestError {
    /// Whether trying again by itself can help.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failed(_) | Self::Malformed(_) => true,
            Self::Bootstrap(error) => error.is_temporary(),
            _ => false,
        }
    }
}

/// Everything an attestation needs.
#[derive(Debug)]
pub struct Attestation {
    /// How this node proves itself.
    pub attestor: Arc<dyn NodeAttestor>,
    /// What it trusts when nothing is saved.
    pub bootstrap: BootstrapSource,
    /// The issuer's `host:port`.
    pub address: String,
    /// Time.
    pub clock: SharedClock,
    /// Where the saved state is, for messages.
    pub saved_at: String,
}

impl Attestation {
    /// Attests until it succeeds or cannot succeed, then fetches the bundle until that succeeds. The SVID is saved before
    /// the bundle is asked for and never given up for want of it, since a join token works once only.
    ///
    /// # Errors
    /// [`AttestError`] when another attempt cannot help.
    pub async fn run(&self, identity: &OwnIdentity, on_wait: impl Fn(&str)) -> Result<Arc<AgentSvid>, AttestError> {
        let mut unreachable = Backoff::new(UNREACHABLE_BASE, UNREACHABLE_MAX);
        let mut failed = Backoff::new(RETRY_BASE, RETRY_MAX);
        let mut earlier: Option<String> = None;
        let (svid, channel) = loop {
            let error = match self.attempt(identity).await {
                Ok(attested) => break attested,
                Err(error) if error.is_temporary() => error,
                Err(error) => {
                    if let Some(earlier) = earlier.filter(|_| self.attestor.is_single_use()) {
                        tracing::warn!(%earlier, "an earlier attempt with the same token failed and may have spent it");
                    }
                    return Err(error);
                }
            };
            let wait = match error {
                AttestError::Unreachable { .. } => unreachable.next(),
                _ => failed.next(),
            };
            tracing::warn!(%error, retry_in = ?wait, "not attested; trying again");
            on_wait(&error.to_string());
            if !matches!(error, AttestError::Unreachable { .. }) {
                earlier = Some(error.to_string());
            }
            self.clock.sleep(wait).await;
        };
        self.first_bundle(identity, channel, on_wait).await?;
        Ok(svid)
    }

    /// One attempt, for an agent that has attested before and may do so again.
    ///
    /// # Errors
    /// [`AttestError`].
    pub async fn once(&self, identity: &OwnIdentity) -> Result<Arc<AgentSvid>, AttestError> {
        self.attempt(identity).await.map(|(svid, _)| svid)
    }

    /// Fetches the bundle when an earlier run attested and ended before it had it.
    ///
    /// # Errors
    /// [`AttestError`] when another attempt cannot help.
    pub async fn complete(&self, identity: &OwnIdentity, on_wait: impl Fn(&str)) -> Result<(), AttestError> {
        let (channel, _) = self.connect(identity).await?;
        self.first_bundle(identity, channel, on_wait).await
    }

    /// Whether the issuer answers at all, asked without showing a certificate.
    pub async fn reaches_issuer(&self, identity: &OwnIdentity) -> bool {
        match self.connect(identity).await {
            Ok((channel, _)) => issuer::bundle_over(channel).await.is_ok(),
            Err(_) => false,
        }
    }

    /// One attempt; the channel is the attestation's own.
    async fn attempt(&self, identity: &OwnIdentity) -> Result<(Arc<AgentSvid>, Channel), AttestError> {
        let (channel, place) = self.connect(identity).await?;
        let payload = self.attestor.payload().await?;
        let key = identity.prepare_key().await?;
        let params = Params {
            data: Some(AttestationData { r#type: self.attestor.name().into(), payload: payload.to_vec() }),
            params: Some(AgentX509svidParams { csr: key.csr.clone() }),
        };
        let attested = self.converse(channel.clone(), params, &place).await?;
        let chain = attested.svid.ok_or(AttestError::Malformed("has no SVID"))?.cert_chain;
        let svid = identity.accept(key, chain, attested.reattestable).await?;
        tracing::info!(id = %svid.facts.id, reattestable = svid.reattestable, expires_at = %svid.facts.not_after, "attested");
        Ok((svid, channel))
    }

    /// A connection that verifies the issuer and shows no certificate, and the name of what it is verified with.
    async fn connect(&self, identity: &OwnIdentity) -> Result<(Channel, String), AttestError> {
        let trust_domain = identity.trust_domain();
        let saved = identity.bundle().await.map(|bundle| (bundle, self.saved_at.clone()));
        let trust = bootstrap::trust(&self.bootstrap, saved, trust_domain, &self.clock).await?;
        let server_id = trust_domain.server_id();
        let (config, place) = match trust {
            BootstrapTrust::Bundle(bundle, place) => {
                let bundles = Arc::new(BundleCell::new(BundleSet::from_iter([bundle])));
                let expected = PeerPolicy::Exactly(server_id);
                let clock = Arc::clone(&self.clock);
                (tls::spiffe_client_config(bundles, None, expected, clock, &[tls::ALPN_H2])?, place)
            }
            BootstrapTrust::Insecure => {
                (tls::insecure_bootstrap_client_config(server_id, &[tls::ALPN_H2])?, "insecure bootstrap".to_string())
            }
        };
        Ok((connect::tls_channel(&self.address, config)?, place))
    }

    /// The exchange on the AttestAgent stream.
    async fn converse(&self, channel: Channel, params: Params, place: &str) -> Result<Attested, AttestError> {
        let failed = |status: Status| self.classify(&status, place);
        let step = attest_agent_request::Step::Params(params);
        let (requests, outgoing) = mpsc::channel(1);
        // The channel has room for one message, so this cannot fail.
        let _ = requests.try_send(AttestAgentRequest { step: Some(step) });
        let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opened = client.attest_agent(ReceiverStream::new(outgoing));
        let mut answers = self.within_timeout(opened).await?.map_err(failed)?.into_inner();
        for _ in 0..=MAX_CHALLENGES {
            match self.next(&mut answers).await?.map_err(failed)? {
                attest_agent_response::Step::Result(attested) => return Ok(attested),
                attest_agent_response::Step::Challenge(challenge) => {
                    if challenge.len() > MAX_CHALLENGE_BYTES {
                        return Err(AttestError::Malformed("has a challenge that is too long"));
                    }
                    let answer = self.attestor.answer(&challenge).await?;
                    let step = attest_agent_request::Step::ChallengeResponse(answer);
                    if requests.send(AttestAgentRequest { step: Some(step) }).await.is_err() {
                        // The server has ended the stream; its reason is the next message.
                        continue;
                    }
                }
            }
        }
        Err(AttestError::Malformed("has too many challenges"))
    }

    async fn next(
        &self,
        answers: &mut Streaming<AttestAgentResponse>,
    ) -> Result<Result<attest_agent_response::Step, Status>, AttestError> {
        match self.within_timeout(answers.message()).await? {
            Ok(Some(AttestAgentResponse { step: Some(step) })) => Ok(Ok(step)),
            Ok(_) => Err(AttestError::Malformed("ended without a result")),
            Err(status) => Ok(Err(status)),
        }
    }

    async fn within_timeout<T>(&self, future: impl Future<Output = T>) -> Result<T, AttestError> {
        let timed_out = |_| AttestError::Failed(format!("no answer from the issuer within {RPC_TIMEOUT:?}"));
        tokio::time::timeout(RPC_TIMEOUT, future).await.map_err(timed_out)
    }

    fn classify(&self, status: &Status, place: &str) -> AttestError {
        let address = self.address.clone();
        match connect::refused_server(status) {
            Some(TlsError::Svid(error)) => match &*error {
                X509SvidError::NotYetValid(not_before) => {
                    return AttestError::ClockBehind { now: self.clock.now(), not_before: *not_before };
                }
                X509SvidError::NoBundle(other) => {
                    let reason = format!("it belongs to trust domain {other}");
                    return AttestError::NotTheIssuer { address, reason };
                }
                _ => {
                    let reason = error.to_string();
                    return AttestError::UnknownAuthority { address, place: place.to_string(), reason };
                }
            },
            Some(error) => return AttestError::NotTheIssuer { address, reason: error.to_string() },
            None => {}
        }
        if connect::is_connect_failure(status) {
            return AttestError::Unreachable { address, reason: connect::explain(status) };
        }
        let refused = |remedy| AttestError::Refused { message: status.message().to_string(), remedy };
        match status.code() {
            Code::PermissionDenied => refused(
                "if the agent was banned, evict it at the issuer (`entente issuer agent evict`) to let it attest again",
            ),
            Code::InvalidArgument if self.attestor.is_single_use() => refused(
                "a join token works once and only until it expires; make another (`entente issuer token generate`)",
            ),
            Code::InvalidArgument => refused("check the agent's node_attestor settings"),
            Code::FailedPrecondition | Code::Unimplemented => {
                refused("configure the same node attestor at the issuer and at the agent")
            }
            Code::Unavailable => AttestError::Unreachable { address, reason: connect::explain(status) },
            _ => AttestError::Failed(connect::explain(status)),
        }
    }

    async fn first_bundle(
        &self,
        identity: &OwnIdentity,
        channel: Channel,
        on_wait: impl Fn(&str),
    ) -> Result<(), AttestError> {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
        loop {
            let error = match issuer::bundle_over(channel.clone()).await {
                Ok(bundle) => match bundles::from_issuer(&bundle, identity.trust_domain()) {
                    Ok(bundle) => return Ok(identity.set_bundle(&bundle).await?),
                    Err(reason) => IssuerError::Malformed { call: "GetBundle", reason },
                },
                Err(error) => error,
            };
            let wait = backoff.next();
            tracing::warn!(%error, retry_in = ?wait, "attested, but the bundle could not be fetched; trying again");
            on_wait(&format!("attested, but {error}"));
            self.clock.sleep(wait).await;
        }
    }
}
