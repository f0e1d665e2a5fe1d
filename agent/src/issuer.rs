//! The issuer as this agent calls it: mutual TLS with the agent's SVID, one method a call.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use federation_specs::{
    convert,
    id::TrustDomain,
    proto::{
        server::{
            agent::{AgentX509svidParams, PostStatusRequest, RenewAgentRequest, agent_client::AgentClient},
            bundle::{GetBundleRequest, GetFederatedBundleRequest, bundle_client::BundleClient},
            entry::{EntryRevision, SyncAuthorizedEntriesRequest, entry_client::EntryClient},
            svid::{
                BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
                batch_new_x509svid_response::Result as SigningResult, svid_client::SvidClient,
            },
        },
        types,
    },
};
use rustls::ClientConfig;
use service_kit::grpc::connect;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};

use crate::cache::entry;

/// Longest time one call may take; for a stream, the longest time between two messages.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest message accepted from the issuer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Entries accepted for one agent.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Entry IDs asked for in one message.
const IDS_PER_REQUEST: usize = 500;

/// Why the issuer denied this agent (SPIRE 1.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The agent's SVID has expired.
    Expired,
    /// The issuer does not know the agent (any more).
    NotAttested,
    /// The issuer holds another SVID as the agent's present one.
    NotActive,
    /// The agent was banned.
    Banned,
    /// The agent must attest again instead of renewing.
    MustReattest,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the agent's SVID has expired",
            Self::NotAttested => "the issuer does not know this agent (it was evicted, or the issuer's data is new)",
            Self::NotActive => "the issuer holds another SVID as this agent's present one",
            Self::Banned => "the agent was banned",
            Self::MustReattest => "the agent must attest again",
        })
    }
}

impl Denial {
    /// The reason in a status, if it carries one.
    pub fn of(status: &Status) -> Option<Self> {
        use types::permission_denied_details::Reason;
        if status.code() != Code::PermissionDenied {
            return None;
        }
        match convert::permission_denied_reason(status.details())? {
            Reason::AgentExpired => Some(Self::Expired),
            Reason::AgentNotAttested => Some(Self::NotAttested),
            Reason::AgentNotActive => Some(Self::NotActive),
            Reason::AgentBanned => Some(Self::Banned),
            Reason::AgentMustReattest => Some(Self::MustReattest),
            Reason::Unknown => None,
        }
    }
}

/// Why a call to the issuer failed.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The issuer answered with an error, or could not be reached.
    #[error("{call}: {}", connect::explain(status))]
    Call {
        /// Name of the call.
        call: &'static str,
        /// What came back.
        status: Box<Status>,
    },
    /// No answer within [`RPC_TIMEOUT`].
    #[error("{call}: no answer from the issuer within {RPC_TIMEOUT:?}")]
    TimedOut {
        /// Name of the call.
        call: &'static str,
    },
    /// The answer breaks the protocol.
    #[error("{call}: the issuer's answer {reason}")]
    Malformed {
        /// Name of the call.
        call: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl IssuerError {
    /// Status code of the answer, if there was one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Call { status, .. } => Some(status.code()),
            _ => None,
        }
    }

    /// Why the issuer denied this agent, if that is what happened.
    pub fn denial(&self) -> Option<Denial> {
        match self {
            Self::Call { status, .. } => Denial::of(status),
            _ => None,
        }
    }
}

/// Entries as received: those that changed, and the IDs of those that did not.
#[derive(Debug, Default)]
pub struct SyncedEntries {
    /// New or changed entries.
    pub entries: Vec<types::Entry>,
    /// IDs of entries the agent has in the same revision.
    pub unchanged: Vec<String>,
}

/// The issuer behind one connection. The connection presents the SVID of the time it was made; call
/// [`IssuerClient::reconnect`] after the SVID was replaced.
#[derive(Debug)]
pub struct IssuerClient {
    address: String,
    tls: Arc<ClientConfig>,
    channel: ArcSwap<Channel>,
    denied: watch::Sender<Option<Denial>>,
}

impl IssuerClient {
    /// A client for `host:port`. Connects at the first call.
    ///
    /// # Errors
    /// [`connect::ConnectError`] if the address is malformed.
    pub fn new(address: String, tls: Arc<ClientConfig>) -> Result<Self, connect::ConnectError> {
        let channel = connect::tls_channel(&address, Arc::clone(&tls))?;
        Ok(Self { address, tls, channel: ArcSwap::from_pointee(channel), denied: watch::Sender::new(None) })
    }

    /// Makes a new connection for the calls from now on. Calls under way end on the old one.
    pub fn reconnect(&self) {
        match connect::tls_channel(&self.address, Arc::clone(&self.tls)) {
            Ok(channel) => self.channel.store(Arc::new(channel)),
            Err(error) => tracing::error!(%error, "cannot reconnect to the issuer"),
        }
    }

    /// Follows the denials: the reason of the latest denied call.
    pub fn denials(&self) -> watch::Receiver<Option<Denial>> {
        self.denied.subscribe()
    }

    fn channel(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }

    async fn call<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, IssuerError> {
        match tokio::time::timeout(RPC_TIMEOUT, future).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.failed(call, status)),
            Err(_) => Err(IssuerError::TimedOut { call }),
        }
    }

    fn failed(&self, call: &'static str, status: Status) -> IssuerError {
        if let Some(denial) = Denial::of(&status) {
            self.denied.send_replace(Some(denial));
        }
        IssuerError::Call { call, status: Box::new(status) }
    }

    /// Tells the issuer which version this agent is.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn post_status(&self, agent_version: &str) -> Result<(), IssuerError> {
        let request = PostStatusRequest { agent_version: agent_version.into(), ..Default::default() };
        let mut client = AgentClient::new(self.channel());
        self.call("PostStatus", client.post_status(timed(request))).await.map(drop)
    }

    /// Asks for a new agent SVID; answers the certificates, leaf first.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn renew_agent(&self, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, IssuerError> {
        const CALL: &str = "RenewAgent";
        let request = RenewAgentRequest { params: Some(AgentX509svidParams { csr }) };
        let mut client = AgentClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = self.call(CALL, client.renew_agent(timed(request))).await?.into_inner();
        let svid = answer.svid.ok_or(IssuerError::Malformed { call: CALL, reason: "has no SVID".into() })?;
        Ok(svid.cert_chain)
    }

    /// The bundle of the agent's trust domain.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn bundle(&self) -> Result<types::Bundle, IssuerError> {
        let mut client = bundle_client(self.channel());
        let answer = self.call("GetBundle", client.get_bundle(timed(GetBundleRequest::default()))).await?;
        Ok(answer.into_inner())
    }

    /// The bundle of another trust domain; `None` if the issuer has none.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn federated_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<types::Bundle>, IssuerError> {
        let request = GetFederatedBundleRequest { trust_domain: trust_domain.to_string(), ..Default::default() };
        let mut client = bundle_client(self.channel());
        match self.call("GetFederatedBundle", client.get_federated_bundle(timed(request))).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entries of this agent (SPIRE 1.15). `is_current` tells whether the agent has an entry in that
    /// revision; those are not sent again when there are many.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn sync_entries(
        &self,
        is_current: impl Fn(&EntryRevision) -> bool,
    ) -> Result<SyncedEntries, IssuerError> {
        const CALL: &str = "SyncAuthorizedEntries";
        let malformed = |reason: &str| IssuerError::Malformed { call: CALL, reason: reason.into() };
        let (requests, outgoing) = mpsc::channel(1);
        let first = SyncAuthorizedEntriesRequest { output_mask: Some(entry::mask()), ids: vec![] };
        // The channel has room for one message, so this cannot fail.
        let _ = requests.try_send(first);
        let mut client = EntryClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opened = client.sync_authorized_entries(ReceiverStream::new(outgoing));
        let mut answers = self.call(CALL, opened).await?.into_inner();

        let mut synced = SyncedEntries::default();
        let mut wanted = Vec::new();
        loop {
            let Some(answer) = self.call(CALL, answers.message()).await? else {
                return Err(malformed("ended too early"));
            };
            synced.entries.extend(answer.entries);
            for revision in answer.entry_revisions {
                if is_current(&revision) {
                    synced.unchanged.push(revision.id);
                } else {
                    wanted.push(revision.id);
                }
            }
            if synced.entries.len() + synced.unchanged.len() + wanted.len() > MAX_ENTRIES {
                return Err(malformed("has more entries than an agent may have"));
            }
            if !answer.more {
                break;
            }
        }
        for ids in wanted.chunks(IDS_PER_REQUEST) {
            let request = SyncAuthorizedEntriesRequest { ids: ids.to_vec(), output_mask: None };
            if requests.send(request).await.is_err() {
                return Err(malformed("ended too early"));
            }
            let mut received = 0;
            loop {
                let Some(answer) = self.call(CALL, answers.message()).await? else {
                    return Err(malformed("ended too early"));
                };
                received += answer.entries.len();
                if received > ids.len() {
                    return Err(malformed("has more entries than were asked for"));
                }
                synced.entries.extend(answer.entries);
                if !answer.more {
                    break;
                }
            }
        }
        Ok(synced)
    }

    /// Has X509-SVIDs signed; one result for each request, in the same order.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn sign_x509_svids(&self, params: Vec<NewX509svidParams>) -> Result<Vec<SigningResult>, IssuerError> {
        const CALL: &str = "BatchNewX509SVID";
        let expected = params.len();
        let mut client = SvidClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = timed(BatchNewX509svidRequest { params });
        let results = self.call(CALL, client.batch_new_x509svid(request)).await?.into_inner().results;
        if results.len() != expected {
            let reason = format!("has {} results for {expected} requests", results.len());
            return Err(IssuerError::Malformed { call: CALL, reason });
        }
        Ok(results)
    }

    /// Has a JWT-SVID signed for an entry.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn sign_jwt_svid(&self, entry_id: &str, audience: Vec<String>) -> Result<types::Jwtsvid, IssuerError> {
        const CALL: &str = "NewJWTSVID";
        let request = NewJwtsvidRequest { entry_id: entry_id.into(), audience };
        let attempt = async || {
            let mut client = SvidClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE_BYTES);
            self.call(CALL, client.new_jwtsvid(timed(request.clone()))).await
        };
        // A connection the issuer has just closed for its age fails one call; the next one makes a new connection.
        let answer = match attempt().await {
            Err(error) if error.code() == Some(Code::Unavailable) => attempt().await,
            answer => answer,
        };
        answer?.into_inner().svid.ok_or(IssuerError::Malformed { call: CALL, reason: "has no SVID".into() })
    }
}

fn bundle_client(channel: Channel) -> BundleClient<Channel> {
    BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// A request that tells the issuer when this agent stops waiting.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(RPC_TIMEOUT);
    request
}

/// The bundle of the agent's trust domain, over a connection that proves nothing about the agent.
///
/// # Errors
/// [`IssuerError`].
pub async fn bundle_over(channel: Channel) -> Result<types::Bundle, IssuerError> {
    const CALL: &str = "GetBundle";
    let mut client = bundle_client(channel);
    match tokio::time::timeout(RPC_TIMEOUT, client.get_bundle(timed(GetBundleRequest::default()))).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(IssuerError::Call { call: CALL, status: Box::new(status) }),
        Err(_) => Err(IssuerError::TimedOut { call: CALL }),
    }
}
