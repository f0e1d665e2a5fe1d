//! Which entries an agent gets.
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::sync::Arc;

use federation_specs::id::SpiffeId;
use service_kit::lifecycle::Shutdown;

use crate::entry::Entry;
use crate::store::{Store, StoreError};

/// Keeps a snapshot as new as the store.
#[derive(Debug)]
pub struct EntryIndex {}

/// An immutable state of entries and nodes.
#[derive(Debug, Clone)]
pub struct EntrySnapshot {}

impl EntryIndex {
    /// Loads everything once.
    pub async fn start(store: Store) -> Result<Arc<Self>, StoreError> {
        todo!()
    }
    /// Follows the store's changes until shutdown; looks by itself every `reload_interval`.
    pub async fn run(self: Arc<Self>, reload_interval: std::time::Duration, clock: service_kit::clock::SharedClock, shutdown: Shutdown) -> Result<(), service_kit::BoxError> {
        todo!()
    }
    /// The latest snapshot, whatever its age.
    pub fn current(&self) -> Arc<EntrySnapshot> {
        todo!()
    }
    /// A snapshot with everything committed before the call; touches the database only if something changed.
    pub async fn fresh(&self) -> Result<Arc<EntrySnapshot>, StoreError> {
        todo!()
    }
}

impl EntrySnapshot {
    /// Every entry the agent may serve, each once.
    pub fn authorized_entries(&self, agent_id: &SpiffeId) -> Vec<Arc<Entry>> {
        todo!()
    }
    /// One entry, if the agent may serve it.
    pub fn authorized_entry(&self, agent_id: &SpiffeId, entry_id: &str) -> Option<Arc<Entry>> {
        todo!()
    }
    /// Entries of one SPIFFE ID (admin and downstream rights of a caller).
    pub fn entries_of(&self, spiffe_id: &SpiffeId) -> Vec<Arc<Entry>> {
        todo!()
    }
}
