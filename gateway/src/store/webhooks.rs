//! What webhooks are to be told: messages in the order they happened, how far each webhook has got, and the conditions
//! that were told of. Messages are written in the transaction that makes the change.

use std::collections::BTreeMap;

use serde_json::json;
use service_kit::database::Connection;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{Store, StoreError, audit, from_unix, to_unix, unreadable, webhook_messages::enqueue};
use crate::{
    audit::{Action, Actor, Event},
    webhook::event::{Condition, EventFilter, Message},
};

/// How a webhook is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookState {
    /// Number of the last message that was delivered, not wanted or given up.
    pub delivered_to: i64,
    /// When a message was last delivered.
    pub last_success: Option<OffsetDateTime>,
    /// When a message was last sent.
    pub last_attempt: Option<OffsetDateTime>,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Messages given up, ever.
    pub dropped: u64,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingMessage {
    /// Its number.
    pub sequence: i64,
    /// When it happened.
    pub at: OffsetDateTime,
    /// It.
    pub message: Message,
}

/// Messages of one type that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The type.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// When the oldest happened.
    pub oldest: OffsetDateTime,
}

/// Messages a webhook will not get any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The webhook.
    pub webhook: String,
    /// How many.
    pub count: u64,
}

/// What bounds the messages kept.
#[derive(Debug, Clone, Copy)]
pub struct OutboxLimits {
    /// Most messages.
    pub messages: i64,
    /// How old they get.
    pub age: std::time::Duration,
}

/// A condition and to whom it applies.
pub type ConditionKey = (Condition, String);

impl Store {
    /// Keeps messages for these webhooks from now on, and for no others. One that is new begins with what happens next.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn configure_webhooks(&self, names: &[String]) -> Result<(), StoreError> {
        self.database
            .run_tx("configure_webhooks", |mut connection| {
                Box::pin(async move {
                    let known: Vec<String> =
                        sqlx::query_scalar("select name from webhooks").fetch_all(&mut *connection).await?;
                    for gone in known.iter().filter(|name| !names.contains(name)) {
                        sqlx::query("delete from webhooks where name = $1")
                            .bind(gone)
                            .execute(&mut *connection)
                            .await?;
                    }
                    for new in names.iter().filter(|name| !known.contains(name)) {
                        sqlx::query(
                            "insert into webhooks (name, delivered_to, consecutive_failures, dropped)
                             select $1, sequence, 0, 0 from webhook_head where only_row = 1",
                        )
                        .bind(new)
                        .execute(&mut *connection)
                        .await?;
                    }
                    if names.is_empty() {
                        sqlx::query("delete from webhook_messages").execute(&mut *connection).await?;
                        sqlx::query("delete from webhook_conditions").execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The number of the last message.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn webhook_head(&self) -> Result<i64, StoreError> {
        let head = sqlx::query_scalar("select sequence from webhook_head where only_row = 1");
        Ok(head.fetch_one(self.database.reader()).await?)
    }

    /// How each webhook is doing, by name.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn webhooks(&self) -> Result<BTreeMap<String, WebhookState>, StoreError> {
        let rows = sqlx::query(
            "select name, delivered_to, last_success, last_attempt, last_error, consecutive_failures, dropped
             from webhooks",
        )
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                let state = WebhookState {
                    delivered_to: row.try_get("delivered_to")?,
                    last_success: row.try_get::<Option<i64>, _>("last_success")?.map(from_unix),
                    last_attempt: row.try_get::<Option<i64>, _>("last_attempt")?.map(from_unix),
                    last_error: row.try_get("last_error")?,
                    consecutive_failures: row.try_get::<i64, _>("consecutive_failures")?.try_into().unwrap_or(u32::MAX),
                    dropped: row.try_get::<i64, _>("dropped")?.try_into().unwrap_or_default(),
                };
                Ok((row.try_get("name")?, state))
            })
            .collect()
    }

    /// Messages after number `after`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn webhook_messages(&self, after: i64, limit: u32) -> Result<Vec<WaitingMessage>, StoreError> {
        let rows = sqlx::query(
            "select sequence, id, kind, happened_at, body from webhook_messages
             where sequence > $1 order by sequence limit $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(WaitingMessage {
                    sequence: row.try_get("sequence")?,
                    at: from_unix(row.try_get("happened_at")?),
                    message: Message { id: row.try_get("id")?, kind: row.try_get("kind")?, body: row.try_get("body")? },
                })
            })
            .collect()
    }

    /// How many messages there are after number `after`, by type.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn waiting_messages(&self, after: i64) -> Result<Vec<Waiting>, StoreError> {
        let rows = sqlx::query(
            "select kind, count(*) as waiting, min(happened_at) as oldest from webhook_messages
             where sequence > $1 group by kind order by kind",
        )
        .bind(after)
        .fetch_all(self.database.reader())
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Waiting {
                    kind: row.try_get("kind")?,
                    count: row.try_get::<i64, _>("waiting")?.try_into().unwrap_or_default(),
                    oldest: from_unix(row.try_get("oldest")?),
                })
            })
            .collect()
    }

    /// Stores how a webhook is doing. How far it has got never goes back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_webhook(&self, name: &str, state: &WebhookState) -> Result<(), StoreError> {
        self.database
            .run_tx("save_webhook", |mut connection| {
                Box::pin(async move {
                    sqlx::query(
                        "update webhooks set
                           delivered_to = case when delivered_to < $2 then $2 else delivered_to end,
                           last_success = $3, last_attempt = $4, last_error = $5, consecutive_failures = $6
                         where name = $1",
                    )
                    .bind(name)
                    .bind(state.delivered_to)
                    .bind(state.last_success.map(to_unix))
                    .bind(state.last_attempt.map(to_unix))
                    .bind(&state.last_error)
                    .bind(i64::from(state.consecutive_failures))
                    .execute(&mut *connection)
                    .await?;
                    if state.consecutive_failures == 0 {
                        sqlx::query("update webhooks set dropping_since = null where name = $1")
                            .bind(name)
                            .execute(&mut *connection)
                            .await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Removes messages that every webhook got, that are too old, or too many. Answers what that costs each webhook;
    /// the first time until it works again there is a record of it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn prune_messages(
        &self,
        filters: &[(String, EventFilter)],
        limits: OutboxLimits,
    ) -> Result<Vec<Dropped>, StoreError> {
        let now = self.now();
        let too_old = to_unix(now - limits.age);
        self.database
            .run_tx("prune_messages", |mut connection| {
                Box::pin(async move {
                    let head: i64 = sqlx::query_scalar("select sequence from webhook_head where only_row = 1")
                        .fetch_one(&mut *connection)
                        .await?;
                    let aged: Option<i64> =
                        sqlx::query_scalar("select max(sequence) from webhook_messages where happened_at < $1")
                            .bind(too_old)
                            .fetch_one(&mut *connection)
                            .await?;
                    let end = aged.unwrap_or_default().max(head - limits.messages);
                    let rows = sqlx::query("select name, delivered_to, dropping_since from webhooks order by name")
                        .fetch_all(&mut *connection)
                        .await?;
                    let mut dropped = Vec::new();
                    let mut everybody = head;
                    for row in rows {
                        let name: String = row.try_get("name")?;
                        let delivered_to: i64 = row.try_get("delivered_to")?;
                        everybody = everybody.min(delivered_to.max(end));
                        if delivered_to >= end {
                            continue;
                        }
                        let filter = filters.iter().find(|(webhook, _)| *webhook == name).map(|(_, filter)| filter);
                        let count = lost(&mut connection, filter, delivered_to, end).await?;
                        let first = row.try_get::<Option<i64>, _>("dropping_since")?.is_none();
                        sqlx::query(
                            "update webhooks set delivered_to = $2, dropped = dropped + $3,
                               dropping_since = case when $3 > 0 then coalesce(dropping_since, $4) else dropping_since end
                             where name = $1",
                        )
                        .bind(&name)
                        .bind(end)
                        .bind(i64::try_from(count).unwrap_or(i64::MAX))
                        .bind(to_unix(now))
                        .execute(&mut *connection)
                        .await?;
                        if count == 0 {
                            continue;
                        }
                        if first {
                            record_dropped(&mut connection, now, &name, count).await?;
                        }
                        dropped.push(Dropped { webhook: name, count });
                    }
                    sqlx::query("delete from webhook_messages where sequence <= $1")
                        .bind(everybody)
                        .execute(&mut *connection)
                        .await?;
                    Ok(dropped)
                })
            })
            .await
    }

    /// The conditions that were told of, and since when they last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn webhook_conditions(&self) -> Result<BTreeMap<ConditionKey, OffsetDateTime>, StoreError> {
        let rows = sqlx::query("select kind, subject, since from webhook_conditions")
            .fetch_all(self.database.reader())
            .await?;
        rows.into_iter()
            .map(|row| {
                let (kind, subject): (String, String) = (row.try_get("kind")?, row.try_get("subject")?);
                let condition = Condition::from_name(&kind);
                let condition = condition.ok_or_else(|| unreadable("condition", &subject, format!("`{kind}`")))?;
                Ok(((condition, subject), from_unix(row.try_get("since")?)))
            })
            .collect()
    }

    /// Conditions began (`Some`: since when) or ended (`None`), each with the message that tells of it, if it is told.
    ///
    /// # Errors
    /// [`StoreError::Database`]; nothing changed then.
    pub async fn change_conditions(
        &self,
        changes: &[(ConditionKey, Option<OffsetDateTime>, Option<Message>)],
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.database
            .run_tx("change_conditions", |mut connection| {
                Box::pin(async move {
                    for ((condition, subject), since, message) in changes {
                        let statement = match since {
                            Some(since) => sqlx::query(
                                "insert into webhook_conditions (kind, subject, since) values ($1, $2, $3)
                                 on conflict (kind, subject) do nothing",
                            )
                            .bind(condition.begins())
                            .bind(subject)
                            .bind(to_unix(*since)),
                            None => sqlx::query("delete from webhook_conditions where kind = $1 and subject = $2")
                                .bind(condition.begins())
                                .bind(subject),
                        };
                        let changed = statement.execute(&mut *connection).await?.rows_affected() > 0;
                        if let Some(message) = message.as_ref().filter(|_| changed) {
                            enqueue(&mut connection, now, message).await?;
                        }
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// How many messages that a webhook wants lie between the two numbers.
async fn lost(
    connection: &mut Connection,
    filter: Option<&EventFilter>,
    after: i64,
    to: i64,
) -> Result<u64, StoreError> {
    let rows = sqlx::query(
        "select kind, count(*) as messages from webhook_messages where sequence > $1 and sequence <= $2 group by kind",
    )
    .bind(after)
    .bind(to)
    .fetch_all(connection)
    .await?;
    let mut lost = 0;
    for row in rows {
        let kind: String = row.try_get("kind")?;
        if filter.is_none_or(|filter| filter.wants(&kind)) {
            lost += u64::try_from(row.try_get::<i64, _>("messages")?).unwrap_or_default();
        }
    }
    Ok(lost)
}

async fn record_dropped(
    connection: &mut Connection,
    now: OffsetDateTime,
    webhook: &str,
    count: u64,
) -> Result<(), StoreError> {
    let event = Event {
        who: &Actor::Gateway,
        what: Action::WebhookDropped,
        subject: webhook.to_owned(),
        before: serde_json::Value::Null,
        after: json!({ "messages": count }),
        why: "they could not be delivered in time, or too many waited",
    };
    audit::append(connection, now, &event).await
}
