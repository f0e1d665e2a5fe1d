//! What becomes of a fetched bundle, by the relationship's policy: put in force, held for an operator, refused.

use std::sync::Arc;

use bytes::Bytes;
use federation_specs::{
    bundle::Bundle,
    bundle_change::{self, BundleChange, Comparison},
    id::TrustDomain,
};
use serde_json::Value;

use super::{Decisions, Taken, summary, with_change};
use crate::{
    api::{RefreshRequest, Via},
    audit::{Action, Actor, bundle_summary},
    partners::{HeldBundle, content_digest},
    refresh::{
        control::{Control, Offer, OfferReason},
        decision_error::DecisionError,
        limits::LimitError,
        policy::{Emptied, Mode, Policy},
    },
    served::rendered::digest_hex,
    store::relationships::RefreshState,
};

/// A bundle just fetched.
pub struct Fetched<'a> {
    /// The bundle.
    pub bundle: Bundle,
    /// Its document.
    pub document: &'a Bytes,
    /// Where it was fetched.
    pub source_url: &'a str,
    /// What the relationship says.
    pub policy: Policy,
    /// What the operator accepts this once, if one asked for the refresh.
    pub options: &'a RefreshRequest,
    /// Who asked for the refresh.
    pub by: &'a Actor,
    /// Whether trust was set up again by hand, which starts a new count of sequences.
    pub new_start: bool,
    /// The relationship's state if the bundle is accepted; stored together with it.
    pub state: &'a RefreshState,
    /// Whether the relationship is still what it was when the fetch began.
    pub as_defined: &'a (dyn Fn() -> bool + Send + Sync),
}

impl std::fmt::Debug for Fetched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("bundle", &self.bundle).field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// What became of a fetched bundle; the digest is that of the bundle the answer stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is the one in force.
    Unchanged(String),
    /// It is in force now.
    Accepted(String),
    /// It waits for an operator, or was rejected before.
    Offered(String),
    /// It changed nothing, because the relationship is frozen.
    Kept,
}

/// A sequence that grows by more at once is held back, because nobody could publish a higher one afterwards: room for
/// two years of a clock that counts nanoseconds.
pub const MAX_SEQUENCE_STEP: u64 = 1 << 56;

/// A first sequence beyond this is held back.
pub const MAX_FIRST_SEQUENCE: u64 = 1 << 62;

enum Judgement {
    Unchanged,
    /// The sequence grew beyond what leaves room for later ones.
    Leapt {
        from: u64,
        to: u64,
    },
    Emptied(BundleChange),
    Changed(BundleChange),
}

impl Decisions {
    /// Decides about a fetched bundle by the relationship's policy.
    ///
    /// # Errors
    /// [`DecisionError`] when it is refused or held back as a failure.
    pub async fn fetched(&self, fetched: Fetched<'_>) -> Result<Outcome, DecisionError> {
        let bundle = &fetched.bundle;
        let partner = bundle.trust_domain().clone();
        let held = self.partners.get(&partner);
        // Nothing new is the usual case and waits for nobody.
        if self.controls.get(&partner).offer.is_none()
            && let Some(held) = held.filter(|held| same(&held.bundle, bundle))
        {
            return Ok(Outcome::Unchanged(held.digest.clone()));
        }
        let _alone = self.one_at_a_time.lock().await;
        if !(fetched.as_defined)() {
            return Err(DecisionError::Redefined);
        }
        let held = self.partners.get(&partner);
        let control = self.controls.get(&partner);
        let judgement = match judge(held.as_deref(), &control, &fetched) {
            Err(refusal @ DecisionError::Rollback { .. }) => {
                self.refuse_rollback(&fetched, control, held.as_deref(), &refusal).await?;
                return Err(refusal);
            }
            judgement => judgement?,
        };
        let change = match judgement {
            Judgement::Unchanged => {
                self.withdraw(&partner, control, fetched.by).await?;
                return Ok(Outcome::Unchanged(held.map(|held| held.digest.clone()).unwrap_or_default()));
            }
            _ if control.frozen.is_some() => return Ok(Outcome::Kept),
            Judgement::Leapt { from, to } => {
                self.offer(control, &fetched, OfferReason::SequenceLeap).await?;
                return Err(DecisionError::Leapt { from, to });
            }
            Judgement::Emptied(change) => {
                let accepted = fetched.options.accept_emptied || fetched.policy.emptied == Emptied::Accept;
                match (fetched.policy.mode, accepted, fetched.policy.emptied) {
                    (Mode::Pinned, ..) => return self.offer(control, &fetched, OfferReason::Pinned).await,
                    (_, true, _) => change,
                    (_, false, Emptied::Refuse) => return Err(DecisionError::EmptiedRefused),
                    (_, false, _) => {
                        self.offer(control, &fetched, OfferReason::Emptied).await?;
                        return Err(if change.first { DecisionError::NoKeys } else { DecisionError::Emptied });
                    }
                }
            }
            Judgement::Changed(change) => {
                if let Err(error) = self.check(bundle) {
                    if matches!(error, LimitError::DoubtfulKey { .. }) {
                        self.offer(control, &fetched, OfferReason::SharedKey).await?;
                    }
                    return Err(error.into());
                }
                match fetched.policy.mode {
                    Mode::Auto => change,
                    // Another sequence or refresh hint changes nobody's trust.
                    Mode::Hold if !change.changes_authorities() => change,
                    Mode::Pinned if !change.changes_authorities() && !change.first => {
                        self.withdraw(&partner, control, fetched.by).await?;
                        return Ok(Outcome::Unchanged(held.map(|held| held.digest.clone()).unwrap_or_default()));
                    }
                    Mode::Hold => return self.offer(control, &fetched, OfferReason::Hold).await,
                    Mode::Pinned => return self.offer(control, &fetched, OfferReason::Pinned).await,
                }
            }
        };
        let accepted = self.held_bundle(fetched.bundle.clone(), fetched.document);
        let highest_sequence = accepted.bundle.sequence().or(control.highest_sequence);
        let by_itself = match (fetched.options.accept_rollback, fetched.options.accept_emptied) {
            (true, true) => "refreshed with accept_rollback and accept_emptied",
            (true, false) => "refreshed with accept_rollback",
            (false, true) => "refreshed with accept_emptied",
            (false, false) => "the partner serves it",
        };
        let why = match fetched.options.why.as_str() {
            "" => by_itself.to_owned(),
            asked => format!("{by_itself}: {asked}"),
        };
        self.take(Taken {
            partner: &partner,
            acceptance: Some((&accepted, fetched.document, fetched.source_url, Via::Refresh)),
            state: Some(fetched.state),
            control: Control { highest_sequence, offer: None, refused_rollback: None, ..control },
            what: Action::Accepted,
            by: fetched.by,
            before: held.as_deref().map(summary).unwrap_or_default(),
            after: with_change(summary(&accepted), &change),
            why: &why,
        })
        .await?;
        Ok(Outcome::Accepted(accepted.digest))
    }

    /// Has a fetched bundle wait for an operator, unless it waits or was rejected already.
    async fn offer(
        &self,
        control: Control,
        fetched: &Fetched<'_>,
        reason: OfferReason,
    ) -> Result<Outcome, DecisionError> {
        if let Some(offer) = control.offer.as_ref().filter(|offer| same(&offer.bundle, &fetched.bundle)) {
            return Ok(Outcome::Offered(offer.digest.clone()));
        }
        let partner = fetched.bundle.trust_domain();
        let held = self.partners.get(partner);
        let change = bundle_change::difference(held.as_ref().map(|held| &*held.bundle), &fetched.bundle);
        let offer = Offer {
            bundle: Arc::new(fetched.bundle.clone()),
            document: fetched.document.clone(),
            digest: digest_hex(fetched.document),
            source_url: fetched.source_url.to_owned(),
            offered_at: self.clock.now(),
            reason,
            rejected_at: None,
        };
        let digest = offer.digest.clone();
        let after = with_change(bundle_summary(&offer.bundle, &offer.digest), &change);
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { offer: Some(Arc::new(offer)), ..control },
            what: Action::Offered,
            by: fetched.by,
            before: held.as_deref().map(summary).unwrap_or_default(),
            after,
            why: match reason {
                OfferReason::Hold => "the relationship's mode is hold",
                OfferReason::Pinned => "the relationship's mode is pinned",
                OfferReason::Emptied => "it has no keys",
                OfferReason::SharedKey => "another trust domain has one of its keys",
                OfferReason::SequenceLeap => "its sequence leaves no room for later ones",
            },
        })
        .await?;
        Ok(Outcome::Offered(digest))
    }

    /// Records a refused rollback, unless the same one is recorded already and nothing was accepted since.
    async fn refuse_rollback(
        &self,
        fetched: &Fetched<'_>,
        control: Control,
        held: Option<&HeldBundle>,
        refusal: &DecisionError,
    ) -> Result<(), DecisionError> {
        let bundle = &fetched.bundle;
        let mark = format!("{} {}", bundle.sequence().unwrap_or_default(), content_digest(bundle));
        if control.refused_rollback.as_ref() == Some(&mark) {
            return Ok(());
        }
        let why = refusal.to_string();
        self.take(Taken {
            partner: bundle.trust_domain(),
            acceptance: None,
            state: None,
            control: Control { refused_rollback: Some(mark), ..control },
            what: Action::RollbackRefused,
            by: fetched.by,
            before: held.map(summary).unwrap_or_default(),
            after: bundle_summary(bundle, &digest_hex(fetched.document)),
            why: &why,
        })
        .await
    }

    /// Forgets what waited, because the partner serves the bundle in force again.
    async fn withdraw(&self, partner: &TrustDomain, control: Control, by: &Actor) -> Result<(), DecisionError> {
        let Some(offer) = control.offer.clone() else { return Ok(()) };
        self.take(Taken {
            partner,
            acceptance: None,
            state: None,
            control: Control { offer: None, ..control },
            what: Action::Withdrawn,
            by,
            before: bundle_summary(&offer.bundle, &offer.digest),
            after: Value::Null,
            why: "the partner serves the bundle in force again",
        })
        .await
    }
}

/// Whether both say the same, sequence included.
fn same(held: &Bundle, fetched: &Bundle) -> bool {
    held.same_content(fetched) && held.sequence() == fetched.sequence()
}

fn judge(held: Option<&HeldBundle>, control: &Control, fetched: &Fetched<'_>) -> Result<Judgement, DecisionError> {
    let bundle = &fetched.bundle;
    let Some(held) = held else {
        let change = bundle_change::difference(None, bundle);
        return Ok(match bundle.sequence() {
            Some(to) if to > MAX_FIRST_SEQUENCE => Judgement::Leapt { from: 0, to },
            _ if bundle.is_empty() => Judgement::Emptied(change),
            _ => Judgement::Changed(change),
        });
    };
    if same(&held.bundle, bundle) {
        return Ok(Judgement::Unchanged);
    }
    let change = bundle_change::difference(Some(&held.bundle), bundle);
    // A bundle without a sequence must not make room for an older one later.
    let before = (*held.bundle).clone().with_sequence(control.highest_sequence.max(held.bundle.sequence()));
    let emptied = bundle.is_empty() && !held.bundle.is_empty();
    if let (Some(from), Some(to)) = (before.sequence(), bundle.sequence())
        && to.saturating_sub(from) > MAX_SEQUENCE_STEP
    {
        return Ok(Judgement::Leapt { from, to });
    }
    match bundle_change::compare(Some(&before), bundle) {
        Comparison::Rollback { held, fetched: found } if !(fetched.options.accept_rollback || fetched.new_start) => {
            Err(DecisionError::Rollback { held, fetched: found })
        }
        Comparison::Unchanged => Ok(Judgement::Unchanged),
        _ if emptied => Ok(Judgement::Emptied(change)),
        _ => Ok(Judgement::Changed(change)),
    }
}
