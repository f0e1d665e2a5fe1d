//! The work on one lane: bundles given to the issuer, taken back from it, and compared with what it holds.

use std::{collections::HashMap, sync::Arc, time::Duration};

use federation_specs::id::TrustDomain;
use serde_json::json;
use service_kit::{backoff::Backoff, clock::SharedClock};

use super::lane::{Lane, Retry};
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
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Longest sleep of an idle lane.
const IDLE: Duration = Duration::from_secs(60 * 60);

/// Why a delivery failed.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be done about one partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The issuer may hold something else: give it what is held.
    Deliver,
    /// It was confirmed before the gateway started: look whether it is still there.
    Verify,
}

pub(super) struct Worker<'a> {
    pub(super) lane: &'a Lane,
    pub(super) client: IssuerClient,
    pub(super) partners: Arc<PartnerBundles>,
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) compare_interval: Duration,
    pub(super) metrics: GatewayMetrics,
}

impl Worker<'_> {
    /// Delivers everything that is due, one partner after the other, and answers when to look again.
    pub(super) async fn round(&self) -> Duration {
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
