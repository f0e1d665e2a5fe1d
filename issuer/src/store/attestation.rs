//! An attestation: the node is stored and its join token spent together, or neither.

use time::OffsetDateTime;

use super::join_tokens::{self, Spent};
use super::{Store, StoreError, nodes};
use crate::node::{AttestOutcome, Attestation, SpentToken};

impl Store {
    /// Stores what attestation proved, and spends the join token if one is given, in one transaction. The caller checks
    /// the CSR and signs first, so that nothing the agent did wrong costs it its token.
    pub async fn attest_node(
        &self,
        attestation: &Attestation,
        join_token: Option<SpentToken<'_>>,
        now: OffsetDateTime,
    ) -> Result<AttestOutcome, StoreError> {
        let mut tx = self.begin("nodes.attest").await?;
        let stored = nodes::find(&mut tx.connection, &attestation.agent_id).await?;
        if stored.as_ref().is_some_and(|(_, node)| node.is_banned()) {
            return Ok(AttestOutcome::Banned);
        }
        if let Some(token) = join_token {
            match join_tokens::spend(&mut tx.connection, &token, now).await? {
                Spent::Now => {}
                // An agent that was evicted since does not come back.
                Spent::Again if stored.is_some() => {}
                Spent::Again => return Ok(AttestOutcome::TokenUnknown),
                Spent::Expired => return Ok(AttestOutcome::TokenExpired),
                Spent::Unknown => return Ok(AttestOutcome::TokenUnknown),
            }
        }
        let node = nodes::upsert(&mut tx.connection, attestation, stored, tx.at).await?;
        tx.commit(nodes::TOUCHED).await?;
        Ok(AttestOutcome::Stored(node))
    }
}
