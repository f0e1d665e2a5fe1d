//! What becomes of a fetched bundle, and what operators decide: each decision is one transaction with its audit
//! record, taken one at a time, so that none of them acts on what another has just changed.

pub mod fetched;
mod operator;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use federation_specs::{
    bundle::Bundle,
    bundle_change::{self, BundleChange},
    id::TrustDomain,
};
use serde_json::{Value, json};
use service_kit::clock::SharedClock;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    control::{Control, Controls, Offer, OfferReason},
    decision_error::DecisionError,
    limits::{AcceptanceLimits, LimitError, Owner, check_owners, public_keys},
    states::States,
};
use crate::{
    api::Via,
    audit::{Action, Actor, Event, bundle_summary},
    partners::{HeldBundle, PartnerBundles, content_digest},
    served::{ServedDomains, rendered::digest_hex},
    store::{Acceptance, Basis, Decision, Store, StoreError, relationships::RefreshState},
};

/// Takes decisions. Shared by every relationship.
#[derive(Debug)]
pub struct Decisions {
    store: Store,
    partners: Arc<PartnerBundles>,
    served: Arc<ServedDomains>,
    controls: Controls,
    limits: AcceptanceLimits,
    clock: SharedClock,
    states: Arc<States>,
    one_at_a_time: Mutex<()>,
}

/// What another gateway decided about a relationship.
#[derive(Debug)]
pub(crate) struct CaughtUp {
    pub(crate) partner: TrustDomain,
    /// Whether another bundle is in force.
    pub(crate) bundle_changed: bool,
    /// Whether its bundle expired, or is within its age again.
    pub(crate) expiry_changed: bool,
    /// Whether it goes on.
    pub(crate) unfrozen: bool,
}

/// What a decision does to a relationship.
struct Taken<'a> {
    partner: &'a TrustDomain,
    acceptance: Option<(&'a HeldBundle, &'a [u8], &'a str, Via)>,
    state: Option<&'a RefreshState>,
    control: Control,
    what: Action,
    by: &'a Actor,
    before: Value,
    after: Value,
    why: &'a str,
}

impl Decisions {
    /// Goes on from what the store knows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(
        store: Store,
        partners: Arc<PartnerBundles>,
        served: Arc<ServedDomains>,
        limits: AcceptanceLimits,
        clock: SharedClock,
    ) -> Result<Self, StoreError> {
        // The numbers first: what is decided between the two is read again.
        let numbers = store.decision_numbers().await?;
        let controls = Controls::new(store.controls().await?, numbers);
        let states = Arc::new(States::new(store.clone()));
        Ok(Self { store, partners, served, controls, limits, clock, states, one_at_a_time: Mutex::new(()) })
    }

    /// The states of relationships on their way to the store.
    pub fn states(&self) -> &Arc<States> {
        &self.states
    }

    /// How a relationship is held.
    pub fn control(&self, partner: &TrustDomain) -> Control {
        self.controls.get(partner)
    }

    /// Whether the bundle in force is older than its maximum age.
    pub fn is_expired(&self, partner: &TrustDomain) -> bool {
        self.controls.is_expired(partner)
    }

    /// Number of the last decision known about a relationship.
    pub(crate) fn number(&self, partner: &TrustDomain) -> i64 {
        self.controls.number(partner)
    }

    /// Whether an operator stopped it in place.
    pub(crate) fn is_frozen(&self, partner: &TrustDomain) -> bool {
        self.controls.is_frozen(partner)
    }

    /// No decision is taken while the answer is kept.
    pub(crate) async fn pause(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().await
    }

    /// Whether a bundle of the partner waits for an operator.
    pub(crate) fn waits(&self, partner: &TrustDomain) -> bool {
        self.controls.waits(partner)
    }

    /// Notes that the bundle in force is older than its maximum age, or that it was confirmed again. Answers whether
    /// that is news.
    ///
    /// # Errors
    /// [`DecisionError::Store`].
    pub async fn set_expired(&self, partner: &TrustDomain, expired: bool) -> Result<bool, DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        let control = self.controls.get(partner);
        if control.expired_at.is_some() == expired {
            return Ok(false);
        }
        let held = self.partners.get(partner).as_deref().map(summary).unwrap_or_default();
        let (what, why) = match expired {
            true => (Action::Expired, "the partner did not confirm the bundle within maximum_age"),
            false => (Action::Renewed, "the bundle is within maximum_age again"),
        };
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { expired_at: expired.then(|| self.clock.now()), ..control },
            what,
            by: &Actor::Gateway,
            before: Value::Null,
            after: held,
            why,
        })
        .await?;
        Ok(true)
    }

    /// Stores a decision and puts it in force in memory.
    async fn take(&self, taken: Taken<'_>) -> Result<(), DecisionError> {
        let Taken { partner, acceptance, state, control, what, by, before, after, why } = taken;
        let held_before = self.partners.get(partner);
        let change = acceptance
            .map(|(held, ..)| bundle_change::difference(held_before.as_ref().map(|held| &*held.bundle), &held.bundle));
        let acceptance = acceptance
            .zip(change.as_ref())
            .map(|((held, document, source_url, via), change)| Acceptance { held, document, source_url, change, via });
        let event = Event { who: by, what, subject: partner.to_string(), before, after, why };
        let decision = Decision { partner, acceptance, state, control: &control, event: &event };
        if state.is_some() {
            self.states.overtake(partner).await;
        }
        let by_holder =
            matches!(what, Action::Accepted | Action::Offered | Action::Withdrawn | Action::Expired | Action::Renewed);
        let basis = Basis { seen: Some(self.controls.number(partner)), by_holder };
        let number = self.store.decide(&decision, basis).await.map_err(|error| match error {
            StoreError::Changed { .. } => DecisionError::Changed,
            error => error.into(),
        })?;
        tracing::info!(trust_domain = %partner, what = what.name(), who = %by, "decided");
        self.controls.set(partner, control, number);
        if let Some(acceptance) = acceptance {
            self.partners.set(acceptance.held.clone());
        }
        Ok(())
    }

    /// Takes note of what other gateways decided about `partners`. Answers what that changes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn catch_up(&self, partners: &BTreeSet<TrustDomain>) -> Result<Vec<CaughtUp>, StoreError> {
        let _alone = self.one_at_a_time.lock().await;
        let numbers = self.store.decision_numbers_of(partners).await?;
        let mut controls = self.store.controls_of(partners).await?;
        let bundles = self.store.partner_bundles_of(partners).await?;
        let mut news = Vec::new();
        let mut changed = BTreeSet::new();
        for held in bundles {
            let partner = held.bundle.trust_domain();
            let before = self.partners.get(partner);
            if before.is_none_or(|before| before.digest != held.digest || before.accepted_at != held.accepted_at) {
                changed.insert(partner.clone());
                self.partners.set(held);
            }
        }
        for (partner, number) in numbers {
            if number < self.controls.number(&partner) {
                continue;
            }
            let (before, now) = (self.controls.get(&partner), controls.remove(&partner).unwrap_or_default());
            news.push(CaughtUp {
                bundle_changed: changed.contains(&partner),
                partner: partner.clone(),
                expiry_changed: before.expired_at.is_some() != now.expired_at.is_some(),
                unfrozen: before.frozen.is_some() && now.frozen.is_none(),
            });
            self.controls.set(&partner, now, number);
        }
        Ok(news)
    }

    fn check(&self, bundle: &Bundle) -> Result<(), LimitError> {
        let partner = bundle.trust_domain();
        let mut own = HashMap::new();
        for published in self.served.iter().filter_map(|domain| domain.current()) {
            let owner = published.bundle.trust_domain();
            own.extend(public_keys(&published.bundle).map(|(_, _, key)| (key, owner.clone())));
        }
        self.limits.check(bundle, self.clock.now())?;
        check_owners(bundle, |key| {
            if let Some(owner) = own.get(key).filter(|owner| *owner != partner) {
                return Some(Owner::Served(owner.clone()));
            }
            let other = self.partners.get(&self.partners.other_owner(partner, key)?)?;
            Some(Owner::Partner(Arc::clone(&other.bundle)))
        })
    }

    /// As [`Self::check`], but an operator who was shown that a key is another partner's too may decide whose it is.
    fn check_for_operator(&self, bundle: &Bundle, shown: Option<&Offer>) -> Result<(), LimitError> {
        match self.check(bundle) {
            Err(LimitError::DoubtfulKey { .. }) if shown.is_some_and(|it| it.reason == OfferReason::SharedKey) => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn held_bundle(&self, bundle: Bundle, document: &[u8]) -> HeldBundle {
        HeldBundle {
            digest: digest_hex(document),
            content_digest: content_digest(&bundle),
            accepted_at: self.clock.now(),
            bundle: Arc::new(bundle),
        }
    }
}

fn summary(held: &HeldBundle) -> Value {
    bundle_summary(&held.bundle, &held.digest)
}

/// Adds the number of keys that came, went and stayed.
fn with_change(mut summary: Value, change: &BundleChange) -> Value {
    let counts = |added: usize, removed: usize, kept: usize| json!({"added": added, "removed": removed, "kept": kept});
    summary["difference"] = json!({
        "x509": counts(change.x509.added.len(), change.x509.removed.len(), change.x509.kept.len()),
        "jwt": counts(change.jwt.added.len(), change.jwt.removed.len(), change.jwt.kept.len()),
    });
    summary
}
