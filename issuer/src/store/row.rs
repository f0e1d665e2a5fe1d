//! Reading and writing columns that hold more than a plain value.

use service_kit::database::Row;
use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;

use super::StoreError;

/// A stored row that cannot be understood.
pub(super) fn corrupt(what: &'static str, id: &str, reason: &dyn Display) -> StoreError {
    StoreError::Corrupt { what, id: id.to_owned(), reason: reason.to_string() }
}

pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| corrupt("value", "", &error))
}

pub(super) fn from_json<T: DeserializeOwned>(
    row: &Row,
    column: &'static str,
    corrupt: &dyn Fn(&dyn Display) -> StoreError,
) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|error| corrupt(&error))
}

pub(super) fn parsed<T, E: Display>(
    row: &Row,
    column: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    corrupt: &dyn Fn(&dyn Display) -> StoreError,
) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    parse(&text).map_err(|error| corrupt(&error))
}

/// A boolean column, read with `cast(… as integer)`: SQLite has no booleans to tell.
pub(super) fn flag(row: &Row, column: &'static str) -> Result<bool, StoreError> {
    Ok(row.try_get::<i64, _>(column)? != 0)
}
