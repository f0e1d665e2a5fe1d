//! Keeps a trust domain served from its sources: one task a source.

use std::{sync::Arc, time::Duration};

use federation_specs::bundle::Bundle;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};

use super::{BundleSource, contributions::Offer};
use crate::{
    readiness::Gathered,
    served::{PublishError, ServedDomain},
    store::Store,
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
        loop {
            let next = tokio::select! {
                next = source.next() => next,
                () = shutdown.cancelled() => return Ok(()),
            };
            let accepted = match next {
                Ok(bundle) => taker.accept(&bundle).await,
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
            if text != last_error {
                tracing::warn!(%trust_domain, source = name, error = %text, "own bundle not updated");
            }
            domain.sources().failed(index, &text, known_until);
            domain.note_sources();
            if domain.current().is_none() {
                health.not_ready(trust_domain.as_str(), &text);
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
        let sources = self.domain.sources();
        let outcome = sources.offer(self.index, bundle, self.clock.now());
        self.domain.note_sources();
        match outcome {
            Offer::Held { reason, news: true } => tracing::error!(
                %trust_domain,
                source = self.name,
                %reason,
                "own bundle held back; what was served stays. If this is intended, accept it with \
                 POST /v1/sources/{trust_domain}/accept"
            ),
            Offer::Held { .. } => {}
            Offer::Accepted { changed } => {
                publish(self.domain, self.store, self.clock).await?;
                if changed && let Some(status) = sources.status().get(self.index) {
                    self.store.save_source(trust_domain, &status.key, bundle, self.clock.now()).await?;
                }
            }
        }
        if self.domain.current().is_some() {
            self.health.ready_but(trust_domain.as_str(), sources.held_in_words());
        }
        Ok(())
    }
}

/// Serves what the sources give together and stores it, so that a restart serves it before they answer.
async fn publish(domain: &ServedDomain, store: &Store, clock: &SharedClock) -> Result<(), BoxError> {
    let before = domain.current();
    let Some(merged) = domain.sources().merged(before.as_ref().map(|before| &*before.bundle)) else { return Ok(()) };
    domain.publish(&merged, clock.now())?;
    let Some(published) = domain.current() else { return Ok(()) };
    if domain.is_stored(&published.digest) {
        return Ok(());
    }
    tracing::info!(
        trust_domain = %domain.name(),
        sequence = ?published.bundle.sequence(),
        x509_authorities = published.bundle.x509_authorities().len(),
        jwt_authorities = published.bundle.jwt_authorities().len(),
        "own bundle changed"
    );
    store.save_served(domain.name(), &published).await?;
    domain.stored(&published.digest);
    Ok(())
}

/// An operator accepts what the held sources of `domain` give. Answers their names.
///
/// # Errors
/// When it cannot be published or stored.
pub(crate) async fn accept_held(
    domain: &ServedDomain,
    store: &Store,
    clock: &SharedClock,
) -> Result<Vec<String>, BoxError> {
    let released = domain.sources().accept_held();
    domain.note_sources();
    for (key, bundle) in &released {
        store.save_source(domain.name(), key, bundle, clock.now()).await?;
    }
    if !released.is_empty() {
        let before = domain.current();
        let merged = domain.sources().merged(before.as_ref().map(|before| &*before.bundle));
        if let Some(merged) = merged {
            domain.publish_accepted(&merged, clock.now())?;
        }
        publish(domain, store, clock).await?;
    }
    Ok(released.into_iter().map(|(key, _)| key).collect())
}
