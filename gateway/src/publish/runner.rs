//! One publisher at work: an isolated task that looks at its place whenever the stored bundle of its domain changes and
//! at every interval, and puts there what is served.
//!
//! The order is kept by construction: one attempt at a time, each with the bundle of that moment, written on the
//! condition that the place is as it was read a moment before. A bundle is published only once it is in the store, so
//! that a restart never serves an older one than the places hold.

use std::{sync::Arc, time::Duration};

use federation_specs::bundle_json;
use futures::future::BoxFuture;
use service_kit::{
    BoxError,
    backoff::{Backoff, jitter},
    clock::SharedClock,
    lifecycle::Shutdown,
};

use super::{BundlePublisher, Drift, PublisherError, PublisherStatuses, Seen, connect, status::StatusCell};
use crate::{
    config::BundleFormat,
    metrics::GatewayMetrics,
    served::{Published, ServedDomain, rendered::digest_hex},
    settings::PublisherSettings,
    store::{Store, publications::Publication},
};

/// Longest one attempt takes, everything included.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Prepares access to a place.
pub(crate) type Connector =
    Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn BundlePublisher>, PublisherError>> + Send + Sync>;

/// The access to the place `settings` name.
pub(crate) fn connector(domain: &ServedDomain, settings: &PublisherSettings) -> Connector {
    let (place, trust_domain) = (settings.place.clone(), domain.name().clone());
    Box::new(move || {
        let (place, trust_domain) = (place.clone(), trust_domain.clone());
        Box::pin(async move { connect(&place, &trust_domain).await })
    })
}

/// What an attempt found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The place held it already.
    Unchanged,
    /// It was written and read back.
    Written,
}

/// One publisher at work.
pub(crate) struct Runner {
    settings: PublisherSettings,
    connector: Connector,
    publisher: Option<Arc<dyn BundlePublisher>>,
    domain: Arc<ServedDomain>,
    store: Store,
    clock: SharedClock,
    metrics: GatewayMetrics,
    status: StatusCell,
}

impl Runner {
    /// A publisher that starts with what it confirmed before the restart.
    pub(crate) async fn new(
        (settings, connector): (PublisherSettings, Connector),
        domain: Arc<ServedDomain>,
        store: Store,
        clock: SharedClock,
        metrics: GatewayMetrics,
        statuses: &PublisherStatuses,
    ) -> Result<Self, crate::store::StoreError> {
        let place = settings.place.describe();
        let published = store.publication(domain.name(), &settings.name).await?;
        // The same name at another place starts from nothing.
        let published = published.filter(|publication| publication.place == place);
        let status = StatusCell::new(domain.name().clone(), settings.clone(), published);
        statuses.add(status.clone());
        Ok(Self { settings, connector, publisher: None, domain, store, clock, metrics, status })
    }

    /// Publishes until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut stored = self.domain.subscribe_stored();
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            stored.borrow_and_update();
            let wait = match self.stored_bundle() {
                None => None,
                Some(bundle) => {
                    let outcome = tokio::select! {
                        outcome = self.attempt(&bundle) => outcome,
                        () = shutdown.cancelled() => return Ok(()),
                    };
                    Some(self.note(outcome, &mut retry))
                }
            };
            let next = wait.map(|wait| self.clock.now() + wait);
            self.status.lock().next_attempt = next;
            let sleep = async {
                match wait {
                    Some(wait) => self.clock.sleep(wait).await,
                    // No bundle yet; its arrival is a change.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                changed = stored.changed() => if changed.is_err() { return Ok(()) },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// What is served, once it is in the store.
    fn stored_bundle(&self) -> Option<Arc<Published>> {
        self.domain.current().filter(|published| self.domain.is_stored(&published.digest))
    }

    /// Takes note of an attempt; answers how long to wait.
    fn note(&mut self, outcome: Result<Outcome, PublisherError>, retry: &mut Backoff) -> Duration {
        let (trust_domain, name) = (self.domain.name(), &self.settings.name);
        let place = self.settings.place.describe();
        let now = self.clock.now();
        let mut status = self.status.lock();
        status.last_attempt = Some(now);
        match outcome {
            Ok(outcome) => {
                if outcome == Outcome::Written {
                    tracing::info!(%trust_domain, publisher = name, place, "bundle published");
                } else if status.last_error.is_some() {
                    tracing::info!(%trust_domain, publisher = name, place, "publisher works again");
                }
                status.last_success = Some(now);
                status.last_error = None;
                status.consecutive_failures = 0;
                retry.reset();
                self.metrics.published(
                    trust_domain,
                    name,
                    if outcome == Outcome::Written { "written" } else { "unchanged" },
                );
                jitter(self.settings.check_interval, Backoff::SPREAD)
            }
            Err(error) => {
                let text = error.to_string();
                if status.last_error.as_ref() != Some(&text) {
                    tracing::warn!(%trust_domain, publisher = name, place, error = text, "bundle not published");
                }
                status.last_error = Some(text);
                status.consecutive_failures = status.consecutive_failures.saturating_add(1);
                self.metrics.published(trust_domain, name, "failed");
                // Credentials may have been replaced: the next attempt prepares its access anew. Not after a timeout:
                // what was given up may still be under way in there.
                if !matches!(error, PublisherError::Timeout(_)) {
                    self.publisher = None;
                }
                retry.next()
            }
        }
    }

    async fn attempt(&mut self, bundle: &Published) -> Result<Outcome, PublisherError> {
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            outcome = self.publish(bundle) => outcome,
            () = clock.sleep(DEADLINE) => Err(PublisherError::Timeout(DEADLINE)),
        }
    }

    async fn publish(&mut self, bundle: &Published) -> Result<Outcome, PublisherError> {
        let publisher = match &self.publisher {
            Some(publisher) => Arc::clone(publisher),
            None => Arc::clone(self.publisher.insert((self.connector)().await?)),
        };
        let document = publisher.render(&bundle.bundle)?;
        let digest = digest_hex(&document);
        // Another replica of this gateway may have published since.
        let before = self.store.publication(self.domain.name(), &self.settings.name).await.map_err(store_failed)?;
        let place = self.settings.place.describe();
        let before = before.filter(|publication| publication.place == place);
        let publication = Publication {
            place,
            digest,
            sequence: bundle.bundle.sequence(),
            changed_at: bundle.changed_at,
            confirmed_at: self.clock.now(),
        };
        let seen = publisher.read().await?;
        if seen.document.as_deref() == Some(&document) {
            return self.confirmed(before.as_ref(), publication, Outcome::Unchanged).await;
        }
        self.may_replace(bundle, &seen, before.as_ref())?;
        self.note_drift(&seen, before.as_ref()).await?;
        publisher.write(&document, &seen).await?;
        if publisher.read().await?.document.as_deref() != Some(&document) {
            return Err(PublisherError::Unconfirmed);
        }
        self.confirmed(before.as_ref(), publication, Outcome::Written).await
    }

    /// Stores what the place was seen to hold.
    async fn confirmed(
        &self,
        before: Option<&Publication>,
        publication: Publication,
        outcome: Outcome,
    ) -> Result<Outcome, PublisherError> {
        if before.is_none_or(|before| before.digest != publication.digest) {
            let (trust_domain, name) = (self.domain.name(), &self.settings.name);
            self.store.confirm_publication(trust_domain, name, &publication).await.map_err(store_failed)?;
            self.status.lock().published = Some(publication);
        }
        Ok(outcome)
    }

    /// Whether what is there may be replaced by `bundle`.
    fn may_replace(&self, bundle: &Published, seen: &Seen, before: Option<&Publication>) -> Result<(), PublisherError> {
        let Some(held) = seen.document.as_deref() else { return Ok(()) };
        let sequence = bundle.bundle.sequence();
        let words = |sequence: Option<u64>| match sequence {
            Some(sequence) => format!("sequence {sequence}"),
            None => "without sequence".to_owned(),
        };
        if let Some(before) = before.filter(|before| before.digest == digest_hex(held)) {
            // Ours, or another replica's.
            if is_newer(before, bundle) {
                return Err(PublisherError::Newer { there: words(before.sequence), here: words(sequence) });
            }
            return Ok(());
        }
        if self.settings.place.format() == BundleFormat::Spiffe
            && let Ok(held) = bundle_json::parse(self.domain.name(), held)
            && held.bundle.sequence() > sequence
        {
            return Err(PublisherError::Newer { there: words(held.bundle.sequence()), here: words(sequence) });
        }
        if bundle.bundle.is_empty() && !held.is_empty() {
            return Err(PublisherError::Emptied);
        }
        Ok(())
    }

    /// Takes note if the place does not hold what was published there.
    async fn note_drift(&self, seen: &Seen, before: Option<&Publication>) -> Result<(), PublisherError> {
        let digest = seen.document.as_deref().map(digest_hex);
        let Some(before) = before.filter(|before| digest.as_deref() != Some(before.digest.as_str())) else {
            return Ok(());
        };
        let (trust_domain, name) = (self.domain.name(), &self.settings.name);
        let now = self.clock.now();
        {
            let mut status = self.status.lock();
            // Every attempt to put it right sees the same again.
            let known =
                status.last_error.is_some() && status.drift.as_ref().is_some_and(|drift| drift.digest == digest);
            if known {
                return Ok(());
            }
            let count = status.drift.as_ref().map_or(0, |drift| drift.count) + 1;
            status.drift = Some(Drift { at: now, digest: digest.clone(), count });
        }
        let place = &before.place;
        tracing::warn!(%trust_domain, publisher = name, place, "the place holds something else than was published");
        self.metrics.publication_drifted(trust_domain, name);
        let recorded = self.store.record_publication_drift(trust_domain, name, before, digest.as_deref()).await;
        recorded.map_err(store_failed)
    }
}

/// Whether what was published is newer than `bundle`: by its sequence number, unless the domain was taken back to a
/// lower one since, and without numbers by its date. Dates are compared in seconds, as the store has them.
fn is_newer(published: &Publication, bundle: &Published) -> bool {
    let (then, now) = (published.changed_at.unix_timestamp(), bundle.changed_at.unix_timestamp());
    match (published.sequence, bundle.bundle.sequence()) {
        (Some(there), Some(here)) if there < here => false,
        (Some(there), Some(here)) if there > here => then >= now,
        _ => then > now,
    }
}

fn store_failed(error: crate::store::StoreError) -> PublisherError {
    tracing::error!(%error, "publications cannot be read or written");
    PublisherError::Store
}
