#![allow(missing_docs, unused_variables, clippy::todo)]
// Signatures only: bodies are being written in entries.rs, nodes.rs, …
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_specs::bundle::{Bundle, BundleSet, JwtAuthority, X509Authority};
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::profile::{EndpointProfile, EndpointUrl};
use service_kit::database::Database;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{Page, Paged, StoreError};
use crate::entry::{CreateEntryOutcome, Entry, EntryFilter, EntryUpdate, NewEntry};
use crate::node::{AttestOutcome, Attestation, JoinTokenState, Node, NodeFilter};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {}

/// Change counter at the last change of each kind; only ever grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub entries: u64,
    pub nodes: u64,
    pub bundles: u64,
    pub relationships: u64,
}

/// What deleting a bundle does to entries that federate with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteMode {
    Restrict,
    Delete,
    Dissociate,
}

/// Parts of a bundle to write in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleSelection {
    pub x509_authorities: bool,
    pub jwt_authorities: bool,
    pub refresh_hint: bool,
    pub sequence_number: bool,
}

/// A federation relationship as stored (its bundle is looked up in the bundles).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relationship {
    pub trust_domain: TrustDomain,
    pub bundle_endpoint_url: EndpointUrl,
    pub profile: EndpointProfile,
}

/// Every `Some` is written.
#[derive(Debug, Clone)]
pub struct RelationshipUpdate {
    pub trust_domain: TrustDomain,
    pub bundle_endpoint_url: Option<EndpointUrl>,
    pub profile: Option<EndpointProfile>,
}

impl Store {
    /// Migrates, checks that the database belongs to the trust domain, loads the bundle snapshot.
    pub async fn open(database: Database, trust_domain: TrustDomain) -> Result<Self, StoreError> {
        todo!()
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        todo!()
    }
    /// Wakes at every committed change.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        todo!()
    }

    // entries: one transaction for the whole batch, one result an item
    pub async fn create_entries(
        &self,
        entries: &[NewEntry],
        now: OffsetDateTime,
    ) -> Result<Vec<Result<CreateEntryOutcome, StoreError>>, StoreError> {
        todo!()
    }
    pub async fn get_entry(&self, id: &str) -> Result<Option<Entry>, StoreError> {
        todo!()
    }
    /// Entries of one SPIFFE ID (admin and downstream rights of a caller).
    pub async fn entries_of(&self, spiffe_id: &SpiffeId) -> Result<Vec<Entry>, StoreError> {
        todo!()
    }
    pub async fn list_entries(&self, filter: &EntryFilter, page: Page) -> Result<Paged<Entry>, StoreError> {
        todo!()
    }
    pub async fn count_entries(&self, filter: &EntryFilter) -> Result<u64, StoreError> {
        todo!()
    }
    pub async fn update_entries(&self, updates: &[EntryUpdate]) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
        todo!()
    }
    pub async fn delete_entries(&self, ids: &[String]) -> Result<Vec<Result<Entry, StoreError>>, StoreError> {
        todo!()
    }
    /// Deletes entries with `expires_at` before now (not 0).
    pub async fn prune_entries(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        todo!()
    }

    // nodes
    /// Stores what attestation proved and spends the join token, in one transaction: check the CSR and sign first.
    pub async fn attest_node(
        &self,
        attestation: &Attestation,
        join_token: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<AttestOutcome, StoreError> {
        todo!()
    }
    pub async fn get_node(&self, agent_id: &SpiffeId) -> Result<Option<Node>, StoreError> {
        todo!()
    }
    pub async fn list_nodes(&self, filter: &NodeFilter, page: Page) -> Result<Paged<Node>, StoreError> {
        todo!()
    }
    pub async fn count_nodes(&self, filter: &NodeFilter) -> Result<u64, StoreError> {
        todo!()
    }
    /// Stores a renewed X509-SVID as "new".
    pub async fn renew_node(&self, agent_id: &SpiffeId, new_serial: &str, new_expires_at: i64) -> Result<Node, StoreError> {
        todo!()
    }
    /// Makes the new serial the current one, if it is still `serial`.
    pub async fn promote_node(&self, agent_id: &SpiffeId, serial: &str) -> Result<Node, StoreError> {
        todo!()
    }
    pub async fn ban_node(&self, agent_id: &SpiffeId) -> Result<Node, StoreError> {
        todo!()
    }
    /// For join_token nodes the alias entries go too.
    pub async fn delete_node(&self, agent_id: &SpiffeId) -> Result<Node, StoreError> {
        todo!()
    }
    pub async fn set_agent_version(&self, agent_id: &SpiffeId, version: &str) -> Result<(), StoreError> {
        todo!()
    }

    // join tokens
    /// With `agent_id` the alias entry is created in the same transaction. `token` is checked as a path segment.
    pub async fn create_join_token(
        &self,
        token: &str,
        expires_at: i64,
        agent_id: Option<&SpiffeId>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Without spending it.
    pub async fn join_token_state(&self, token: &str, now: OffsetDateTime) -> Result<JoinTokenState, StoreError> {
        todo!()
    }
    /// Forgets tokens expired long ago.
    pub async fn prune_join_tokens(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        todo!()
    }

    // bundles
    /// Snapshot of every bundle, own and federated; as new as the last write through this store.
    pub fn bundles(&self) -> Arc<BundleSet> {
        todo!()
    }
    /// The own bundle; `None` only before the first authority exists.
    pub fn own_bundle(&self) -> Option<Arc<Bundle>> {
        todo!()
    }
    /// Union with the own bundle; sequence +1 if something was added.
    pub async fn append_to_own_bundle(
        &self,
        x509: &[X509Authority],
        jwt: &[JwtAuthority],
    ) -> Result<Arc<Bundle>, StoreError> {
        todo!()
    }
    /// Federated bundles and the own one, in the order stored (the RPC leaves the own one out after paging).
    pub async fn list_bundles(&self, page: Page) -> Result<Paged<Arc<Bundle>>, StoreError> {
        todo!()
    }
    pub fn count_bundles(&self) -> u64 {
        todo!()
    }
    pub async fn create_bundle(&self, bundle: &Bundle) -> Result<Arc<Bundle>, StoreError> {
        todo!()
    }
    pub async fn set_bundle(&self, bundle: &Bundle) -> Result<Arc<Bundle>, StoreError> {
        todo!()
    }
    pub async fn update_bundle(&self, bundle: &Bundle, parts: BundleSelection) -> Result<Arc<Bundle>, StoreError> {
        todo!()
    }
    pub async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        todo!()
    }

    // federation relationships
    /// Stores `bundle` too, if given.
    pub async fn create_relationship(&self, relationship: &Relationship, bundle: Option<&Bundle>) -> Result<Relationship, StoreError> {
        todo!()
    }
    pub async fn get_relationship(&self, trust_domain: &TrustDomain) -> Result<Option<Relationship>, StoreError> {
        todo!()
    }
    pub async fn list_relationships(&self, page: Page) -> Result<Paged<Relationship>, StoreError> {
        todo!()
    }
    pub async fn update_relationship(&self, update: &RelationshipUpdate, bundle: Option<&Bundle>) -> Result<Relationship, StoreError> {
        todo!()
    }
    /// The stored bundle stays.
    pub async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        todo!()
    }
}

impl service_kit::tls::BundleSource for Store {
    fn bundles(&self) -> Arc<BundleSet> {
        todo!()
    }
}
