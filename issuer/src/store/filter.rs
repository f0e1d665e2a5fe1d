//! Conditions of list and count queries.

use service_kit::database::Backend;
use std::collections::BTreeSet;

use federation_specs::selector::MatchBehavior;
use sqlx::QueryBuilder;

use super::{MAX_FILTER_VALUES, StoreError};

/// A table with one row for each member of a set that belongs to a row of another table. Names are constants, never
/// input.
pub(super) struct SetTable {
    /// The table.
    pub(super) table: &'static str,
    /// Its column with the owner's row number.
    pub(super) owner: &'static str,
    /// Its column with the member.
    pub(super) member: &'static str,
}

/// Conditions joined by `and`, behind a `where true`.
pub(super) struct Conditions<'q> {
    query: &'q mut QueryBuilder<Backend>,
}

impl<'q> Conditions<'q> {
    /// Writes the `where`.
    pub(super) fn new(query: &'q mut QueryBuilder<Backend>) -> Self {
        query.push(" where true");
        Self { query }
    }

    /// `column operator value`.
    pub(super) fn compare<T>(&mut self, column_and_operator: &'static str, value: T)
    where
        T: for<'a> sqlx::Encode<'a, Backend> + sqlx::Type<Backend> + Send,
    {
        self.query.push(" and ").push(column_and_operator).push(" ").push_bind(value);
    }

    /// A condition without values.
    pub(super) fn holds(&mut self, condition: &'static str) {
        self.query.push(" and ").push(condition);
    }

    /// The owner's set compared with `wanted`. An owner without members matches nothing, nor does an empty `wanted`.
    ///
    /// # Errors
    /// [`StoreError::FilterTooLarge`].
    pub(super) fn set(
        &mut self,
        table: &SetTable,
        wanted: &BTreeSet<String>,
        behavior: MatchBehavior,
    ) -> Result<(), StoreError> {
        if wanted.len() > MAX_FILTER_VALUES {
            return Err(StoreError::FilterTooLarge(MAX_FILTER_VALUES));
        }
        if wanted.is_empty() {
            self.holds("false");
            return Ok(());
        }
        self.has_any(table, wanted);
        if matches!(behavior, MatchBehavior::Superset | MatchBehavior::Exact) {
            self.has_all(table, wanted);
        }
        if matches!(behavior, MatchBehavior::Subset | MatchBehavior::Exact) {
            self.has_no_other(table, wanted);
        }
        Ok(())
    }

    fn has_any(&mut self, table: &SetTable, wanted: &BTreeSet<String>) {
        let SetTable { table, owner, member } = table;
        self.query.push(format_args!(" and row_id in (select {owner} from {table} where {member} in ("));
        self.list(wanted);
        self.query.push("))");
    }

    fn has_all(&mut self, table: &SetTable, wanted: &BTreeSet<String>) {
        let SetTable { table, owner, member } = table;
        self.query
            .push(format_args!(" and (select count(*) from {table} where {table}.{owner} = row_id and {member} in ("));
        self.list(wanted);
        self.query.push(")) = ").push_bind(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
    }

    fn has_no_other(&mut self, table: &SetTable, wanted: &BTreeSet<String>) {
        let SetTable { table, owner, member } = table;
        self.query.push(format_args!(
            " and not exists (select 1 from {table} where {table}.{owner} = row_id and {member} not in ("
        ));
        self.list(wanted);
        self.query.push("))");
    }

    fn list(&mut self, values: &BTreeSet<String>) {
        let mut list = self.query.separated(", ");
        for value in values {
            list.push_bind(value.clone());
        }
    }
}
