//! The way to one issuer: what it receives, what it has confirmed, and what is to be looked at next.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use federation_specs::id::TrustDomain;
use service_kit::backoff::Backoff;
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::store::deliveries::DeliveryState;

/// The way to one issuer.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) local: TrustDomain,
    state: Mutex<LaneState>,
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
pub(super) struct LaneState {
    /// Partners whose bundles this issuer receives.
    pub(super) wanted: BTreeSet<TrustDomain>,
    /// Partners to look at in the next round.
    pub(super) due: BTreeSet<TrustDomain>,
    /// What was confirmed, by partner.
    pub(super) confirmed: HashMap<TrustDomain, DeliveryState>,
    /// Partners whose confirmed bundle was seen at the issuer since the start.
    pub(super) verified: HashSet<TrustDomain>,
    /// Partners whose bundle is to be delivered whatever the issuer holds.
    pub(super) forced: HashSet<TrustDomain>,
    /// Content digests of the bundles the issuer last said to hold, `None` where it holds none.
    pub(super) observed: HashMap<TrustDomain, Option<String>>,
    /// Waits while the issuer does not answer.
    pub(super) away: Option<Backoff>,
    /// Deliveries that failed, and when to try again.
    pub(super) retries: HashMap<TrustDomain, Retry>,
    /// Whether it was said which partners are wanted. Before, nothing is taken back.
    pub(super) told: bool,
    /// Partners whose changes at the issuer are shown and not corrected.
    pub(super) shown_only: HashSet<TrustDomain>,
    /// When what the issuer holds is compared the next time.
    pub(super) next_compare: Option<OffsetDateTime>,
}

#[derive(Debug)]
pub(super) struct Retry {
    pub(super) backoff: Backoff,
    pub(super) due: OffsetDateTime,
}

impl Lane {
    /// To the issuer of `local`, which has confirmed so much.
    pub(super) fn new(local: TrustDomain, confirmed: HashMap<TrustDomain, DeliveryState>) -> Self {
        let state = LaneState { confirmed, ..LaneState::default() };
        Self { local, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Goes on from what another gateway has confirmed.
    pub(super) fn take_over(&self, confirmed: HashMap<TrustDomain, DeliveryState>) {
        let mut state = self.state();
        state.confirmed = confirmed;
        state.verified.clear();
        state.retries.clear();
        state.away = None;
        let all: Vec<_> = state.wanted.iter().chain(state.may_be_there()).cloned().collect();
        state.due.extend(all);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    /// Takes out what is to be looked at now: news, and failed deliveries whose wait is over.
    pub(super) fn take_due(&mut self, now: OffsetDateTime) -> BTreeSet<TrustDomain> {
        let again = self.retries.iter().filter(|(_, retry)| retry.due <= now).map(|(partner, _)| partner.clone());
        let mut due: BTreeSet<TrustDomain> = again.collect();
        due.append(&mut self.due);
        due
    }

    /// Partners whose bundle the issuer confirmed.
    pub(super) fn delivered(&self) -> impl Iterator<Item = &TrustDomain> {
        self.confirmed.iter().filter(|(_, delivery)| delivery.digest.is_some()).map(|(partner, _)| partner)
    }

    /// Partners whose bundle the issuer confirmed, or may have received.
    pub(super) fn may_be_there(&self) -> impl Iterator<Item = &TrustDomain> {
        self.confirmed.iter().filter(|(_, delivery)| delivery.may_be_there()).map(|(partner, _)| partner)
    }
}

/// Partners to look at in one round.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Those not sorted yet.
    news: BTreeSet<TrustDomain>,
    wanted: BTreeSet<TrustDomain>,
    unwanted: BTreeSet<TrustDomain>,
}

impl Due {
    /// These.
    pub(super) fn of(news: BTreeSet<TrustDomain>) -> Self {
        Self { news, ..Self::default() }
    }

    /// The next partner and whether its bundle is wanted.
    pub(super) fn next(&mut self, state: &mut LaneState) -> Option<(TrustDomain, bool)> {
        self.news.append(&mut state.due);
        for partner in std::mem::take(&mut self.news) {
            let (to, from) = match state.wanted.contains(&partner) {
                true => (&mut self.wanted, &mut self.unwanted),
                false => (&mut self.unwanted, &mut self.wanted),
            };
            from.remove(&partner);
            to.insert(partner);
        }
        let unwanted = self.unwanted.pop_first().map(|partner| (partner, false));
        unwanted.or_else(|| Some((self.wanted.pop_first()?, true)))
    }
}
