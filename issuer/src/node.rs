//! Attested nodes (agents) and join tokens.

use std::collections::BTreeSet;

use federation_specs::id::SpiffeId;
use federation_specs::public_key::PublicKey;
use federation_specs::selector::{MatchBehavior, Selector};

/// Attestation type of join tokens.
pub const JOIN_TOKEN_TYPE: &str = "join_token";

/// A stored, attested agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The agent's SPIFFE ID.
    pub agent_id: SpiffeId,
    /// Name of the node attestor that proved it.
    pub attestation_type: String,
    /// Decimal serial number of the current X509-SVID; empty means banned.
    pub serial_number: String,
    /// Expiry of the current X509-SVID, unix seconds.
    pub expires_at: i64,
    /// Serial of a renewed X509-SVID not used yet; empty if there is none.
    pub new_serial_number: String,
    /// Expiry of the renewed X509-SVID, unix seconds; 0 if there is none.
    pub new_expires_at: i64,
    /// The agent attests again instead of renewing.
    pub can_reattest: bool,
    /// What the agent reported; empty before its first report.
    pub agent_version: String,
    /// Node selectors the attestor gave.
    pub selectors: BTreeSet<Selector>,
}

impl Node {
    /// The agent was banned: nothing it holds is accepted any more.
    pub fn is_banned(&self) -> bool {
        self.serial_number.is_empty()
    }
}

/// What attestation proved, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The agent's SPIFFE ID.
    pub agent_id: SpiffeId,
    /// Name of the node attestor.
    pub attestation_type: String,
    /// Decimal serial number of the X509-SVID signed for the agent.
    pub serial_number: String,
    /// Expiry of that X509-SVID, unix seconds.
    pub expires_at: i64,
    /// The agent may attest again.
    pub can_reattest: bool,
    /// Node selectors; they replace the stored ones.
    pub selectors: BTreeSet<Selector>,
}

/// The join token an attestation spends.
#[derive(Debug, Clone, Copy)]
pub struct SpentToken<'a> {
    /// Its value.
    pub token: &'a str,
    /// The agent's key, which is told by its CSR. Whoever holds it may ask again for a short time.
    pub public_key: &'a PublicKey,
}

/// What storing an attestation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestOutcome {
    /// Stored (and the join token spent, if one was given).
    Stored(Node),
    /// The agent is banned; nothing changed, the token is not spent.
    Banned,
    /// The token does not exist or was used; nothing changed.
    TokenUnknown,
    /// The token has expired; nothing changed.
    TokenExpired,
}

/// State of a join token, without using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinTokenState {
    /// It can be used until this unix second.
    Usable {
        /// Unix seconds.
        expires_at: i64,
    },
    /// Used a moment ago: the agent that used it may ask once more, should it have missed the answer.
    JustSpent,
    /// Too late.
    Expired,
    /// Never created, or used.
    Unknown,
}

/// Why a join token cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTokenError {
    /// The value cannot be part of the agent's SPIFFE ID.
    #[error("join token is not a valid SPIFFE ID path segment: use letters, digits, '-', '.' and '_' only")]
    NotPathSegment,
    /// The value is in use, or was used before.
    #[error("join token already exists or was used before; choose another value or let the server choose one")]
    Exists,
}

/// Which nodes to list or count; an empty filter matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFilter {
    /// Exact attestation type.
    pub attestation_type: Option<String>,
    /// Selector set (not empty) and how to compare.
    pub selectors: Option<(BTreeSet<Selector>, MatchBehavior)>,
    /// Only banned ones, or only the others.
    pub banned: Option<bool>,
    /// Only those that can (or cannot) attest again.
    pub can_reattest: Option<bool>,
    /// Only those whose X509-SVID expires before this unix second.
    pub expires_before: Option<i64>,
}
