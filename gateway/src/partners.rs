//! The partners' bundles in force, in memory. The store holds the same; this is what is read.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use federation_specs::{bundle::Bundle, id::TrustDomain};
use time::OffsetDateTime;

use crate::served::rendered::digest_hex;

/// A partner's bundle in force.
#[derive(Debug, Clone)]
pub struct HeldBundle {
    /// The bundle.
    pub bundle: Arc<Bundle>,
    /// SHA-256 of the document as it was fetched, lowercase hex.
    pub digest: String,
    /// [`content_digest`] of the bundle.
    pub content_digest: String,
    /// When it was accepted.
    pub accepted_at: OffsetDateTime,
}

/// Identifies the authorities of a bundle: SHA-256 over trust domain, X.509 certificates and JWT keys, whatever their
/// order, the sequence and the refresh hint. It survives the way through an issuer, which keeps nothing else.
pub fn content_digest(bundle: &Bundle) -> String {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for authority in bundle.x509_authorities() {
        parts.push([b"x509", authority.der()].concat());
    }
    for authority in bundle.jwt_authorities() {
        let id = authority.key_id().as_bytes();
        let length = (id.len() as u64).to_be_bytes();
        parts.push([b"jwt.", &length[..], id, authority.public_key().spki_der()].concat());
    }
    parts.sort_unstable();
    let mut all = bundle.trust_domain().as_str().as_bytes().to_vec();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_be_bytes());
        all.extend_from_slice(&part);
    }
    digest_hex(&all)
}

/// Every bundle in force by its trust domain.
#[derive(Debug, Default)]
pub struct PartnerBundles {
    held: RwLock<HashMap<TrustDomain, Arc<HeldBundle>>>,
}

impl PartnerBundles {
    /// Those given.
    pub fn new(held: impl IntoIterator<Item = HeldBundle>) -> Self {
        let held = held.into_iter().map(|held| (held.bundle.trust_domain().clone(), Arc::new(held))).collect();
        Self { held: RwLock::new(held) }
    }

    /// The one of that trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<Arc<HeldBundle>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(trust_domain).cloned()
    }

    /// Puts one in force.
    pub fn set(&self, held: HeldBundle) {
        let trust_domain = held.bundle.trust_domain().clone();
        self.held.write().unwrap_or_else(PoisonError::into_inner).insert(trust_domain, Arc::new(held));
    }

    /// All of them, by trust domain.
    pub fn list(&self) -> Vec<Arc<HeldBundle>> {
        let mut list: Vec<_> = self.held.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        list.sort_by(|a, b| a.bundle.trust_domain().cmp(b.bundle.trust_domain()));
        list
    }
}
