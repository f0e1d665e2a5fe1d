//! Node attestation, issuer side: each method is one implementation of [`NodeAttestor`].
//!
//! An attestor only proves who the node is. Storing the node, spending a token, signing and the ban check are done by
//! the caller, in one step, after the proof.

use std::{collections::BTreeMap, fmt::Debug, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use federation_specs::{id::SpiffeId, selector::Selector};
use time::OffsetDateTime;
use tonic::Code;

pub mod agent_path;
pub mod join_token;
pub mod x509pop;

/// Most bytes of an attestation payload or of one challenge response.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// Most challenges one attestation may send.
pub const MAX_CHALLENGES: usize = 8;

/// One attempt to attest, as an attestor sees it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The agent's payload, at most [`MAX_PAYLOAD_BYTES`], never empty.
    pub payload: Vec<u8>,
    /// Address the agent connected from; `None` on a Unix socket.
    pub client_address: Option<IpAddr>,
    /// When the attempt was made.
    pub now: OffsetDateTime,
}

/// What a successful attestation proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedAgent {
    /// ID the agent gets.
    pub agent_id: SpiffeId,
    /// Node selectors; their type is the attestor's name.
    pub selectors: Vec<Selector>,
    /// The agent may attest again instead of renewing.
    pub can_reattest: bool,
    /// Join token to spend in the same step that stores the node.
    pub spends_token: Option<String>,
}

/// Why an attestation failed: a gRPC code and a text that may be shown to the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AttestationError {
    /// Code of the answer.
    pub code: Code,
    /// Text of the answer.
    pub message: String,
}

impl AttestationError {
    /// An error with the given code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The agent sent something that cannot be read.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// The proof does not hold.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }
}

/// Sends a challenge to the agent and waits for its answer.
#[async_trait]
pub trait Challenger: Send {
    /// Sends `challenge` and returns the agent's response, at most [`MAX_PAYLOAD_BYTES`].
    ///
    /// # Errors
    /// When the agent hangs up, answers something else, or answers too much.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestationError>;
}

/// A method by which an agent proves which node it runs on.
#[async_trait]
pub trait NodeAttestor: Send + Sync + Debug {
    /// Attestation type on the wire, also the type of the node selectors.
    fn name(&self) -> &'static str;

    /// Proves one attempt.
    ///
    /// # Errors
    /// [`AttestationError`] with the text the agent is to see.
    async fn attest(
        &self,
        attempt: Attempt,
        challenger: &mut dyn Challenger,
    ) -> Result<AttestedAgent, AttestationError>;
}

/// The configured attestors by name.
#[derive(Debug, Clone, Default)]
pub struct NodeAttestors {
    by_name: BTreeMap<&'static str, Arc<dyn NodeAttestor>>,
}

impl NodeAttestors {
    /// Adds one; a later one of the same name replaces the earlier.
    #[must_use]
    pub fn with(mut self, attestor: Arc<dyn NodeAttestor>) -> Self {
        self.by_name.insert(attestor.name(), attestor);
        self
    }

    /// The attestor of that type.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn NodeAttestor>> {
        self.by_name.get(name)
    }

    /// Names of the configured attestors, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.by_name.keys().copied().collect()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A challenger that must not be asked.
    pub(crate) struct NoChallenge;

    #[async_trait]
    impl Challenger for NoChallenge {
        async fn challenge(&mut self, _challenge: Vec<u8>) -> Result<Vec<u8>, AttestationError> {
            panic!("this attestor sends no challenge")
        }
    }

    /// Answers every challenge with a function.
    pub(crate) struct Answer<F>(pub(crate) F);

    #[async_trait]
    impl<F: FnMut(&[u8]) -> Vec<u8> + Send> Challenger for Answer<F> {
        async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestationError> {
            Ok((self.0)(&challenge))
        }
    }
}
