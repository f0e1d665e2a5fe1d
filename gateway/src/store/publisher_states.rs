//! How publishers are doing, where several gateways share the database: written by the one that publishes, read by the
//! others.

use std::collections::BTreeMap;

use service_kit::database::Row;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, from_unix, leases, publications::PublisherKey, to_unix};

/// A place held something else than was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// When that was noticed last.
    pub at: OffsetDateTime,
    /// SHA-256 of what it held, lowercase hex; `None` if it held nothing.
    pub digest: Option<String>,
    /// How often since the start of the gateway, or of the first of several.
    pub count: u64,
}

/// How a publisher is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherState {
    /// When the place was last seen to hold what is served.
    pub last_success: Option<OffsetDateTime>,
    /// When it was last tried.
    pub last_attempt: Option<OffsetDateTime>,
    /// When it is tried or looked at next.
    pub next_attempt: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
    /// The last time it held something else.
    pub drift: Option<Drift>,
}

const ALL: &str = "select trust_domain, publisher, place, last_success, last_attempt, next_attempt, \
                   consecutive_failures, last_error, drift_at, drift_digest, drift_count from publisher_states";

impl Store {
    /// How every publisher is doing, by trust domain and name, with its place in words.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn publisher_states(&self) -> Result<BTreeMap<(String, String), (String, PublisherState)>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(self.database.reader()).await?;
        rows.iter()
            .map(|row| {
                let key = (row.try_get("trust_domain")?, row.try_get("publisher")?);
                Ok((key, (row.try_get("place")?, read(row)?)))
            })
            .collect()
    }

    /// Stores how a publisher is doing at `place`.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another gateway publishes by now, [`StoreError::Database`].
    pub async fn save_publisher_state(
        &self,
        key: &PublisherKey,
        place: &str,
        state: &PublisherState,
    ) -> Result<(), StoreError> {
        self.database
            .run_tx("save_publisher_state", |mut connection| {
                Box::pin(async move {
                    leases::guard(&mut connection, &self.leases, &key.trust_domain).await?;
                    let drift = state.drift.as_ref();
                    sqlx::query(
                        "insert into publisher_states
                           (trust_domain, publisher, place, last_success, last_attempt, next_attempt,
                            consecutive_failures, last_error, drift_at, drift_digest, drift_count)
                         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                         on conflict (trust_domain, publisher) do update set
                           place = excluded.place, last_success = excluded.last_success,
                           last_attempt = excluded.last_attempt, next_attempt = excluded.next_attempt,
                           consecutive_failures = excluded.consecutive_failures, last_error = excluded.last_error,
                           drift_at = excluded.drift_at, drift_digest = excluded.drift_digest,
                           drift_count = excluded.drift_count",
                    )
                    .bind(key.trust_domain.as_str())
                    .bind(&key.name)
                    .bind(place)
                    .bind(state.last_success.map(to_unix))
                    .bind(state.last_attempt.map(to_unix))
                    .bind(state.next_attempt.map(to_unix))
                    .bind(i64::from(state.consecutive_failures))
                    .bind(&state.last_error)
                    .bind(drift.map(|drift| to_unix(drift.at)))
                    .bind(drift.and_then(|drift| drift.digest.as_deref()))
                    .bind(drift.map_or(0, |drift| i64::try_from(drift.count).unwrap_or(i64::MAX)))
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }
}

fn read(row: &Row) -> Result<PublisherState, StoreError> {
    let time = |name: &str| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(name)?.map(from_unix));
    let failures: i64 = row.try_get("consecutive_failures")?;
    let drift = match time("drift_at")? {
        None => None,
        Some(at) => {
            let count: i64 = row.try_get("drift_count")?;
            let count = u64::try_from(count).unwrap_or_default();
            Some(Drift { at, digest: row.try_get("drift_digest")?, count })
        }
    };
    Ok(PublisherState {
        last_success: time("last_success")?,
        last_attempt: time("last_attempt")?,
        next_attempt: time("next_attempt")?,
        consecutive_failures: u32::try_from(failures).unwrap_or_default(),
        last_error: row.try_get("last_error")?,
        drift,
    })
}
