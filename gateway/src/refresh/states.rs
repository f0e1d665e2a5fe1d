//! How relationships are doing, on the way to the store: the latest state of each, many in one transaction. An attempt
//! that changed nothing costs no transaction of its own; a crash loses at most the last seconds of them, which the next
//! attempts make good. Accepted bundles do not come this way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use federation_specs::id::TrustDomain;
use service_kit::clock::SharedClock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, relationships::RefreshState};

/// How long states gather before they are written.
pub const GATHER: Duration = Duration::from_secs(1);

/// States written in one transaction, so that an accepted bundle does not wait long for its own.
const MAX_AT_ONCE: usize = 500;

/// States on their way to the store. One waits for each relationship at most.
#[derive(Debug)]
pub struct States {
    store: Store,
    waiting: Mutex<HashMap<TrustDomain, RefreshState>>,
    /// Held while states are written.
    writing: tokio::sync::Mutex<()>,
    wake: Notify,
}

impl States {
    /// None yet.
    pub fn new(store: Store) -> Self {
        let (waiting, writing) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { store, waiting, writing, wake: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<TrustDomain, RefreshState>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the state of a relationship written soon, in place of an earlier one.
    pub fn put(&self, partner: &TrustDomain, state: RefreshState) {
        let mut waiting = self.waiting();
        waiting.insert(partner.clone(), state);
        if waiting.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// From here on nothing put earlier for this relationship is written: what the caller stores is newer.
    pub async fn overtake(&self, partner: &TrustDomain) {
        self.waiting().remove(partner);
        // It may be in the transaction that is going on.
        drop(self.writing.lock().await);
    }

    /// Writes everything that waits. What cannot be written waits on, unless a newer state came meanwhile.
    pub async fn flush(&self) {
        let _alone = self.writing.lock().await;
        loop {
            let some: Vec<_> = {
                let mut waiting = self.waiting();
                let names: Vec<_> = waiting.keys().take(MAX_AT_ONCE).cloned().collect();
                names.iter().filter_map(|name| waiting.remove_entry(name)).collect()
            };
            if some.is_empty() {
                return;
            }
            if let Err(error) = self.store.save_refresh_states(&some).await {
                tracing::warn!(count = some.len(), %error, "states of relationships not stored; tried again");
                let mut waiting = self.waiting();
                for (partner, state) in some {
                    waiting.entry(partner).or_insert(state);
                }
                return;
            }
        }
    }

    /// Writes until `cancelled`; what waits then is left to [`States::flush`].
    pub async fn run(self: Arc<Self>, clock: SharedClock, cancelled: CancellationToken) {
        loop {
            let nothing_waits = self.waiting().is_empty();
            tokio::select! {
                () = self.wake.notified(), if nothing_waits => {}
                () = clock.sleep(GATHER), if !nothing_waits => self.flush().await,
                () = cancelled.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Datastore;
    use service_kit::clock::{ManualClock, SystemClock};
    use time::macros::datetime;

    async fn states(dir: &tempfile::TempDir) -> (Store, States) {
        let store =
            Store::open(&Datastore::Sqlite(dir.path().join("gateway.sqlite3")), SystemClock::shared()).await.unwrap();
        (store.clone(), States::new(store))
    }

    fn partner(number: usize) -> TrustDomain {
        TrustDomain::parse(&format!("p{number}.example")).unwrap()
    }

    fn failed(count: u32) -> RefreshState {
        RefreshState { consecutive_failures: count, ..RefreshState::default() }
    }

    #[tokio::test]
    async fn the_latest_state_of_each_is_written_however_many_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let (store, states) = states(&dir).await;
        for number in 0..MAX_AT_ONCE * 2 + 7 {
            states.put(&partner(number), failed(1));
            states.put(&partner(number), failed(2));
        }
        assert!(store.refresh_states().await.unwrap().is_empty());
        states.flush().await;
        let stored = store.refresh_states().await.unwrap();
        assert_eq!(stored.len(), MAX_AT_ONCE * 2 + 7);
        assert!(stored.values().all(|state| *state == failed(2)));
        assert!(states.waiting().is_empty());
    }

    #[tokio::test]
    async fn what_was_overtaken_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (store, states) = states(&dir).await;
        states.put(&partner(1), failed(1));
        states.put(&partner(2), failed(1));
        states.overtake(&partner(1)).await;
        states.flush().await;
        let stored = store.refresh_states().await.unwrap();
        assert_eq!(stored.keys().collect::<Vec<_>>(), [&partner(2)]);
    }

    #[tokio::test]
    async fn states_gather_before_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (store, states) = states(&dir).await;
        let states = Arc::new(states);
        let clock = ManualClock::new(datetime!(2026-11-22 10:00 UTC));
        let cancelled = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&states).run(Arc::new(clock.clone()), cancelled.clone()));
        states.put(&partner(1), failed(1));
        for _ in 0..100 {
            clock.advance(GATHER);
            tokio::time::sleep(Duration::from_millis(10)).await;
            if !store.refresh_states().await.unwrap().is_empty() {
                cancelled.cancel();
                return running.await.unwrap();
            }
        }
        panic!("never written");
    }
}
