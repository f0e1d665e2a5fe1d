//! Join tokens: a value made by the issuer, good for one attestation.
//!
//! The token is only looked at here. It is spent when the node is stored, so a request that fails on its CSR leaves the
//! token usable, and the agent that spent it a moment ago may ask again.

use async_trait::async_trait;
use federation_specs::id::SpiffeId;
use tonic::Code;

use super::{Attempt, AttestationError, AttestedAgent, Challenger, NodeAttestor};
use crate::{
    node::{JOIN_TOKEN_TYPE, JoinTokenState},
    store::Store,
};

/// Attests agents by join token.
#[derive(Debug)]
pub struct JoinTokenAttestor {
    store: Store,
}

impl JoinTokenAttestor {
    /// An attestor for the tokens in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }
}

/// The answer for a token that was never created or was used.
pub(crate) fn unknown() -> AttestationError {
    AttestationError::invalid("failed to attest: join token does not exist or has already been used")
}

/// The answer for a token presented too late.
pub(crate) fn expired() -> AttestationError {
    AttestationError::invalid("join token expired")
}

#[async_trait]
impl NodeAttestor for JoinTokenAttestor {
    fn name(&self) -> &'static str {
        JOIN_TOKEN_TYPE
    }

    async fn attest(
        &self,
        attempt: Attempt,
        _challenger: &mut dyn Challenger,
    ) -> Result<AttestedAgent, AttestationError> {
        let token = String::from_utf8(attempt.payload).map_err(|_| unknown())?;
        let state = self.store.join_token_state(&token, attempt.now).await.map_err(|error| {
            tracing::error!(%error, "join token cannot be looked up");
            AttestationError::new(Code::Internal, "failed to look up join token")
        })?;
        match state {
            JoinTokenState::Usable { .. } | JoinTokenState::JustSpent => {}
            JoinTokenState::Expired => return Err(expired()),
            JoinTokenState::Unknown => return Err(unknown()),
        }
        let path = format!("/spire/agent/{JOIN_TOKEN_TYPE}/{token}");
        let agent_id = SpiffeId::from_parts(self.store.trust_domain(), &path).map_err(|_| unknown())?;
        Ok(AttestedAgent { agent_id, selectors: Vec::new(), can_reattest: false, spends_token: Some(token) })
    }
}
