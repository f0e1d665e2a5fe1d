//! The relationships created at one issuer: followed over its `FederationWork` service, or listed from time to time
//! where there is none (a SPIRE server).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use federation_specs::{
    id::TrustDomain,
    proto::{entente::federation::RefreshRequest as RefreshCall, types::FederationRelationship},
};
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};
use tokio::task::JoinSet;

use super::{manager::Manager, relationship::IssuerRelationship};
use crate::{
    api::RefreshRequest,
    issuer_client::{IssuerClient, IssuerError, RelationshipWatch},
    store::Store,
};

/// How often relationships are listed at an issuer that cannot be watched.
pub const LIST_INTERVAL: Duration = Duration::from_secs(10);

/// Refresh requests of one issuer worked on at the same time; further ones wait.
const MAX_REFRESH_REQUESTS: usize = 256;

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Follows one issuer's relationships until shutdown. While the issuer is away, the last ones known stay.
pub struct IssuerWork {
    client: IssuerClient,
    manager: Manager,
    store: Store,
    clock: SharedClock,
    /// The relationships as they are stored.
    stored: BTreeMap<TrustDomain, IssuerRelationship>,
    /// What could not be used, so that it is logged once.
    unusable: BTreeSet<String>,
    reports: JoinSet<()>,
}

impl IssuerWork {
    /// Starts from what was stored.
    pub fn new(
        client: IssuerClient,
        manager: Manager,
        store: Store,
        clock: SharedClock,
        stored: Vec<IssuerRelationship>,
    ) -> Self {
        let stored = stored.into_iter().map(|item| (item.trust_domain.clone(), item)).collect();
        Self { client, manager, store, clock, stored, unusable: BTreeSet::new(), reports: JoinSet::new() }
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut last_error = String::new();
        loop {
            let outcome = tokio::select! {
                outcome = self.follow(&mut retry) => outcome,
                () = shutdown.cancelled() => return Ok(()),
            };
            let wait = match outcome {
                Ok(wait) => {
                    last_error.clear();
                    wait
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != last_error {
                        tracing::warn!(error = %text, "relationships of the issuer not read; those known stay");
                        last_error = text;
                    }
                    retry.next()
                }
            };
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Reads until the stream ends, or once where it cannot be watched. Answers how long to wait.
    async fn follow(&mut self, retry: &mut Backoff) -> Result<Duration, IssuerError> {
        let watch = match self.client.watch_relationships().await {
            Ok(watch) => watch,
            Err(error) if error.is_unimplemented() => return self.list(retry).await,
            Err(error) => return Err(error),
        };
        match self.watch(watch, retry).await {
            Err(error) if error.is_unimplemented() => self.list(retry).await,
            outcome => outcome.map(|()| FIRST_RETRY),
        }
    }

    async fn list(&mut self, retry: &mut Backoff) -> Result<Duration, IssuerError> {
        let relationships = self.client.list_relationships().await?;
        retry.reset();
        self.update(&relationships).await;
        Ok(LIST_INTERVAL)
    }

    async fn watch(&mut self, mut watch: RelationshipWatch, retry: &mut Backoff) -> Result<(), IssuerError> {
        let mut first = true;
        loop {
            let message = tokio::select! {
                message = watch.next() => message?,
                Some(_) = self.reports.join_next() => continue,
            };
            let Some(message) = message else { return Ok(()) };
            retry.reset();
            self.update(&message.relationships).await;
            if first {
                self.manager.issuer_is_back(self.client.trust_domain());
                first = false;
            }
            for request in message.refresh_requests {
                if self.reports.len() >= MAX_REFRESH_REQUESTS {
                    self.reports.join_next().await;
                }
                self.reports.spawn(report(self.client.clone(), self.manager.clone(), request));
            }
        }
    }

    async fn update(&mut self, messages: &[FederationRelationship]) {
        let local = self.client.trust_domain();
        let mut now = BTreeMap::new();
        let mut unusable = BTreeSet::new();
        for message in messages {
            match IssuerRelationship::from_proto(message) {
                Ok(item) => {
                    now.insert(item.trust_domain.clone(), item);
                }
                Err(error) => {
                    unusable.insert(error.to_string());
                }
            }
        }
        for error in unusable.difference(&self.unusable) {
            tracing::warn!(issuer = %local, %error, "relationship passed over");
        }
        self.unusable = unusable;
        let changed: Vec<_> =
            now.values().filter(|item| self.stored.get(&item.trust_domain) != Some(item)).cloned().collect();
        let removed: Vec<_> = self.stored.keys().filter(|name| !now.contains_key(name)).cloned().collect();
        self.manager.set_issuer_relationships(local, now.values().cloned().collect());
        if changed.is_empty() && removed.is_empty() {
            return;
        }
        match self.store.save_issuer_relationships(local, &changed, &removed).await {
            Ok(()) => self.stored = now,
            Err(error) => tracing::warn!(issuer = %local, %error, "relationships of the issuer not stored"),
        }
    }
}

/// Serves one refresh request and tells the issuer how it went.
async fn report(client: IssuerClient, manager: Manager, request: RefreshCall) {
    let outcome = match TrustDomain::from_name_or_id(&request.trust_domain) {
        Ok(partner) => manager
            .refresh_for(client.trust_domain(), &partner, RefreshRequest::default())
            .await
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = client.report_refresh(&request.trust_domain, &request.request_id, outcome).await {
        tracing::warn!(trust_domain = request.trust_domain, %error, "outcome of the refresh not reported");
    }
}
