//! Registration entries.
//!
//! The row holds the whole entry; `entry_selectors` and `entry_federations` repeat two of its sets so that entries can be
//! found by them. A digest of the selector set under a unique index finds a similar entry in one look, however many
//! entries a parent has.

mod rows;

use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::selector::Selector;
use service_kit::database::{Backend, Connection};
use sqlx::QueryBuilder;
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::{self, Removed, Touched};
use super::filter::{Conditions, SetTable};
use super::{Page, Paged, Store, StoreError};
use crate::entry::{CreateEntryOutcome, Entry, EntryFilter, EntryUpdate, NewEntry, without_repeats};
use rows::{COLUMNS, find, find_similar, insert, read, selectors_digest, write};

/// Most entries removed in one transaction when pruning.
const PRUNE_BATCH: i64 = 1000;

const SELECTORS: SetTable = SetTable { table: "entry_selectors", owner: "entry_row", member: "selector" };
const FEDERATIONS: SetTable = SetTable { table: "entry_federations", owner: "entry_row", member: "trust_domain" };

const TOUCHED: Touched = Touched { entries: true, nodes: false, bundles: false, relationships: false };

impl Store {
    /// Creates entries in one transaction; each has its own outcome and one that fails does not touch the others.
    ///
    /// # Errors
    /// The outer error means that nothing was created. Inner errors: [`StoreError::Entry`],
    /// [`StoreError::FederatedBundleMissing`], [`StoreError::EntryIdExists`].
    pub async fn create_entries(
        &self,
        entries: &[NewEntry],
        now: OffsetDateTime,
    ) -> Result<Vec<Result<CreateEntryOutcome, StoreError>>, StoreError> {
        let mut tx = self.begin("entries.create").await?;
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            outcomes.push(caller_errors(create(&mut tx.connection, entry, tx.at, now).await)?);
        }
        tx.commit(TOUCHED).await?;
        Ok(outcomes)
    }

    /// The entry of that ID.
    pub async fn get_entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        let mut connection = self.connection().await?;
        Ok(find(&mut connection, id).await?.map(|(_, entry)| entry))
    }

    /// Entries of one SPIFFE ID, in the order stored.
    pub async fn entries_of(&self, spiffe_id: &SpiffeId) -> Result<Vec<Entry>, StoreError> {
        let filter = EntryFilter { spiffe_id: Some(spiffe_id.clone()), ..EntryFilter::default() };
        Ok(self.list_entries(&filter, Page::ALL).await?.items)
    }

    /// Entries that match, in the order stored.
    ///
    /// # Errors
    /// [`StoreError::FilterTooLarge`].
    pub async fn list_entries(&self, filter: &EntryFilter, page: Page) -> Result<Paged<Entry>, StoreError> {
        let mut query = QueryBuilder::new(COLUMNS);
        filter_by(&mut query, filter, Some(page))?;
        query.push(" order by row_id limit ").push_bind(page.limit());
        let mut connection = self.connection().await?;
        let rows = query.build().fetch_all(&mut *connection).await?;
        Ok(Paged::new(page, rows.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Number of entries that match.
    ///
    /// # Errors
    /// [`StoreError::FilterTooLarge`].
    pub async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        let mut query = QueryBuilder::new("select count(*) from entries");
        filter_by(&mut query, filter, None)?;
        let mut connection = self.connection().await?;
        let count: i64 = query.build_query_scalar().fetch_one(&mut *connection).await?;
        Ok(count.unsigned_abs())
    }

    /// Changes entries in one transaction, each with its own outcome; a successful one raises the revision by one.
    ///
    /// # Errors
    /// The outer error means that nothing was changed. Inner errors: [`StoreError::NotFound`], [`StoreError::Entry`],
    /// [`StoreError::SimilarEntry`], [`StoreError::FederatedBundleMissing`].
    pub async fn update_entries(&self, updates: &[EntryUpdate]) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
        let mut tx = self.begin("entries.update").await?;
        let mut outcomes = Vec::with_capacity(updates.len());
        for update in updates {
            outcomes.push(caller_errors(change(&mut tx.connection, update, tx.at).await)?);
        }
        tx.commit(TOUCHED).await?;
        Ok(outcomes)
    }

    /// Deletes entries in one transaction, each with its own outcome (the entry as it was).
    ///
    /// # Errors
    /// The outer error means that nothing was deleted. Inner error: [`StoreError::NotFound`].
    pub async fn delete_entries(&self, ids: &[String]) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
        let mut tx = self.begin("entries.delete").await?;
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            outcomes.push(caller_errors(delete(&mut tx.connection, id, tx.at).await)?);
        }
        tx.commit(TOUCHED).await?;
        Ok(outcomes)
    }

    /// Deletes entries whose `expires_at` is not 0 and before `now`; returns how many.
    pub async fn prune_entries(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            let mut connection = self.connection().await?;
            let ids: Vec<String> =
                sqlx::query_scalar("select id from entries where expires_at <> 0 and expires_at < $1 limit $2")
                    .bind(now.unix_timestamp())
                    .bind(PRUNE_BATCH)
                    .fetch_all(&mut *connection)
                    .await?;
            drop(connection);
            if ids.is_empty() {
                return Ok(pruned);
            }
            pruned += self.delete_entries(&ids).await?.iter().filter(|outcome| outcome.is_ok()).count() as u64;
        }
    }
}

/// Splits what is one item's own fault from what ends the whole call.
fn caller_errors<T>(outcome: Result<T, StoreError>) -> Result<Result<T, StoreError>, StoreError> {
    match outcome {
        Err(error) if error.is_internal() => Err(error),
        other => Ok(other),
    }
}

async fn create(
    connection: &mut Connection,
    new: &NewEntry,
    at: i64,
    now: OffsetDateTime,
) -> Result<CreateEntryOutcome, StoreError> {
    new.check()?;
    let selectors_digest = selectors_digest(&new.selectors);
    if let Some(similar) = find_similar(connection, &new.parent_id, &new.spiffe_id, &selectors_digest).await? {
        return Ok(CreateEntryOutcome::Similar(similar));
    }
    let federates_with = without_repeats(new.federates_with.clone());
    require_bundles(connection, &federates_with).await?;
    let id = if new.id.is_empty() { Uuid::new_v4().to_string() } else { new.id.clone() };
    let entry = Entry {
        id,
        spiffe_id: new.spiffe_id.clone(),
        parent_id: new.parent_id.clone(),
        selectors: new.selectors.clone(),
        x509_svid_ttl: new.x509_svid_ttl,
        jwt_svid_ttl: new.jwt_svid_ttl,
        federates_with,
        admin: new.admin,
        downstream: new.downstream,
        expires_at: new.expires_at,
        dns_names: new.dns_names.clone(),
        store_svid: new.store_svid,
        hint: new.hint.clone(),
        additional_attributes: new.additional_attributes,
        revision_number: 0,
        created_at: now.unix_timestamp(),
    };
    insert(connection, &entry, &selectors_digest, at).await?;
    Ok(CreateEntryOutcome::Created(entry))
}

/// An entry the issuer makes for itself, under the rules of [`Store::create_entries`].
pub(super) async fn create_one(
    connection: &mut Connection,
    new: &NewEntry,
    at: i64,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    create(connection, new, at, now).await.map(|_| ())
}

async fn change(connection: &mut Connection, update: &EntryUpdate, at: i64) -> Result<Entry, StoreError> {
    let (row_id, entry) = find(connection, &update.id).await?.ok_or(StoreError::NotFound { what: "entry" })?;
    let entry = entry.updated(update.clone());
    entry.check()?;
    if update.federates_with.is_some() {
        require_bundles(connection, &entry.federates_with).await?;
    }
    let digest = selectors_digest(&entry.selectors);
    if let Some(similar) = find_similar(connection, &entry.parent_id, &entry.spiffe_id, &digest).await?
        && similar.id != entry.id
    {
        return Err(StoreError::SimilarEntry);
    }
    write(connection, row_id, &entry, &digest, at).await?;
    Ok(entry)
}

async fn delete(connection: &mut Connection, id: &str, at: i64) -> Result<Entry, StoreError> {
    let (row_id, entry) = find(connection, id).await?.ok_or(StoreError::NotFound { what: "entry" })?;
    sqlx::query("delete from entries where row_id = $1").bind(row_id).execute(&mut *connection).await?;
    changes::removed(connection, Removed::Entry, id, at).await?;
    Ok(entry)
}

/// Deletes the alias entries of a join token agent: those under it whose only selector is its own ID.
pub(super) async fn delete_aliases(
    connection: &mut Connection,
    agent_id: &SpiffeId,
    at: i64,
) -> Result<(), StoreError> {
    let digest = selectors_digest(&[alias_selector(agent_id)]);
    let ids: Vec<String> = sqlx::query_scalar("select id from entries where parent_id = $1 and selectors_digest = $2")
        .bind(agent_id.as_str())
        .bind(&digest)
        .fetch_all(&mut *connection)
        .await?;
    for id in &ids {
        delete(connection, id, at).await?;
    }
    Ok(())
}

/// The selector of an entry that stands for one agent.
pub(super) fn alias_selector(agent_id: &SpiffeId) -> Selector {
    Selector { kind: "spiffe_id".to_owned(), value: agent_id.to_string() }
}

/// Entries that federate with a domain: deletes them, or only takes the domain out of them.
pub(super) async fn drop_federation(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    delete_entries: bool,
    at: i64,
) -> Result<(), StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "select id from entries where row_id in (select entry_row from entry_federations where trust_domain = $1)",
    )
    .bind(trust_domain.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for id in &ids {
        if delete_entries {
            delete(connection, id, at).await?;
            continue;
        }
        if let Some((row_id, mut entry)) = find(connection, id).await? {
            entry.federates_with.retain(|domain| domain != trust_domain);
            // Agents compare revisions: without a new one they would go on asking for the bundle.
            entry.revision_number += 1;
            let digest = selectors_digest(&entry.selectors);
            write(connection, row_id, &entry, &digest, at).await?;
        }
    }
    Ok(())
}

/// Number of entries that federate with a domain.
pub(super) async fn count_federating(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar("select count(*) from entry_federations where trust_domain = $1")
        .bind(trust_domain.as_str())
        .fetch_one(connection)
        .await?;
    Ok(count.unsigned_abs())
}

/// Entries written after counter value `after`.
pub(super) async fn changed_after(connection: &mut Connection, after: i64) -> Result<Vec<Entry>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where changed > ").push_bind(after).push(" order by row_id");
    let rows = query.build().fetch_all(connection).await?;
    rows.iter().map(|row| read(row).map(|(_, entry)| entry)).collect()
}

async fn require_bundles(connection: &mut Connection, domains: &[TrustDomain]) -> Result<(), StoreError> {
    for domain in domains {
        let stored: Option<i64> = sqlx::query_scalar("select row_id from bundles where trust_domain = $1")
            .bind(domain.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        if stored.is_none() {
            return Err(StoreError::FederatedBundleMissing(domain.clone()));
        }
    }
    Ok(())
}

fn filter_by(query: &mut QueryBuilder<Backend>, filter: &EntryFilter, page: Option<Page>) -> Result<(), StoreError> {
    let mut conditions = Conditions::new(query);
    if let Some(page) = page {
        conditions.compare("row_id >", page.after);
    }
    if let Some(parent_id) = &filter.parent_id {
        conditions.compare("parent_id =", parent_id.to_string());
    }
    if let Some(spiffe_id) = &filter.spiffe_id {
        conditions.compare("spiffe_id =", spiffe_id.to_string());
    }
    if !filter.hint.is_empty() {
        conditions.compare("hint =", filter.hint.clone());
    }
    if filter.downstream_only {
        conditions.holds("downstream");
    }
    if let Some((selectors, behavior)) = &filter.selectors {
        conditions.set(&SELECTORS, &selectors.iter().map(Selector::to_string).collect(), *behavior)?;
    }
    if let Some((domains, behavior)) = &filter.federates_with {
        conditions.set(&FEDERATIONS, &domains.iter().map(|domain| domain.as_str().to_owned()).collect(), *behavior)?;
    }
    Ok(())
}
