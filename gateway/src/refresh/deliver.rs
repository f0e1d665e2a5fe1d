//! Accepted bundles on their way to the issuers: one lane an issuer, the latest bundle of each partner, retried until
//! the issuer confirms it; taken back when the relationship ends; compared from time to time with what the issuer holds.

mod lane;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use federation_specs::id::TrustDomain;
use service_kit::{BoxError, clock::SharedClock, lifecycle::Shutdown};

use self::{
    lane::Lane,
    worker::{FIRST_RETRY, Worker},
};
use crate::{
    issuer_client::IssuerClient,
    metrics::GatewayMetrics,
    partners::PartnerBundles,
    store::{Store, StoreError, deliveries::DeliveryState},
};

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

impl Deliveries {
    /// Lanes to the issuers of `locals`, going on from what the store knows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(locals: impl IntoIterator<Item = TrustDomain>, store: &Store) -> Result<Self, StoreError> {
        let mut lanes = BTreeMap::new();
        for local in locals {
            let lane = Lane::new(local.clone(), store.deliveries(&local).await?);
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
            let gone: Vec<_> =
                state.may_be_there().filter(|partner| !state.wanted.contains(*partner)).cloned().collect();
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

    /// An issuer answers again after it was away: go on with what it did not get, and look whether it still holds what it
    /// confirmed.
    pub fn verify(&self, local: &TrustDomain) {
        let Some(lane) = self.lanes.get(local) else { return };
        let mut state = lane.state();
        state.verified.clear();
        state.away = None;
        let all: Vec<_> = state.wanted.iter().chain(state.retries.keys()).cloned().collect();
        state.due.extend(all);
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
