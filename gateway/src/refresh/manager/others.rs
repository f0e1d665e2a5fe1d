//! What other gateways on the same database did.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError},
};

use federation_specs::id::TrustDomain;
use tokio::sync::oneshot;

use super::{Manager, RefreshError};
use crate::{
    api::RefreshRequest,
    audit::Actor,
    refresh::{decision_error::DecisionError, requests::Request},
    replicas::leases::Leases,
    store::{StoreError, deliveries::DeliveryState, relationships::RefreshState},
};

impl Manager {
    pub(crate) fn leases(&self) -> &Leases {
        self.inner.shared.updater.store().leases()
    }

    /// Before a decision is taken: what other gateways decided since.
    pub(super) async fn catch_up(&self, partner: &TrustDomain) -> Result<(), RefreshError> {
        if !self.leases().are_shared() {
            return Ok(());
        }
        let caught_up = self.decided_elsewhere(&BTreeSet::from([partner.clone()])).await;
        Ok(caught_up.map_err(DecisionError::from)?)
    }

    /// Takes note of what other gateways decided about `partners`.
    pub(crate) async fn decided_elsewhere(&self, partners: &BTreeSet<TrustDomain>) -> Result<(), StoreError> {
        let news = self.decisions().catch_up(partners).await?;
        let expired = news.iter().filter(|one| one.expiry_changed).map(|one| one.partner.clone());
        self.reconcile(&mut self.state(), &expired.collect());
        for one in news {
            if one.bundle_changed
                && let Ok(definition) = self.definition(&one.partner)
            {
                self.in_force(&definition);
            }
            if one.unfrozen && self.leases().holds(&one.partner) {
                self.refresh_soon(&one.partner, Actor::Gateway);
            }
        }
        Ok(())
    }

    /// Takes note of how relationships are doing that other gateways work on.
    pub(crate) fn refreshed_elsewhere(&self, states: HashMap<TrustDomain, RefreshState>) {
        let mut confirmed = Vec::new();
        let mut all = self.state();
        for (partner, state) in states {
            if self.leases().holds(&partner) {
                continue;
            }
            match all.running.get(&partner) {
                Some(running) => {
                    let mut status = running.status.lock().unwrap_or_else(PoisonError::into_inner);
                    if state.last_success > status.last_success {
                        confirmed.push(running.definition());
                    }
                    *status = state;
                }
                None => {
                    all.idle.insert(partner, state);
                }
            }
        }
        drop(all);
        for definition in confirmed {
            self.in_force(&definition);
        }
    }

    /// Takes note of what another gateway delivered to the issuer of `local`.
    pub(crate) fn delivered_elsewhere(&self, local: &TrustDomain, confirmed: HashMap<TrustDomain, DeliveryState>) {
        self.inner.shared.deliveries.confirmed_elsewhere(local, confirmed);
    }

    /// Which of the decisions this gateway stored itself, with their numbers, it does not know of: it never had the answer.
    pub(crate) fn unheard_of(&self, stored: &HashMap<TrustDomain, i64>) -> BTreeSet<TrustDomain> {
        let unheard = stored.iter().filter(|(partner, number)| self.decisions().number(partner) < **number);
        unheard.map(|(partner, _)| partner.clone()).collect()
    }

    /// Has everything stored that is known of how relationships are doing.
    pub(crate) async fn flush_states(&self) {
        self.decisions().states().flush().await;
    }

    pub(super) fn refresh_soon(&self, partner: &TrustDomain, by: Actor) {
        let requests = self.state().running.get(partner).map(|running| Arc::clone(&running.requests));
        if let Some(requests) = requests {
            // A full queue means that refreshes are on their way already.
            let _ = requests.put(Request { options: RefreshRequest::default(), by, reply: oneshot::channel().0 });
        }
    }
}
