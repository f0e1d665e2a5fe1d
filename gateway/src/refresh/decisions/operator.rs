//! What operators decide.

use std::sync::Arc;

use bytes::Bytes;
use federation_specs::{bundle_change, bundle_json, id::TrustDomain};
use serde_json::{Value, json};

use super::{Decisions, Taken, summary, with_change};
use crate::{
    api::Via,
    audit::{Action, Order, bundle_summary},
    refresh::{
        control::{Control, Frozen, Offer},
        decision_error::{DecisionError, MIN_DIGEST_DIGITS},
        policy::{Mode, Policy},
    },
};

impl Decisions {
    /// Puts the waiting bundle in force. `digest` is the one the operator looked at, or its beginning.
    ///
    /// # Errors
    /// [`DecisionError`].
    pub async fn approve(
        &self,
        partner: &TrustDomain,
        policy: Policy,
        digest: Option<&str>,
        order: &Order<'_>,
    ) -> Result<(), DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        check(order)?;
        let control = self.controls.get(partner);
        let offer = waiting(partner, &control, digest)?;
        if control.frozen.is_some() {
            return Err(DecisionError::IsFrozen(partner.clone()));
        }
        if policy.mode == Mode::Pinned {
            return Err(DecisionError::Pinned { partner: partner.clone(), digest: offer.digest.clone() });
        }
        self.check_for_operator(&offer.bundle, Some(&offer))?;
        let held = self.partners.get(partner);
        let change = bundle_change::difference(held.as_ref().map(|held| &*held.bundle), &offer.bundle);
        let accepted = self.held_bundle((*offer.bundle).clone(), &offer.document);
        let highest_sequence = accepted.bundle.sequence().or(control.highest_sequence);
        self.take(Taken {
            partner,
            acceptance: Some((&accepted, &offer.document, &offer.source_url, Via::Approval)),
            state: None,
            control: Control { highest_sequence, offer: None, refused_rollback: None, ..control },
            what: Action::Approved,
            by: order.by,
            before: held.as_deref().map(summary).unwrap_or_default(),
            after: with_change(summary(&accepted), &change),
            why: order.why,
        })
        .await
    }

    /// Turns the waiting bundle down. It waits again only if the partner serves another one in between.
    ///
    /// # Errors
    /// [`DecisionError`].
    pub async fn reject(
        &self,
        partner: &TrustDomain,
        digest: Option<&str>,
        order: &Order<'_>,
    ) -> Result<(), DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        check(order)?;
        let control = self.controls.get(partner);
        let offer = waiting(partner, &control, digest)?;
        let before = bundle_summary(&offer.bundle, &offer.digest);
        let rejected = Offer { rejected_at: Some(self.clock.now()), ..(*offer).clone() };
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { offer: Some(Arc::new(rejected)), ..control },
            what: Action::Rejected,
            by: order.by,
            before,
            after: Value::Null,
            why: order.why,
        })
        .await
    }

    /// Stops a relationship in place.
    ///
    /// # Errors
    /// [`DecisionError::FrozenAlready`], [`DecisionError::Store`].
    pub async fn freeze(&self, partner: &TrustDomain, order: &Order<'_>) -> Result<(), DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        check(order)?;
        let control = self.controls.get(partner);
        if let Some(frozen) = control.frozen {
            return Err(DecisionError::FrozenAlready { partner: partner.clone(), by: frozen.by });
        }
        let frozen = Some(self.frozen(order));
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { frozen, ..control },
            what: Action::Frozen,
            by: order.by,
            before: Value::Null,
            after: self.partners.get(partner).as_deref().map(summary).unwrap_or_default(),
            why: order.why,
        })
        .await
    }

    /// Lets a relationship go on.
    ///
    /// # Errors
    /// [`DecisionError::NotFrozen`], [`DecisionError::Store`].
    pub async fn unfreeze(&self, partner: &TrustDomain, order: &Order<'_>) -> Result<(), DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        check(order)?;
        let control = self.controls.get(partner);
        let Some(frozen) = &control.frozen else { return Err(DecisionError::NotFrozen(partner.clone())) };
        let before = json!({ "frozen_by": frozen.by, "why": frozen.why });
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { frozen: None, ..control },
            what: Action::Unfrozen,
            by: order.by,
            before,
            after: Value::Null,
            why: order.why,
        })
        .await
    }

    /// Puts a bundle of the history, or the one that waits, in force by its name: a number of the history, or the
    /// beginning of its SHA-256. Unless the relationship is pinned it is frozen as well, so that the next refresh does
    /// not undo it.
    ///
    /// # Errors
    /// [`DecisionError`].
    pub async fn restore(
        &self,
        partner: &TrustDomain,
        policy: Policy,
        name: &str,
        order: &Order<'_>,
    ) -> Result<(), DecisionError> {
        let _alone = self.one_at_a_time.lock().await;
        check(order)?;
        let control = self.controls.get(partner);
        let named = self.named(partner, &control, name).await?;
        let parsed = bundle_json::parse(partner, &named.document).map_err(|cause| DecisionError::Damaged {
            partner: partner.clone(),
            name: name.to_owned(),
            cause,
        })?;
        let shown = control.offer.as_deref().filter(|offer| offer.digest == named.digest);
        self.check_for_operator(&parsed.bundle, shown)?;
        let held = self.partners.get(partner);
        let change = bundle_change::difference(held.as_ref().map(|held| &*held.bundle), &parsed.bundle);
        let restored = self.held_bundle(parsed.bundle, &named.document);
        let frozen = match policy.mode {
            Mode::Pinned => control.frozen.clone(),
            Mode::Auto | Mode::Hold => Some(self.frozen(order)),
        };
        let offer = control.offer.clone().filter(|offer| offer.digest != restored.digest);
        // The newest sequence stays what it was: an older bundle in force is no reason to fetch an older one.
        let highest_sequence = control.highest_sequence.max(restored.bundle.sequence());
        self.take(Taken {
            partner,
            acceptance: Some((&restored, &named.document, &named.source_url, Via::Restore)),
            state: None,
            control: Control { highest_sequence, frozen, offer, refused_rollback: None, ..control },
            what: Action::Restored,
            by: order.by,
            before: held.as_deref().map(summary).unwrap_or_default(),
            after: with_change(summary(&restored), &change),
            why: order.why,
        })
        .await
    }

    fn frozen(&self, order: &Order<'_>) -> Frozen {
        Frozen { at: self.clock.now(), by: order.by.to_string(), why: order.why.to_owned() }
    }

    async fn named(&self, partner: &TrustDomain, control: &Control, name: &str) -> Result<Named, DecisionError> {
        let unknown =
            || DecisionError::UnknownBundle { partner: partner.clone(), name: name.chars().take(64).collect() };
        let is_digest =
            (MIN_DIGEST_DIGITS..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digest = if is_digest { name.to_ascii_lowercase() } else { String::new() };
        let id = if is_digest { None } else { Some(name.parse::<i64>().map_err(|_| unknown())?) };
        let historic = self.store.historic_bundles(partner, id, &digest).await?;
        let mut found: Vec<Named> = historic
            .into_iter()
            .map(|item| Named { digest: item.digest, source_url: item.source_url, document: item.document.into() })
            .collect();
        if let Some(offer) = control.offer.as_ref().filter(|offer| is_digest && offer.digest.starts_with(&digest))
            && !found.iter().any(|named| named.digest == offer.digest)
        {
            let (source_url, document) = (offer.source_url.clone(), offer.document.clone());
            found.push(Named { digest: offer.digest.clone(), source_url, document });
        }
        match found.len() {
            0 | 1 => found.pop().ok_or_else(unknown),
            _ => Err(DecisionError::Ambiguous { partner: partner.clone(), name: name.to_owned() }),
        }
    }
}

/// A bundle an operator named.
struct Named {
    digest: String,
    source_url: String,
    document: Bytes,
}

/// Compares with what is in force; refuses rollbacks unless they are accepted.
/// Whether the order is about what is there now.
fn check(order: &Order<'_>) -> Result<(), DecisionError> {
    if (order.as_seen)() { Ok(()) } else { Err(DecisionError::Changed) }
}

/// The bundle that waits, if it is the one named.
fn waiting(partner: &TrustDomain, control: &Control, digest: Option<&str>) -> Result<Arc<Offer>, DecisionError> {
    let offer = control.offer.clone().filter(|offer| offer.waits());
    let offer = offer.ok_or_else(|| DecisionError::NothingWaits(partner.clone()))?;
    match digest {
        Some(digest) if digest.len() < MIN_DIGEST_DIGITS || !offer.digest.starts_with(&digest.to_ascii_lowercase()) => {
            Err(DecisionError::AnotherWaits { partner: partner.clone(), waiting: offer.digest.clone() })
        }
        _ => Ok(offer),
    }
}
