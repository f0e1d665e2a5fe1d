//! Relationships managed over the admin API: created, replaced and removed at run time, one at a time or as a set that
//! is applied from files. They are kept in the store as they were written, each under the number of the audit record of
//! its last change, which is its version.
//!
//! The configuration file comes first: what it names is not changed here. Relationships of issuers come last, as they
//! do behind the configuration ([`crate::refresh::relationship::merge`]).

pub mod definition;
pub mod error;
pub mod plan;

use std::{collections::BTreeSet, sync::Arc};

use federation_specs::id::TrustDomain;
use tokio::sync::Mutex;

use self::{
    definition::{Stored, Wanted, read},
    error::ManagedError,
    plan::{Kind, Ownership, Plan, Precondition, Request},
};
use crate::{
    api::Origin,
    audit::Actor,
    config,
    refresh::{manager::Manager, relationship::ManagedRelationship},
    settings::{MAX_RELATIONSHIPS, RelationshipRules, UnknownReceiver},
    store::{Store, StoreError},
};

/// Changes relationships. Clones change the same ones.
#[derive(Debug, Clone)]
pub struct Managed {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    manager: Manager,
    rules: RelationshipRules,
    /// Partners of the configuration.
    configured: BTreeSet<TrustDomain>,
    /// Memory follows the store in the order of the changes.
    one_at_a_time: Mutex<()>,
}

/// What the store keeps, as the manager runs it. A relationship that an earlier configuration allowed stays; receivers
/// that are not served any more are left out. `configured` are the partners of the configuration, which come first.
///
/// # Errors
/// [`StoreError`] when a definition cannot be read.
pub async fn load(
    store: &Store,
    rules: &RelationshipRules,
    configured: &BTreeSet<TrustDomain>,
) -> Result<Vec<ManagedRelationship>, StoreError> {
    let stored = store.managed().await?;
    for partner in stored.iter().map(|stored| &stored.trust_domain).filter(|partner| configured.contains(*partner)) {
        tracing::warn!(
            trust_domain = %partner,
            "the configuration names this partner, so that its managed relationship waits; delete one of the two"
        );
    }
    Ok(stored.iter().filter_map(|stored| runnable(stored, rules)).collect())
}

/// A definition that cannot be used any more is logged and left alone.
fn runnable(stored: &Stored, rules: &RelationshipRules) -> Option<ManagedRelationship> {
    let partner = &stored.trust_domain;
    let checked = read(&stored.definition).and_then(|item| {
        let key = format!("relationship `{partner}`");
        let relationship = rules.check(&key, &item, UnknownReceiver::LeftOut).map_err(|error| error.to_string())?;
        Ok((item.local_trust_domains.len(), relationship))
    });
    match checked {
        Ok((named, relationship)) => {
            let left = relationship.local_trust_domains.len();
            if left < named.max(1) {
                tracing::warn!(
                    trust_domain = %partner,
                    "receivers of this relationship are not served any more and are left out; apply it again"
                );
            }
            Some(ManagedRelationship { relationship, set: stored.set.clone(), version: stored.version })
        }
        Err(error) => {
            tracing::error!(trust_domain = %partner, error, "managed relationship not usable any more; apply it again");
            None
        }
    }
}

impl Managed {
    /// Changes the relationships of `manager`, which was given what [`load`] reads.
    pub fn new(store: Store, manager: Manager, rules: RelationshipRules, configured: BTreeSet<TrustDomain>) -> Self {
        let one_at_a_time = Mutex::new(());
        Self { inner: Arc::new(Inner { store, manager, rules, configured, one_at_a_time }) }
    }

    /// One relationship as it was written.
    ///
    /// # Errors
    /// [`ManagedError::Unknown`] or [`ManagedError::Elsewhere`] when it is not managed here, [`ManagedError::Store`].
    pub async fn definition(&self, partner: &TrustDomain) -> Result<Stored, ManagedError> {
        let stored = self.inner.store.managed_definition(partner).await?;
        stored.ok_or_else(|| self.not_managed(partner))
    }

    /// Creates or replaces one relationship. It stays in the set it is in.
    ///
    /// # Errors
    /// [`ManagedError`]; nothing changed then.
    pub async fn put(
        &self,
        item: &config::Relationship,
        precondition: Option<Precondition>,
        by: Actor,
        why: &str,
    ) -> Result<Plan, ManagedError> {
        let wanted = Wanted::check(item, &self.inner.rules).map_err(|error| ManagedError::Invalid(vec![error]))?;
        self.not_configured([&wanted.checked.trust_domain])?;
        self.change(Request {
            wanted: [(wanted.checked.trust_domain.clone(), wanted)].into(),
            removed: None,
            ownership: Ownership::Kept,
            precondition,
            dry_run: false,
            by,
            why: why.to_owned(),
        })
        .await
    }

    /// Removes one relationship, whatever set it is in.
    ///
    /// # Errors
    /// [`ManagedError`]; nothing changed then.
    pub async fn delete(
        &self,
        partner: &TrustDomain,
        precondition: Option<Precondition>,
        by: Actor,
        why: &str,
    ) -> Result<Plan, ManagedError> {
        let plan = self
            .change(Request {
                wanted: [].into(),
                removed: Some(partner.clone()),
                ownership: Ownership::Kept,
                precondition,
                dry_run: false,
                by,
                why: why.to_owned(),
            })
            .await?;
        if plan.changes.is_empty() { Err(self.not_managed(partner)) } else { Ok(plan) }
    }

    /// Makes the relationships of a set those given, or says what that would change.
    ///
    /// # Errors
    /// [`ManagedError`], for all relationships that cannot be used together; nothing changed then.
    pub async fn apply(
        &self,
        items: &[config::Relationship],
        ownership: Ownership,
        dry_run: bool,
        by: Actor,
        why: &str,
    ) -> Result<Plan, ManagedError> {
        if items.len() > MAX_RELATIONSHIPS {
            return Err(ManagedError::TooMany);
        }
        let (mut wanted, mut problems) = (std::collections::BTreeMap::new(), Vec::new());
        for item in items {
            match Wanted::check(item, &self.inner.rules) {
                Ok(item) => {
                    let partner = item.checked.trust_domain.clone();
                    if wanted.insert(partner.clone(), item).is_some() {
                        return Err(ManagedError::Twice(partner));
                    }
                }
                Err(error) => problems.push(error),
            }
        }
        if !problems.is_empty() {
            return Err(ManagedError::Invalid(problems));
        }
        self.not_configured(wanted.keys())?;
        let why = why.to_owned();
        self.change(Request { wanted, removed: None, ownership, precondition: None, dry_run, by, why }).await
    }

    /// Takes note of what another gateway on the same database changed about `partners`.
    ///
    /// # Errors
    /// [`StoreError`]; ask again then.
    pub(crate) async fn changed_elsewhere(&self, partners: BTreeSet<TrustDomain>) -> Result<(), StoreError> {
        let inner = &self.inner;
        let _alone = inner.one_at_a_time.lock().await;
        let stored = inner.store.managed_of(&partners).await?;
        let mut removed = partners;
        for stored in &stored {
            removed.remove(&stored.trust_domain);
        }
        inner
            .manager
            .change_managed(stored.iter().filter_map(|stored| runnable(stored, &inner.rules)).collect(), removed);
        Ok(())
    }

    fn not_configured<'a>(&self, partners: impl IntoIterator<Item = &'a TrustDomain>) -> Result<(), ManagedError> {
        let configured = &self.inner.configured;
        let both: Vec<_> = partners.into_iter().filter(|partner| configured.contains(*partner)).cloned().collect();
        if both.is_empty() { Ok(()) } else { Err(ManagedError::Configured(both)) }
    }

    fn not_managed(&self, partner: &TrustDomain) -> ManagedError {
        match self.inner.manager.get(partner).map(|relationship| relationship.origin) {
            Some(Origin::Config) => ManagedError::Configured(vec![partner.clone()]),
            Some(Origin::Issuer) => ManagedError::Elsewhere(partner.clone()),
            Some(Origin::Managed) | None => ManagedError::Unknown(partner.clone()),
        }
    }

    /// Stores a change and has the manager follow it. Once begun it goes on to its end, even if nobody waits for it any
    /// more, so that the manager never misses what the store has.
    async fn change(&self, request: Request) -> Result<Plan, ManagedError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::spawn(async move {
            let _alone = inner.one_at_a_time.lock().await;
            let _paused = if request.dry_run { None } else { Some(inner.manager.pause_decisions().await) };
            let room = MAX_RELATIONSHIPS.saturating_sub(inner.configured.len());
            let plan = inner.store.change_managed(&request, room).await?;
            if !request.dry_run {
                follow(&inner.manager, request, &plan);
            }
            Ok(plan)
        });
        done.await.map_err(|error| ManagedError::Defect(error.to_string()))?
    }
}

fn follow(manager: &Manager, mut request: Request, plan: &Plan) {
    let (mut set, mut removed) = (Vec::new(), BTreeSet::new());
    for change in plan.changes.iter().filter(|change| change.kind != Kind::Unchanged) {
        let partner = &change.trust_domain;
        match (request.wanted.remove(partner), change.kind) {
            (Some(wanted), Kind::Added | Kind::Changed) => set.push(ManagedRelationship {
                relationship: wanted.checked,
                set: change.set.clone(),
                version: change.version,
            }),
            _ => drop(removed.insert(partner.clone())),
        }
        tracing::info!(trust_domain = %partner, change = ?change.kind, who = %request.by, "relationship managed");
    }
    manager.change_managed(set, removed);
}
