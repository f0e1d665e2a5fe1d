//! Accepted bundles on their way to the issuers: one lane an issuer, the latest bundle of each partner, retried until
//! the issuer confirms it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use federation_specs::id::TrustDomain;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::{
    issuer_client::{IssuerClient, IssuerError},
    partners::{HeldBundle, PartnerBundles, content_digest},
    store::{Store, StoreError, deliveries::DeliveryState},
};

/// Waits after a failed delivery.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Longest sleep of an idle lane.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// The lanes to every issuer.
#[derive(Debug)]
pub struct Deliveries {
    lanes: BTreeMap<TrustDomain, Arc<Lane>>,
}

/// Why a delivery failed.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The way to one issuer.
#[derive(Debug)]
struct Lane {
    local: TrustDomain,
    state: Mutex<LaneState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Partners whose bundles this issuer receives.
    wanted: BTreeSet<TrustDomain>,
    /// Partners to look at in the next round.
    due: BTreeSet<TrustDomain>,
    /// What was confirmed, by partner.
    confirmed: HashMap<TrustDomain, DeliveryState>,
    /// Partners whose confirmed bundle was seen at the issuer since the start.
    verified: HashSet<TrustDomain>,
    /// Partners whose bundle is to be delivered whatever the issuer holds.
    forced: HashSet<TrustDomain>,
    /// Content digests of the bundles the issuer last said to hold, `None` where it holds none.
    observed: HashMap<TrustDomain, Option<String>>,
    /// Deliveries that failed, and when to try again.
    retries: HashMap<TrustDomain, Retry>,
}

#[derive(Debug)]
struct Retry {
    backoff: Backoff,
    due: OffsetDateTime,
}

impl Deliveries {
    /// Lanes to the issuers of `locals`, going on from what the store knows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(locals: impl IntoIterator<Item = TrustDomain>, store: &Store) -> Result<Self, StoreError> {
        let mut lanes = BTreeMap::new();
        for local in locals {
            let state = LaneState { confirmed: store.deliveries(&local).await?, ..LaneState::default() };
            let lane = Lane { local: local.clone(), state: Mutex::new(state), wake: Notify::new() };
            lanes.insert(local, Arc::new(lane));
        }
        Ok(Self { lanes })
    }

    /// Says which partners' bundles each issuer receives from now on. Bundles delivered before stay where they are.
    pub fn set_wanted(&self, mut wanted: BTreeMap<TrustDomain, BTreeSet<TrustDomain>>) {
        for lane in self.lanes.values() {
            let wanted = wanted.remove(&lane.local).unwrap_or_default();
            let mut state = lane.state();
            if state.wanted == wanted {
                continue;
            }
            state.verified.retain(|partner| wanted.contains(partner));
            state.forced.retain(|partner| wanted.contains(partner));
            state.retries.retain(|partner, _| wanted.contains(partner));
            let added: Vec<_> = wanted.difference(&state.wanted).cloned().collect();
            state.due.extend(added);
            state.wanted = wanted;
            drop(state);
            lane.wake.notify_one();
        }
    }

    /// The partner was just fetched: what is held is what it says. Each receiver that holds something else gets it.
    pub fn refreshed(&self, partner: &TrustDomain, receivers: &BTreeSet<TrustDomain>) {
        for lane in receivers.iter().filter_map(|local| self.lanes.get(local)) {
            let mut state = lane.state();
            state.forced.insert(partner.clone());
            state.due.insert(partner.clone());
            drop(state);
            lane.wake.notify_one();
        }
    }

    /// What an issuer said to hold, by partner: a content digest, or nothing. What it lost is delivered again.
    pub fn observe(&self, local: &TrustDomain, held: HashMap<TrustDomain, Option<String>>) {
        let Some(lane) = self.lanes.get(local) else { return };
        let mut state = lane.state();
        let confirmed = |partner: &TrustDomain| state.confirmed.get(partner).is_some_and(|now| now.digest.is_some());
        let lost = held.iter().filter(|(partner, digest)| digest.is_none() && confirmed(partner));
        let lost: Vec<TrustDomain> = lost.map(|(partner, _)| partner.clone()).collect();
        state.observed = held;
        if lost.is_empty() {
            return;
        }
        state.forced.extend(lost.iter().cloned());
        state.due.extend(lost);
        drop(state);
        lane.wake.notify_one();
    }

    /// An issuer answers again after it was away: look whether it still holds what it confirmed.
    pub fn verify(&self, local: &TrustDomain) {
        let Some(lane) = self.lanes.get(local) else { return };
        let mut state = lane.state();
        state.verified.clear();
        let wanted = state.wanted.clone();
        state.due.extend(wanted);
        drop(state);
        lane.wake.notify_one();
    }

    /// The state of one delivery.
    pub fn state(&self, local: &TrustDomain, partner: &TrustDomain) -> DeliveryState {
        let lane = self.lanes.get(local);
        lane.and_then(|lane| lane.state().confirmed.get(partner).cloned()).unwrap_or_default()
    }

    /// Works on one lane until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub async fn run(
        self: Arc<Self>,
        client: IssuerClient,
        partners: Arc<PartnerBundles>,
        store: Store,
        clock: SharedClock,
        shutdown: Shutdown,
    ) -> Result<(), BoxError> {
        let Some(lane) = self.lanes.get(client.trust_domain()) else { return Ok(()) };
        let worker = Worker { lane, client, partners, store, clock };
        loop {
            let wait = tokio::select! {
                wait = worker.round() => wait,
                () = shutdown.cancelled() => return Ok(()),
            };
            tokio::select! {
                () = lane.wake.notified() => {}
                () = worker.clock.sleep(wait) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    /// Takes out what is to be looked at now: news, and failed deliveries whose wait is over.
    fn take_due(&mut self, now: OffsetDateTime) -> BTreeSet<TrustDomain> {
        let again = self.retries.iter().filter(|(_, retry)| retry.due <= now).map(|(partner, _)| partner.clone());
        let mut due: BTreeSet<TrustDomain> = again.collect();
        due.append(&mut self.due);
        due.retain(|partner| self.wanted.contains(partner));
        due
    }
}

/// What is to be done about one partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The issuer may hold something else: give it what is held.
    Deliver,
    /// It was confirmed before the gateway started: look whether it is still there.
    Verify,
}

struct Worker<'a> {
    lane: &'a Lane,
    client: IssuerClient,
    partners: Arc<PartnerBundles>,
    store: Store,
    clock: SharedClock,
}

impl Worker<'_> {
    /// Delivers everything that is due, one partner after the other, and answers when to look again.
    async fn round(&self) -> Duration {
        let due = self.lane.state().take_due(self.clock.now());
        for partner in due {
            let Some(held) = self.partners.get(&partner) else { continue };
            let Some(need) = self.need(&partner, &held) else { continue };
            if let Err(error) = self.deliver(&partner, &held, need).await {
                self.failed(&partner, &error).await;
            }
        }
        let next = self.lane.state().retries.values().map(|retry| retry.due).min();
        next.map_or(IDLE, |next| (next - self.clock.now()).try_into().unwrap_or_default())
    }

    fn need(&self, partner: &TrustDomain, held: &HeldBundle) -> Option<Need> {
        let mut state = self.lane.state();
        let confirmed = state.confirmed.get(partner).and_then(|delivery| delivery.digest.as_ref());
        if confirmed != Some(&held.digest) {
            return Some(Need::Deliver);
        }
        let moved = state.observed.get(partner).is_some_and(|now| now.as_ref() != Some(&held.content_digest));
        if state.forced.contains(partner) {
            if moved {
                return Some(Need::Deliver);
            }
            state.forced.remove(partner);
        }
        (!state.verified.contains(partner)).then_some(Need::Verify)
    }

    async fn deliver(&self, partner: &TrustDomain, held: &HeldBundle, need: Need) -> Result<(), DeliveryError> {
        let there = self.client.federated_bundle(partner).await?;
        let same = there.as_ref().is_some_and(|there| {
            content_digest(there) == held.content_digest && there.refresh_hint() == held.bundle.refresh_hint()
        });
        if !same {
            // What was never accepted here was put there by hand. It stays until the partner was fetched again.
            if need == Need::Verify
                && let Some(there) = &there
                && !self.store.knows_content(partner, &content_digest(there)).await?
            {
                tracing::warn!(
                    trust_domain = %partner,
                    issuer = %self.lane.local,
                    "the issuer holds another bundle than the one delivered; it is replaced after the next refresh"
                );
                self.lane.state().verified.insert(partner.clone());
                return Ok(());
            }
            self.client.set_federated_bundle(&held.bundle).await?;
            tracing::info!(trust_domain = %partner, issuer = %self.lane.local, "bundle delivered");
        }
        let delivery =
            DeliveryState { digest: Some(held.digest.clone()), delivered_at: Some(self.clock.now()), last_error: None };
        self.store.save_delivery(&self.lane.local, partner, &delivery).await?;
        let mut state = self.lane.state();
        state.confirmed.insert(partner.clone(), delivery);
        state.observed.insert(partner.clone(), Some(held.content_digest.clone()));
        state.verified.insert(partner.clone());
        state.forced.remove(partner);
        state.retries.remove(partner);
        Ok(())
    }

    /// Notes the failure and when to try again.
    async fn failed(&self, partner: &TrustDomain, error: &DeliveryError) {
        let text = error.to_string();
        let delivery = {
            let mut state = self.lane.state();
            let retry = state
                .retries
                .entry(partner.clone())
                .or_insert_with(|| Retry { backoff: Backoff::new(FIRST_RETRY, LAST_RETRY), due: self.clock.now() });
            retry.due = self.clock.now() + retry.backoff.next();
            let delivery = state.confirmed.entry(partner.clone()).or_default();
            let news = delivery.last_error.as_ref() != Some(&text);
            delivery.last_error = Some(text.clone());
            news.then(|| delivery.clone())
        };
        if let Some(delivery) = delivery {
            tracing::warn!(trust_domain = %partner, issuer = %self.lane.local, error = %text, "bundle not delivered");
            if let Err(error) = self.store.save_delivery(&self.lane.local, partner, &delivery).await {
                tracing::warn!(trust_domain = %partner, %error, "state of the delivery not stored");
            }
        }
    }
}
