//! Keeps this gateway's leases alive, divides the work with the others, and follows what they store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use service_kit::{BoxError, clock::SharedClock, lifecycle::Shutdown};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{
    leases::{LEASE, LOOK, Leases, RENEW, Shared, Table, Take},
    shards::owner_of,
};
use crate::{
    managed::Managed,
    metrics::GatewayMetrics,
    refresh::manager::Manager,
    served::ServedDomains,
    source::follow,
    store::{Store, StoreError, changes::ChangeKind, leases::LeaseTable},
};

/// A gateway that cannot renew stops working so long before the others may take over.
const MARGIN: Duration = Duration::from_secs(1);

/// What the coordinator keeps up to date.
pub(crate) struct Coordinator {
    pub(crate) store: Store,
    pub(crate) clock: SharedClock,
    pub(crate) manager: Manager,
    pub(crate) managed: Managed,
    pub(crate) served: Arc<ServedDomains>,
    pub(crate) metrics: GatewayMetrics,
    /// Number of the last change known when the gateway started to read the database.
    pub(crate) seen: i64,
}

impl Coordinator {
    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), BoxError> {
        let leases = self.store.leases().clone();
        let Some(shared) = leases.shared.as_deref() else { return Ok(()) };
        let Some(takes) = shared.incoming.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let seen = self.seen;
        let work = Work { parts: &self, leases: &leases, shared, takes, seen, renewed: None, was_failing: false };
        tokio::select! {
            never = work.run() => never,
            () = shutdown.cancelled() => Ok(()),
        }
    }
}

struct Work<'a> {
    parts: &'a Coordinator,
    leases: &'a Leases,
    shared: &'a Shared,
    takes: mpsc::Receiver<Take>,
    seen: i64,
    /// When the heartbeat was last begun.
    renewed: Option<OffsetDateTime>,
    was_failing: bool,
}

impl Work<'_> {
    async fn run(mut self) -> Result<(), BoxError> {
        let clock = Arc::clone(&self.parts.clock);
        let mut take: Option<Take> = None;
        loop {
            let since = since(self.renewed, clock.now());
            let left = since.map_or(Duration::ZERO, |since| (LEASE - MARGIN).saturating_sub(since));
            let holds_some = !self.shared.table.borrow().held.is_empty();
            let outcome = tokio::select! {
                outcome = self.turn(take.as_ref().map(|take| take.shard)) => outcome,
                () = clock.sleep(left), if holds_some => {
                    tracing::error!("the database did not answer in time; other gateways take over the work");
                    self.shared.table.send_replace(Arc::default());
                    self.renewed = None;
                    continue;
                }
            };
            match &outcome {
                Ok(()) if self.was_failing => tracing::info!("leases are renewed again"),
                Err(error) if !self.was_failing => tracing::warn!(%error, "leases not renewed, trying again"),
                _ => {}
            }
            self.was_failing = outcome.is_err();
            if let Some(take) = take.take() {
                // Who asked may have gone away.
                let _ = take.reply.send(outcome);
            }
            take = tokio::select! {
                () = clock.sleep(LOOK) => None,
                asked = self.takes.recv() => asked,
            };
        }
    }

    /// Renews, gives back, takes over, and follows; what was taken over is worked on only after everything its former
    /// holder stored was read.
    async fn turn(&mut self, wanted_now: Option<u16>) -> Result<(), StoreError> {
        let (store, id, name) = (&self.parts.store, self.shared.id.as_str(), self.shared.name.as_str());
        let now = self.parts.clock.now();
        let renew = since(self.renewed, now).is_none_or(|since| since >= RENEW);
        if let Some(shard) = wanted_now {
            store.take_lease(id, shard).await?;
        }
        let mut found = store.heartbeat(id, name, renew.then_some(LEASE)).await?;
        if renew {
            self.renewed = Some(now);
        }
        let plan = self.plan(&found);
        if !plan.release.is_empty() {
            // What is known of them is stored, and nobody works on them any more.
            self.parts.manager.flush_states().await;
            self.shared.table.send_modify(|table| {
                Arc::make_mut(table).held.retain(|shard, _| !plan.release.contains(shard));
            });
            store.release_leases(id, &plan.release).await?;
        }
        if !plan.acquire.is_empty() {
            store.acquire_leases(id, &plan.acquire).await?;
        }
        if !plan.release.is_empty() || !plan.acquire.is_empty() {
            let before = found;
            found = store.heartbeat(id, name, None).await?;
            self.report(&before, &found);
        }
        self.follow().await?;
        self.publish(&found);
        Ok(())
    }

    fn plan(&self, found: &LeaseTable) -> Plan {
        let id = self.shared.id.as_str();
        let live: BTreeSet<&str> = found.live.iter().map(|(id, _)| id.as_str()).collect();
        let pinned = self.shared.pins();
        let mut plan = Plan::default();
        for lease in &found.leases {
            let owner = owner_of(lease.shard, live.iter().copied());
            let holder = lease.holder.as_deref().filter(|holder| live.contains(holder));
            if holder == Some(id) && owner != Some(id) && !pinned.contains_key(&lease.shard) {
                plan.release.insert(lease.shard);
            } else if holder.is_none() && owner == Some(id) {
                plan.acquire.insert(lease.shard);
            }
        }
        plan
    }

    /// Logs and counts what was taken over from gateways that died.
    fn report(&self, before: &LeaseTable, after: &LeaseTable) {
        let id = Some(self.shared.id.as_str());
        let gained: Vec<_> = after
            .leases
            .iter()
            .filter(|now| now.holder.as_deref() == id)
            .filter_map(|now| before.leases.iter().find(|then| then.shard == now.shard))
            .filter(|then| then.holder.as_deref() != id)
            .collect();
        let from_dead = gained.iter().filter(|then| then.holder.is_some()).count();
        self.parts.metrics.taken_over(from_dead);
        let held = after.leases.iter().filter(|lease| lease.holder.as_deref() == id).count();
        let gained = gained.len();
        tracing::info!(held, gained, from_dead, gateways = after.live.len(), "work divided anew");
    }

    fn publish(&self, found: &LeaseTable) {
        let names: BTreeMap<&str, Arc<str>> =
            found.live.iter().map(|(id, name)| (id.as_str(), Arc::from(name.as_str()))).collect();
        let mut table = Table { replicas: found.live.len(), ..Table::default() };
        for lease in &found.leases {
            match lease.holder.as_deref() {
                Some(holder) if holder == self.shared.id => {
                    table.held.insert(lease.shard, lease.fencing);
                }
                Some(holder) => {
                    if let Some(name) = names.get(holder) {
                        table.holders.insert(lease.shard, Arc::clone(name));
                    }
                }
                None => {}
            }
        }
        self.shared.table.send_if_modified(|now| {
            let changed = **now != table;
            if changed {
                *now = Arc::new(table);
            }
            changed
        });
    }

    /// Takes note of everything others stored since the last time.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let Coordinator { store, clock, manager, managed, served, .. } = self.parts;
        loop {
            let changes = store.changes_after(self.seen).await?;
            if changes.latest == self.seen {
                return Ok(());
            }
            let defined = changes.of(ChangeKind::Managed);
            if !defined.is_empty() {
                readable(managed.changed_elsewhere(defined).await)?;
            }
            let mut decided = changes.of(ChangeKind::Decision);
            decided.extend(manager.unheard_of(&changes.own_decisions));
            if !decided.is_empty() {
                readable(manager.decided_elsewhere(&decided).await)?;
            }
            let states = changes.of(ChangeKind::State);
            if !states.is_empty() {
                manager.refreshed_elsewhere(store.refresh_states_of(&states).await?);
            }
            for local in changes.of(ChangeKind::Delivery) {
                if !self.leases.holds(&local) {
                    manager.delivered_elsewhere(&local, store.deliveries(&local).await?);
                }
            }
            for name in changes.of(ChangeKind::Own) {
                let Some(domain) = served.get(&name) else { continue };
                readable(follow::accepted_elsewhere(domain, store, clock).await)?;
                domain.stored_elsewhere();
            }
            self.seen = changes.latest;
        }
    }
}

/// How long ago the heartbeat was renewed; `None` if it was not, or if nobody knows because the clock was set back.
fn since(renewed: Option<OffsetDateTime>, now: OffsetDateTime) -> Option<Duration> {
    (now - renewed?).try_into().ok()
}

/// What cannot be read must not keep the gateway from its leases; who needs it will say so.
fn readable(outcome: Result<(), StoreError>) -> Result<(), StoreError> {
    match outcome {
        Err(error @ StoreError::Unreadable { .. }) => {
            tracing::error!(%error, "what another gateway stored is not used");
            Ok(())
        }
        outcome => outcome,
    }
}

#[derive(Debug, Default)]
struct Plan {
    release: BTreeSet<u16>,
    acquire: BTreeSet<u16>,
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_the_heartbeat_due() {
        let noon = datetime!(2026-11-22 12:00 UTC);
        assert_eq!(since(None, noon), None);
        assert_eq!(since(Some(noon), noon + RENEW), Some(RENEW));
        assert_eq!(since(Some(noon), noon - Duration::from_secs(3600)), None);
    }
}
