//! The work on one lane: bundles given to the issuer, taken back from it, and compared with what it holds.

use std::{collections::HashMap, sync::Arc, time::Duration};

use federation_specs::id::TrustDomain;
use serde_json::json;
use service_kit::{backoff::Backoff, clock::SharedClock};
use time::OffsetDateTime;

use super::lane::{Due, Lane, Retry};
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

/// Longest wait before an issuer that did not answer at all is asked again, with one call for everything that is due.
const LAST_RETRY_AWAY: Duration = Duration::from_secs(5);

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

impl DeliveryError {
    /// Whether the issuer did not answer, whatever it was asked.
    fn is_away(&self) -> bool {
        matches!(self, Self::Issuer(error) if error.is_away())
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
    /// Works off everything that is due, one partner after the other, and answers when to look again. What is to be taken
    /// back comes first, also what became due meanwhile: a removal does not wait for thousands of deliveries.
    pub(super) async fn round(&self) -> Duration {
        let mut due = {
            let mut state = self.lane.state();
            if !state.told {
                return IDLE;
            }
            Due::of(state.take_due(self.clock.now()))
        };
        while let Some((partner, wanted)) = self.next(&mut due) {
            let outcome = match wanted {
                true => self.bring(&partner).await,
                false => self.take_back(&partner).await,
            };
            match outcome {
                Ok(asked) => {
                    if asked {
                        self.lane.state().away = None;
                    }
                }
                Err(error) if error.is_away() => {
                    // The others would only wait for the same answer.
                    let again = self.away_until();
                    self.failed(&partner, &error, Some(again)).await;
                    while let Some((partner, wanted)) = self.next(&mut due) {
                        if self.is_to_be_done(&partner, wanted) {
                            self.failed(&partner, &error, Some(again)).await;
                        }
                    }
                    break;
                }
                Err(error) => self.failed(&partner, &error, None).await,
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

    /// When an issuer that does not answer is asked again.
    fn away_until(&self) -> OffsetDateTime {
        let mut state = self.lane.state();
        let backoff = state.away.get_or_insert_with(|| Backoff::new(FIRST_RETRY, LAST_RETRY_AWAY));
        self.clock.now() + backoff.next()
    }

    fn next(&self, due: &mut Due) -> Option<(TrustDomain, bool)> {
        due.next(&mut self.lane.state())
    }

    fn is_to_be_done(&self, partner: &TrustDomain, wanted: bool) -> bool {
        if wanted {
            return self.partners.get(partner).is_some_and(|held| self.need(partner, &held).is_some());
        }
        self.lane.state().confirmed.get(partner).is_some_and(DeliveryState::may_be_there)
    }

    /// Gives the issuer what it should hold of a partner. Answers whether it was asked.
    async fn bring(&self, partner: &TrustDomain) -> Result<bool, DeliveryError> {
        let Some(held) = self.partners.get(partner) else { return Ok(false) };
        let Some(need) = self.need(partner, &held) else { return Ok(false) };
        self.deliver(partner, &held, need).await.map(|()| true)
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
            self.note_sent(partner, &held.content_digest).await?;
            self.client.set_federated_bundle(&held.bundle).await?;
            self.metrics.delivered(&self.lane.local, true);
            tracing::info!(trust_domain = %partner, issuer = %self.lane.local, "bundle delivered");
        }
        let delivery = DeliveryState {
            digest: Some(held.digest.clone()),
            delivered_at: Some(self.clock.now()),
            last_error: None,
            content_digest: Some(held.content_digest.clone()),
            sent: None,
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

    /// Notes what is about to be sent: without an answer, or after a crash, the issuer may hold it.
    async fn note_sent(&self, partner: &TrustDomain, content_digest: &str) -> Result<(), DeliveryError> {
        let mut delivery = self.lane.state().confirmed.get(partner).cloned().unwrap_or_default();
        if delivery.sent.as_deref() == Some(content_digest) {
            return Ok(());
        }
        delivery.sent = Some(content_digest.to_owned());
        self.store.save_delivery(&self.lane.local, partner, &delivery, None).await?;
        self.lane.state().confirmed.insert(partner.clone(), delivery);
        Ok(())
    }

    fn subject(&self, partner: &TrustDomain) -> String {
        format!("{partner} at {}", self.lane.local)
    }

    /// Takes a delivered bundle from the issuer, unless somebody changed it there: that one is not ours to remove. Answers
    /// whether the issuer was asked.
    async fn take_back(&self, partner: &TrustDomain) -> Result<bool, DeliveryError> {
        let delivery = self.lane.state().confirmed.get(partner).cloned().unwrap_or_default();
        let asked = delivery.may_be_there();
        if asked {
            let there = self.client.federated_bundle(partner).await?.as_ref().map(content_digest);
            let ours = there.is_some() && (there == delivery.content_digest || there == delivery.sent);
            if ours {
                self.store.check_delivers(&self.lane.local).await?;
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
        Ok(asked)
    }

    /// Compares what the issuer holds with what was delivered, when it is time.
    async fn compare_when_due(&self) {
        let now = self.clock.now();
        if self.lane.state().next_compare.is_some_and(|next| now < next) {
            return;
        }
        {
            let mut state = self.lane.state();
            state.next_compare = Some(now + self.compare_interval);
            if state.away.is_some() || state.delivered().next().is_none() {
                return;
            }
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
        if found.is_some() && found == delivery.sent {
            // Ours, although the issuer did not say so yet.
            return Ok(());
        }
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

    /// Notes the failure and when to try again: at `again`, or after a wait that grows.
    async fn failed(&self, partner: &TrustDomain, error: &DeliveryError, again: Option<OffsetDateTime>) {
        self.metrics.delivered(&self.lane.local, false);
        let text = error.to_string();
        let delivery = {
            let mut state = self.lane.state();
            let retry = state
                .retries
                .entry(partner.clone())
                .or_insert_with(|| Retry { backoff: Backoff::new(FIRST_RETRY, LAST_RETRY), due: self.clock.now() });
            let wait = retry.backoff.next();
            retry.due = again.unwrap_or(self.clock.now() + wait);
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
