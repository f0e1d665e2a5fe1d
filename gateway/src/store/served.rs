//! The own bundle of each served trust domain, so that a restart serves it before its source answers.

use federation_specs::{bundle::Bundle, id::TrustDomain};
use serde_json::json;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, audit, from_unix, parse_bundle, to_unix};
use crate::{
    audit::{Action, Actor, Event, bundle_summary},
    served::Published,
};

/// A stored own bundle.
#[derive(Debug, Clone)]
pub struct ServedRecord {
    /// The bundle with the refresh hint it was served with.
    pub bundle: Bundle,
    /// When this document was first served.
    pub changed_at: OffsetDateTime,
}

impl Store {
    /// The stored bundle of a served trust domain.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn served(&self, trust_domain: &TrustDomain) -> Result<Option<ServedRecord>, StoreError> {
        let row = sqlx::query("select document, changed_at from served_bundles where trust_domain = $1")
            .bind(trust_domain.as_str())
            .fetch_optional(self.database.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let document: Vec<u8> = row.try_get("document")?;
        Ok(Some(ServedRecord {
            bundle: parse_bundle("own bundle", trust_domain.as_str(), &document)?,
            changed_at: from_unix(row.try_get("changed_at")?),
        }))
    }

    /// Stores what is served.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_served(&self, trust_domain: &TrustDomain, published: &Published) -> Result<(), StoreError> {
        let document: &[u8] = &published.document;
        let now = self.now();
        self.database
            .run_tx("save_served", |mut connection| {
                Box::pin(async move {
                    let before: Option<String> =
                        sqlx::query_scalar("select digest from served_bundles where trust_domain = $1")
                            .bind(trust_domain.as_str())
                            .fetch_optional(&mut *connection)
                            .await?;
                    sqlx::query(
                        "insert into served_bundles (trust_domain, document, digest, changed_at)
                     values ($1, $2, $3, $4)
                     on conflict (trust_domain) do update set
                       document = excluded.document, digest = excluded.digest, changed_at = excluded.changed_at",
                    )
                    .bind(trust_domain.as_str())
                    .bind(document)
                    .bind(&published.digest)
                    .bind(to_unix(published.changed_at))
                    .execute(&mut *connection)
                    .await?;
                    let event = Event {
                        who: &Actor::Gateway,
                        what: Action::OwnBundleChanged,
                        subject: trust_domain.to_string(),
                        before: before.map(|digest| json!({ "digest": digest })).unwrap_or_default(),
                        after: bundle_summary(&published.bundle, &published.digest),
                        why: "the source gave it",
                    };
                    audit::append(&mut connection, now, &event).await
                })
            })
            .await
    }
}
