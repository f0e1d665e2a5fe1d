//! How each publisher is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_specs::id::TrustDomain;
use time::OffsetDateTime;

use crate::{settings::PublisherSettings, store::publications::Publication};

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

/// A place held something else than was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// When that was noticed last.
    pub at: OffsetDateTime,
    /// SHA-256 of what it held, lowercase hex; `None` if it held nothing.
    pub digest: Option<String>,
    /// How often since the start.
    pub count: u64,
}

/// How one publisher is doing.
#[derive(Debug, Clone)]
pub struct PublisherStatus {
    /// The trust domain whose bundle it is.
    pub trust_domain: TrustDomain,
    /// Its configuration.
    pub settings: PublisherSettings,
    /// What the place was last seen to hold after a publication.
    pub published: Option<Publication>,
    /// When the place was last seen to hold what is served.
    pub last_success: Option<OffsetDateTime>,
    /// When it was last tried.
    pub last_attempt: Option<OffsetDateTime>,
    /// When it is tried or looked at next.
    pub next_attempt: Option<OffsetDateTime>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
    /// The last time it held something else.
    pub drift: Option<Drift>,
}

impl PublisherStatus {
    /// In a word.
    pub fn health(&self) -> Health {
        match (&self.last_error, self.last_success) {
            (Some(_), _) => Health::Failing,
            (None, Some(_)) => Health::Healthy,
            (None, None) => Health::Pending,
        }
    }
}

/// The status of one publisher, shared between its task and those who ask.
#[derive(Debug, Clone)]
pub(super) struct StatusCell(Arc<Mutex<PublisherStatus>>);

impl StatusCell {
    pub(super) fn new(trust_domain: TrustDomain, settings: PublisherSettings, published: Option<Publication>) -> Self {
        Self(Arc::new(Mutex::new(PublisherStatus {
            trust_domain,
            settings,
            published,
            last_success: None,
            last_attempt: None,
            next_attempt: None,
            consecutive_failures: 0,
            last_error: None,
            drift: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PublisherStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every publisher, in the order of the configuration. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct PublisherStatuses {
    cells: Arc<Mutex<Vec<StatusCell>>>,
}

impl PublisherStatuses {
    pub(super) fn add(&self, cell: StatusCell) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    }

    /// How each is doing now.
    pub fn list(&self) -> Vec<PublisherStatus> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.iter().map(|cell| cell.lock().clone()).collect()
    }
}
