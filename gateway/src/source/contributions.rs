//! What each source of one trust domain gives, and what is made of it: the union of keys, with a guard that keeps back
//! what no rotation does.
//!
//! The rules:
//! - A source that gave keys and suddenly gives none, or gives a lower sequence number than before or none any more, is
//!   *held*: what it gave before stays in the union until it gives something acceptable again or an operator accepts what
//!   it offers.
//! - X.509 authorities are the same if their certificates are, JWT and WIT keys if their key ID is; of different keys
//!   with one ID that of the source listed first counts. An authority is tainted if any source says so.
//! - One source: its sequence number is published. Several: the sum of theirs; none if one of them gives none. Replicas
//!   with the same sources so publish the same number, without talking to each other.
//! - What was published never goes back, as partners would refuse it: where the number is below what was published (a
//!   source was removed, an operator accepted a rollback), what was published goes on and grows as the number does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    id::TrustDomain,
};
use time::OffsetDateTime;

use crate::partners::content_digest;

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
    /// The sequence number is gone, so that nothing older would be noticed any more.
    #[error("it gives no sequence number after {accepted}, so that a rollback could not be told")]
    Unnumbered {
        /// Sequence number of what is published.
        accepted: u64,
    },
}

impl HeldReason {
    fn kind(self) -> &'static str {
        match self {
            Self::Emptied => "emptied",
            Self::RolledBack { .. } => "rolled_back",
            Self::Unnumbered { .. } => "unnumbered",
        }
    }
}

/// What the store keeps of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRecord {
    /// What counts of it.
    pub accepted: Arc<Bundle>,
    /// What it gives instead.
    pub held: Option<HeldRecord>,
}

/// A bundle of a source that was held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRecord {
    /// Since when.
    pub since: OffsetDateTime,
    /// Why and which keys: the same again is no news.
    pub mark: String,
}

/// A source of which the store does not hold what is in memory.
#[derive(Debug)]
pub(crate) struct Unsaved {
    /// Which of the domain's sources it is.
    pub(crate) index: usize,
    /// The source.
    pub(crate) key: String,
    /// What the store is to hold.
    pub(crate) record: SourceRecord,
    /// Whether it was held in the store.
    pub(crate) was_held: bool,
    /// What is newly held back, and why.
    pub(crate) newly_held: Option<(Arc<Bundle>, HeldReason)>,
}

/// A held bundle that an operator may accept.
#[derive(Debug, Clone)]
pub(crate) struct HeldOffer {
    /// Which of the domain's sources gave it.
    pub(crate) index: usize,
    /// The source.
    pub(crate) key: String,
    /// What it gives.
    pub(crate) bundle: Arc<Bundle>,
    /// Why it is held back.
    pub(crate) reason: HeldReason,
}

/// How one source is doing.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    /// The source, as [`crate::settings::SourceSettings::key`] names it.
    pub key: String,
    /// What counts of it.
    pub accepted: Option<Arc<Bundle>>,
    /// What it gives now, if that is held back.
    pub offered: Option<Arc<Bundle>>,
    /// Why that does not count.
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
    /// It counts.
    Accepted,
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
    /// What the store holds of it.
    saved: Option<SourceRecord>,
}

/// The sources of one trust domain.
#[derive(Debug)]
pub struct Contributions {
    trust_domain: TrustDomain,
    slots: Mutex<Vec<Slot>>,
    /// The sum of the sources' numbers when what is published was made.
    counted: Mutex<Option<u64>>,
}

impl Contributions {
    /// Sources with these keys, in the order of precedence, that gave nothing yet.
    pub fn new(trust_domain: TrustDomain, keys: impl IntoIterator<Item = String>) -> Self {
        let slot = |key| Slot {
            status: SourceStatus {
                key,
                accepted: None,
                offered: None,
                held: None,
                held_since: None,
                failing_since: None,
                last_error: None,
            },
            saved: None,
        };
        Self { trust_domain, slots: Mutex::new(keys.into_iter().map(slot).collect()), counted: Mutex::default() }
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

    /// What a source gave before the restart, as the store holds it.
    pub(crate) fn restore(&self, key: &str, record: SourceRecord) {
        if let Some(slot) = self.slots().iter_mut().find(|slot| slot.status.key == key) {
            slot.status.accepted = Some(Arc::clone(&record.accepted));
            slot.saved = Some(record);
        }
    }

    /// What a source gave before the restart, from a store that did not keep sources one by one.
    pub(crate) fn restore_unsaved(&self, key: &str, bundle: Bundle) {
        if let Some(slot) = self.slots().iter_mut().find(|slot| slot.status.key == key) {
            slot.status.accepted = Some(Arc::new(bundle));
        }
    }

    /// What the store does not hold yet of source number `index`, which has answered since the start.
    pub(crate) fn unsaved(&self, index: usize) -> Option<Unsaved> {
        let slots = self.slots();
        let slot = slots.get(index)?;
        let record = slot.record()?;
        let mark = |record: &SourceRecord| record.held.as_ref().map(|held| held.mark.clone());
        let saved = slot.saved.as_ref();
        if saved.is_some_and(|saved| saved.accepted == record.accepted && mark(saved) == mark(&record)) {
            return None;
        }
        let is_news = mark(&record).is_some() && saved.and_then(mark) != mark(&record);
        Some(Unsaved {
            index,
            key: slot.status.key.clone(),
            was_held: saved.is_some_and(|saved| saved.held.is_some()),
            newly_held: slot.status.offered.clone().zip(slot.status.held).filter(|_| is_news),
            record,
        })
    }

    /// The store holds `record` of source number `index`.
    pub(crate) fn saved(&self, index: usize, record: SourceRecord) {
        if let Some(slot) = self.slots().get_mut(index) {
            slot.saved = Some(record);
        }
    }

    /// Source number `index` gives `bundle`.
    pub(crate) fn offer(&self, index: usize, bundle: &Bundle, now: OffsetDateTime) -> Offer {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(index) else { return Offer::Accepted };
        slot.status.failing_since = None;
        slot.status.last_error = None;
        if let Some(reason) = slot.status.accepted.as_deref().and_then(|accepted| objection(accepted, bundle)) {
            let news = slot.status.held != Some(reason);
            slot.status.held = Some(reason);
            let since = slot.saved.as_ref().and_then(|saved| Some(saved.held.as_ref()?.since));
            slot.status.held_since.get_or_insert(since.unwrap_or(now));
            slot.status.offered = Some(Arc::new(bundle.clone()));
            return Offer::Held { reason, news };
        }
        if slot.status.accepted.as_deref() != Some(bundle) {
            slot.status.accepted = Some(Arc::new(bundle.clone()));
        }
        slot.release();
        Offer::Accepted
    }

    /// Source number `index` does not answer. `known_until` is when it last did, if that is known.
    pub(crate) fn failed(&self, index: usize, error: &str, known_until: OffsetDateTime) {
        if let Some(slot) = self.slots().get_mut(index) {
            slot.status.failing_since.get_or_insert(known_until);
            slot.status.last_error = Some(error.to_owned());
        }
    }

    /// What held sources give.
    pub(crate) fn held_offers(&self) -> Vec<HeldOffer> {
        let slots = self.slots();
        let offers = slots.iter().enumerate().filter_map(|(index, slot)| {
            let (reason, bundle) = (slot.status.held?, slot.status.offered.clone()?);
            Some(HeldOffer { index, key: slot.status.key.clone(), bundle, reason })
        });
        offers.collect()
    }

    /// An operator accepted these, and the store holds them.
    pub(crate) fn accepted(&self, offers: &[HeldOffer]) {
        let mut slots = self.slots();
        for offer in offers {
            if let Some(slot) = slots.get_mut(offer.index) {
                slot.status.accepted = Some(Arc::clone(&offer.bundle));
                slot.saved = Some(SourceRecord { accepted: Arc::clone(&offer.bundle), held: None });
                slot.release();
            }
        }
    }

    /// The union of what counts, `None` while nothing does. `published` is what is served now.
    pub(crate) fn merged(&self, published: Option<&Bundle>) -> Option<Bundle> {
        self.merged_with(&[], published)
    }

    /// The union if `offers` counted.
    pub(crate) fn merged_with(&self, offers: &[HeldOffer], published: Option<&Bundle>) -> Option<Bundle> {
        let counts = |(index, slot): (usize, &Slot)| {
            let offer = offers.iter().find(|offer| offer.index == index);
            offer.map(|offer| Arc::clone(&offer.bundle)).or_else(|| slot.status.accepted.clone())
        };
        let accepted: Vec<Arc<Bundle>> = self.slots().iter().enumerate().filter_map(counts).collect();
        let merged = match accepted.as_slice() {
            [] => return None,
            [only] if self.len() == 1 => (**only).clone(),
            all => union(&self.trust_domain, all),
        };
        let before = published.and_then(|before| Some((before.sequence()?, before)));
        let counted = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match (sum(&accepted), before) {
            // The numbers of a single source are passed on as they are, until what is published has gone beyond them.
            (Some(sum), Some((before, _)))
                if self.len() == 1 && sum >= before && counted.is_none_or(|counted| counted >= before) =>
            {
                Some(sum)
            }
            (Some(sum), Some((before, bundle))) => {
                let grown = before.saturating_add(counted.map_or(0, |counted| sum.saturating_sub(counted)));
                let changed = !same_keys(bundle, &merged);
                Some(if changed && grown == before { before.saturating_add(1) } else { grown }.max(sum))
            }
            (sum, _) => sum,
        };
        Some(merged.with_sequence(number))
    }

    /// What counts now is what is published.
    pub(crate) fn published(&self) {
        let accepted: Vec<_> = self.slots().iter().filter_map(|slot| slot.status.accepted.clone()).collect();
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = sum(&accepted);
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// What the store is to hold of it, `None` while nothing counts.
    fn record(&self) -> Option<SourceRecord> {
        let accepted = self.status.accepted.clone()?;
        let held = self.status.offered.as_ref().zip(self.status.held).map(|(offered, reason)| HeldRecord {
            since: self.status.held_since.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            mark: format!("{} {}", reason.kind(), content_digest(offered)),
        });
        Some(SourceRecord { accepted, held })
    }

    fn release(&mut self) {
        self.status.held = None;
        self.status.held_since = None;
        self.status.offered = None;
    }
}

fn objection(accepted: &Bundle, offered: &Bundle) -> Option<HeldReason> {
    match (accepted.sequence(), offered.sequence()) {
        (Some(accepted), Some(offered)) if offered < accepted => Some(HeldReason::RolledBack { accepted, offered }),
        _ if offered.is_empty() && !accepted.is_empty() => Some(HeldReason::Emptied),
        (Some(accepted), None) => Some(HeldReason::Unnumbered { accepted }),
        _ => None,
    }
}

/// The sum of their numbers, `None` if one has none.
fn sum(bundles: &[Arc<Bundle>]) -> Option<u64> {
    bundles.iter().try_fold(0_u64, |sum, bundle| sum.checked_add(bundle.sequence()?))
}

fn union(trust_domain: &TrustDomain, bundles: &[Arc<Bundle>]) -> Bundle {
    let mut x509: Vec<X509Authority> = Vec::new();
    for authority in bundles.iter().flat_map(|bundle| bundle.x509_authorities()) {
        match x509.iter_mut().find(|held| held.der() == authority.der()) {
            Some(held) if authority.tainted() && !held.tainted() => *held = authority.clone(),
            Some(_) => {}
            None => x509.push(authority.clone()),
        }
    }
    Bundle::new(trust_domain.clone())
        .with_x509_authorities(x509)
        .with_jwt_authorities(keys(trust_domain, bundles, Bundle::jwt_authorities))
        .with_wit_authorities(keys(trust_domain, bundles, Bundle::wit_authorities))
}

/// Whether both publish the same keys: refresh hint and taint marks do not count.
fn same_keys(before: &Bundle, after: &Bundle) -> bool {
    content_digest(before) == content_digest(after)
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
