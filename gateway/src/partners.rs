//! The partners' bundles in force, in memory. The store holds the same; this is what is read.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use federation_specs::{bundle::Bundle, id::TrustDomain};
use time::OffsetDateTime;

use crate::{
    refresh::limits::{proves, public_keys},
    served::rendered::digest_hex,
};

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
    held: RwLock<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bundles: HashMap<TrustDomain, Arc<HeldBundle>>,
    /// Those there is a relationship with.
    related: HashSet<TrustDomain>,
    /// Whose each public key is, by the SHA-256 of its DER.
    owners: HashMap<[u8; 32], Vec<TrustDomain>>,
    /// How many keys belong to more than one.
    shared: usize,
}

impl Held {
    fn set(&mut self, held: HeldBundle) {
        let trust_domain = held.bundle.trust_domain().clone();
        let keys =
            |bundle: &Bundle| -> Vec<[u8; 32]> { public_keys(bundle).map(|(_, _, der)| key_digest(&der)).collect() };
        let now = keys(&held.bundle);
        if let Some(before) = self.bundles.insert(trust_domain.clone(), Arc::new(held)) {
            for key in keys(&before.bundle) {
                if let Some(owners) = self.owners.get_mut(&key) {
                    let before = owners.len();
                    owners.retain(|owner| *owner != trust_domain);
                    self.shared -= usize::from(before == 2 && owners.len() == 1);
                    if owners.is_empty() {
                        self.owners.remove(&key);
                    }
                }
            }
        }
        for key in now {
            let owners = self.owners.entry(key).or_default();
            if !owners.contains(&trust_domain) {
                owners.push(trust_domain.clone());
                self.shared += usize::from(owners.len() == 2);
            }
        }
    }
}

fn key_digest(der: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref());
    digest
}

impl PartnerBundles {
    /// Those given, of partners there is a relationship with until [`PartnerBundles::relate_to`] says otherwise.
    pub fn new(bundles: impl IntoIterator<Item = HeldBundle>) -> Self {
        let mut held = Held::default();
        for bundle in bundles {
            held.related.insert(bundle.bundle.trust_domain().clone());
            held.set(bundle);
        }
        Self { held: RwLock::new(held) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says with whom there are relationships: with all of these and nobody else.
    pub fn relate_to(&self, partners: BTreeSet<TrustDomain>) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).related = partners.into_iter().collect();
    }

    /// Says whether there is a relationship with a partner.
    pub fn set_related(&self, partner: &TrustDomain, related: bool) {
        if self.read().related.contains(partner) == related {
            return;
        }
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if related {
            held.related.insert(partner.clone());
        } else {
            held.related.remove(partner);
        }
    }

    /// The one of that trust domain, if there is a relationship with it. What is kept of a partner after its relationship
    /// ended verifies nobody.
    pub fn trusted(&self, trust_domain: &TrustDomain) -> Option<Arc<HeldBundle>> {
        let held = self.read();
        held.bundles.get(trust_domain).filter(|_| held.related.contains(trust_domain)).cloned()
    }

    /// The one of that trust domain, also if there is no relationship any more.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<Arc<HeldBundle>> {
        self.read().bundles.get(trust_domain).cloned()
    }

    /// Another partner than `trust_domain` whose bundle in force has this public key, DER.
    pub fn other_owner(&self, trust_domain: &TrustDomain, key: &[u8]) -> Option<TrustDomain> {
        let held = self.read();
        let mut owners = held.owners.get(&key_digest(key))?.iter();
        owners.find(|owner| *owner != trust_domain && held.related.contains(*owner)).cloned()
    }

    /// A key of that trust domain's bundle that provably belongs to another partner: in words, for who looks at it.
    pub fn contested(&self, trust_domain: &TrustDomain) -> Option<String> {
        let held = self.read();
        if held.shared == 0 {
            return None;
        }
        let bundle = &held.bundles.get(trust_domain)?.bundle;
        for (key, _, der) in public_keys(bundle) {
            let others = held.owners.get(&key_digest(&der)).into_iter().flatten();
            let others = others.filter(|owner| *owner != trust_domain && held.related.contains(*owner));
            for other in others.filter_map(|other| held.bundles.get(other)) {
                if proves(&other.bundle, &der) && !proves(bundle, &der) {
                    return Some(format!(
                        "{key} of the bundle held provably belongs to trust domain `{}`; ask the partner why it publishes \
                         that key, and restore an earlier bundle or remove the relationship",
                        other.bundle.trust_domain()
                    ));
                }
            }
        }
        None
    }

    /// Puts one in force.
    pub fn set(&self, held: HeldBundle) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).set(held);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.read().bundles.len()
    }

    /// Those of partners there is a relationship with, by trust domain.
    pub fn list(&self) -> Vec<Arc<HeldBundle>> {
        let held = self.read();
        let related = held.bundles.iter().filter(|(partner, _)| held.related.contains(*partner));
        let mut list: Vec<_> = related.map(|(_, bundle)| Arc::clone(bundle)).collect();
        drop(held);
        list.sort_by(|a, b| a.bundle.trust_domain().cmp(b.bundle.trust_domain()));
        list
    }
}
