//! What each issuer confirmed to hold.

use std::collections::HashMap;

use federation_specs::id::TrustDomain;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, audit, changes, changes::ChangeKind, from_unix, leases, parse_trust_domain, to_unix};
use crate::audit::Event;

/// Delivery of one partner's bundle to one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryState {
    /// Digest of the document the issuer last confirmed.
    pub digest: Option<String>,
    /// When it did.
    pub delivered_at: Option<OffsetDateTime>,
    /// Why the last delivery failed; `None` after a success.
    pub last_error: Option<String>,
    /// Content digest of what was delivered.
    pub content_digest: Option<String>,
    /// Content digest of what was sent and not confirmed; the issuer may hold it.
    pub sent: Option<String>,
    /// Set while the issuer holds something else.
    pub drift: Option<DriftState>,
}

/// An issuer holds something else than was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftState {
    /// When it was noticed.
    pub since: OffsetDateTime,
    /// Content digest of what it holds; `None` if it holds nothing.
    pub content_digest: Option<String>,
}

impl DeliveryState {
    /// Whether the issuer may hold something that was delivered.
    pub fn may_be_there(&self) -> bool {
        self.digest.is_some() || self.sent.is_some()
    }
}

impl Store {
    /// Deliveries to one issuer, by partner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries(&self, local: &TrustDomain) -> Result<HashMap<TrustDomain, DeliveryState>, StoreError> {
        let rows = sqlx::query("select * from deliveries where local_trust_domain = $1")
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
                    content_digest: row.try_get("content_digest")?,
                    sent: row.try_get("sent_digest")?,
                    drift: match row.try_get::<Option<i64>, _>("drift_since")? {
                        None => None,
                        Some(since) => {
                            let content_digest = row.try_get("drift_digest")?;
                            Some(DriftState { since: from_unix(since), content_digest })
                        }
                    },
                };
                Ok((trust_domain, state))
            })
            .collect()
    }

    /// Stores the state of one delivery, and what happened if that is more than a failed attempt.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_delivery(
        &self,
        local: &TrustDomain,
        partner: &TrustDomain,
        state: &DeliveryState,
        event: Option<&Event<'_>>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("save_delivery", |mut connection| {
                Box::pin(async move {
                    leases::guard(&mut connection, &self.leases, local).await?;
                    changes::note(&mut connection, &self.leases, ChangeKind::Delivery, local).await?;
                    sqlx::query(
                        "insert into deliveries
                           (local_trust_domain, trust_domain, digest, delivered_at, last_error, content_digest,
                            drift_since, drift_digest, sent_digest)
                         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                         on conflict (local_trust_domain, trust_domain) do update set
                           digest = excluded.digest, delivered_at = excluded.delivered_at,
                           last_error = excluded.last_error, content_digest = excluded.content_digest,
                           drift_since = excluded.drift_since, drift_digest = excluded.drift_digest,
                           sent_digest = excluded.sent_digest",
                    )
                    .bind(local.as_str())
                    .bind(partner.as_str())
                    .bind(&state.digest)
                    .bind(state.delivered_at.map(to_unix))
                    .bind(&state.last_error)
                    .bind(&state.content_digest)
                    .bind(state.drift.as_ref().map(|drift| to_unix(drift.since)))
                    .bind(state.drift.as_ref().and_then(|drift| drift.content_digest.as_deref()))
                    .bind(&state.sent)
                    .execute(&mut *connection)
                    .await?;
                    match event {
                        Some(event) => audit::append(&mut connection, now, event).await,
                        None => Ok(()),
                    }
                })
            })
            .await
    }

    /// Whether it is still this gateway that delivers to the issuer of `local`. Asked before something is removed there,
    /// which nothing stored before says.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another gateway does by now, [`StoreError::Database`].
    pub async fn check_delivers(&self, local: &TrustDomain) -> Result<(), StoreError> {
        if !self.leases.are_shared() {
            return Ok(());
        }
        self.database
            .run_tx("check_delivers", |mut connection| {
                Box::pin(async move { leases::guard(&mut connection, &self.leases, local).await })
            })
            .await
    }

    /// Forgets a delivery that was taken back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn remove_delivery(
        &self,
        local: &TrustDomain,
        partner: &TrustDomain,
        event: &Event<'_>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("remove_delivery", |mut connection| {
                Box::pin(async move {
                    leases::guard(&mut connection, &self.leases, local).await?;
                    changes::note(&mut connection, &self.leases, ChangeKind::Delivery, local).await?;
                    sqlx::query("delete from deliveries where local_trust_domain = $1 and trust_domain = $2")
                        .bind(local.as_str())
                        .bind(partner.as_str())
                        .execute(&mut *connection)
                        .await?;
                    audit::append(&mut connection, now, event).await
                })
            })
            .await
    }
}
