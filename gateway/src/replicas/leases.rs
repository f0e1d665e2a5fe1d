//! Which part of the work is this gateway's, and how it asks for more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use federation_specs::id::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};

use super::shards::{shard_of, shard_of_work};
use crate::store::error::StoreError;

/// A gateway that is not heard of for so long has lost its work to the others.
pub const LEASE: Duration = Duration::from_secs(10);

/// How often a gateway says that it is alive.
pub const RENEW: Duration = Duration::from_secs(3);

/// How often leases and changes of the others are looked at.
pub const LOOK: Duration = Duration::from_secs(1);

/// Leases that may be asked for at the same time.
const MAX_WAITING: usize = 64;

/// What a replica knows of the leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Fencing numbers of the parts this replica has.
    pub(crate) held: BTreeMap<u16, i64>,
    /// Names of those that have the others.
    pub(crate) holders: BTreeMap<u16, Arc<str>>,
    /// How many replicas are alive.
    pub(crate) replicas: usize,
}

/// Somebody wants a part now.
#[derive(Debug)]
pub(super) struct Take {
    pub(super) shard: u16,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// The leases of this gateway. Clones are the same.
#[derive(Debug, Clone)]
pub struct Leases {
    pub(super) shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// This process, as the database knows it.
    pub(super) id: String,
    /// What people call it.
    pub(super) name: String,
    pub(super) table: watch::Sender<Arc<Table>>,
    pub(super) takes: mpsc::Sender<Take>,
    pub(super) incoming: Mutex<Option<mpsc::Receiver<Take>>>,
    /// Parts that are kept whoever should have them, and how often that was asked for.
    pub(super) pinned: Mutex<BTreeMap<u16, u32>>,
}

/// Keeps a part with this replica until dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    leases: Leases,
    shard: u16,
}

impl Leases {
    /// Of a gateway that shares its database with nobody.
    pub fn alone() -> Self {
        Self { shared: None }
    }

    /// Of one of several gateways: `id` is this process, `name` what people call it. Nothing is held before the
    /// coordinator runs.
    pub(crate) fn shared(id: String, name: String) -> Self {
        let (takes, incoming) = mpsc::channel(MAX_WAITING);
        let table = watch::Sender::default();
        let (incoming, pinned) = (Mutex::new(Some(incoming)), Mutex::default());
        Self { shared: Some(Arc::new(Shared { id, name, table, takes, incoming, pinned })) }
    }

    /// This process as the database knows it; `None` if the database is nobody else's.
    pub(crate) fn replica(&self) -> Option<&str> {
        self.shared.as_deref().map(|shared| shared.id.as_str())
    }

    /// What people call this gateway; `None` if the database is nobody else's.
    pub(crate) fn name(&self) -> Option<&str> {
        self.shared.as_deref().map(|shared| shared.name.as_str())
    }

    /// Whether other gateways may use the database too.
    pub fn are_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether this gateway works on what belongs to that trust domain.
    pub fn holds(&self, name: &TrustDomain) -> bool {
        self.holds_work(name.as_str())
    }

    /// Whether this gateway does the work of that name.
    pub(crate) fn holds_work(&self, name: &str) -> bool {
        match &self.shared {
            None => true,
            Some(shared) => shared.table.borrow().held.contains_key(&shard_of_work(name)),
        }
    }

    /// The fencing number to be checked in the transaction that stores something; `None` if the lease is lost.
    pub(crate) fn fencing(&self, name: &TrustDomain) -> Option<i64> {
        self.shared.as_ref()?.table.borrow().held.get(&shard_of(name)).copied()
    }

    /// Name of the gateway that works on what belongs to that trust domain, where several may; `None` while nobody does.
    pub fn holder(&self, name: &TrustDomain) -> Option<String> {
        let shared = self.shared.as_deref()?;
        let (table, shard) = (shared.table.borrow(), shard_of(name));
        if table.held.contains_key(&shard) {
            return Some(shared.name.clone());
        }
        table.holders.get(&shard).map(|name| name.to_string())
    }

    /// Parts held, and gateways alive; `None` if the database is nobody else's.
    pub(crate) fn counts(&self) -> Option<(usize, usize)> {
        let table = self.shared.as_deref()?.table.borrow();
        Some((table.held.len(), table.replicas))
    }

    /// Wakes when the leases change.
    pub(crate) fn watch(&self) -> LeaseWatch {
        LeaseWatch { leases: self.clone(), changes: self.shared.as_ref().map(|shared| shared.table.subscribe()) }
    }

    /// Has this gateway work on what belongs to that trust domain, whoever does now, until the pin is dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the lease cannot be had.
    pub(crate) async fn take(&self, name: &TrustDomain) -> Result<Option<Pin>, StoreError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let shard = shard_of(name);
        *shared.pins().entry(shard).or_default() += 1;
        let pin = Pin { leases: self.clone(), shard };
        if self.holds(name) {
            return Ok(Some(pin));
        }
        let (reply, answer) = oneshot::channel();
        let lost = || StoreError::LeaseLost { trust_domain: name.to_string() };
        shared.takes.send(Take { shard, reply }).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())??;
        Ok(Some(pin))
    }
}

#[cfg(test)]
impl Leases {
    /// Holds these parts with these fencing numbers, whatever the database says.
    pub(crate) fn hold(&self, held: BTreeMap<u16, i64>) {
        if let Some(shared) = &self.shared {
            shared.table.send_replace(Arc::new(Table { held, ..Table::default() }));
        }
    }
}

impl Shared {
    pub(super) fn pins(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, u32>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let Some(shared) = &self.leases.shared else { return };
        let mut pins = shared.pins();
        if let Some(count) = pins.get_mut(&self.shard) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pins.remove(&self.shard);
            }
        }
    }
}

/// Waits for changes of the leases.
#[derive(Debug)]
pub(crate) struct LeaseWatch {
    leases: Leases,
    /// `None` where nothing ever changes.
    changes: Option<watch::Receiver<Arc<Table>>>,
}

impl LeaseWatch {
    /// Completes when this gateway has the work on `name`.
    pub(crate) fn gained<'a>(&'a mut self, name: &'a TrustDomain) -> impl Future<Output = ()> + 'a {
        self.gained_work(name.as_str())
    }

    /// Completes when this gateway does the work of that name.
    pub(crate) async fn gained_work(&mut self, name: &str) {
        self.until(|leases| leases.holds_work(name)).await;
    }

    /// Completes when it has it no more.
    pub(crate) fn lost<'a>(&'a mut self, name: &'a TrustDomain) -> impl Future<Output = ()> + 'a {
        self.lost_work(name.as_str())
    }

    /// Completes when it does it no more.
    pub(crate) async fn lost_work(&mut self, name: &str) {
        self.until(|leases| !leases.holds_work(name)).await;
    }

    async fn until(&mut self, reached: impl Fn(&Leases) -> bool) {
        loop {
            if reached(&self.leases) {
                return;
            }
            let over = match &mut self.changes {
                Some(changes) => changes.changed().await.is_err(),
                None => true,
            };
            if over {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_everything_is_held() {
        let name = TrustDomain::parse("p.example").unwrap();
        let leases = Leases::alone();
        assert!(leases.holds(&name) && leases.fencing(&name).is_none() && leases.holder(&name).is_none());
        let shared = Leases::shared("id".to_owned(), "name".to_owned());
        assert!(!shared.holds(&name) && shared.holder(&name).is_none());
    }
}
