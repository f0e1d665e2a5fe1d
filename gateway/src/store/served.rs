//! The own bundle of each served trust domain, so that a restart serves it before its source answers.

use federation_specs::{bundle::Bundle, id::TrustDomain};
use serde_json::{Value, json};
use service_kit::database::Connection;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{
    Store, StoreError, audit, changes, changes::ChangeKind, from_unix, parse_bundle, publications, sources, to_unix,
};
use crate::{
    audit::{Action, Actor, Event, bundle_summary},
    served::Published,
    source::contributions::SourceRecord,
};

/// A stored own bundle.
#[derive(Debug, Clone)]
pub struct ServedRecord {
    /// The bundle with the refresh hint it was served with.
    pub bundle: Bundle,
    /// When this document was first served.
    pub changed_at: OffsetDateTime,
}

/// A change of a served domain.
#[derive(Debug)]
pub struct OwnChange<'a> {
    /// The domain.
    pub trust_domain: &'a TrustDomain,
    /// Who changes it.
    pub who: &'a Actor,
    /// What its sources gave, by their keys.
    pub sources: &'a [(&'a str, &'a SourceRecord)],
    /// What happened to the sources.
    pub events: &'a [OwnEvent],
    /// What is served from now on, if that changes.
    pub published: Option<&'a Published>,
    /// Why that changes.
    pub why: &'a str,
}

/// What happened to a source.
#[derive(Debug)]
pub struct OwnEvent {
    /// What.
    pub what: Action,
    /// What counted of it.
    pub before: Value,
    /// What it gives.
    pub after: Value,
    /// Why.
    pub why: String,
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

    /// Stores what sources gave and what is served of it, and records it, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`]; nothing changed then.
    pub async fn save_own(&self, change: &OwnChange<'_>) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("save_own", |mut connection| {
                Box::pin(async move {
                    if self.leases.are_shared() && is_stored(&mut connection, change).await? {
                        return Ok(());
                    }
                    changes::note(&mut connection, &self.leases, ChangeKind::Own, change.trust_domain).await?;
                    for (source, record) in change.sources {
                        sources::upsert(&mut connection, change.trust_domain, source, record, now).await?;
                    }
                    if change.events.iter().any(|event| event.what == Action::SourceAccepted) {
                        publications::may_go_back(&mut connection, change.trust_domain).await?;
                    }
                    for event in change.events {
                        let event = Event {
                            who: change.who,
                            what: event.what,
                            subject: change.trust_domain.to_string(),
                            before: event.before.clone(),
                            after: event.after.clone(),
                            why: &event.why,
                        };
                        audit::append(&mut connection, now, &event).await?;
                    }
                    let Some(published) = change.published else { return Ok(()) };
                    let before = upsert(&mut connection, published).await?;
                    let event = Event {
                        who: change.who,
                        what: Action::OwnBundleChanged,
                        subject: change.trust_domain.to_string(),
                        before: before.map(|digest| json!({ "digest": digest })).unwrap_or_default(),
                        after: bundle_summary(&published.bundle, &published.digest),
                        why: change.why,
                    };
                    audit::append(&mut connection, now, &event).await
                })
            })
            .await
    }
}

/// Whether another gateway with the same sources stored the same already, and recorded it.
async fn is_stored(connection: &mut Connection, change: &OwnChange<'_>) -> Result<bool, StoreError> {
    for (source, record) in change.sources {
        if !sources::is_stored(connection, change.trust_domain, source, record).await? {
            return Ok(false);
        }
    }
    let Some(published) = change.published else { return Ok(true) };
    let digest: Option<String> = sqlx::query_scalar("select digest from served_bundles where trust_domain = $1")
        .bind(change.trust_domain.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(digest.as_ref() == Some(&published.digest))
}

/// Answers the digest that was stored before.
async fn upsert(connection: &mut Connection, published: &Published) -> Result<Option<String>, StoreError> {
    let trust_domain = published.bundle.trust_domain().as_str();
    let before = sqlx::query_scalar("select digest from served_bundles where trust_domain = $1")
        .bind(trust_domain)
        .fetch_optional(&mut *connection)
        .await?;
    sqlx::query(
        "insert into served_bundles (trust_domain, document, digest, changed_at) values ($1, $2, $3, $4)
         on conflict (trust_domain) do update set
           document = excluded.document, digest = excluded.digest, changed_at = excluded.changed_at",
    )
    .bind(trust_domain)
    .bind(&published.document[..])
    .bind(&published.digest)
    .bind(to_unix(published.changed_at))
    .execute(connection)
    .await?;
    Ok(before)
}
