//! What operators decided about each relationship, in memory; the store holds the same.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use federation_specs::{bundle::Bundle, id::TrustDomain};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// How a relationship is held, besides its policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Control {
    /// The sequence below which a fetched bundle is a rollback.
    pub highest_sequence: Option<u64>,
    /// Set while the relationship is stopped in place.
    pub frozen: Option<Frozen>,
    /// A fetched bundle that is not in force.
    pub offer: Option<Arc<Offer>>,
    /// Since when the bundle in force is older than its maximum age.
    pub expired_at: Option<OffsetDateTime>,
    /// The last rollback that was refused and recorded: sequence and keys.
    pub refused_rollback: Option<String>,
}

/// Who stopped a relationship, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// When.
    pub at: OffsetDateTime,
    /// Who, in words.
    pub by: String,
    /// Why.
    pub why: String,
}

/// Why a fetched bundle is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OfferReason {
    /// The relationship's mode is `hold`.
    Hold,
    /// The relationship's mode is `pinned`.
    Pinned,
    /// It has no keys.
    Emptied,
    /// Another trust domain has one of its keys, and no certificate proves whose it is.
    SharedKey,
    /// Its sequence leaves no room for later ones.
    SequenceLeap,
}

impl OfferReason {
    /// The name used in JSON and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Pinned => "pinned",
            Self::Emptied => "emptied",
            Self::SharedKey => "shared_key",
            Self::SequenceLeap => "sequence_leap",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Hold, Self::Pinned, Self::Emptied, Self::SharedKey, Self::SequenceLeap]
            .into_iter()
            .find(|reason| reason.as_str() == name)
    }
}

/// A fetched bundle that is not in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// The document as it was fetched.
    pub document: Bytes,
    /// Its SHA-256, lowercase hex.
    pub digest: String,
    /// Where it was fetched.
    pub source_url: String,
    /// When.
    pub offered_at: OffsetDateTime,
    /// Why it is not in force.
    pub reason: OfferReason,
    /// When an operator turned it down.
    pub rejected_at: Option<OffsetDateTime>,
}

impl Offer {
    /// Whether it still waits for an operator.
    pub fn waits(&self) -> bool {
        self.rejected_at.is_none()
    }
}

/// The controls of every relationship there is or was.
#[derive(Debug, Default)]
pub struct Controls {
    all: RwLock<HashMap<TrustDomain, Control>>,
    /// Numbers of the decisions they rest on, where several gateways decide.
    numbers: RwLock<HashMap<TrustDomain, i64>>,
}

impl Controls {
    /// Those of the store.
    pub fn new(all: HashMap<TrustDomain, Control>, numbers: HashMap<TrustDomain, i64>) -> Self {
        Self { all: RwLock::new(all), numbers: RwLock::new(numbers) }
    }

    /// One of them; nothing is decided about a relationship that has none.
    pub fn get(&self, partner: &TrustDomain) -> Control {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(partner).cloned().unwrap_or_default()
    }

    /// Whether the bundle in force is older than its maximum age.
    pub fn is_expired(&self, partner: &TrustDomain) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(partner).is_some_and(|control| control.expired_at.is_some())
    }

    /// Whether an operator stopped it in place.
    pub fn is_frozen(&self, partner: &TrustDomain) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(partner).is_some_and(|control| control.frozen.is_some())
    }

    /// Whether a bundle of the partner waits for an operator.
    pub fn waits(&self, partner: &TrustDomain) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(partner).and_then(|control| control.offer.as_ref()).is_some_and(|offer| offer.waits())
    }

    /// Number of the last decision known about it; 0 if there is none.
    pub fn number(&self, partner: &TrustDomain) -> i64 {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(partner).copied().unwrap_or_default()
    }

    /// Replaces one by what decision `number` made of it.
    pub fn set(&self, partner: &TrustDomain, control: Control, number: i64) {
        if number != 0 {
            self.numbers.write().unwrap_or_else(PoisonError::into_inner).insert(partner.clone(), number);
        }
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(partner.clone(), control);
    }
}
