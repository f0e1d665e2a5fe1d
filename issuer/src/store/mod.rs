//! What the issuer keeps: entries, nodes, join tokens, bundles, relationships and the CA journal.
//!
//! One aggregate a file. Every write is one named transaction; each takes the next value of a change counter and marks
//! the rows it touched with it, so that readers that hold a snapshot ([`crate::authorized`], the bundle snapshot) load
//! only what changed. [`Store::changes`] wakes them.

mod attestation;
mod bundles;
mod changes;
mod entries;
mod error;
mod filter;
mod join_tokens;
mod journal;
mod nodes;
mod own_bundle;
mod page;
mod relationships;
mod row;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use service_kit::database::{Backend, Transaction};
use std::sync::Arc;

use arc_swap::ArcSwap;
use federation_specs::bundle::BundleSet;
use federation_specs::id::TrustDomain;
use service_kit::database::Database;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use tokio::sync::watch;

pub use bundles::{BundleSelection, DeleteMode};
pub use changes::Changes;
pub use error::StoreError;
pub use join_tokens::MAX_JOIN_TOKEN_BYTES;
pub use journal::{AuthorityKind, AuthorityRecord, AuthorityStatus, Slot};
pub use own_bundle::EXPIRED_KEPT;
pub use page::{Page, Paged};
pub use relationships::{Relationship, RelationshipUpdate};

use crate::entry::Entry;
use crate::node::Node;
use changes::{Removed, Touched};

/// The issuer's schema. Landed migrations never change.
pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");

/// Most values of a set in one list filter.
pub const MAX_FILTER_VALUES: usize = 1000;

/// The issuer's data. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    database: Database,
    trust_domain: TrustDomain,
    changes: watch::Sender<Changes>,
    bundles: ArcSwap<BundleSet>,
    /// Counter value the bundle snapshot is at.
    bundles_seen: tokio::sync::Mutex<i64>,
}

impl Store {
    /// Uses a database opened with [`MIGRATIONS`]; checks that it belongs to the trust domain.
    ///
    /// # Errors
    /// [`StoreError::OtherTrustDomain`].
    pub async fn open(database: Database, trust_domain: TrustDomain) -> Result<Self, StoreError> {
        let store = Self {
            inner: Arc::new(Inner {
                database,
                trust_domain: trust_domain.clone(),
                changes: watch::Sender::new(Changes::default()),
                bundles: ArcSwap::default(),
                bundles_seen: tokio::sync::Mutex::new(-1),
            }),
        };
        let mut tx = store.begin("store.open").await?;
        sqlx::query("insert into issuer (id, trust_domain) values (1, $1) on conflict do nothing")
            .bind(trust_domain.as_str())
            .execute(&mut *tx.connection)
            .await?;
        let stored: String =
            sqlx::query_scalar("select trust_domain from issuer where id = 1").fetch_one(&mut *tx.connection).await?;
        if stored != trust_domain.as_str() {
            return Err(StoreError::OtherTrustDomain { stored, configured: trust_domain });
        }
        tx.commit(Touched { entries: true, nodes: true, bundles: true, relationships: true }).await?;
        Ok(store)
    }

    /// The trust domain the data is of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.inner.trust_domain
    }

    /// Wakes at every committed change.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.inner.changes.subscribe()
    }

    /// What was written and removed after counter value `after`.
    pub(crate) async fn changed_after(&self, after: i64) -> Result<ChangedRows, StoreError> {
        let mut connection = self.connection().await?;
        // First the counter: what is written between these reads is then read again the next time. Removals before
        // rows: a row written again after its removal is in the rows.
        let latest = changes::latest(&mut connection).await?;
        let removed_entries = changes::removals_after(&mut connection, Removed::Entry, after).await?;
        let removed_nodes = changes::removals_after(&mut connection, Removed::Node, after).await?;
        let (Some(removed_entries), Some(removed_nodes)) = (removed_entries, removed_nodes) else {
            return Ok(ChangedRows {
                latest,
                everything: true,
                removed_entries: Vec::new(),
                removed_nodes: Vec::new(),
                entries: entries::changed_after(&mut connection, -1).await?,
                nodes: nodes::changed_after(&mut connection, -1).await?,
            });
        };
        Ok(ChangedRows {
            latest,
            everything: after < 0,
            removed_entries,
            removed_nodes,
            entries: entries::changed_after(&mut connection, after).await?,
            nodes: nodes::changed_after(&mut connection, after).await?,
        })
    }

    async fn connection(&self) -> Result<PoolConnection<Backend>, StoreError> {
        Ok(self.inner.database.reader().acquire().await?)
    }

    /// Begins a write transaction; dropped without commit, it changes nothing.
    async fn begin(&self, name: &'static str) -> Result<WriteTransaction<'_>, StoreError> {
        let mut connection = self.inner.database.begin(name).await?;
        let at = changes::next(&mut connection).await?;
        Ok(WriteTransaction { store: self, connection, at })
    }
}

/// Rows changed since a counter value.
#[derive(Debug)]
pub(crate) struct ChangedRows {
    /// Counter value these rows are at.
    pub(crate) latest: i64,
    /// These are all rows there are: start from nothing.
    pub(crate) everything: bool,
    pub(crate) removed_entries: Vec<String>,
    pub(crate) removed_nodes: Vec<String>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) nodes: Vec<Node>,
}

struct WriteTransaction<'s> {
    store: &'s Store,
    connection: Transaction,
    /// This transaction's value of the change counter.
    at: i64,
}

impl WriteTransaction<'_> {
    /// Commits, brings the bundle snapshot up to date and wakes those who wait for changes.
    async fn commit(self, touched: Touched) -> Result<(), StoreError> {
        self.connection.commit().await?;
        if touched.bundles {
            self.store.reload_bundles().await?;
        }
        self.store.inner.changes.send_if_modified(|changes| changes.advance(self.at.unsigned_abs(), touched));
        Ok(())
    }
}
