//! What each issuer confirmed to hold.

use std::collections::HashMap;

use federation_specs::id::TrustDomain;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, from_unix, parse_trust_domain, to_unix};

/// Delivery of one partner's bundle to one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryState {
    /// Digest of the document the issuer last confirmed.
    pub digest: Option<String>,
    /// When it did.
    pub delivered_at: Option<OffsetDateTime>,
    /// Why the last delivery failed; `None` after a success.
    pub last_error: Option<String>,
}

impl Store {
    /// Deliveries to one issuer, by partner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries(&self, local: &TrustDomain) -> Result<HashMap<TrustDomain, DeliveryState>, StoreError> {
        let rows = sqlx::query(
            "select trust_domain, digest, delivered_at, last_error from deliveries where local_trust_domain = $1",
        )
        .bind(local.as_str())
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                let trust_domain = parse_trust_domain("delivery", row.try_get("trust_domain")?)?;
                let state = DeliveryState {
                    digest: row.try_get("digest")?,
                    delivered_at: row.try_get::<Option<i64>, _>("delivered_at")?.map(from_unix),
                    last_error: row.try_get("last_error")?,
                };
                Ok((trust_domain, state))
            })
            .collect()
    }

    /// Stores the state of one delivery.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_delivery(
        &self,
        local: &TrustDomain,
        partner: &TrustDomain,
        state: &DeliveryState,
    ) -> Result<(), StoreError> {
        self.database
            .run_tx("save_delivery", |mut connection| {
                Box::pin(async move {
                    sqlx::query(
                        "insert into deliveries (local_trust_domain, trust_domain, digest, delivered_at, last_error)
                     values ($1, $2, $3, $4, $5)
                     on conflict (local_trust_domain, trust_domain) do update set
                       digest = excluded.digest, delivered_at = excluded.delivered_at,
                       last_error = excluded.last_error",
                    )
                    .bind(local.as_str())
                    .bind(partner.as_str())
                    .bind(&state.digest)
                    .bind(state.delivered_at.map(to_unix))
                    .bind(&state.last_error)
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }
}
