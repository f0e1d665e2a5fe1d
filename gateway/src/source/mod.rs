//! Where the bundle of a served trust domain comes from. One trait, one file for each kind of source.

pub mod issuer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use federation_specs::bundle::Bundle;
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};

use crate::{readiness::Gathered, served::ServedDomain, store::Store};

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// A source of one trust domain's own bundle.
#[async_trait]
pub trait BundleSource: Send {
    /// What it is, for logs: `issuer /run/issuer/api.sock`.
    fn describe(&self) -> String;

    /// The bundle as it is now. The first call answers as soon as it can; later ones wait until it is worth looking
    /// again: a polled source for its interval, a watched one for a change. After an error the caller waits.
    ///
    /// # Errors
    /// Whatever kept the source from answering, with the remedy.
    async fn next(&mut self) -> Result<Bundle, BoxError>;
}

/// Keeps `domain` served from `source` until `shutdown`. While the source fails, the last bundle is served on.
///
/// # Errors
/// Never; the signature is that of a service task.
pub(crate) async fn follow(
    mut source: Box<dyn BundleSource>,
    domain: Arc<ServedDomain>,
    store: Store,
    clock: SharedClock,
    health: Gathered,
    shutdown: Shutdown,
) -> Result<(), BoxError> {
    let trust_domain = domain.name().clone();
    let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let mut stored = domain.current().map(|published| published.digest.clone());
    let mut last_error = String::new();
    loop {
        let next = tokio::select! {
            next = source.next() => next,
            () = shutdown.cancelled() => return Ok(()),
        };
        let accepted = match next {
            Ok(bundle) => accept(&domain, &store, &clock, &bundle, &mut stored).await,
            Err(error) => Err(error),
        };
        match accepted {
            Ok(()) => {
                if !last_error.is_empty() {
                    tracing::info!(%trust_domain, source = source.describe(), "bundle source works again");
                    last_error.clear();
                }
                retry.reset();
                health.ready(trust_domain.as_str());
            }
            Err(error) => {
                let text = error.to_string();
                if text != last_error {
                    tracing::warn!(%trust_domain, source = source.describe(), error = %text, "own bundle not updated");
                }
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
}

/// Serves what the source gave and stores it, so that a restart serves it before the source answers. `stored` is the
/// digest of the document in the store.
async fn accept(
    domain: &ServedDomain,
    store: &Store,
    clock: &SharedClock,
    bundle: &Bundle,
    stored: &mut Option<String>,
) -> Result<(), BoxError> {
    domain.publish(bundle, clock.now())?;
    let Some(published) = domain.current() else { return Ok(()) };
    if stored.as_ref() != Some(&published.digest) {
        tracing::info!(
            trust_domain = %domain.name(),
            sequence = ?published.bundle.sequence(),
            x509_authorities = published.bundle.x509_authorities().len(),
            jwt_authorities = published.bundle.jwt_authorities().len(),
            "own bundle changed"
        );
        store.save_served(domain.name(), &published).await?;
        *stored = Some(published.digest.clone());
    }
    Ok(())
}
