//! An X509-SVID from an agent's Workload API, which also renews it. Its key never touches this gateway's disk.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use federation_specs::id::SpiffeId;
use service_kit::{
    BoxError,
    backoff::Backoff,
    clock::SharedClock,
    lifecycle::Shutdown,
    tls::{SvidCell, SvidSource as _, X509Identity},
};
use time::format_description::well_known::Rfc3339;

use super::EndpointIdentity;
use crate::{
    identity::{FIRST_RETRY, IdentityError, LAST_RETRY, Updates, WorkloadIdentity},
    metrics::RenewalMetrics,
    readiness::Gathered,
};

/// Follows one SPIFFE ID at one Workload API.
pub(crate) struct FromWorkloadApi {
    id: SpiffeId,
    identity: WorkloadIdentity,
    metrics: RenewalMetrics,
    clock: SharedClock,
}

impl FromWorkloadApi {
    /// Nothing yet.
    pub(crate) fn new(id: SpiffeId, socket: std::path::PathBuf, metrics: RenewalMetrics, clock: SharedClock) -> Self {
        let identity = WorkloadIdentity::choosing(socket, id.clone());
        Self { id, identity, metrics, clock }
    }

    fn current(&self) -> Option<Arc<X509Identity>> {
        self.identity.svid().current()
    }

    /// The next X509-SVID, over a new stream if there is none.
    async fn next(&self, stream: &mut Option<Updates>) -> Result<Arc<X509Identity>, IdentityError> {
        let updates = match stream {
            Some(updates) => updates,
            None => stream.insert(self.identity.open().await?),
        };
        self.identity.update(updates).await
    }

    fn report(&self, health: &Gathered, error: Option<&str>) {
        let now = self.clock.now();
        let current = self.current().map(|identity| identity.not_after());
        let in_words = |end: time::OffsetDateTime| end.format(&Rfc3339).unwrap_or_default();
        match (current, error) {
            (Some(end), None) if end > now => health.ready(self.id.as_str()),
            (Some(end), Some(error)) if end > now => {
                let remark = format!("X509-SVID valid until {} goes on: {error}", in_words(end));
                health.ready_but(self.id.as_str(), Some(remark));
            }
            (Some(end), error) => {
                let error = error.unwrap_or("the agent sent no newer one");
                health.not_ready(self.id.as_str(), &format!("X509-SVID expired at {}: {error}", in_words(end)));
            }
            (None, error) => {
                let error = error.unwrap_or("waiting for the agent");
                health.not_ready(self.id.as_str(), &format!("no X509-SVID yet: {error}"));
            }
        }
    }

    /// Completes when the current X509-SVID expires.
    async fn expiry(&self) {
        let left = self.current().map(|identity| identity.not_after() - self.clock.now());
        match left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero()) {
            Some(left) => self.clock.sleep(left).await,
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl EndpointIdentity for FromWorkloadApi {
    fn id(&self) -> &SpiffeId {
        &self.id
    }

    fn cell(&self) -> Arc<SvidCell> {
        self.identity.svid()
    }

    async fn run(self: Box<Self>, health: Gathered, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut stream = None;
        let mut pause = Duration::ZERO;
        let mut failing: Option<String> = None;
        self.report(&health, None);
        loop {
            let before = self.current();
            let next = async {
                self.clock.sleep(pause).await;
                self.next(&mut stream).await
            };
            let outcome = tokio::select! {
                outcome = next => outcome,
                () = self.expiry() => {
                    tracing::warn!(id = %self.id, "X509-SVID of the endpoint expired");
                    self.report(&health, failing.as_deref());
                    continue;
                }
                () = shutdown.cancelled() => return Ok(()),
            };
            pause = Duration::ZERO;
            match outcome {
                Ok(identity) => {
                    failing = None;
                    retry.reset();
                    if before.is_some_and(|before| before.chain() == identity.chain()) {
                        self.metrics.working();
                    } else {
                        self.metrics.renewed();
                        tracing::info!(
                            id = %self.id, not_after = %identity.not_after(), "X509-SVID of the endpoint received"
                        );
                    }
                }
                Err(error) => {
                    let text = format!("Workload API {}: {error}", self.identity.socket().display());
                    if failing.as_ref() != Some(&text) {
                        tracing::warn!(id = %self.id, error = %text, "X509-SVID of the endpoint not received");
                    }
                    self.metrics.failed();
                    failing = Some(text);
                    if error.ends_stream() {
                        stream = None;
                        pause = retry.next();
                    }
                }
            }
            self.report(&health, failing.as_deref());
        }
    }
}
