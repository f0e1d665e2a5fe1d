//! Keeps a trust domain served from its sources: one task a source.

use std::{sync::Arc, time::Duration};

use federation_specs::{bundle::Bundle, bundle_json};
use serde_json::Value;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};

use super::{
    BundleSource,
    contributions::{Offer, SourceRecord},
};
use crate::{
    audit::{Action, Actor, Order, bundle_summary},
    readiness::Gathered,
    served::{PublishError, Published, ServedDomain, rendered::digest_hex},
    store::{
        Store, StoreError,
        served::{OwnChange, OwnEvent},
    },
};

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Longest error text kept of a failed source.
const MAX_ERROR_BYTES: usize = 2048;

/// One source at work.
pub(crate) struct Follower {
    /// The source.
    pub(crate) source: Box<dyn BundleSource>,
    /// Which of the domain's sources it is.
    pub(crate) index: usize,
    /// The domain.
    pub(crate) domain: Arc<ServedDomain>,
    /// Where what it gives is kept.
    pub(crate) store: Store,
    /// The clock.
    pub(crate) clock: SharedClock,
    /// Ready once the domain is served.
    pub(crate) health: Gathered,
}

impl Follower {
    /// Keeps the domain served until `shutdown`. While the source fails, the last bundle is served on.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let Self { mut source, index, domain, store, clock, health } = self;
        let name = source.describe();
        let is_stream = source.is_stream();
        let taker = Taker { name: &name, index, domain: &domain, store: &store, clock: &clock, health: &health };
        let trust_domain = domain.name().clone();
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut last_error = String::new();
        let mut known_until = clock.now();
        // What could not be stored, of a source that would not give it again by itself.
        let mut unsaved = None;
        loop {
            let next = match unsaved.take() {
                Some(bundle) => Ok(bundle),
                None => tokio::select! {
                    next = source.next() => next,
                    () = shutdown.cancelled() => return Ok(()),
                },
            };
            let accepted = match next {
                Ok(bundle) => {
                    let accepted = taker.accept(&bundle).await;
                    if is_stream && accepted.as_ref().is_err_and(|error| error.is::<StoreError>()) {
                        unsaved = Some(bundle);
                    }
                    accepted
                }
                Err(error) => Err(error),
            };
            let Err(error) = accepted else {
                if !last_error.is_empty() {
                    tracing::info!(%trust_domain, source = name, "bundle source works again");
                    last_error.clear();
                }
                known_until = clock.now();
                retry.reset();
                continue;
            };
            if is_stream && last_error.is_empty() {
                known_until = clock.now();
            }
            let mut text = error.to_string();
            text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
            if error.is::<StoreError>() {
                // The source answered, and what it gave is served.
                known_until = clock.now();
                if text != last_error {
                    tracing::warn!(%trust_domain, source = name, error = %text, "own bundle not stored");
                }
            } else {
                if text != last_error {
                    tracing::warn!(%trust_domain, source = name, error = %text, "own bundle not updated");
                }
                domain.sources().failed(index, &text, known_until);
                domain.note_sources();
                if domain.current().is_none() {
                    health.not_ready(trust_domain.as_str(), &text);
                }
            }
            last_error = text;
            tokio::select! {
                () = clock.sleep(retry.next()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

/// What takes what one source gives.
struct Taker<'a> {
    name: &'a str,
    index: usize,
    domain: &'a ServedDomain,
    store: &'a Store,
    clock: &'a SharedClock,
    health: &'a Gathered,
}

impl Taker<'_> {
    async fn accept(&self, bundle: &Bundle) -> Result<(), BoxError> {
        let trust_domain = self.domain.name();
        if bundle.trust_domain() != trust_domain {
            let given = bundle.trust_domain().clone();
            return Err(PublishError::WrongTrustDomain { expected: trust_domain.clone(), given }.into());
        }
        let _alone = self.domain.alone().await;
        let sources = self.domain.sources();
        let outcome = sources.offer(self.index, bundle, self.clock.now());
        self.domain.note_sources();
        match outcome {
            Offer::Held { reason, news: true } => tracing::error!(
                %trust_domain,
                source = self.name,
                %reason,
                "own bundle held back; what was served stays. If this is intended, accept it with \
                 `entente gateway source accept {trust_domain}`"
            ),
            Offer::Held { .. } => {}
            Offer::Accepted => self.publish()?,
        }
        // A rotation is served even while the store cannot be written; it is tried again at the next answer.
        self.save().await?;
        if self.domain.current().is_some() {
            self.health.ready_but(trust_domain.as_str(), sources.held_in_words());
        }
        Ok(())
    }

    /// Serves what the sources give together.
    fn publish(&self) -> Result<(), BoxError> {
        let domain = self.domain;
        let before = domain.current();
        let merged = domain.sources().merged(before.as_ref().map(|before| &*before.bundle));
        if let Some(merged) = merged {
            domain.publish(&merged, self.clock.now())?;
            domain.sources().published();
        }
        Ok(())
    }

    /// Stores what changed, so that a restart goes on from it before the sources answer, with its audit records.
    async fn save(&self) -> Result<(), BoxError> {
        let domain = self.domain;
        let unsaved = domain.sources().unsaved(self.index);
        let published = domain.current().filter(|published| !domain.is_stored(&published.digest));
        if unsaved.is_none() && published.is_none() {
            return Ok(());
        }
        let mut events = Vec::new();
        let event = |what, key: &str, before, after, why: String| OwnEvent {
            what,
            before: with_source(key, before),
            after: with_source(key, after),
            why,
        };
        if let Some(unsaved) = &unsaved {
            let key = &unsaved.key;
            let counts = summary(&unsaved.record.accepted);
            if let Some((offered, reason)) = &unsaved.newly_held {
                events.push(event(Action::SourceHeld, key, counts, summary(offered), reason.to_string()));
            } else if unsaved.was_held && unsaved.record.held.is_none() {
                let why = "the source gives an acceptable bundle again".to_owned();
                events.push(event(Action::SourceReleased, key, Value::Null, counts, why));
            }
        }
        let why = format!("source `{}` gave it", unsaved.as_ref().map_or(self.name, |unsaved| &unsaved.key));
        let sources: Vec<_> = unsaved.iter().map(|unsaved| (unsaved.key.as_str(), &unsaved.record)).collect();
        let change = OwnChange {
            trust_domain: domain.name(),
            who: &Actor::Gateway,
            sources: &sources,
            events: &events,
            published: published.as_deref(),
            why: &why,
        };
        self.store.save_own(&change).await?;
        if let Some(published) = published {
            log_changed(&published);
            domain.stored(&published.digest);
        }
        if let Some(unsaved) = unsaved {
            domain.sources().saved(unsaved.index, unsaved.record);
        }
        Ok(())
    }
}

fn log_changed(published: &Published) {
    tracing::info!(
        trust_domain = %published.bundle.trust_domain(),
        sequence = ?published.bundle.sequence(),
        x509_authorities = published.bundle.x509_authorities().len(),
        jwt_authorities = published.bundle.jwt_authorities().len(),
        "own bundle changed"
    );
}

/// A bundle of a source as records name it.
fn summary(bundle: &Bundle) -> Value {
    bundle_summary(bundle, &digest_hex(&bundle_json::encode(bundle)))
}

fn with_source(key: &str, mut summary: Value) -> Value {
    if summary.is_object() {
        summary["source"] = key.into();
    }
    summary
}

/// Takes note of what was accepted through another gateway: held sources that give just that are held no more.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn accepted_elsewhere(
    domain: &ServedDomain,
    store: &Store,
    clock: &SharedClock,
) -> Result<(), StoreError> {
    let _alone = domain.alone().await;
    let stored = store.sources(domain.name()).await?;
    let sources = domain.sources();
    let mut offers = sources.held_offers();
    offers.retain(|offer| {
        let record = stored.iter().find(|(key, _)| *key == offer.key).map(|(_, record)| record);
        record.is_some_and(|record| record.held.is_none() && record.accepted.same_content(&offer.bundle))
    });
    if offers.is_empty() {
        return Ok(());
    }
    let before = domain.current();
    let merged = sources.merged_with(&offers, before.as_ref().map(|before| &*before.bundle));
    if let Some(merged) = merged {
        match domain.prepare(&merged, clock.now(), true) {
            Ok(prepared) => {
                domain.stored(&prepared.published.digest);
                domain.put(prepared);
            }
            Err(error) => {
                tracing::error!(trust_domain = %domain.name(), %error, "own bundle accepted elsewhere is not served");
                return Ok(());
            }
        }
    }
    sources.accepted(&offers);
    sources.published();
    domain.note_sources();
    Ok(())
}

/// An operator accepts what the held sources of `domain` give. Answers their names, `None` if they
/// are not as the operator saw them. Nothing changes unless it is stored.
///
/// # Errors
/// When it cannot be published or stored.
pub(crate) async fn accept_held(
    domain: &ServedDomain,
    store: &Store,
    clock: &SharedClock,
    order: &Order<'_>,
) -> Result<Option<Vec<String>>, BoxError> {
    let Order { by, why, .. } = *order;
    let _alone = domain.alone().await;
    if !(order.as_seen)() {
        return Ok(None);
    }
    let sources = domain.sources();
    let offers = sources.held_offers();
    if offers.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let before = domain.current();
    let merged = sources.merged_with(&offers, before.as_ref().map(|before| &*before.bundle));
    let prepared = merged.map(|merged| domain.prepare(&merged, clock.now(), true)).transpose()?;
    let published = prepared.as_ref().map(|prepared| Arc::clone(&prepared.published));
    let published = published.filter(|published| !domain.is_stored(&published.digest));
    let mut records = Vec::with_capacity(offers.len());
    let mut events = Vec::with_capacity(offers.len());
    let counts = sources.status();
    for offer in &offers {
        records.push((offer.key.as_str(), SourceRecord { accepted: Arc::clone(&offer.bundle), held: None }));
        let counted = counts.get(offer.index).and_then(|status| status.accepted.as_deref());
        let mut after = with_source(&offer.key, summary(&offer.bundle));
        after["held_because"] = offer.reason.to_string().into();
        events.push(OwnEvent {
            what: Action::SourceAccepted,
            before: counted.map(|bundle| with_source(&offer.key, summary(bundle))).unwrap_or_default(),
            after,
            why: why.to_owned(),
        });
    }
    let sources_to_store: Vec<_> = records.iter().map(|(key, record)| (*key, record)).collect();
    let change = OwnChange {
        trust_domain: domain.name(),
        who: by,
        sources: &sources_to_store,
        events: &events,
        published: published.as_deref(),
        why: if why.is_empty() { "held sources were accepted" } else { why },
    };
    store.save_own(&change).await?;
    sources.accepted(&offers);
    sources.published();
    domain.note_sources();
    if let Some(prepared) = prepared {
        domain.put(prepared);
    }
    if let Some(published) = published {
        log_changed(&published);
        domain.stored(&published.digest);
    }
    Ok(Some(offers.into_iter().map(|offer| offer.key).collect()))
}
