//! Join tokens: each value works once and never again.
//!
//! Only a digest is stored. A spent token stays in the table, marked, so that the same value can be neither used nor
//! created a second time. For a short time the agent that spent it may repeat its attestation with the same key: the
//! answer may have been lost on the way, and the token must not be lost with it.

use aws_lc_rs::digest;
use federation_specs::id::SpiffeId;
use service_kit::database::Connection;
use time::OffsetDateTime;

use super::changes::Touched;
use super::{Store, StoreError, entries, nodes};
use crate::entry::NewEntry;
use crate::node::{JOIN_TOKEN_TYPE, JoinTokenError, JoinTokenState, SpentToken};

/// How long after its expiry a token, spent or not, is remembered.
const REMEMBERED: time::Duration = time::Duration::days(90);

/// How long after spending a token its agent may repeat the attestation.
const REPEATABLE: time::Duration = time::Duration::minutes(10);

/// Longest token value, in bytes.
pub const MAX_JOIN_TOKEN_BYTES: usize = 255;

/// What became of an attempt to spend a token.
pub(super) enum Spent {
    /// This call spent it.
    Now,
    /// The same key spent it a moment ago.
    Again,
    /// It is too late for it; it stays as it is.
    Expired,
    /// There is none, or it was spent before.
    Unknown,
}

impl Store {
    /// SPIFFE ID of the agent that joins with this token.
    ///
    /// # Errors
    /// [`StoreError::JoinToken`] for a value that cannot be part of an ID.
    pub fn join_token_agent_id(&self, token: &str) -> Result<SpiffeId, StoreError> {
        let segment = !token.is_empty()
            && token.len() <= MAX_JOIN_TOKEN_BYTES
            && !matches!(token, "." | "..")
            && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if !segment {
            return Err(JoinTokenError::NotPathSegment.into());
        }
        SpiffeId::from_parts(self.trust_domain(), &format!("/spire/agent/{JOIN_TOKEN_TYPE}/{token}"))
            .map_err(|_| JoinTokenError::NotPathSegment.into())
    }

    /// Creates a token that can be used until `expires_at` (unix seconds). With `agent_id`, an entry in the same
    /// transaction gives that ID to the agent that joins with it.
    ///
    /// # Errors
    /// [`StoreError::JoinToken`] for a bad value and for one that exists, was used, or names a stored agent.
    pub async fn create_join_token(
        &self,
        token: &str,
        expires_at: i64,
        agent_id: Option<&SpiffeId>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let joined_id = self.join_token_agent_id(token)?;
        let mut tx = self.begin("join_tokens.create").await?;
        let inserted =
            sqlx::query("insert into join_tokens (digest, expires_at) values ($1, $2) on conflict do nothing")
                .bind(digest_of(token.as_bytes()))
                .bind(expires_at)
                .execute(&mut *tx.connection)
                .await?;
        if inserted.rows_affected() == 0 || nodes::exists(&mut tx.connection, &joined_id).await? {
            return Err(JoinTokenError::Exists.into());
        }
        let mut touched = Touched::default();
        if let Some(agent_id) = agent_id {
            let alias = alias_entry(agent_id, &joined_id);
            entries::create_one(&mut tx.connection, &alias, tx.at, now).await?;
            touched.entries = true;
        }
        tx.commit(touched).await
    }

    /// What could be done with a token, without doing it.
    pub async fn join_token_state(&self, token: &str, now: OffsetDateTime) -> Result<JoinTokenState, StoreError> {
        let mut connection = self.connection().await?;
        Ok(match find(&mut connection, token).await? {
            Some(row) if row.spent_at.is_some_and(|at| is_repeatable(at, now)) => JoinTokenState::JustSpent,
            Some(row) if row.spent_at.is_some() => JoinTokenState::Unknown,
            Some(row) if row.expires_at < now.unix_timestamp() => JoinTokenState::Expired,
            Some(row) => JoinTokenState::Usable { expires_at: row.expires_at },
            None => JoinTokenState::Unknown,
        })
    }

    /// Forgets tokens that expired long ago; returns how many.
    pub async fn prune_join_tokens(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let mut tx = self.begin("join_tokens.prune").await?;
        let done = sqlx::query("delete from join_tokens where expires_at < $1")
            .bind((now - REMEMBERED).unix_timestamp())
            .execute(&mut *tx.connection)
            .await?;
        tx.commit(Touched::default()).await?;
        Ok(done.rows_affected())
    }
}

/// Spends a token with one statement, so of two calls at the same time one succeeds.
pub(super) async fn spend(
    connection: &mut Connection,
    used: &SpentToken<'_>,
    now: OffsetDateTime,
) -> Result<Spent, StoreError> {
    let key_digest = digest_of(used.public_key.spki_der());
    let spent: Option<String> = sqlx::query_scalar(
        "update join_tokens set spent_at = $1, spent_by = $3 \
         where digest = $2 and spent_at is null and expires_at >= $1 returning digest",
    )
    .bind(now.unix_timestamp())
    .bind(digest_of(used.token.as_bytes()))
    .bind(&key_digest)
    .fetch_optional(&mut *connection)
    .await?;
    if spent.is_some() {
        return Ok(Spent::Now);
    }
    Ok(match find(connection, used.token).await? {
        Some(Row { spent_at: None, .. }) => Spent::Expired,
        Some(Row { spent_at: Some(at), spent_by, .. })
            if spent_by.as_ref() == Some(&key_digest) && is_repeatable(at, now) =>
        {
            Spent::Again
        }
        _ => Spent::Unknown,
    })
}

fn is_repeatable(spent_at: i64, now: OffsetDateTime) -> bool {
    (spent_at..=spent_at + REPEATABLE.whole_seconds()).contains(&now.unix_timestamp())
}

/// A stored token.
struct Row {
    expires_at: i64,
    spent_at: Option<i64>,
    spent_by: Option<String>,
}

async fn find(connection: &mut Connection, token: &str) -> Result<Option<Row>, StoreError> {
    let row: Option<(i64, Option<i64>, Option<String>)> =
        sqlx::query_as("select expires_at, spent_at, spent_by from join_tokens where digest = $1")
            .bind(digest_of(token.as_bytes()))
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(expires_at, spent_at, spent_by)| Row { expires_at, spent_at, spent_by }))
}

fn alias_entry(agent_id: &SpiffeId, joined_id: &SpiffeId) -> NewEntry {
    NewEntry {
        id: String::new(),
        spiffe_id: agent_id.clone(),
        parent_id: joined_id.clone(),
        selectors: vec![entries::alias_selector(joined_id)],
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        additional_attributes: None,
    }
}

fn digest_of(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
