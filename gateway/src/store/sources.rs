//! What each source of a served trust domain last gave, so that a restart neither forgets a source that is away nor
//! takes a rolled back bundle for a new one.

use federation_specs::{bundle::Bundle, bundle_json, id::TrustDomain};
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, parse_bundle, to_unix};

impl Store {
    /// What was accepted of each source of a trust domain, by the source's key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sources(&self, trust_domain: &TrustDomain) -> Result<Vec<(String, Bundle)>, StoreError> {
        let rows = sqlx::query("select source, document from source_bundles where trust_domain = $1 order by source")
            .bind(trust_domain.as_str())
            .fetch_all(self.database.reader())
            .await?;
        let mut sources = Vec::with_capacity(rows.len());
        for row in rows {
            let document: Vec<u8> = row.try_get("document")?;
            let bundle = parse_bundle("bundle of a source", trust_domain.as_str(), &document)?;
            sources.push((row.try_get("source")?, bundle));
        }
        Ok(sources)
    }

    /// Stores what was accepted of one source.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_source(
        &self,
        trust_domain: &TrustDomain,
        source: &str,
        bundle: &Bundle,
        accepted_at: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let document = &bundle_json::encode(bundle);
        self.database
            .run_tx("save_source", |mut connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into source_bundles (trust_domain, source, document, accepted_at)
                     values ($1, $2, $3, $4)
                     on conflict (trust_domain, source) do update set
                       document = excluded.document, accepted_at = excluded.accepted_at",
                    )
                    .bind(trust_domain.as_str())
                    .bind(source)
                    .bind(document.as_slice())
                    .bind(to_unix(accepted_at))
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
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
                    Ok(())
                })
            })
            .await
    }
}
