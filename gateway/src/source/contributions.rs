//! What each source of one trust domain gives, and what is made of it: the union of keys, with a guard that keeps back
//! what no rotation does.
//!
//! The rules:
//! - A source that gave keys and suddenly gives none, or gives a lower sequence number than before, is *held*: what it
//!   gave before stays in the union until it gives something acceptable again or an operator accepts what it offers.
//! - X.509 authorities are the same if their certificates are, JWT and WIT keys if their key ID is; of different keys
//!   with one ID that of the source listed first counts. An authority is tainted if any source says so.
//! - One source: its sequence number is published. Several: the sum of theirs, raised to one more than what was
//!   published before where keys changed, so that it never goes back; none if one of them gives none. Replicas with the
//!   same sources so publish the same number, without talking to each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    id::TrustDomain,
};
use time::OffsetDateTime;

/// Why what a source gives is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeldReason {
    /// All keys are gone.
    #[error("it lost all its keys, which would revoke all trust in the domain")]
    Emptied,
    /// The sequence number went back.
    #[error("it went back from sequence {accepted} to {offered}")]
    RolledBack {
        /// Sequence number of what is published.
        accepted: u64,
        /// Sequence number of what it gives now.
        offered: u64,
    },
}

/// How one source is doing.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    /// The source, as [`crate::settings::SourceSettings::key`] names it.
    pub key: String,
    /// What counts of it.
    pub accepted: Option<Arc<Bundle>>,
    /// Why what it gives now does not count.
    pub held: Option<HeldReason>,
    /// Since when it gives that.
    pub held_since: Option<OffsetDateTime>,
    /// Until when what is accepted was known to be what the source says; `None` while it is known.
    pub failing_since: Option<OffsetDateTime>,
    /// Why it fails.
    pub last_error: Option<String>,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It counts; `changed` says whether it differs from what counted before.
    Accepted {
        /// Whether it differs from what counted before.
        changed: bool,
    },
    /// It does not count; `news` says whether it did not before.
    Held {
        /// Why.
        reason: HeldReason,
        /// Whether this was not so at the offer before.
        news: bool,
    },
}

#[derive(Debug)]
struct Slot {
    status: SourceStatus,
    /// What is held back.
    offered: Option<Arc<Bundle>>,
}

/// The sources of one trust domain.
#[derive(Debug)]
pub struct Contributions {
    trust_domain: TrustDomain,
    slots: Mutex<Vec<Slot>>,
}

impl Contributions {
    /// Sources with these keys, in the order of precedence, that gave nothing yet.
    pub fn new(trust_domain: TrustDomain, keys: impl IntoIterator<Item = String>) -> Self {
        let slot = |key| Slot {
            status: SourceStatus {
                key,
                accepted: None,
                held: None,
                held_since: None,
                failing_since: None,
                last_error: None,
            },
            offered: None,
        };
        Self { trust_domain, slots: Mutex::new(keys.into_iter().map(slot).collect()) }
    }

    /// How each source is doing, in order.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.slots().iter().map(|slot| slot.status.clone()).collect()
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.slots().len()
    }

    /// Whether there is no source.
    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// How many sources are held.
    pub fn held(&self) -> usize {
        self.slots().iter().filter(|slot| slot.status.held.is_some()).count()
    }

    /// The earliest time since when a source that counts fails.
    pub(crate) fn failing_since(&self) -> Option<OffsetDateTime> {
        self.slots().iter().filter_map(|slot| slot.status.failing_since).min()
    }

    /// The held sources in words.
    pub(crate) fn held_in_words(&self) -> Option<String> {
        let slots = self.slots();
        let held = slots.iter().filter_map(|slot| Some((&slot.status.key, slot.status.held?)));
        let words: Vec<String> = held.map(|(key, reason)| format!("source `{key}` is held: {reason}")).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// What a source gave before the restart.
    pub(crate) fn restore(&self, key: &str, bundle: Bundle) {
        if let Some(slot) = self.slots().iter_mut().find(|slot| slot.status.key == key) {
            slot.status.accepted = Some(Arc::new(bundle));
        }
    }

    /// Source number `index` gives `bundle`.
    pub(crate) fn offer(&self, index: usize, bundle: &Bundle, now: OffsetDateTime) -> Offer {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(index) else { return Offer::Accepted { changed: false } };
        slot.status.failing_since = None;
        slot.status.last_error = None;
        if let Some(reason) = slot.status.accepted.as_deref().and_then(|accepted| objection(accepted, bundle)) {
            let news = slot.status.held != Some(reason);
            slot.status.held = Some(reason);
            slot.status.held_since.get_or_insert(now);
            slot.offered = Some(Arc::new(bundle.clone()));
            return Offer::Held { reason, news };
        }
        let changed = slot.status.accepted.as_deref() != Some(bundle);
        if changed {
            slot.status.accepted = Some(Arc::new(bundle.clone()));
        }
        slot.release();
        Offer::Accepted { changed }
    }

    /// Source number `index` does not answer. `known_until` is when it last did, if that is known.
    pub(crate) fn failed(&self, index: usize, error: &str, known_until: OffsetDateTime) {
        if let Some(slot) = self.slots().get_mut(index) {
            slot.status.failing_since.get_or_insert(known_until);
            slot.status.last_error = Some(error.to_owned());
        }
    }

    /// An operator accepts what held sources offer. Answers their keys and what counts of them now.
    pub(crate) fn accept_held(&self) -> Vec<(String, Arc<Bundle>)> {
        let mut accepted = Vec::new();
        for slot in self.slots().iter_mut() {
            if slot.status.held.is_some()
                && let Some(offered) = slot.offered.take()
            {
                slot.status.accepted = Some(Arc::clone(&offered));
                slot.release();
                accepted.push((slot.status.key.clone(), offered));
            }
        }
        accepted
    }

    /// The union of what counts, `None` while nothing does. `published` is what is served now.
    pub(crate) fn merged(&self, published: Option<&Bundle>) -> Option<Bundle> {
        let accepted: Vec<Arc<Bundle>> = self.slots().iter().filter_map(|slot| slot.status.accepted.clone()).collect();
        match accepted.as_slice() {
            [] => None,
            // Its numbers are passed on as they are.
            [only] if self.len() == 1 => Some((**only).clone()),
            all => Some(union(&self.trust_domain, all, published)),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn release(&mut self) {
        self.status.held = None;
        self.status.held_since = None;
        self.offered = None;
    }
}

fn objection(accepted: &Bundle, offered: &Bundle) -> Option<HeldReason> {
    if let (Some(accepted), Some(offered)) = (accepted.sequence(), offered.sequence())
        && offered < accepted
    {
        return Some(HeldReason::RolledBack { accepted, offered });
    }
    (offered.is_empty() && !accepted.is_empty()).then_some(HeldReason::Emptied)
}

fn union(trust_domain: &TrustDomain, bundles: &[Arc<Bundle>], published: Option<&Bundle>) -> Bundle {
    let mut x509: Vec<X509Authority> = Vec::new();
    for authority in bundles.iter().flat_map(|bundle| bundle.x509_authorities()) {
        match x509.iter_mut().find(|held| held.der() == authority.der()) {
            Some(held) if authority.tainted() && !held.tainted() => *held = authority.clone(),
            Some(_) => {}
            None => x509.push(authority.clone()),
        }
    }
    let merged = Bundle::new(trust_domain.clone())
        .with_x509_authorities(x509)
        .with_jwt_authorities(keys(trust_domain, bundles, Bundle::jwt_authorities))
        .with_wit_authorities(keys(trust_domain, bundles, Bundle::wit_authorities));
    let sum = bundles.iter().try_fold(0_u64, |sum, bundle| sum.checked_add(bundle.sequence()?));
    let sequence = sum.map(|sum| match published {
        Some(before) if same_keys(before, &merged) => before.sequence().unwrap_or(0).max(sum),
        Some(before) => before.sequence().unwrap_or(0).saturating_add(1).max(sum),
        None => sum,
    });
    merged.with_sequence(sequence)
}

/// Whether both publish the same keys: refresh hint and taint marks do not count.
fn same_keys(before: &Bundle, after: &Bundle) -> bool {
    crate::partners::content_digest(before) == crate::partners::content_digest(after)
}

fn keys(
    trust_domain: &TrustDomain,
    bundles: &[Arc<Bundle>],
    of: impl Fn(&Bundle) -> &[JwtAuthority],
) -> Vec<JwtAuthority> {
    let mut keys: Vec<JwtAuthority> = Vec::new();
    for authority in bundles.iter().flat_map(|bundle| of(bundle)) {
        match keys.iter_mut().find(|held| held.key_id() == authority.key_id()) {
            Some(held) if held.public_key() != authority.public_key() => tracing::warn!(
                %trust_domain,
                key_id = authority.key_id(),
                "two sources give different keys with one ID; that of the source listed first is published"
            ),
            Some(held) if authority.tainted() && !held.tainted() => *held = authority.clone(),
            Some(_) => {}
            None => keys.push(authority.clone()),
        }
    }
    keys
}

#[cfg(test)]
#[path = "contributions_tests.rs"]
mod tests;
