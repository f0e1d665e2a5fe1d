//! Partners' bundles: the one in force, and every one accepted before it.

use std::{collections::BTreeSet, sync::Arc};

use federation_specs::{bundle_change::BundleChange, id::TrustDomain};
use service_kit::database::Connection;
use sqlx::Row as _;

use super::{Store, StoreError, from_sql, from_unix, parse_bundle, to_sql, to_unix};
use crate::{
    api::{HistoryEntry, Via},
    partners::{HeldBundle, content_digest},
};

/// Accepted bundles kept for one partner; the oldest ones go first.
pub const MAX_HISTORY: i64 = 200;

/// A bundle about to be put in force.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance<'a> {
    /// The bundle.
    pub held: &'a HeldBundle,
    /// The document as it was fetched.
    pub document: &'a [u8],
    /// Where it was fetched.
    pub source_url: &'a str,
    /// Against the one in force before.
    pub change: &'a BundleChange,
    /// How it came in force.
    pub via: Via,
}

/// A bundle of the history.
#[derive(Debug, Clone)]
pub struct HistoricBundle {
    /// Its number in the history.
    pub id: i64,
    /// SHA-256 of the document.
    pub digest: String,
    /// Where it was fetched.
    pub source_url: String,
    /// The document.
    pub document: Vec<u8>,
}

impl Store {
    /// Every bundle in force.
    ///
    /// # Errors
    /// [`StoreError`]; one unreadable bundle is an error, because losing trust silently would be worse.
    pub async fn partner_bundles(&self) -> Result<Vec<HeldBundle>, StoreError> {
        self.read_bundles(None).await
    }

    /// The bundles in force of some partners.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn partner_bundles_of(
        &self,
        partners: &BTreeSet<TrustDomain>,
    ) -> Result<Vec<HeldBundle>, StoreError> {
        self.read_bundles(Some(partners)).await
    }

    async fn read_bundles(&self, partners: Option<&BTreeSet<TrustDomain>>) -> Result<Vec<HeldBundle>, StoreError> {
        let all = "select h.trust_domain, h.document, h.digest, h.accepted_at
             from partner_bundles p join bundle_history h on h.id = p.history_id order by h.trust_domain";
        let only = "select h.trust_domain, h.document, h.digest, h.accepted_at
             from partner_bundles p join bundle_history h on h.id = p.history_id
             where p.trust_domain = any(string_to_array($1, ',')) order by h.trust_domain";
        let rows = self.rows_of(all, only, partners).await?;
        rows.into_iter()
            .map(|row| {
                let document: Vec<u8> = row.try_get("document")?;
                let bundle = parse_bundle("partner bundle", row.try_get("trust_domain")?, &document)?;
                Ok(HeldBundle {
                    content_digest: content_digest(&bundle),
                    digest: row.try_get("digest")?,
                    accepted_at: from_unix(row.try_get("accepted_at")?),
                    bundle: Arc::new(bundle),
                })
            })
            .collect()
    }

    /// A partner's accepted bundles, newest first, at most `limit`, beginning below the number `before`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn history(
        &self,
        trust_domain: &TrustDomain,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let rows = sqlx::query(
            "select id, accepted_at, sequence, digest, source_url, via, x509_added, x509_removed, jwt_added, jwt_removed
             from bundle_history where trust_domain = $1 and id < $2 order by id desc limit $3",
        )
        .bind(trust_domain.as_str())
        .bind(before.unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                let count =
                    |column: &str| row.try_get::<i64, _>(column).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
                Ok(HistoryEntry {
                    id: row.try_get("id")?,
                    accepted_at: from_unix(row.try_get("accepted_at")?),
                    sequence: row.try_get::<Option<i64>, _>("sequence")?.map(from_sql),
                    digest: row.try_get("digest")?,
                    source_url: row.try_get("source_url")?,
                    via: Via::from_name(row.try_get("via")?),
                    x509_added: count("x509_added")?,
                    x509_removed: count("x509_removed")?,
                    jwt_added: count("jwt_added")?,
                    jwt_removed: count("jwt_removed")?,
                })
            })
            .collect()
    }

    /// The bundle of a partner's history with that number, or the newest one whose digest begins so.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn historic_bundles(
        &self,
        trust_domain: &TrustDomain,
        id: Option<i64>,
        digest: &str,
    ) -> Result<Vec<HistoricBundle>, StoreError> {
        // One row a digest: the same document may have come in force more than once.
        let rows = sqlx::query(
            "select id, digest, source_url, document from bundle_history where id in (
               select max(id) from bundle_history
               where trust_domain = $1 and (id = $2 or ($3 <> '' and substr(digest, 1, length($3)) = $3))
               group by digest)
             order by id desc limit 2",
        )
        .bind(trust_domain.as_str())
        .bind(id.unwrap_or(-1))
        .bind(digest)
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(HistoricBundle {
                    id: row.try_get("id")?,
                    digest: row.try_get("digest")?,
                    source_url: row.try_get("source_url")?,
                    document: row.try_get("document")?,
                })
            })
            .collect()
    }

    /// Whether a bundle with these authorities was ever accepted from the partner.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn knows_content(&self, trust_domain: &TrustDomain, digest: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("select 1 from bundle_history where trust_domain = $1 and content_digest = $2 limit 1")
            .bind(trust_domain.as_str())
            .bind(digest)
            .fetch_optional(self.database.reader())
            .await?;
        Ok(row.is_some())
    }
}

/// Writes the history record of a bundle and puts it in force, within the caller's transaction.
pub(super) async fn put_in_force(connection: &mut Connection, acceptance: Acceptance<'_>) -> Result<(), StoreError> {
    let id = insert_history(&mut *connection, acceptance).await?;
    let name = acceptance.held.bundle.trust_domain().as_str();
    sqlx::query(
        "insert into partner_bundles (trust_domain, history_id) values ($1, $2)
         on conflict (trust_domain) do update set history_id = excluded.history_id",
    )
    .bind(name)
    .bind(id)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "delete from bundle_history where trust_domain = $1 and id <= (
           select id from bundle_history where trust_domain = $1
           order by id desc limit 1 offset $2)",
    )
    .bind(name)
    .bind(MAX_HISTORY)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

async fn insert_history(connection: &mut Connection, acceptance: Acceptance<'_>) -> Result<i64, StoreError> {
    let held = acceptance.held;
    let change = acceptance.change;
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let row = sqlx::query(
        "insert into bundle_history
           (trust_domain, accepted_at, sequence, digest, content_digest, source_url, document,
            x509_added, x509_removed, jwt_added, jwt_removed, via)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning id",
    )
    .bind(held.bundle.trust_domain().as_str())
    .bind(to_unix(held.accepted_at))
    .bind(held.bundle.sequence().map(to_sql))
    .bind(&held.digest)
    .bind(&held.content_digest)
    .bind(acceptance.source_url)
    .bind(acceptance.document)
    .bind(count(change.x509.added.len()))
    .bind(count(change.x509.removed.len()))
    .bind(count(change.jwt.added.len()))
    .bind(count(change.jwt.removed.len()))
    .bind(acceptance.via.as_str())
    .fetch_one(connection)
    .await?;
    Ok(row.try_get("id")?)
}
