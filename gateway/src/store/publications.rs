//! What each publisher last saw its place hold after a publication, so that a restart knows it.

use federation_specs::id::TrustDomain;
use serde_json::{Value, json};
use service_kit::database::Row;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, audit, from_sql, from_unix, to_sql, to_unix};
use crate::audit::{Action, Actor, Event};

/// What a place was seen to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The place in words.
    pub place: String,
    /// SHA-256 of the document there, lowercase hex.
    pub digest: String,
    /// Sequence number of the bundle it was made from.
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

impl Store {
    /// What the publisher `name` of a trust domain last confirmed.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn publication(&self, trust_domain: &TrustDomain, name: &str) -> Result<Option<Publication>, StoreError> {
        let row = sqlx::query(
            "select place, digest, sequence, changed_at, confirmed_at from publications
             where trust_domain = $1 and publisher = $2",
        )
        .bind(trust_domain.as_str())
        .bind(name)
        .fetch_optional(self.database.reader())
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Stores that a place holds what is served.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn confirm_publication(
        &self,
        trust_domain: &TrustDomain,
        name: &str,
        publication: &Publication,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("confirm_publication", |mut connection| {
                Box::pin(async move {
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
    /// [`StoreError::Database`].
    pub async fn record_publication_drift(
        &self,
        trust_domain: &TrustDomain,
        name: &str,
        published: &Publication,
        digest: Option<&str>,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("record_publication_drift", |mut connection| {
                Box::pin(async move {
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
        self.database
            .run_tx("keep_publications", |mut connection| {
                Box::pin(async move {
                    let rows = sqlx::query("select trust_domain, publisher from publications")
                        .fetch_all(&mut *connection)
                        .await?;
                    for row in rows {
                        let (trust_domain, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                        let known = configured.iter().any(|(td, known)| td.as_str() == trust_domain && *known == name);
                        if !known {
                            sqlx::query("delete from publications where trust_domain = $1 and publisher = $2")
                                .bind(trust_domain)
                                .bind(name)
                                .execute(&mut *connection)
                                .await?;
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
