//! The audit log. Records are only ever appended; the database itself refuses to change or delete one.

use federation_specs::id::TrustDomain;
use service_kit::database::Connection;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, webhook_messages};
use crate::{
    api::audit::AuditEntry,
    audit::{
        Action, Actor, Event,
        chain::{self, Report, Verifier},
    },
};

/// Most records read at once: one more than a page of the admin API, which shows whether another one follows.
pub const MAX_PAGE: u32 = 1001;

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place.
    pub sequence: i64,
    /// Its text.
    pub record: String,
    /// Its hash.
    pub hash: String,
}

impl StoredRecord {
    /// The record, `None` if it was damaged.
    pub fn read(self) -> AuditEntry {
        AuditEntry { record: serde_json::from_str(&self.record).ok(), sequence: self.sequence, hash: self.hash }
    }
}

/// Which records are asked for.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery<'a> {
    /// Only those after this one.
    pub after: i64,
    /// Only those before this one.
    pub before: Option<i64>,
    /// The newest ones rather than the oldest; the answer is in order all the same.
    pub newest: bool,
    /// Only those about this trust domain, deliveries included.
    pub subject: Option<&'a TrustDomain>,
    /// At most this many, up to [`MAX_PAGE`].
    pub limit: u32,
}

impl AuditQuery<'_> {
    /// The statement that reads them, whose parameters are after, before, limit and, if there is one, subject.
    pub(super) fn statement(&self) -> &'static str {
        match (self.subject.is_some(), self.newest) {
            (false, false) => {
                "select sequence, record, hash from audit_log
                 where sequence > $1 and sequence < $2 order by sequence limit $3"
            }
            (false, true) => {
                "select sequence, record, hash from audit_log
                 where sequence > $1 and sequence < $2 order by sequence desc limit $3"
            }
            (true, false) => {
                "select sequence, record, hash from audit_log
                 where about = $4 and sequence > $1 and sequence < $2 order by sequence limit $3"
            }
            (true, true) => {
                "select sequence, record, hash from audit_log
                 where about = $4 and sequence > $1 and sequence < $2 order by sequence desc limit $3"
            }
        }
    }
}

impl Store {
    /// Records of the log in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn audit_records(&self, query: &AuditQuery<'_>) -> Result<Vec<StoredRecord>, StoreError> {
        let mut statement = sqlx::query(query.statement())
            .bind(query.after)
            .bind(query.before.unwrap_or(i64::MAX))
            .bind(i64::from(query.limit.min(MAX_PAGE)));
        if let Some(subject) = query.subject {
            statement = statement.bind(subject.as_str());
        }
        let rows = statement.fetch_all(self.database.reader()).await?;
        let mut records = rows
            .into_iter()
            .map(|row| {
                Ok(StoredRecord {
                    sequence: row.try_get("sequence")?,
                    record: row.try_get("record")?,
                    hash: row.try_get("hash")?,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if query.newest {
            records.reverse();
        }
        Ok(records)
    }

    /// Reads the whole log and says what is wrong with it. `copy` is a head hash kept elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn verify_audit(&self, copy: Option<&str>) -> Result<Report, StoreError> {
        self.database
            .run_read(|mut connection| {
                Box::pin(async move {
                    let mut verifier = Verifier::new(copy);
                    let mut last = i64::MIN;
                    loop {
                        let rows = sqlx::query(
                            "select sequence, record, hash from audit_log where sequence > $1 order by sequence limit $2",
                        )
                        .bind(last)
                        .bind(i64::from(MAX_PAGE))
                        .fetch_all(&mut *connection)
                        .await?;
                        if rows.is_empty() {
                            break;
                        }
                        for row in rows {
                            last = row.try_get("sequence")?;
                            verifier.record(last, row.try_get("record")?, row.try_get("hash")?);
                        }
                    }
                    let head = sqlx::query("select sequence, hash from audit_head where only_row = 1")
                        .fetch_optional(&mut *connection)
                        .await?;
                    match head {
                        None => Ok(verifier.finish(Some((0, "")))),
                        Some(row) => Ok(verifier.finish(Some((row.try_get("sequence")?, row.try_get("hash")?)))),
                    }
                })
            })
            .await
    }

    /// Brings what is stored of the configuration's relationships up to date and records what changed since the last
    /// start. `definitions` are their texts by partner.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn record_configuration(&self, definitions: &[(TrustDomain, String)]) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("record_configuration", |mut connection| {
                Box::pin(async move {
                    let rows = sqlx::query("select trust_domain, definition from configured_relationships")
                        .fetch_all(&mut *connection)
                        .await?;
                    let mut before = std::collections::BTreeMap::new();
                    for row in rows {
                        before.insert(row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?);
                    }
                    for (partner, definition) in definitions {
                        let old = before.remove(partner.as_str());
                        if old.as_ref() == Some(definition) {
                            continue;
                        }
                        sqlx::query(
                            "insert into configured_relationships (trust_domain, definition) values ($1, $2)
                             on conflict (trust_domain) do update set definition = excluded.definition",
                        )
                        .bind(partner.as_str())
                        .bind(definition)
                        .execute(&mut *connection)
                        .await?;
                        configured(&mut connection, now, partner.as_str(), old.as_deref(), Some(definition)).await?;
                    }
                    for (partner, definition) in before {
                        sqlx::query("delete from configured_relationships where trust_domain = $1")
                            .bind(&partner)
                            .execute(&mut *connection)
                            .await?;
                        configured(&mut connection, now, &partner, Some(&definition), None).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

async fn configured(
    connection: &mut Connection,
    now: OffsetDateTime,
    partner: &str,
    before: Option<&str>,
    after: Option<&str>,
) -> Result<(), StoreError> {
    let value = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let what = match (before, after) {
        (None, _) => Action::Added,
        (Some(_), Some(_)) => Action::Changed,
        (Some(_), None) => Action::Removed,
    };
    let (before, after) = (value(before), value(after));
    let why = "the configuration says so since this start";
    let event = Event { who: &Actor::Gateway, what, subject: partner.to_owned(), before, after, why };
    append(connection, now, &event).await
}

/// Appends a record within the caller's transaction, and puts the message about it in line for webhooks.
pub(super) async fn append(
    connection: &mut Connection,
    now: OffsetDateTime,
    event: &Event<'_>,
) -> Result<(), StoreError> {
    append_all(connection, now, std::slice::from_ref(event)).await.map(drop)
}

/// Appends records within the caller's transaction, and puts the messages about them in line for webhooks. Answers the
/// number of the first one.
pub(super) async fn append_all(
    connection: &mut Connection,
    now: OffsetDateTime,
    events: &[Event<'_>],
) -> Result<i64, StoreError> {
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    // Taking the numbers locks the head: of two writers the second one waits, and follows from what the first one wrote.
    let row = sqlx::query("update audit_head set sequence = sequence + $1 where only_row = 1 returning sequence, hash")
        .bind(count)
        .fetch_one(&mut *connection)
        .await?;
    let first = row.try_get::<i64, _>("sequence")? - count + 1;
    let mut hash: String = row.try_get("hash")?;
    for (event, sequence) in events.iter().zip(first..) {
        let record = event.text(sequence, now);
        hash = chain::link(&hash, &record);
        sqlx::query("insert into audit_log (sequence, record, hash) values ($1, $2, $3)")
            .bind(sequence)
            .bind(record)
            .bind(&hash)
            .execute(&mut *connection)
            .await?;
        webhook_messages::tell(connection, now, event, sequence).await?;
    }
    sqlx::query("update audit_head set hash = $1 where only_row = 1").bind(hash).execute(&mut *connection).await?;
    Ok(first)
}
