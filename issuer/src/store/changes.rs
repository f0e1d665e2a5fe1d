//! The change counter: what was written when, for readers that hold a snapshot.

use super::StoreError;
use service_kit::database::Connection;

/// How many names of removed rows are kept for readers that follow the changes; one that missed more loads everything.
const REMOVALS_KEPT: i64 = 100_000;

/// Value of the change counter at the last change of each kind. Values only grow; which one is compared is up to the
/// reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Registration entries.
    pub entries: u64,
    /// Attested nodes.
    pub nodes: u64,
    /// Bundles, the own one included.
    pub bundles: u64,
    /// Federation relationships.
    pub relationships: u64,
}

/// What a transaction changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) entries: bool,
    pub(super) nodes: bool,
    pub(super) bundles: bool,
    pub(super) relationships: bool,
}

impl Changes {
    /// After a commit with counter value `at`; commits may be reported out of order.
    pub(super) fn advance(&mut self, at: u64, touched: Touched) -> bool {
        let before = *self;
        for (field, touched) in [
            (&mut self.entries, touched.entries),
            (&mut self.nodes, touched.nodes),
            (&mut self.bundles, touched.bundles),
            (&mut self.relationships, touched.relationships),
        ] {
            if touched {
                *field = (*field).max(at);
            }
        }
        *self != before
    }
}

/// Kind of a removed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    Entry,
    Node,
    Bundle,
}

impl Removed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Node => "node",
            Self::Bundle => "bundle",
        }
    }
}

/// Takes the next counter value. Called first in every write transaction: the lock on this row puts them in order, so
/// a reader that has seen value n has seen every change up to n.
pub(super) async fn next(connection: &mut Connection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("update change_counter set value = value + 1 where id = 1 returning value")
        .fetch_one(connection)
        .await?)
}

/// The counter's value now.
pub(super) async fn latest(connection: &mut Connection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("select value from change_counter where id = 1").fetch_one(connection).await?)
}

/// Notes that a row is gone, in the transaction with counter value `at`.
pub(super) async fn removed(connection: &mut Connection, kind: Removed, name: &str, at: i64) -> Result<(), StoreError> {
    sqlx::query("insert into removals (kind, name, changed) values ($1, $2, $3)")
        .bind(kind.as_str())
        .bind(name)
        .bind(at)
        .execute(&mut *connection)
        .await?;
    let forgotten: Vec<i64> = sqlx::query_scalar(
        "delete from removals where row_id <= (select max(row_id) from removals) - $1 returning changed",
    )
    .bind(REMOVALS_KEPT)
    .fetch_all(&mut *connection)
    .await?;
    if let Some(newest) = forgotten.into_iter().max() {
        sqlx::query("update change_counter set forgotten = $1 where id = 1").bind(newest).execute(connection).await?;
    }
    Ok(())
}

/// Names removed after counter value `after`, or `None` if some of them may have been forgotten.
pub(super) async fn removals_after(
    connection: &mut Connection,
    kind: Removed,
    after: i64,
) -> Result<Option<Vec<String>>, StoreError> {
    let forgotten: i64 =
        sqlx::query_scalar("select forgotten from change_counter where id = 1").fetch_one(&mut *connection).await?;
    if after < forgotten {
        return Ok(None);
    }
    let names = sqlx::query_scalar("select name from removals where kind = $1 and changed > $2 order by row_id")
        .bind(kind.as_str())
        .bind(after)
        .fetch_all(connection)
        .await?;
    Ok(Some(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_reports_do_not_go_back() {
        let mut changes = Changes::default();
        assert!(changes.advance(6, Touched { entries: true, bundles: true, ..Touched::default() }));
        assert!(!changes.advance(5, Touched { entries: true, ..Touched::default() }));
        assert_eq!(changes, Changes { entries: 6, bundles: 6, ..Changes::default() });
    }
}
