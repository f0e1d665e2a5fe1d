//! What the agent serves from: entries, X509-SVIDs and bundles in one immutable snapshot, and the streams that follow it.
//!
//! Readers take the snapshot without a lock. Writers ([`Cache::update`]) make a new one that shares all that did not
//! change, then put new views before the groups of streams; nobody holds a lock while waiting.

pub mod entry;
pub mod index;
pub mod jwt;
pub mod plan;
mod subscriptions;
pub mod svid;
pub mod view;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use federation_specs::{
    bundle::{Bundle, BundleSet},
    id::TrustDomain,
};
use service_kit::clock::SharedClock;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use crate::workload::SelectorSet;
pub use subscriptions::Subscription;

use self::{entry::Entry, index::EntryIndex, subscriptions::Registry, svid::X509Svid, view::View};

/// Groups given a new view between two moments in which other tasks may run.
const GROUPS_PER_TURN: usize = 64;

/// What is known of one entry's X509-SVID.
#[derive(Debug, Clone, Default)]
pub struct SvidSlot {
    /// The SVID in use.
    pub held: Option<Arc<X509Svid>>,
    /// The last signing failed.
    pub failure: Option<SigningFailure>,
}

/// A failed signing, so that it is not tried at once again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningFailure {
    /// Failures in a row.
    pub attempts: u32,
    /// When to try again.
    pub retry_at: OffsetDateTime,
    /// Entry revision and creation time that failed; another revision is tried at once.
    pub revision: (i64, i64),
}

/// One state of the cache.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts the snapshots.
    pub number: u64,
    /// Whether entries and the own bundle were received since the start.
    pub synced: bool,
    /// The agent's trust domain.
    pub trust_domain: TrustDomain,
    /// All entries of this agent.
    pub entries: Arc<EntryIndex>,
    /// X509-SVIDs by entry ID.
    pub svids: Arc<HashMap<String, SvidSlot>>,
    /// Own and federated bundles.
    pub bundles: BundleSet,
    /// Key identifiers of tainted X.509 authorities of the own trust domain, with the time they were noticed.
    pub tainted: Arc<BTreeMap<Vec<u8>, OffsetDateTime>>,
}

impl Snapshot {
    /// The own trust domain's bundle, once received.
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// Takes a new set of entries over; what was held for entries that are gone is dropped.
    pub fn set_entries(&mut self, entries: EntryIndex) {
        if self.svids.keys().any(|id| entries.get(id).is_none()) {
            Arc::make_mut(&mut self.svids).retain(|id, _| entries.get(id).is_some());
        }
        self.entries = Arc::new(entries);
    }

    /// Takes a bundle over, if its content differs. For the own trust domain, newly tainted authorities are noted.
    /// Answers whether anything changed.
    pub fn set_bundle(&mut self, bundle: Bundle, now: OffsetDateTime) -> bool {
        if bundle.trust_domain() == &self.trust_domain {
            self.note_tainted(&bundle, now);
        }
        if self.bundles.get(bundle.trust_domain()).is_some_and(|held| held.same_content(&bundle)) {
            return false;
        }
        self.bundles.insert(Arc::new(bundle));
        true
    }

    fn note_tainted(&mut self, bundle: &Bundle, now: OffsetDateTime) {
        let tainted: BTreeMap<Vec<u8>, OffsetDateTime> = bundle
            .x509_authorities()
            .iter()
            .filter(|authority| authority.tainted())
            .filter_map(|authority| authority.subject_key_id())
            .map(|key_id| {
                let noticed = self.tainted.get(&key_id).copied().unwrap_or(now);
                (key_id, noticed)
            })
            .collect();
        if tainted != *self.tainted {
            self.tainted = Arc::new(tainted);
        }
    }
}

/// The cache of one agent.
#[derive(Debug)]
pub struct Cache {
    current: ArcSwap<Snapshot>,
    writing: Mutex<()>,
    registry: Arc<Registry>,
    demand: Notify,
    synced: watch::Sender<bool>,
    clock: SharedClock,
}

impl Cache {
    /// An empty cache.
    pub fn new(trust_domain: TrustDomain, clock: SharedClock) -> Self {
        let snapshot = Snapshot {
            number: 0,
            synced: false,
            trust_domain,
            entries: Arc::default(),
            svids: Arc::default(),
            bundles: BundleSet::default(),
            tainted: Arc::default(),
        };
        Self {
            current: ArcSwap::from_pointee(snapshot),
            writing: Mutex::new(()),
            registry: Arc::default(),
            demand: Notify::new(),
            synced: watch::Sender::new(false),
            clock,
        }
    }

    /// The present state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Changes the state and lets every stream see it. `change` answers whether it changed anything; if not, nothing
    /// happens.
    pub async fn update(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        let snapshot = {
            let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = Snapshot::clone(&self.current.load());
            next.number += 1;
            if !change(&mut next) {
                return;
            }
            let next = Arc::new(next);
            self.current.store(Arc::clone(&next));
            next
        };
        self.synced.send_if_modified(|synced| snapshot.synced && !std::mem::replace(synced, true));
        let now = self.clock.now();
        for (done, group) in self.registry.groups().into_iter().enumerate() {
            if done % GROUPS_PER_TURN == GROUPS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            group.refresh(snapshot.number, |view| View::new(&snapshot, &group.selectors, Some(view), now));
        }
    }

    /// Waits until entries and the own bundle were received from the issuer.
    pub async fn synced(&self) {
        // The sender lives in self, so the channel cannot close while this waits.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Whether entries and the own bundle were received from the issuer.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// What a caller with these selectors sees now.
    pub fn view(&self, selectors: &SelectorSet) -> View {
        View::new(&self.current.load(), selectors, None, self.clock.now())
    }

    /// Follows what a caller with these selectors sees.
    pub fn subscribe(&self, selectors: &Arc<SelectorSet>) -> Subscription {
        let (group, new) = self.registry.group(selectors, || self.view(selectors));
        let mut subscription = Subscription::new(Arc::clone(&group));
        let view = subscription.view();
        let now = self.clock.now();
        let current = self.current.load();
        // A snapshot may have been published before the group was listed, and an SVID may have expired meanwhile.
        if current.number > view.snapshot || view.valid_until.is_some_and(|end| now >= end) {
            group.refresh(current.number, |view| View::new(&current, selectors, Some(view), now));
            subscription = Subscription::new(Arc::clone(&group));
        }
        if new || view.x509.is_none() {
            self.demand.notify_one();
        }
        subscription
    }

    /// Waits until a subscriber came that may need an SVID nobody has signed yet.
    pub async fn demanded(&self) {
        self.demand.notified().await;
    }

    /// IDs of the entries some stream is following.
    pub fn followed_entries(&self) -> HashSet<String> {
        let mut followed = HashSet::new();
        for group in self.registry.groups() {
            let view = Arc::clone(&group.view.borrow());
            followed.extend(view.entries.iter().map(|entry| entry.id.clone()));
        }
        followed
    }

    /// The entry with that ID.
    pub fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        self.current.load().entries.get(id).cloned()
    }

    /// Number of X509-SVIDs held.
    pub fn x509_svid_count(&self) -> usize {
        self.current.load().svids.values().filter(|slot| slot.held.is_some()).count()
    }
}

#[cfg(test)]
pub(crate) mod tests;
