//! What each publisher last saw its place hold after a publication, so that a restart knows it.

use std::{collections::BTreeMap, time::Duration};

use federation_specs::id::TrustDomain;
use serde_json::{Value, json};
use service_kit::database::{Connection, Row};
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, audit, from_sql, from_unix, leases, to_sql, to_unix};
use crate::audit::{Action, Actor, Event};

/// Stands between the name of a publisher and that of the gateway, where each gateway has a place of its own.
const OF_GATEWAY: &str = " on ";

/// What another gateway published to a place of its own is forgotten so long after it changed last.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A publisher as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherKey {
    /// The trust domain whose bundle it publishes.
    pub trust_domain: TrustDomain,
    /// Its name, with the gateway's where each gateway has a place of its own.
    pub name: String,
    /// Whether only the gateway that has the lease of the trust domain publishes.
    pub is_leased: bool,
}

impl PublisherKey {
    /// The publisher `name`, to one place for all gateways.
    pub fn shared(trust_domain: TrustDomain, name: &str) -> Self {
        Self { trust_domain, name: name.to_owned(), is_leased: true }
    }

    /// The publisher `name`, to a place of the gateway `replica` alone.
    pub fn of_gateway(trust_domain: TrustDomain, name: &str, replica: &str) -> Self {
        Self { trust_domain, name: format!("{name}{OF_GATEWAY}{replica}"), is_leased: false }
    }
}

/// What a place was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The place in words.
    pub place: String,
    /// SHA-256 of the document there, lowercase hex.
    pub digest: String,
    /// Sequence number of the bundle it was made from; `None` also since the domain may go back to a lower one.
    pub sequence: Option<u64>,
    /// When that bundle was first served.
    pub changed_at: OffsetDateTime,
    /// When it was seen there.
    pub confirmed_at: OffsetDateTime,
}

impl Publication {
    fn summary(&self) -> Value {
        json!({ "place": self.place, "digest": self.digest, "sequence": self.sequence })
    }
}

/// From now on bundles of that trust domain may have lower sequence numbers than those published before.
pub(super) async fn may_go_back(connection: &mut Connection, trust_domain: &TrustDomain) -> Result<(), StoreError> {
    let forget = sqlx::query("update publications set sequence = null where trust_domain = $1");
    forget.bind(trust_domain.as_str()).execute(connection).await?;
    Ok(())
}

impl Store {
    /// What every publisher last confirmed, by trust domain and name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn publications(&self) -> Result<BTreeMap<(String, String), Publication>, StoreError> {
        let rows = sqlx::query(
            "select trust_domain, publisher, place, digest, sequence, changed_at, confirmed_at from publications",
        )
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(|row| Ok(((row.try_get("trust_domain")?, row.try_get("publisher")?), read(row)?))).collect()
    }

    /// What a publisher last confirmed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn publication(&self, key: &PublisherKey) -> Result<Option<Publication>, StoreError> {
        let row = sqlx::query(
            "select place, digest, sequence, changed_at, confirmed_at from publications
             where trust_domain = $1 and publisher = $2",
        )
        .bind(key.trust_domain.as_str())
        .bind(&key.name)
        .fetch_optional(self.database.reader())
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Stores that a place holds what is served. Recorded if that is news.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another gateway publishes by now, [`StoreError::Database`].
    pub async fn confirm_publication(&self, key: &PublisherKey, publication: &Publication) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("confirm_publication", |mut connection| {
                Box::pin(async move {
                    let PublisherKey { trust_domain, name, is_leased } = key;
                    if *is_leased {
                        leases::guard(&mut connection, &self.leases, trust_domain).await?;
                    }
                    let before = sqlx::query(
                        "select place, digest, sequence, changed_at, confirmed_at from publications
                         where trust_domain = $1 and publisher = $2",
                    )
                    .bind(trust_domain.as_str())
                    .bind(name)
                    .fetch_optional(&mut *connection)
                    .await?;
                    let before = before.as_ref().map(read).transpose()?;
                    sqlx::query(
                        "insert into publications
                           (trust_domain, publisher, place, digest, sequence, changed_at, confirmed_at)
                         values ($1, $2, $3, $4, $5, $6, $7)
                         on conflict (trust_domain, publisher) do update set
                           place = excluded.place, digest = excluded.digest, sequence = excluded.sequence,
                           changed_at = excluded.changed_at, confirmed_at = excluded.confirmed_at",
                    )
                    .bind(trust_domain.as_str())
                    .bind(name)
                    .bind(&publication.place)
                    .bind(&publication.digest)
                    .bind(publication.sequence.map(to_sql))
                    .bind(to_unix(publication.changed_at))
                    .bind(to_unix(publication.confirmed_at))
                    .execute(&mut *connection)
                    .await?;
                    let is_known =
                        |before: &Publication| before.place == publication.place && before.digest == publication.digest;
                    if before.as_ref().is_some_and(is_known) {
                        return Ok(());
                    }
                    let event = Event {
                        who: &Actor::Gateway,
                        what: Action::PublicationConfirmed,
                        subject: format!("{trust_domain} at {name}"),
                        before: before.map(|before| before.summary()).unwrap_or_default(),
                        after: publication.summary(),
                        why: "the place was seen to hold the served bundle",
                    };
                    audit::append(&mut connection, now, &event).await
                })
            })
            .await
    }

    /// Records that a place holds something else than was published; `None` if it holds nothing.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] when another gateway publishes by now, [`StoreError::Database`].
    pub async fn record_publication_drift(
        &self,
        key: &PublisherKey,
        published: &Publication,
        digest: Option<&str>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("record_publication_drift", |mut connection| {
                Box::pin(async move {
                    let PublisherKey { trust_domain, name, is_leased } = key;
                    if *is_leased {
                        leases::guard(&mut connection, &self.leases, trust_domain).await?;
                    }
                    let event = Event {
                        who: &Actor::Gateway,
                        what: Action::PublicationDrifted,
                        subject: format!("{trust_domain} at {name}"),
                        before: published.summary(),
                        after: json!({ "place": published.place, "digest": digest }),
                        why: "somebody else changed the place",
                    };
                    audit::append(&mut connection, now, &event).await
                })
            })
            .await
    }

    /// Forgets publishers that are configured no more. `configured` are trust domains and names.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn keep_publications(&self, configured: &[(TrustDomain, String)]) -> Result<(), StoreError> {
        let forget_before = to_unix(self.now() - FORGET_AFTER);
        let is_configured = |trust_domain: &str, name: &str| {
            configured.iter().any(|(td, known)| td.as_str() == trust_domain && known == name)
        };
        let is_kept = |trust_domain: &str, publisher: &str, changed: i64| match publisher.split_once(OF_GATEWAY) {
            None => is_configured(trust_domain, publisher),
            Some((name, replica)) => {
                let own = self.leases.name() == Some(replica);
                is_configured(trust_domain, name) && (own || changed > forget_before)
            }
        };
        self.database
            .run_tx("keep_publications", |mut connection| {
                Box::pin(async move {
                    let rows = sqlx::query("select trust_domain, publisher, confirmed_at from publications")
                        .fetch_all(&mut *connection)
                        .await?;
                    for row in rows {
                        let (trust_domain, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                        if is_kept(&trust_domain, &name, row.try_get(2)?) {
                            continue;
                        }
                        for sql in [
                            "delete from publications where trust_domain = $1 and publisher = $2",
                            "delete from publisher_states where trust_domain = $1 and publisher = $2",
                        ] {
                            let delete = sqlx::query(sql).bind(&trust_domain).bind(&name);
                            delete.execute(&mut *connection).await?;
                        }
                    }
                    Ok(())
                })
            })
            .await
    }
}

fn read(row: &Row) -> Result<Publication, StoreError> {
    Ok(Publication {
        place: row.try_get("place")?,
        digest: row.try_get("digest")?,
        sequence: row.try_get::<Option<i64>, _>("sequence")?.map(from_sql),
        changed_at: from_unix(row.try_get("changed_at")?),
        confirmed_at: from_unix(row.try_get("confirmed_at")?),
    })
}
