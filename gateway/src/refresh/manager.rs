//! Keeps one task running for each relationship there should be.

mod orders;
mod others;
mod recorded;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use federation_specs::id::TrustDomain;
use futures::FutureExt as _;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    decision_error::DecisionError,
    decisions::Decisions,
    deliver::Deliveries,
    lanes::Lanes,
    policy::{Drift, Mode},
    relationship::{ByIssuer, Definition, IssuerRelationship, ManagedRelationship, merge},
    requests::{MAX_WAITING, Requests},
    task::{Shared, Task},
    updater::Updater,
};
use crate::{
    partners::content_digest,
    settings::{ConfiguredRelationship, RelationshipRules},
    store::{StoreError, relationships::RefreshState},
};

pub use view::summary;
pub(crate) use view::{Progress, confirmed_at};

use recorded::recorded;

/// How often the ages of bundles are looked at.
pub const AGE_CHECK: Duration = Duration::from_secs(1);

/// Pause before a task that ended by a defect starts again.
const RESTART_PAUSE: Duration = Duration::from_secs(60);

/// Why a refresh did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefreshError {
    /// There is no such relationship.
    #[error("no relationship with trust domain \"{0}\"")]
    Unknown(TrustDomain),
    /// The issuer that asks names another endpoint than the one in use.
    #[error(
        "the bundle of `{partner}` is fetched from {url} for other trust domains, so the relationship of `{local}` is \
         not used; give both the same endpoint"
    )]
    Conflict {
        /// The partner.
        partner: TrustDomain,
        /// Who asks.
        local: TrustDomain,
        /// The endpoint in use.
        url: String,
    },
    /// Too many refreshes wait already.
    #[error("{MAX_WAITING} refreshes of `{0}` wait already; try again later")]
    Busy(TrustDomain),
    /// The relationship was removed meanwhile, or the gateway stops.
    #[error("the refresh was given up, because the relationship was removed or the gateway stops")]
    Stopped,
    /// The partner's bundle could not be fetched or accepted.
    #[error("{0}")]
    Failed(String),
    /// A decision that was not taken.
    #[error(transparent)]
    Decision(#[from] DecisionError),
}

/// Starts, changes and ends the tasks of relationships. Clones manage the same ones.
#[derive(Debug, Clone)]
pub struct Manager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    configured: BTreeMap<TrustDomain, ConfiguredRelationship>,
    rules: RelationshipRules,
    state: Mutex<State>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    managed: BTreeMap<TrustDomain, ManagedRelationship>,
    by_issuer: ByIssuer,
    running: BTreeMap<TrustDomain, Running>,
    /// States of relationships that do not run, from the store or from before they were removed.
    idle: HashMap<TrustDomain, RefreshState>,
}

#[derive(Debug)]
struct Running {
    definition: watch::Sender<Arc<Definition>>,
    requests: Arc<Requests>,
    status: Arc<Mutex<RefreshState>>,
    cancelled: CancellationToken,
}

impl Running {
    fn definition(&self) -> Arc<Definition> {
        Arc::clone(&self.definition.borrow())
    }

    fn status(&self) -> RefreshState {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Manager {
    /// A manager of the configured relationships, the managed ones and those the store knows of issuers. Nothing runs before
    /// [`Manager::start`].
    ///
    /// # Errors
    /// [`StoreError`] when the states cannot be read.
    pub async fn load(
        configured: Vec<ConfiguredRelationship>,
        rules: RelationshipRules,
        managed: Vec<ManagedRelationship>,
        by_issuer: BTreeMap<TrustDomain, Vec<IssuerRelationship>>,
        updater: Updater,
        deliveries: Arc<Deliveries>,
    ) -> Result<Self, StoreError> {
        let idle = updater.store().refresh_states().await?;
        let definitions: Vec<_> = configured.iter().map(|item| (item.trust_domain.clone(), recorded(item))).collect();
        updater.store().record_configuration(&definitions).await?;
        let shared = Shared { updater, deliveries, lanes: Lanes::new() };
        let by_partner = |items: Vec<IssuerRelationship>| {
            items.into_iter().map(|item| (item.trust_domain.clone(), item)).collect::<BTreeMap<_, _>>()
        };
        let managed: BTreeMap<_, _> =
            managed.into_iter().map(|item| (item.relationship.trust_domain.clone(), item)).collect();
        let by_issuer: ByIssuer = by_issuer.into_iter().map(|(local, items)| (local, by_partner(items))).collect();
        let at_issuers = by_issuer.values().flat_map(BTreeMap::keys);
        let named = configured.iter().map(|item| &item.trust_domain).chain(managed.keys());
        shared.updater.partners().relate_to(named.chain(at_issuers).cloned().collect());
        let inner = Inner {
            shared: Arc::new(shared),
            configured: configured.into_iter().map(|item| (item.trust_domain.clone(), item)).collect(),
            rules,
            state: Mutex::new(State { managed, by_issuer, running: BTreeMap::new(), idle }),
            tasks: TaskTracker::new(),
            cancelled: CancellationToken::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Starts the tasks of every relationship known.
    pub fn start(&self) {
        let mut state = self.state();
        let at_issuers = state.by_issuer.values().flat_map(BTreeMap::keys);
        let named = self.inner.configured.keys().chain(state.managed.keys());
        let partners = named.chain(at_issuers).cloned().collect();
        self.reconcile(&mut state, &partners);
        drop(state);
        self.inner.shared.deliveries.all_told();
        self.inner.tasks.spawn(self.clone().watch_ages());
        let (clock, cancelled) = (Arc::clone(self.inner.shared.updater.clock()), self.inner.cancelled.clone());
        self.inner.tasks.spawn(Arc::clone(self.decisions().states()).run(clock, cancelled));
    }

    /// Takes bundles that partners have not confirmed within their maximum age from the issuers, and gives them back.
    async fn watch_ages(self) {
        let clock = Arc::clone(self.inner.shared.updater.clock());
        loop {
            tokio::select! {
                () = clock.sleep(AGE_CHECK) => {}
                () = self.inner.cancelled.cancelled() => return,
            }
            let now = clock.now();
            let mut news = BTreeSet::new();
            for (partner, maximum_age, last_confirmed) in self.ages() {
                let partner = &partner;
                if !self.leases().holds(partner) {
                    continue;
                }
                let held = self.inner.shared.updater.partners().get(partner);
                let age = held.map(|held| now - confirmed_at(&held, last_confirmed));
                let expired = age.zip(maximum_age).is_some_and(|(age, maximum)| age > maximum);
                if self.decisions().is_expired(partner) == expired {
                    continue;
                }
                // What an operator stopped in place stays in place.
                if expired && self.decisions().is_frozen(partner) {
                    continue;
                }
                match self.decisions().set_expired(partner, expired).await {
                    Ok(true) => drop(news.insert(partner.clone())),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(trust_domain = %partner, %error, "age of the bundle not stored"),
                }
            }
            self.reconcile(&mut self.state(), &news);
        }
    }

    /// Each relationship whose bundle may expire or is expired: its maximum age and when it was last confirmed. Where an
    /// operator has named the bundle, any answer of the partner confirms that there still is one.
    fn ages(&self) -> Vec<(TrustDomain, Option<Duration>, Option<OffsetDateTime>)> {
        let state = self.state();
        let ages = state.running.iter().filter_map(|(partner, running)| {
            let policy = running.definition.borrow().policy;
            let matters = policy.maximum_age.is_some() || self.decisions().is_expired(partner);
            let confirmed = || match policy.mode {
                Mode::Pinned => running.status().last_success,
                Mode::Auto | Mode::Hold => running.status().confirmed_at,
            };
            matters.then(|| (partner.clone(), policy.maximum_age, confirmed()))
        });
        ages.collect()
    }

    /// Ends every task, waits for them and stores how each relationship was doing.
    pub async fn stop(&self) {
        self.inner.cancelled.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.decisions().states().flush().await;
    }

    /// An issuer answers again after it was away.
    pub fn issuer_is_back(&self, local: &TrustDomain) {
        self.inner.shared.deliveries.verify(local);
    }

    /// What an issuer says to hold of these partners.
    pub fn issuer_holds(&self, local: &TrustDomain, relationships: &[IssuerRelationship]) {
        let observed = relationships
            .iter()
            .map(|item| (item.trust_domain.clone(), item.bundle.as_ref().map(|bundle| content_digest(bundle))));
        self.inner.shared.deliveries.observe(local, observed.collect());
    }

    /// Takes over relationships that were created, changed or removed at one issuer; the others stay.
    pub fn change_issuer_relationships(
        &self,
        local: &TrustDomain,
        changed: Vec<IssuerRelationship>,
        removed: BTreeSet<TrustDomain>,
    ) {
        if changed.is_empty() && removed.is_empty() {
            return;
        }
        let mut state = self.state();
        let relationships = state.by_issuer.entry(local.clone()).or_default();
        for partner in &removed {
            relationships.remove(partner);
        }
        let mut partners = removed;
        for item in changed {
            partners.insert(item.trust_domain.clone());
            relationships.insert(item.trust_domain.clone(), item);
        }
        self.reconcile(&mut state, &partners);
    }

    /// Follows a change of managed relationships: tasks of new ones start, those of changed ones go on with what they say
    /// now, and bundles of removed ones are taken from the issuers.
    pub fn change_managed(&self, set: Vec<ManagedRelationship>, removed: BTreeSet<TrustDomain>) {
        let mut state = self.state();
        for partner in &removed {
            state.managed.remove(partner);
        }
        let mut partners = removed;
        for item in set {
            let partner = item.relationship.trust_domain.clone();
            partners.insert(partner.clone());
            state.managed.insert(partner, item);
        }
        self.reconcile(&mut state, &partners);
    }

    /// Whether the partner's bundle is older than its maximum age.
    pub(crate) fn is_expired(&self, partner: &TrustDomain) -> bool {
        self.decisions().control(partner).expired_at.is_some()
    }

    /// Keeps decisions from being taken until the answer is dropped, so that none rests on a definition that changes
    /// meanwhile.
    pub(crate) async fn pause_decisions(&self) -> impl Drop + '_ {
        self.decisions().pause().await
    }

    fn decisions(&self) -> &Decisions {
        self.inner.shared.updater.decisions()
    }

    fn definition(&self, partner: &TrustDomain) -> Result<Arc<Definition>, RefreshError> {
        let definition = self.state().running.get(partner).map(Running::definition);
        definition.ok_or_else(|| RefreshError::Unknown(partner.clone()))
    }

    fn in_force(&self, definition: &Definition) {
        self.inner.shared.deliveries.refreshed(&definition.trust_domain, &definition.receivers);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings tasks and deliveries of these partners to what they should be now.
    fn reconcile(&self, state: &mut State, partners: &BTreeSet<TrustDomain>) {
        if self.inner.cancelled.is_cancelled() {
            return;
        }
        let deliveries = &self.inner.shared.deliveries;
        for partner in partners {
            let configured = self.inner.configured.get(partner);
            let managed = state.managed.get(partner);
            let defaults = self.inner.rules.default_policy();
            let definition = merge(partner, configured, managed, &state.by_issuer, defaults);
            self.inner.shared.updater.partners().set_related(partner, definition.is_some());
            let Some(definition) = definition else {
                deliveries.want(partner, &BTreeSet::new(), false);
                if let Some(running) = state.running.remove(partner) {
                    running.cancelled.cancel();
                    state.idle.insert(partner.clone(), running.status());
                    tracing::info!(trust_domain = %partner, "relationship removed");
                }
                continue;
            };
            let expired = self.decisions().is_expired(partner);
            let shown_only = definition.policy.drift == Drift::Show;
            let nobody = BTreeSet::new();
            deliveries.want(partner, if expired { &nobody } else { &definition.receivers }, shown_only);
            match state.running.get(partner) {
                Some(running) => {
                    running.definition.send_if_modified(|current| {
                        let changed = **current != definition;
                        if changed {
                            *current = Arc::new(definition);
                        }
                        changed
                    });
                }
                None => {
                    let status = state.idle.remove(partner).unwrap_or_default();
                    let running = self.spawn(definition, status);
                    state.running.insert(partner.clone(), running);
                }
            }
        }
    }

    fn spawn(&self, definition: Definition, status: RefreshState) -> Running {
        let (definition, definitions) = watch::channel(Arc::new(definition));
        let requests = Arc::new(Requests::default());
        let running = Running {
            definition,
            requests: Arc::clone(&requests),
            status: Arc::new(Mutex::new(status)),
            cancelled: self.inner.cancelled.child_token(),
        };
        let task = Task {
            shared: Arc::clone(&self.inner.shared),
            definition: definitions,
            requests,
            status: Arc::clone(&running.status),
            cancelled: running.cancelled.clone(),
        };
        let manager = self.clone();
        self.inner.tasks.spawn(async move {
            let cancelled = task.cancelled.clone();
            let partner = task.definition.borrow().trust_domain.clone();
            // Whatever a defect left half done goes with the task, which nobody else shares.
            if AssertUnwindSafe(task.run()).catch_unwind().await.is_err() {
                tracing::error!(trust_domain = %partner, "refresh task failed, which is a defect; it starts again");
                let clock = manager.inner.shared.updater.clock();
                tokio::select! {
                    () = clock.sleep(RESTART_PAUSE) => manager.respawn(&partner),
                    () = cancelled.cancelled() => {}
                }
            }
        });
        running
    }

    /// Replaces a task that ended by a defect, if its relationship is still wanted.
    fn respawn(&self, partner: &TrustDomain) {
        let mut state = self.state();
        if let Some(running) = state.running.get(partner).filter(|running| running.requests.is_closed()) {
            let again = self.spawn((*running.definition()).clone(), running.status());
            state.running.insert(partner.clone(), again);
        }
    }
}
