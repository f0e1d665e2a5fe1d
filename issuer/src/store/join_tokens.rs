//! Join tokens: each value works once and never again.
//!
//! Only a digest is stored. A spent token stays in the table, marked, so that the same value can be neither used nor
//! created a second time.

use aws_lc_rs::digest;
use federation_specs::id::SpiffeId;
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::changes::Touched;
use super::{Store, StoreError, entries, nodes};
use crate::entry::NewEntry;
use crate::node::{JOIN_TOKEN_TYPE, JoinTokenError, JoinTokenState};

/// How long after its expiry a token, spent or not, is remembered.
const REMEMBERED: time::Duration = time::Duration::days(90);

/// Longest token value, in bytes.
pub const MAX_JOIN_TOKEN_BYTES: usize = 255;

/// What became of an attempt to spend a token.
pub(super) enum Spent {
    /// This call spent it.
    Now,
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
                .bind(digest_of(token))
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
        Ok(match unspent(&mut connection, token).await? {
            None => JoinTokenState::Unknown,
            Some(expires_at) if expires_at < now.unix_timestamp() => JoinTokenState::Expired,
            Some(expires_at) => JoinTokenState::Usable { expires_at },
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
    connection: &mut SqliteConnection,
    token: &str,
    now: OffsetDateTime,
) -> Result<Spent, StoreError> {
    let spent: Option<String> = sqlx::query_scalar(
        "update join_tokens set spent_at = $1 where digest = $2 and spent_at is null and expires_at >= $1 \
         returning digest",
    )
    .bind(now.unix_timestamp())
    .bind(digest_of(token))
    .fetch_optional(&mut *connection)
    .await?;
    Ok(match spent {
        Some(_) => Spent::Now,
        None if unspent(connection, token).await?.is_some() => Spent::Expired,
        None => Spent::Unknown,
    })
}

/// Expiry of a token that was not spent.
async fn unspent(connection: &mut SqliteConnection, token: &str) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar("select expires_at from join_tokens where digest = $1 and spent_at is null")
        .bind(digest_of(token))
        .fetch_optional(connection)
        .await?)
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

fn digest_of(token: &str) -> String {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
