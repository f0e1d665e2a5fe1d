//! Accepted bundles on their way to the issuers: one lane an issuer, the latest bundle of each partner, retried until
//! the issuer confirms it; taken back when the relationship ends; compared from time to time with what the issuer holds.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use federation_specs::id::TrustDomain;
use serde_json::json;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};
use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::{
    audit::{Action, Actor, Event},
    issuer_client::{IssuerClient, IssuerError},
    metrics::GatewayMetrics,
    partners::{HeldBundle, PartnerBundles, content_digest},
    store::{
        Store, StoreError,
        deliveries::{DeliveryState, DriftState},
    },
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
    metrics: GatewayMetrics,
}

/// How one delivery goes.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryProgress {
    /// The partner.
    pub(crate) partner: TrustDomain,
    /// The issuer's trust domain.
    pub(crate) local: TrustDomain,
    /// Failed attempts in a row since the start.
    pub(crate) attempts: u32,
    /// Why the last attempt failed; `None` after a success.
    pub(crate) last_error: Option<String>,
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
    /// Whether it was said which partners are wanted. Before, nothing is taken back.
    told: bool,
    /// Partners whose changes at the issuer are shown and not corrected.
    shown_only: HashSet<TrustDomain>,
    /// When what the issuer holds is compared the next time.
    next_compare: Option<OffsetDateTime>,
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
        Ok(Self { lanes, metrics: GatewayMetrics::new() })
    }

    /// Counts in `metrics`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: GatewayMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Where deliveries and refreshes are counted.
    pub(crate) fn metrics(&self) -> &GatewayMetrics {
        &self.metrics
    }

    /// Says who receives the partner's bundle from now on; it is taken back from the others. Changes of it at an issuer
    /// are only shown if `shown_only`.
    pub fn want(&self, partner: &TrustDomain, receivers: &BTreeSet<TrustDomain>, shown_only: bool) {
        for lane in self.lanes.values() {
            let mut state = lane.state();
            if shown_only {
                state.shown_only.insert(partner.clone());
            } else {
                state.shown_only.remove(partner);
            }
            let wanted = receivers.contains(&lane.local);
            if wanted == state.wanted.contains(partner) {
                continue;
            }
            if wanted {
                state.wanted.insert(partner.clone());
            } else {
                state.wanted.remove(partner);
                state.verified.remove(partner);
                state.forced.remove(partner);
            }
            state.retries.remove(partner);
            state.due.insert(partner.clone());
            drop(state);
            lane.wake.notify_one();
        }
    }

    /// Everything wanted was said: what was delivered before the gateway started and is not wanted any more is taken
    /// back from now on.
    pub fn all_told(&self) {
        for lane in self.lanes.values() {
            let mut state = lane.state();
            state.told = true;
            let gone: Vec<_> = state.delivered().filter(|partner| !state.wanted.contains(*partner)).cloned().collect();
            state.due.extend(gone);
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
        let lost = held
            .iter()
            .filter(|(partner, digest)| digest.is_none() && confirmed(partner) && !state.shown_only.contains(*partner));
        let lost: Vec<TrustDomain> = lost.map(|(partner, _)| partner.clone()).collect();
        state.observed.extend(held);
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

    /// How each delivery goes.
    pub(crate) fn progress(&self) -> Vec<DeliveryProgress> {
        let lanes = self.lanes.values().flat_map(|lane| {
            let state = lane.state();
            let progress = |(partner, delivery): (&TrustDomain, &DeliveryState)| DeliveryProgress {
                partner: partner.clone(),
                local: lane.local.clone(),
                attempts: state.retries.get(partner).map_or(0, |retry| retry.backoff.attempts()),
                last_error: delivery.last_error.clone(),
            };
            state.confirmed.iter().map(progress).collect::<Vec<_>>()
        });
        lanes.collect()
    }

    /// Receivers, and how many bundles the last delivery to them failed for.
    pub(crate) fn failing(&self) -> Vec<(TrustDomain, u32)> {
        let failing = |lane: &Arc<Lane>| {
            let failed = lane.state().confirmed.values().filter(|delivery| delivery.last_error.is_some()).count();
            (lane.local.clone(), u32::try_from(failed).unwrap_or(u32::MAX))
        };
        self.lanes.values().map(failing).collect()
    }

    /// Takes note of what the gateway that delivers to `local` has confirmed.
    pub(crate) fn confirmed_elsewhere(&self, local: &TrustDomain, confirmed: HashMap<TrustDomain, DeliveryState>) {
        if let Some(lane) = self.lanes.get(local) {
            lane.state().confirmed = confirmed;
        }
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
        compare_interval: Duration,
        shutdown: Shutdown,
    ) -> Result<(), BoxError> {
        let Some(lane) = self.lanes.get(client.trust_domain()) else { return Ok(()) };
        let worker = Worker { lane, client, partners, store, clock, compare_interval, metrics: self.metrics.clone() };
        let mut leases = worker.store.leases().watch();
        loop {
            if !worker.store.leases().holds(&lane.local) {
                tokio::select! {
                    () = leases.gained(&lane.local) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                // What the gateway that delivered before has confirmed; all of it is looked at again.
                match worker.store.deliveries(&lane.local).await {
                    Ok(confirmed) => lane.take_over(confirmed),
                    Err(error) => {
                        tracing::warn!(issuer = %lane.local, %error, "state of deliveries not read, trying again");
                        tokio::select! {
                            () = worker.clock.sleep(FIRST_RETRY) => continue,
                            () = shutdown.cancelled() => return Ok(()),
                        }
                    }
                }
            }
            let wait = tokio::select! {
                wait = worker.round() => wait,
                () = leases.lost(&lane.local) => continue,
                () = shutdown.cancelled() => return Ok(()),
            };
            tokio::select! {
                () = leases.lost(&lane.local) => {}
                () = lane.wake.notified() => {}
                () = worker.clock.sleep(wait) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

impl Lane {
    /// Goes on from what another gateway has confirmed.
    fn take_over(&self, confirmed: HashMap<TrustDomain, DeliveryState>) {
        let mut state = self.state();
        state.confirmed = confirmed;
        state.verified.clear();
        state.retries.clear();
        let all: Vec<_> = state.wanted.iter().chain(state.delivered()).cloned().collect();
        state.due.extend(all);
    }

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
        due
    }

    /// Partners whose bundle the issuer confirmed.
    fn delivered(&self) -> impl Iterator<Item = &TrustDomain> {
        self.confirmed.iter().filter(|(_, delivery)| delivery.digest.is_some()).map(|(partner, _)| partner)
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
    compare_interval: Duration,
    metrics: GatewayMetrics,
}

impl Worker<'_> {
    /// Delivers everything that is due, one partner after the other, and answers when to look again.
    async fn round(&self) -> Duration {
        let (due, wanted) = {
            let mut state = self.lane.state();
            if !state.told {
                return IDLE;
            }
            let due = state.take_due(self.clock.now());
            let (wanted, unwanted): (Vec<_>, Vec<_>) = due.into_iter().partition(|name| state.wanted.contains(name));
            (unwanted, wanted)
        };
        for partner in due {
            if let Err(error) = self.take_back(&partner).await {
                self.failed(&partner, &error).await;
            }
        }
        for partner in wanted {
            let Some(held) = self.partners.get(&partner) else { continue };
            let Some(need) = self.need(&partner, &held) else { continue };
            if let Err(error) = self.deliver(&partner, &held, need).await {
                self.failed(&partner, &error).await;
            }
        }
        self.compare_when_due().await;
        let state = self.lane.state();
        let next = state.retries.values().map(|retry| retry.due).chain(state.next_compare).min();
        let news = !state.due.is_empty();
        drop(state);
        if news {
            return Duration::ZERO;
        }
        next.map_or(IDLE, |next| (next - self.clock.now()).try_into().unwrap_or_default())
    }

    fn need(&self, partner: &TrustDomain, held: &HeldBundle) -> Option<Need> {
        let mut state = self.lane.state();
        let confirmed = state.confirmed.get(partner).and_then(|delivery| delivery.digest.as_ref());
        if confirmed != Some(&held.digest) {
            return Some(Need::Deliver);
        }
        let moved = state.observed.get(partner).is_some_and(|now| now.as_ref() != Some(&held.content_digest));
        if moved && state.shown_only.contains(partner) {
            state.forced.remove(partner);
            return None;
        }
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
        let before = self.lane.state().confirmed.get(partner).cloned().unwrap_or_default();
        let there_digest = there.as_ref().map(content_digest);
        if !same {
            let shown_only = self.lane.state().shown_only.contains(partner);
            // What was never accepted here was put there by hand. It stays until the partner was fetched again.
            let by_hand = match &there_digest {
                Some(digest) => !self.store.knows_content(partner, digest).await?,
                None => false,
            };
            let moved = there_digest.as_ref() != Some(&held.content_digest);
            if need == Need::Verify && moved && (by_hand || shown_only) {
                self.lane.state().verified.insert(partner.clone());
                return self.note_drift(partner, there_digest).await;
            }
            self.client.set_federated_bundle(&held.bundle).await?;
            self.metrics.delivered(&self.lane.local, true);
            tracing::info!(trust_domain = %partner, issuer = %self.lane.local, "bundle delivered");
        }
        let delivery = DeliveryState {
            digest: Some(held.digest.clone()),
            delivered_at: Some(self.clock.now()),
            last_error: None,
            content_digest: Some(held.content_digest.clone()),
            drift: None,
        };
        let found = there_digest.map(|digest| json!({ "content_digest": digest }));
        let event = Event {
            who: &Actor::Gateway,
            what: Action::Delivered,
            subject: self.subject(partner),
            before: found.unwrap_or_default(),
            after: json!({ "digest": held.digest, "content_digest": held.content_digest }),
            why: match (same, before.digest.as_ref() == Some(&held.digest)) {
                (true, _) => "the issuer holds it already",
                (false, true) => "the issuer held something else",
                (false, false) => "it is in force",
            },
        };
        let news = !same || before.digest.as_ref() != Some(&held.digest) || before.drift.is_some();
        self.store.save_delivery(&self.lane.local, partner, &delivery, news.then_some(&event)).await?;
        let mut state = self.lane.state();
        state.confirmed.insert(partner.clone(), delivery);
        state.observed.insert(partner.clone(), Some(held.content_digest.clone()));
        state.verified.insert(partner.clone());
        state.forced.remove(partner);
        state.retries.remove(partner);
        Ok(())
    }

    fn subject(&self, partner: &TrustDomain) -> String {
        format!("{partner} at {}", self.lane.local)
    }

    /// Takes a delivered bundle from the issuer, unless somebody changed it there: that one is not ours to remove.
    async fn take_back(&self, partner: &TrustDomain) -> Result<(), DeliveryError> {
        let delivery = self.lane.state().confirmed.get(partner).cloned().unwrap_or_default();
        if delivery.digest.is_some() {
            let there = self.client.federated_bundle(partner).await?.as_ref().map(content_digest);
            let ours = there.is_some() && there == delivery.content_digest;
            if ours {
                self.client.delete_federated_bundle(partner).await?;
                tracing::info!(trust_domain = %partner, issuer = %self.lane.local, "delivered bundle removed");
            }
            let (what, why) = match (ours, &there) {
                (true, _) => (Action::Undelivered, "the relationship ended, or its bundle expired"),
                (false, None) => (Action::Undelivered, "the issuer does not hold it any more"),
                (false, Some(_)) => (Action::Left, "somebody changed it at the issuer"),
            };
            let event = Event {
                who: &Actor::Gateway,
                what,
                subject: self.subject(partner),
                before: json!({ "digest": delivery.digest, "content_digest": delivery.content_digest }),
                after: there.filter(|_| !ours).map(|digest| json!({ "content_digest": digest })).unwrap_or_default(),
                why,
            };
            self.store.remove_delivery(&self.lane.local, partner, &event).await?;
        }
        let mut state = self.lane.state();
        state.confirmed.remove(partner);
        state.observed.remove(partner);
        state.retries.remove(partner);
        Ok(())
    }

    /// Compares what the issuer holds with what was delivered, when it is time.
    async fn compare_when_due(&self) {
        let now = self.clock.now();
        if self.lane.state().next_compare.is_some_and(|next| now < next) {
            return;
        }
        self.lane.state().next_compare = Some(now + self.compare_interval);
        if self.lane.state().delivered().next().is_none() {
            return;
        }
        match self.client.federated_digests().await {
            Ok(there) => self.compare(&there).await,
            Err(error) => {
                tracing::debug!(issuer = %self.lane.local, %error, "bundles of the issuer not compared");
            }
        }
    }

    async fn compare(&self, there: &HashMap<TrustDomain, String>) {
        let delivered: Vec<TrustDomain> = {
            let state = self.lane.state();
            state.delivered().filter(|partner| state.wanted.contains(*partner)).cloned().collect()
        };
        for partner in delivered {
            let found = there.get(&partner).cloned();
            {
                let mut state = self.lane.state();
                if found.is_none() && !state.shown_only.contains(&partner) {
                    state.forced.insert(partner.clone());
                    state.due.insert(partner.clone());
                }
                state.observed.insert(partner.clone(), found.clone());
            }
            if let Err(error) = self.note_drift(&partner, found).await {
                tracing::warn!(trust_domain = %partner, %error, "difference at the issuer not stored");
            }
        }
    }

    /// Notes whether the issuer holds what was delivered, if that is news.
    async fn note_drift(&self, partner: &TrustDomain, found: Option<String>) -> Result<(), DeliveryError> {
        let mut delivery = self.lane.state().confirmed.get(partner).cloned().unwrap_or_default();
        let same = found.is_some() && found == delivery.content_digest;
        let drift = (!same).then(|| DriftState { since: self.clock.now(), content_digest: found.clone() });
        let news = match (&delivery.drift, &drift) {
            (None, None) => false,
            (Some(before), Some(now)) => before.content_digest != now.content_digest,
            _ => true,
        };
        if !news {
            return Ok(());
        }
        if drift.is_some() {
            tracing::warn!(
                trust_domain = %partner,
                issuer = %self.lane.local,
                "the issuer holds something else than was delivered"
            );
        }
        let event = Event {
            who: &Actor::Gateway,
            what: if drift.is_some() { Action::Drifted } else { Action::Settled },
            subject: self.subject(partner),
            before: json!({ "content_digest": delivery.content_digest }),
            after: found.map(|digest| json!({ "content_digest": digest })).unwrap_or_default(),
            why: if drift.is_some() { "somebody changed it at the issuer" } else { "it is there again" },
        };
        delivery.drift = drift;
        self.store.save_delivery(&self.lane.local, partner, &delivery, Some(&event)).await?;
        self.lane.state().confirmed.insert(partner.clone(), delivery);
        Ok(())
    }

    /// Notes the failure and when to try again.
    async fn failed(&self, partner: &TrustDomain, error: &DeliveryError) {
        self.metrics.delivered(&self.lane.local, false);
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
            if let Err(error) = self.store.save_delivery(&self.lane.local, partner, &delivery, None).await {
                tracing::warn!(trust_domain = %partner, %error, "state of the delivery not stored");
            }
        }
    }
}
