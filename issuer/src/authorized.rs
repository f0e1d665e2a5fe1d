//! Which entries an agent may serve (wire behaviour of SPIRE 1.15): everything below its own ID and below the node
//! aliases that apply to it, through any depth of parents.
//!
//! A snapshot answers without lock or database. It is brought up to date from the rows that changed; entries are shared
//! between snapshots and kept in shards, so that a change costs the size of a shard and not of everything.

mod shards;
mod snapshot;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use service_kit::BoxError;
use service_kit::clock::SharedClock;
use service_kit::lifecycle::Shutdown;
use tokio::sync::watch;

pub use snapshot::EntrySnapshot;

use crate::store::{Changes, Store, StoreError};

/// Keeps a snapshot of entries and nodes as new as the store.
#[derive(Debug)]
pub struct EntryIndex {
    store: Store,
    changes: watch::Receiver<Changes>,
    snapshot: ArcSwap<EntrySnapshot>,
    /// Change the snapshot is at, as [`newest`] counts.
    seen: AtomicU64,
    refreshing: tokio::sync::Mutex<()>,
}

/// The last change that concerns the index.
fn newest(changes: &Changes) -> u64 {
    changes.entries.max(changes.nodes)
}

impl EntryIndex {
    /// Loads everything once.
    pub async fn start(store: Store) -> Result<Arc<Self>, StoreError> {
        let changes = store.changes();
        let index = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(EntrySnapshot::new(store.trust_domain().clone())),
            store,
            changes,
            seen: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::new(()),
        });
        index.refresh().await?;
        Ok(index)
    }

    /// Follows the store's changes until shutdown; looks by itself every `reload_interval`, for writers that are not
    /// this process.
    ///
    /// # Errors
    /// None: what fails is logged and tried again.
    pub async fn run(
        self: Arc<Self>,
        reload_interval: Duration,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> Result<(), BoxError> {
        let mut changes = self.store.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = clock.sleep(reload_interval) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            if let Err(error) = self.refresh().await {
                tracing::error!(%error, "entries were not reloaded; the ones known before are used");
            }
        }
    }

    /// The latest snapshot, whatever its age.
    pub fn current(&self) -> Arc<EntrySnapshot> {
        self.snapshot.load_full()
    }

    /// A snapshot with everything this process had written before the call; looks at the database only if something
    /// changed.
    pub async fn fresh(&self) -> Result<Arc<EntrySnapshot>, StoreError> {
        if self.seen.load(Ordering::Acquire) < newest(&self.changes.borrow()) {
            self.refresh().await?;
        }
        Ok(self.current())
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let wanted = newest(&self.changes.borrow());
        let _one_at_a_time = self.refreshing.lock().await;
        let current = self.snapshot.load_full();
        let changed = self.store.changed_after(current.at()).await?;
        let seen = wanted.max(changed.latest.unsigned_abs());
        if changed.changes_nothing() {
            self.seen.fetch_max(seen, Ordering::AcqRel);
            return Ok(());
        }
        self.snapshot.store(Arc::new(current.with(changed)));
        self.seen.fetch_max(seen, Ordering::AcqRel);
        Ok(())
    }
}
