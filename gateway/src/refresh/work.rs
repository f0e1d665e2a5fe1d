//! The relationships created at one issuer: followed over its `FederationWork` service, or listed from time to time
//! where there is none (a SPIRE server).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use federation_specs::{id::TrustDomain, proto::entente::federation::RefreshRequest as RefreshCall};
use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, lifecycle::Shutdown};
use tokio::task::JoinSet;

use super::{manager::Manager, relationship::IssuerRelationship};
use crate::{
    api::RefreshRequest,
    issuer_client::{IssuerClient, IssuerError, RelationshipWatch, WatchUpdate},
    store::Store,
};

/// How often relationships are listed at an issuer that cannot be watched.
pub const LIST_INTERVAL: Duration = Duration::from_secs(10);

/// Refresh requests of one issuer worked on at the same time; further ones wait.
const MAX_REFRESH_REQUESTS: usize = 256;

/// Relationships stored in one transaction.
const MAX_SAVED_AT_ONCE: usize = 500;

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Follows one issuer's relationships until shutdown. While the issuer is away, the last ones known stay.
pub struct IssuerWork {
    client: IssuerClient,
    manager: Manager,
    store: Store,
    clock: SharedClock,
    /// The relationships as last seen at the issuer.
    known: BTreeMap<TrustDomain, IssuerRelationship>,
    /// Those of them that may be stored otherwise.
    unsaved: BTreeSet<TrustDomain>,
    /// What could not be used and why, by trust domain, so that it is logged once.
    unusable: BTreeMap<String, String>,
    /// Whether it did not answer the last time.
    away: bool,
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
        let known = stored.into_iter().map(|item| (item.trust_domain.clone(), item)).collect();
        Self {
            client,
            manager,
            store,
            clock,
            known,
            unsaved: BTreeSet::new(),
            unusable: BTreeMap::new(),
            away: false,
            reports: JoinSet::new(),
        }
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
                    self.away = true;
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
        self.update(WatchUpdate { complete: true, relationships, ..WatchUpdate::default() }).await;
        if std::mem::take(&mut self.away) {
            self.manager.issuer_is_back(self.client.trust_domain());
        }
        Ok(LIST_INTERVAL)
    }

    async fn watch(&mut self, mut watch: RelationshipWatch, retry: &mut Backoff) -> Result<(), IssuerError> {
        loop {
            let update = tokio::select! {
                update = watch.next() => update?,
                Some(_) = self.reports.join_next() => continue,
            };
            let Some(mut update) = update else { return Ok(()) };
            retry.reset();
            let (first, requests) = (update.complete, std::mem::take(&mut update.refresh_requests));
            self.update(update).await;
            if first {
                self.manager.issuer_is_back(self.client.trust_domain());
            }
            for request in requests {
                if self.reports.len() >= MAX_REFRESH_REQUESTS {
                    self.reports.join_next().await;
                }
                self.reports.spawn(report(self.client.clone(), self.manager.clone(), request));
            }
        }
    }

    /// Takes over what is new and stores it; what could not be stored is tried again with the next news.
    async fn update(&mut self, update: WatchUpdate) {
        let local = self.client.trust_domain().clone();
        let mut gone: BTreeSet<TrustDomain> =
            update.removed.iter().filter_map(|name| TrustDomain::from_name_or_id(name).ok()).collect();
        if update.complete {
            // Whatever is not in the list is not there.
            gone.extend(self.known.keys().cloned());
        }
        let mut unusable = BTreeMap::new();
        let mut there = Vec::with_capacity(update.relationships.len());
        for message in &update.relationships {
            match IssuerRelationship::from_proto(message) {
                Ok(item) => {
                    gone.remove(&item.trust_domain);
                    there.push(item);
                }
                Err(error) => {
                    gone.extend(TrustDomain::from_name_or_id(&message.trust_domain));
                    unusable.insert(message.trust_domain.clone(), error.to_string());
                }
            }
        }
        for (name, error) in unusable.iter().filter(|(name, error)| self.unusable.get(*name) != Some(error)) {
            tracing::warn!(issuer = %local, trust_domain = name, %error, "relationship passed over");
        }
        if update.complete {
            self.unusable.clear();
        }
        for name in update.removed.iter().chain(update.relationships.iter().map(|message| &message.trust_domain)) {
            self.unusable.remove(name);
        }
        self.unusable.extend(unusable);

        self.manager.issuer_holds(&local, &there);
        there.retain(|item| self.known.get(&item.trust_domain) != Some(item));
        gone.retain(|name| self.known.contains_key(name));
        self.unsaved.extend(there.iter().map(|item| item.trust_domain.clone()).chain(gone.iter().cloned()));
        for name in &gone {
            self.known.remove(name);
        }
        self.known.extend(there.iter().map(|item| (item.trust_domain.clone(), item.clone())));
        self.manager.change_issuer_relationships(&local, there, gone);
        self.save().await;
    }

    /// Stores what is not stored yet, a bounded number at a time.
    async fn save(&mut self) {
        let local = self.client.trust_domain();
        while !self.unsaved.is_empty() {
            let names: Vec<TrustDomain> = self.unsaved.iter().take(MAX_SAVED_AT_ONCE).cloned().collect();
            let changed: Vec<_> = names.iter().filter_map(|name| self.known.get(name).cloned()).collect();
            let removed: Vec<_> = names.iter().filter(|name| !self.known.contains_key(name)).cloned().collect();
            if let Err(error) = self.store.save_issuer_relationships(local, &changed, &removed).await {
                tracing::warn!(issuer = %local, %error, "relationships of the issuer not stored");
                return;
            }
            for name in &names {
                self.unsaved.remove(name);
            }
        }
    }
}

/// Serves one refresh request and tells the issuer how it went.
async fn report(client: IssuerClient, manager: Manager, request: RefreshCall) {
    let outcome = match TrustDomain::from_name_or_id(&request.trust_domain) {
        // Every gateway is asked; the first answer counts.
        Ok(partner) if !manager.leases().holds(&partner) => return,
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
