//! How an entry lies in its tables.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::selector::Selector;
use service_kit::database::{Backend, Connection, Row};
use sqlx::query::Query;
use sqlx::{Database, QueryBuilder, Row as _};

use crate::entry::{AdditionalAttributes, Entry};
use crate::store::StoreError;
use crate::store::row::{corrupt, flag, from_json, parsed, to_json};

pub(super) const COLUMNS: &str = "select row_id, id, parent_id, spiffe_id, selectors, federates_with, dns_names, x509_svid_ttl, \
     jwt_svid_ttl, cast(admin as integer) as admin, cast(downstream as integer) as downstream, expires_at, \
     cast(store_svid as integer) as store_svid, hint, additional_attributes, revision_number, created_at from entries";

pub(super) async fn find(connection: &mut Connection, id: &str) -> Result<Option<(i64, Entry)>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where id = ").push_bind(id.to_owned());
    query.build().fetch_optional(connection).await?.as_ref().map(read).transpose()
}

pub(super) async fn find_similar(
    connection: &mut Connection,
    parent_id: &SpiffeId,
    spiffe_id: &SpiffeId,
    selectors_digest: &str,
) -> Result<Option<Entry>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where parent_id = ").push_bind(parent_id.to_string());
    query.push(" and spiffe_id = ").push_bind(spiffe_id.to_string());
    query.push(" and selectors_digest = ").push_bind(selectors_digest.to_owned());
    let row = query.build().fetch_optional(connection).await?;
    row.as_ref().map(|row| read(row).map(|(_, entry)| entry)).transpose()
}

/// Adds an entry. `at` is the value of the change counter.
pub(super) async fn insert(
    connection: &mut Connection,
    entry: &Entry,
    selectors_digest: &str,
    at: i64,
) -> Result<(), StoreError> {
    let insert = "insert into entries (parent_id, spiffe_id, selectors_digest, selectors, federates_with, dns_names, \
         x509_svid_ttl, jwt_svid_ttl, admin, downstream, expires_at, store_svid, hint, additional_attributes, \
         revision_number, changed, id, created_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         on conflict do nothing returning row_id";
    let row = bind(insert, entry, selectors_digest, at)?
        .bind(&entry.id)
        .bind(entry.created_at)
        .fetch_optional(&mut *connection)
        .await?;
    // The similar entry was looked for in this transaction, so the conflict is over the ID.
    let row = row.ok_or_else(|| StoreError::EntryIdExists(entry.id.clone()))?;
    insert_sets(connection, row.try_get("row_id")?, entry).await
}

/// Replaces an entry. `at` is the value of the change counter.
pub(super) async fn write(
    connection: &mut Connection,
    row_id: i64,
    entry: &Entry,
    selectors_digest: &str,
    at: i64,
) -> Result<(), StoreError> {
    let update = "update entries set parent_id = $1, spiffe_id = $2, selectors_digest = $3, selectors = $4, \
         federates_with = $5, dns_names = $6, x509_svid_ttl = $7, jwt_svid_ttl = $8, admin = $9, downstream = $10, \
         expires_at = $11, store_svid = $12, hint = $13, additional_attributes = $14, revision_number = $15, \
         changed = $16 where row_id = $17";
    bind(update, entry, selectors_digest, at)?.bind(row_id).execute(&mut *connection).await?;
    sqlx::query("delete from entry_selectors where entry_row = $1").bind(row_id).execute(&mut *connection).await?;
    sqlx::query("delete from entry_federations where entry_row = $1").bind(row_id).execute(&mut *connection).await?;
    insert_sets(connection, row_id, entry).await
}

/// A statement with what may change of an entry, $1 to $16: `parent_id`, `spiffe_id`, `selectors_digest`, `selectors`,
/// `federates_with`, `dns_names`, `x509_svid_ttl`, `jwt_svid_ttl`, `admin`, `downstream`, `expires_at`, `store_svid`,
/// `hint`, `additional_attributes`, `revision_number`, `changed`.
fn bind<'q>(
    statement: &'static str,
    entry: &'q Entry,
    selectors_digest: &'q str,
    at: i64,
) -> Result<Query<'q, Backend, <Backend as Database>::Arguments>, StoreError> {
    Ok(sqlx::query(statement)
        .bind(entry.parent_id.as_str())
        .bind(entry.spiffe_id.as_str())
        .bind(selectors_digest)
        .bind(to_json(&entry.selectors.iter().map(Selector::to_string).collect::<Vec<_>>())?)
        .bind(to_json(&entry.federates_with.iter().map(TrustDomain::as_str).collect::<Vec<_>>())?)
        .bind(to_json(&entry.dns_names)?)
        .bind(entry.x509_svid_ttl)
        .bind(entry.jwt_svid_ttl)
        .bind(entry.admin)
        .bind(entry.downstream)
        .bind(entry.expires_at)
        .bind(entry.store_svid)
        .bind(&entry.hint)
        .bind(entry.additional_attributes.as_ref().map(to_json).transpose()?)
        .bind(entry.revision_number)
        .bind(at))
}

async fn insert_sets(connection: &mut Connection, row_id: i64, entry: &Entry) -> Result<(), StoreError> {
    for selector in &entry.selectors {
        sqlx::query("insert into entry_selectors (entry_row, selector) values ($1, $2)")
            .bind(row_id)
            .bind(selector.to_string())
            .execute(&mut *connection)
            .await?;
    }
    for domain in &entry.federates_with {
        sqlx::query("insert into entry_federations (entry_row, trust_domain) values ($1, $2)")
            .bind(row_id)
            .bind(domain.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) fn read(row: &Row) -> Result<(i64, Entry), StoreError> {
    let id: String = row.try_get("id")?;
    let reason = |error: &dyn std::fmt::Display| corrupt("entry", &id, error);
    let selectors: Vec<String> = from_json(row, "selectors", &reason)?;
    let federates_with: Vec<String> = from_json(row, "federates_with", &reason)?;
    let dns_names: Vec<String> = from_json(row, "dns_names", &reason)?;
    let additional_attributes: Option<String> = row.try_get("additional_attributes")?;
    let additional_attributes: Option<AdditionalAttributes> =
        additional_attributes.map(|text| serde_json::from_str(&text).map_err(|e| reason(&e))).transpose()?;
    let entry = Entry {
        spiffe_id: parsed(row, "spiffe_id", SpiffeId::parse, &reason)?,
        parent_id: parsed(row, "parent_id", SpiffeId::parse, &reason)?,
        selectors: selectors
            .iter()
            .map(|text| Selector::parse(text))
            .collect::<Result<_, _>>()
            .map_err(|e| reason(&e))?,
        x509_svid_ttl: row.try_get("x509_svid_ttl")?,
        jwt_svid_ttl: row.try_get("jwt_svid_ttl")?,
        federates_with: federates_with
            .iter()
            .map(|text| TrustDomain::parse(text))
            .collect::<Result<_, _>>()
            .map_err(|e| reason(&e))?,
        admin: flag(row, "admin")?,
        downstream: flag(row, "downstream")?,
        expires_at: row.try_get("expires_at")?,
        dns_names,
        store_svid: flag(row, "store_svid")?,
        hint: row.try_get("hint")?,
        additional_attributes,
        revision_number: row.try_get("revision_number")?,
        created_at: row.try_get("created_at")?,
        id,
    };
    Ok((row.try_get("row_id")?, entry))
}

/// SHA-256 of the sorted selectors, lowercase hex. Each is preceded by its length, so different sets never give
/// the same input.
pub(super) fn selectors_digest(selectors: &[Selector]) -> String {
    let sorted: BTreeSet<String> = selectors.iter().map(Selector::to_string).collect();
    let mut context = digest::Context::new(&digest::SHA256);
    for selector in sorted {
        context.update(&(selector.len() as u64).to_be_bytes());
        context.update(selector.as_bytes());
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
