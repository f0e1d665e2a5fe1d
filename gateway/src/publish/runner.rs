//! One publisher at work: an isolated task that looks at its place whenever the stored bundle of its domain changes and
//! at every interval, and puts there what is served.
//!
//! The order is kept by construction: one attempt at a time, each with the bundle of that moment, written on the
//! condition that the place is as it was read a moment before. A bundle is published only once it is in the store, so
//! that a restart never serves an older one than the places hold.
//!
//! Of several gateways on one database the one publishes that has the lease of the trust domain, and what it publishes
//! is the newest bundle any of them stored: its own sources may lag behind. Files are each gateway's own.

use std::{sync::Arc, time::Duration};

use federation_specs::{bundle::Bundle, bundle_json};
use futures::future::BoxFuture;
use service_kit::{
    BoxError,
    backoff::{Backoff, jitter},
    clock::SharedClock,
    lifecycle::Shutdown,
};

use time::OffsetDateTime;

use super::{
    BundlePublisher, Drift, PublisherError, PublisherState, PublisherStatuses, Seen, connect,
    status::{StatusCell, Told},
};
use crate::{
    config::BundleFormat,
    metrics::GatewayMetrics,
    served::{ServedDomain, rendered::digest_hex},
    settings::PublisherSettings,
    store::{
        Store, StoreError,
        publications::{Publication, PublisherKey},
    },
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

/// What is to be published.
struct Candidate {
    bundle: Arc<Bundle>,
    /// When it was first served.
    changed_at: OffsetDateTime,
}

/// One publisher at work.
pub(crate) struct Runner {
    settings: PublisherSettings,
    connector: Connector,
    publisher: Option<Arc<dyn BundlePublisher>>,
    domain: Arc<ServedDomain>,
    key: PublisherKey,
    /// The place in words.
    place: String,
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
    ) -> Result<Self, StoreError> {
        let place = settings.place.describe();
        let key = match store.leases().name() {
            Some(gateway) if settings.place.is_of_gateway() => {
                PublisherKey::of_gateway(domain.name().clone(), &settings.name, gateway)
            }
            _ => PublisherKey::shared(domain.name().clone(), &settings.name),
        };
        let told = Told {
            is_here: !(key.is_leased && store.leases().are_shared()),
            published: stored_publication(&store, &key, &place).await?,
            state: PublisherState::default(),
        };
        let status = StatusCell::new(key.clone(), settings.clone(), told);
        statuses.add(status.clone());
        Ok(Self { settings, connector, publisher: None, domain, key, place, store, clock, metrics, status })
    }

    /// Publishes until `shutdown`, while that is this gateway's work.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut stored = self.domain.subscribe_stored();
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let is_leased = self.is_leased();
        let (name, mut leases) = (self.key.trust_domain.clone(), self.store.leases().watch());
        loop {
            if is_leased && !self.store.leases().holds(&name) {
                self.status.lock().is_here = false;
                tokio::select! {
                    () = leases.gained(&name) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
            if !self.status.lock().is_here {
                if let Err(error) = self.go_on().await {
                    tracing::warn!(trust_domain = %name, publisher = self.settings.name, %error, "publisher cannot go on");
                    tokio::select! {
                        () = self.clock.sleep(FIRST_RETRY) => continue,
                        () = shutdown.cancelled() => return Ok(()),
                    }
                }
                retry.reset();
            }
            stored.borrow_and_update();
            let lost = async {
                match is_leased {
                    true => leases.lost(&name).await,
                    false => std::future::pending().await,
                }
            };
            tokio::pin!(lost);
            let outcome = tokio::select! {
                outcome = self.attempt() => outcome,
                () = &mut lost => continue,
                () = shutdown.cancelled() => return Ok(()),
            };
            let wait = outcome.transpose().map(|outcome| self.note(outcome, &mut retry));
            self.status.lock().state.next_attempt = wait.map(|wait| self.clock.now() + wait);
            self.save().await;
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
                () = lost => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Whether another gateway may have to publish instead of this one.
    fn is_leased(&self) -> bool {
        self.key.is_leased && self.store.leases().are_shared()
    }

    /// Goes on where the gateway that published before came to.
    async fn go_on(&self) -> Result<(), StoreError> {
        let published = stored_publication(&self.store, &self.key, &self.place).await?;
        let key = (self.key.trust_domain.to_string(), self.key.name.clone());
        let state = self.store.publisher_states().await?.remove(&key).filter(|(place, _)| *place == self.place);
        let state = state.map(|(_, state)| state).unwrap_or_default();
        *self.status.lock() = Told { is_here: true, published, state };
        Ok(())
    }

    /// Stores how it is doing, for the other gateways.
    async fn save(&self) {
        if !self.is_leased() {
            return;
        }
        let state = self.status.lock().state.clone();
        if let Err(error) = self.store.save_publisher_state(&self.key, &self.place, &state).await {
            tracing::debug!(publisher = self.settings.name, %error, "state of the publisher not stored");
        }
    }

    /// What is to be published: what is served, once it is in the store, or what another gateway stored if that is
    /// newer. `None` while there is nothing.
    async fn candidate(&self, before: Option<&Publication>) -> Result<Option<Candidate>, PublisherError> {
        let own = self.domain.current().filter(|published| self.domain.is_stored(&published.digest));
        let own = own.map(|own| Candidate { bundle: Arc::clone(&own.bundle), changed_at: own.changed_at });
        if !self.store.leases().are_shared() {
            return Ok(own);
        }
        let stored = match self.store.served(self.domain.name()).await {
            Ok(stored) => stored,
            Err(error @ StoreError::Unreadable { .. }) => {
                tracing::warn!(%error, "what another gateway stored is not published");
                None
            }
            Err(error) => return Err(store_failed(error)),
        };
        let stored = stored.map(|it| Candidate { bundle: Arc::new(it.bundle), changed_at: it.changed_at });
        // An operator may have had the domain go back since: then the later one counts.
        let counts = before.is_none_or(|before| before.sequence.is_some());
        let age = |it: &Candidate| (it.bundle.sequence().filter(|_| counts), it.changed_at);
        Ok(match (own, stored) {
            (Some(own), Some(stored)) if !is_newer(age(&stored), age(&own)) => Some(own),
            (own, stored) => stored.or(own),
        })
    }

    /// Takes note of an attempt; answers how long to wait.
    fn note(&mut self, outcome: Result<Outcome, PublisherError>, retry: &mut Backoff) -> Duration {
        let (trust_domain, name) = (self.domain.name(), &self.settings.name);
        let (place, now) = (&self.place, self.clock.now());
        let status = &mut self.status.lock().state;
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

    /// `None` if there is nothing to publish yet.
    async fn attempt(&mut self) -> Result<Option<Outcome>, PublisherError> {
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            outcome = self.publish() => outcome,
            () = clock.sleep(DEADLINE) => Err(PublisherError::Timeout(DEADLINE)),
        }
    }

    async fn publish(&mut self) -> Result<Option<Outcome>, PublisherError> {
        let before = stored_publication(&self.store, &self.key, &self.place).await.map_err(store_failed)?;
        let Some(candidate) = self.candidate(before.as_ref()).await? else { return Ok(None) };
        let publisher = match &self.publisher {
            Some(publisher) => Arc::clone(publisher),
            None => Arc::clone(self.publisher.insert((self.connector)().await?)),
        };
        let document = publisher.render(&candidate.bundle)?;
        let digest = digest_hex(&document);
        let sequence = candidate.bundle.sequence();
        if let Some(before) = &before
            && before.digest != digest
            && is_newer((before.sequence, before.changed_at), (sequence, candidate.changed_at))
        {
            return Err(PublisherError::Behind { published: words(before.sequence), here: words(sequence) });
        }
        let publication = Publication {
            place: self.place.clone(),
            digest,
            sequence,
            changed_at: candidate.changed_at,
            confirmed_at: self.clock.now(),
        };
        let seen = publisher.read().await?;
        if seen.document.as_deref() == Some(&document) {
            return self.confirmed(before.as_ref(), publication, Outcome::Unchanged).await;
        }
        self.may_replace(&candidate.bundle, &seen, before.as_ref())?;
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
    ) -> Result<Option<Outcome>, PublisherError> {
        let is_known =
            |before: &Publication| before.digest == publication.digest && before.sequence == publication.sequence;
        if !before.is_some_and(is_known) {
            self.store.confirm_publication(&self.key, &publication).await.map_err(store_failed)?;
            self.status.lock().published = Some(publication);
        }
        Ok(Some(outcome))
    }

    /// Whether what is there may be replaced by `bundle`.
    fn may_replace(&self, bundle: &Bundle, seen: &Seen, before: Option<&Publication>) -> Result<(), PublisherError> {
        let Some(held) = seen.document.as_deref() else { return Ok(()) };
        if before.is_some_and(|before| before.digest == digest_hex(held)) {
            return Ok(());
        }
        let sequence = bundle.sequence();
        if self.settings.place.format() == BundleFormat::Spiffe
            && let Ok(held) = bundle_json::parse(self.domain.name(), held)
            && held.bundle.sequence() > sequence
        {
            return Err(PublisherError::Newer { there: words(held.bundle.sequence()), here: words(sequence) });
        }
        if bundle.is_empty() && !held.is_empty() {
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
            let status = &mut self.status.lock().state;
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
        let recorded = self.store.record_publication_drift(&self.key, before, digest.as_deref()).await;
        recorded.map_err(store_failed)
    }
}

/// Whether the first is newer: by sequence number, and without numbers by date. Dates are compared in seconds, as the
/// store has them.
fn is_newer(one: (Option<u64>, OffsetDateTime), other: (Option<u64>, OffsetDateTime)) -> bool {
    match (one.0, other.0) {
        (Some(one), Some(other)) if one != other => one > other,
        _ => one.1.unix_timestamp() > other.1.unix_timestamp(),
    }
}

fn words(sequence: Option<u64>) -> String {
    match sequence {
        Some(sequence) => format!("sequence {sequence}"),
        None => "without sequence".to_owned(),
    }
}

/// What was confirmed at this place; the same name at another place starts from nothing.
async fn stored_publication(store: &Store, key: &PublisherKey, place: &str) -> Result<Option<Publication>, StoreError> {
    Ok(store.publication(key).await?.filter(|publication| publication.place == place))
}

fn store_failed(error: StoreError) -> PublisherError {
    if matches!(error, StoreError::LeaseLost { .. }) {
        tracing::info!(%error, "another gateway publishes from now on");
    } else {
        tracing::error!(%error, "publications cannot be read or written");
    }
    PublisherError::Store
}
