//! What each source of a served trust domain last gave, so that a restart neither forgets a source that is away nor
//! takes a rolled back bundle for a new one.

use std::sync::Arc;

use federation_specs::{bundle_json, id::TrustDomain};
use service_kit::database::Connection;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, from_unix, parse_bundle, publications, to_unix};
use crate::source::contributions::{HeldRecord, SourceRecord};

impl Store {
    /// What is known of each source of a trust domain, by the source's key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sources(&self, trust_domain: &TrustDomain) -> Result<Vec<(String, SourceRecord)>, StoreError> {
        let rows = sqlx::query(
            "select source, document, held_at, held_mark from source_bundles where trust_domain = $1 order by source",
        )
        .bind(trust_domain.as_str())
        .fetch_all(self.database.reader())
        .await?;
        let mut sources = Vec::with_capacity(rows.len());
        for row in rows {
            let document: Vec<u8> = row.try_get("document")?;
            let bundle = parse_bundle("bundle of a source", trust_domain.as_str(), &document)?;
            let mark: Option<String> = row.try_get("held_mark")?;
            let since = row.try_get::<Option<i64>, _>("held_at")?.map(from_unix);
            let held = since.zip(mark).map(|(since, mark)| HeldRecord { since, mark });
            sources.push((row.try_get("source")?, SourceRecord { accepted: Arc::new(bundle), held }));
        }
        Ok(sources)
    }

    /// Forgets sources that are configured no more.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn forget_source(&self, trust_domain: &TrustDomain, source: &str) -> Result<(), StoreError> {
        self.database
            .run_tx("forget_source", |mut connection| {
                Box::pin(async move {
                    sqlx::query("delete from source_bundles where trust_domain = $1 and source = $2")
                        .bind(trust_domain.as_str())
                        .bind(source)
                        .execute(&mut *connection)
                        .await?;
                    // What is left may count lower.
                    publications::may_go_back(&mut connection, trust_domain).await
                })
            })
            .await
    }
}

/// Stores what is known of one source, within the caller's transaction.
pub(super) async fn upsert(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    source: &str,
    record: &SourceRecord,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let held = record.held.as_ref();
    sqlx::query(
        "insert into source_bundles (trust_domain, source, document, accepted_at, held_at, held_mark)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (trust_domain, source) do update set
           document = excluded.document, accepted_at = excluded.accepted_at,
           held_at = excluded.held_at, held_mark = excluded.held_mark",
    )
    .bind(trust_domain.as_str())
    .bind(source)
    .bind(bundle_json::encode(&record.accepted))
    .bind(to_unix(now))
    .bind(held.map(|held| to_unix(held.since)))
    .bind(held.map(|held| held.mark.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether just this is stored of one source.
pub(super) async fn is_stored(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    source: &str,
    record: &SourceRecord,
) -> Result<bool, StoreError> {
    let sql = "select document, held_mark from source_bundles where trust_domain = $1 and source = $2";
    let row = sqlx::query(sql).bind(trust_domain.as_str()).bind(source).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(false) };
    let (document, mark): (Vec<u8>, Option<String>) = (row.try_get("document")?, row.try_get("held_mark")?);
    Ok(document == bundle_json::encode(&record.accepted) && mark == record.held.as_ref().map(|held| held.mark.clone()))
}
