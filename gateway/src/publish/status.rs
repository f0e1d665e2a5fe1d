//! How each publisher is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_specs::id::TrustDomain;

pub use crate::store::publisher_states::{Drift, PublisherState};
use crate::{
    replicas::leases::Leases,
    settings::PublisherSettings,
    store::{
        Store, StoreError,
        publications::{Publication, PublisherKey},
    },
};

/// A publisher in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not tried yet, or there is no bundle yet.
    Pending,
    /// The place holds what is served.
    Healthy,
    /// The last attempt failed.
    Failing,
}

/// How one publisher is doing.
#[derive(Debug, Clone)]
pub struct PublisherStatus {
    /// The trust domain whose bundle it is.
    pub trust_domain: TrustDomain,
    /// Its configuration.
    pub settings: PublisherSettings,
    /// Name of the gateway that publishes, where several share a database; `None` while none does.
    pub replica: Option<String>,
    /// What the place was last seen to hold after a publication.
    pub published: Option<Publication>,
    /// How it is doing.
    pub state: PublisherState,
}

impl PublisherStatus {
    /// In a word.
    pub fn health(&self) -> Health {
        match (&self.state.last_error, self.state.last_success) {
            (Some(_), _) => Health::Failing,
            (None, Some(_)) => Health::Healthy,
            (None, None) => Health::Pending,
        }
    }
}

/// What a publisher's task tells.
#[derive(Debug)]
pub(super) struct Told {
    /// Whether this gateway publishes, and has read how far the one before came.
    pub(super) is_here: bool,
    pub(super) published: Option<Publication>,
    pub(super) state: PublisherState,
}

/// The status of one publisher, shared between its task and those who ask.
#[derive(Debug, Clone)]
pub(super) struct StatusCell {
    pub(super) key: PublisherKey,
    settings: PublisherSettings,
    told: Arc<Mutex<Told>>,
}

impl StatusCell {
    pub(super) fn new(key: PublisherKey, settings: PublisherSettings, told: Told) -> Self {
        Self { key, settings, told: Arc::new(Mutex::new(told)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replica(&self, leases: &Leases) -> Option<String> {
        match self.key.is_leased {
            true => leases.holder(&self.key.trust_domain),
            false => leases.name().map(str::to_owned),
        }
    }

    /// As this gateway knows it, if it is the one that publishes.
    fn here(&self, leases: &Leases) -> Option<PublisherStatus> {
        let told = self.lock();
        told.is_here.then(|| PublisherStatus {
            trust_domain: self.key.trust_domain.clone(),
            settings: self.settings.clone(),
            replica: self.replica(leases),
            published: told.published.clone(),
            state: told.state.clone(),
        })
    }
}

/// Every publisher, in the order of the configuration. Clones share them.
#[derive(Debug, Clone)]
pub struct PublisherStatuses {
    cells: Arc<Mutex<Vec<StatusCell>>>,
    store: Store,
}

impl PublisherStatuses {
    /// None yet.
    pub fn new(store: Store) -> Self {
        Self { cells: Arc::default(), store }
    }

    pub(super) fn add(&self, cell: StatusCell) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    }

    fn cells(&self) -> Vec<StatusCell> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How those are doing that this gateway works on.
    pub fn here(&self) -> Vec<PublisherStatus> {
        self.cells().iter().filter_map(|cell| cell.here(self.store.leases())).collect()
    }

    /// How each is doing now: what other gateways work on is read from the store.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn list(&self) -> Result<Vec<PublisherStatus>, StoreError> {
        let leases = self.store.leases();
        let known: Vec<_> = self.cells().into_iter().map(|cell| (cell.here(leases), cell)).collect();
        if known.iter().all(|(here, _)| here.is_some()) {
            return Ok(known.into_iter().filter_map(|(here, _)| here).collect());
        }
        let (mut published, mut states) = (self.store.publications().await?, self.store.publisher_states().await?);
        let mut stored = |cell: StatusCell| {
            let place = cell.settings.place.describe();
            let key = (cell.key.trust_domain.to_string(), cell.key.name.clone());
            let published = published.remove(&key).filter(|publication| publication.place == place);
            let state = states.remove(&key).filter(|(at, _)| *at == place);
            PublisherStatus {
                replica: cell.replica(leases),
                trust_domain: cell.key.trust_domain,
                settings: cell.settings,
                published,
                state: state.map(|(_, state)| state).unwrap_or_default(),
            }
        };
        Ok(known.into_iter().map(|(here, cell)| here.unwrap_or_else(|| stored(cell))).collect())
    }
}
