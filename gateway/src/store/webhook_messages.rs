//! Messages for webhooks, put in line in the transaction that makes the change they tell of.

use service_kit::database::Connection;
use time::OffsetDateTime;

use super::{StoreError, to_unix};
use crate::{audit::Event, webhook::event::Message};

/// Puts the message about a record in line, within the caller's transaction.
pub(super) async fn tell(
    connection: &mut Connection,
    now: OffsetDateTime,
    event: &Event<'_>,
    sequence: i64,
) -> Result<(), StoreError> {
    match Message::of_record(event, sequence, now) {
        Some(message) => enqueue(connection, now, &message).await,
        None => Ok(()),
    }
}

/// Puts a message in line, if there is anybody to tell. The numbers are handed out by one row, so that a message is
/// never committed behind one with a higher number that somebody has read already.
pub(super) async fn enqueue(
    connection: &mut Connection,
    now: OffsetDateTime,
    message: &Message,
) -> Result<(), StoreError> {
    let sequence: Option<i64> = sqlx::query_scalar(
        "update webhook_head set sequence = sequence + 1
         where only_row = 1 and exists (select 1 from webhooks) returning sequence",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(sequence) = sequence else { return Ok(()) };
    sqlx::query("insert into webhook_messages (sequence, id, kind, happened_at, body) values ($1, $2, $3, $4, $5)")
        .bind(sequence)
        .bind(&message.id)
        .bind(&message.kind)
        .bind(to_unix(now))
        .bind(&message.body)
        .execute(connection)
        .await?;
    Ok(())
}
