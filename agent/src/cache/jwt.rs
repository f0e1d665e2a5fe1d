//! JWT-SVIDs in the cache: kept by SPIFFE ID and audiences, fetched again at half of their life, one fetch at a time for
//! each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use federation_specs::id::SpiffeId;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use service_kit::clock::SharedClock;
use time::OffsetDateTime;

use crate::rotation;

/// How long a caller waits for a fresh token while a valid one is in the cache.
pub const REFRESH_WAIT: Duration = Duration::from_secs(1);

/// One token.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// The signed token.
    pub token: String,
    /// When it was issued.
    pub issued_at: OffsetDateTime,
    /// When it expires.
    pub expires_at: OffsetDateTime,
}

impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl JwtSvid {
    /// The `kid` of its header, if it can be read.
    pub fn key_id(&self) -> Option<String> {
        let header = self.token.split('.').next()?;
        let header: serde_json::Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        header.get("kid")?.as_str().map(str::to_string)
    }
}

/// Why no token could be had; the text is shown to the workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// What tells tokens apart: identity and audiences, whose order does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    id: SpiffeId,
    audiences: Vec<String>,
}

impl Key {
    /// The key of a token for `id` and these audiences.
    pub fn new(id: SpiffeId, audiences: &[String]) -> Self {
        let mut audiences = audiences.to_vec();
        audiences.sort();
        Self { id, audiences }
    }
}

type Fetch = Shared<BoxFuture<'static, Result<Arc<JwtSvid>, FetchError>>>;

#[derive(Debug)]
struct Held {
    token: Arc<JwtSvid>,
    refresh_at: OffsetDateTime,
    key_id: Option<String>,
    used: u64,
}

#[derive(Default)]
struct State {
    held: HashMap<Key, Held>,
    /// Least recently used first.
    order: BTreeMap<u64, Key>,
    fetches: HashMap<Key, Fetch>,
    uses: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("held", &self.held.len()).field("fetches", &self.fetches.len()).finish()
    }
}

impl State {
    fn touch(&mut self, key: &Key) -> Option<&Held> {
        let held = self.held.get_mut(key)?;
        self.order.remove(&held.used);
        self.uses += 1;
        held.used = self.uses;
        self.order.insert(self.uses, key.clone());
        Some(held)
    }

    fn insert(&mut self, key: Key, token: Arc<JwtSvid>, max_size: usize) {
        self.remove(&key);
        while self.held.len() >= max_size.max(1) {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.held.remove(&oldest);
        }
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        let held = Held {
            refresh_at: rotation::due(token.issued_at, token.expires_at),
            key_id: token.key_id(),
            used: self.uses,
            token,
        };
        self.held.insert(key, held);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(held) = self.held.remove(key) {
            self.order.remove(&held.used);
        }
    }
}

/// The tokens of one agent.
#[derive(Debug, Clone)]
pub struct JwtCache {
    state: Arc<Mutex<State>>,
    max_size: usize,
    clock: SharedClock,
}

impl JwtCache {
    /// An empty cache of at most `max_size` tokens.
    pub fn new(max_size: usize, clock: SharedClock) -> Self {
        Self { state: Arc::default(), max_size, clock }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token for `key`: from the cache in the first half of its life, otherwise by `fetch`, which callers asking at
    /// the same time share. If that fails, or takes long, a token that is still valid is answered all the same.
    ///
    /// # Errors
    /// [`FetchError`] if the fetch failed and nothing valid is held.
    pub async fn get<F>(&self, key: Key, fetch: impl FnOnce() -> F) -> Result<Arc<JwtSvid>, FetchError>
    where
        F: Future<Output = Result<JwtSvid, FetchError>> + Send + 'static,
    {
        let now = self.clock.now();
        let (valid, pending) = {
            let mut state = self.state();
            let valid = match state.touch(&key) {
                Some(held) if now < held.refresh_at => return Ok(Arc::clone(&held.token)),
                Some(held) => (now < held.token.expires_at).then(|| Arc::clone(&held.token)),
                None => None,
            };
            let pending = match state.fetches.get(&key) {
                Some(pending) => pending.clone(),
                None => {
                    let pending = self.start(key.clone(), fetch());
                    state.fetches.insert(key, pending.clone());
                    pending
                }
            };
            (valid, pending)
        };
        let Some(valid) = valid else { return pending.await };
        tokio::select! {
            fetched = pending => match fetched {
                Ok(token) => Ok(token),
                Err(error) => {
                    tracing::warn!(%error, "JWT-SVID could not be renewed; the present one is still valid");
                    Ok(valid)
                }
            },
            () = self.clock.sleep(REFRESH_WAIT) => Ok(valid),
        }
    }

    /// Runs the fetch in a task of its own, so that it comes to an end even if every caller goes away.
    fn start(&self, key: Key, fetch: impl Future<Output = Result<JwtSvid, FetchError>> + Send + 'static) -> Fetch {
        let cache = self.clone();
        let task = tokio::spawn(async move {
            // The guard forgets the fetch even if it panics, so that the next caller starts another.
            let forget = ForgetFetch { cache: &cache, key: &key };
            let fetched = fetch.await.map(Arc::new);
            let mut state = cache.state();
            if let Ok(token) = &fetched {
                state.insert(key.clone(), Arc::clone(token), cache.max_size);
            }
            drop(state);
            drop(forget);
            fetched
        });
        task.map(|joined| joined.unwrap_or_else(|_| Err(FetchError("the fetch was cut off".into())))).boxed().shared()
    }

    /// Forgets the tokens signed by these keys.
    pub fn forget_signed_by(&self, key_ids: &BTreeSet<String>) {
        if key_ids.is_empty() {
            return;
        }
        let mut state = self.state();
        let gone: Vec<Key> = state
            .held
            .iter()
            .filter(|(_, held)| held.key_id.as_ref().is_some_and(|key_id| key_ids.contains(key_id)))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            state.remove(&key);
        }
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.state().held.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct ForgetFetch<'a> {
    cache: &'a JwtCache,
    key: &'a Key,
}

impl Drop for ForgetFetch<'_> {
    fn drop(&mut self) {
        self.cache.state().fetches.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use service_kit::clock::{Clock, ManualClock};
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn key(path: &str, audiences: &[&str]) -> Key {
        let audiences: Vec<String> = audiences.iter().map(ToString::to_string).collect();
        Key::new(SpiffeId::parse(&format!("spiffe://cloud.example/{path}")).unwrap(), &audiences)
    }

    fn token(name: &str, now: OffsetDateTime) -> JwtSvid {
        let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"kid":"{name}"}}"#));
        JwtSvid { token: format!("{header}.x.y"), issued_at: now, expires_at: now + time::Duration::minutes(5) }
    }

    fn setup(max_size: usize) -> (ManualClock, JwtCache) {
        let clock = ManualClock::new(START);
        (clock.clone(), JwtCache::new(max_size, Arc::new(clock)))
    }

    async fn ok(cache: &JwtCache, key: Key, name: &str, now: OffsetDateTime) -> String {
        let token = token(name, now);
        cache.get(key, || async move { Ok(token) }).await.unwrap().key_id().unwrap()
    }

    async fn failing(cache: &JwtCache, key: Key) -> Result<String, FetchError> {
        cache.get(key, || async { Err(FetchError("down".into())) }).await.map(|token| token.key_id().unwrap())
    }

    #[tokio::test]
    async fn served_for_half_its_life_then_fetched_again() {
        let (clock, cache) = setup(10);
        assert_eq!(ok(&cache, key("a", &["x", "y"]), "one", clock.now()).await, "one");
        assert_eq!(
            ok(&cache, key("a", &["y", "x"]), "two", clock.now()).await,
            "one",
            "order of audiences is no matter"
        );
        assert_eq!(ok(&cache, key("a", &["x"]), "three", clock.now()).await, "three");
        assert_eq!(ok(&cache, key("b", &["x", "y"]), "four", clock.now()).await, "four");
        clock.advance(Duration::from_secs(134));
        assert_eq!(ok(&cache, key("a", &["x", "y"]), "five", clock.now()).await, "one");
        clock.advance(Duration::from_secs(32));
        assert_eq!(ok(&cache, key("a", &["x", "y"]), "six", clock.now()).await, "six");
    }

    #[tokio::test]
    async fn a_valid_token_is_served_when_the_fetch_fails_or_stalls() {
        let (clock, cache) = setup(10);
        ok(&cache, key("a", &["x"]), "one", clock.now()).await;
        clock.advance(Duration::from_secs(200));
        assert_eq!(failing(&cache, key("a", &["x"])).await.unwrap(), "one");

        let stalled = {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(key("a", &["x"]), futures::future::pending).await })
        };
        while clock.next_wake().is_none() {
            tokio::task::yield_now().await;
        }
        clock.advance(REFRESH_WAIT);
        assert_eq!(stalled.await.unwrap().unwrap().key_id().unwrap(), "one");

        let (clock, cache) = setup(10);
        ok(&cache, key("a", &["x"]), "one", clock.now()).await;
        clock.advance(Duration::from_secs(300));
        assert_eq!(failing(&cache, key("a", &["x"])).await.unwrap_err().to_string(), "down");
    }

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_fetch() {
        let (clock, cache) = setup(10);
        let fetches = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Notify::new());
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let (cache, fetches, gate, now) = (cache.clone(), Arc::clone(&fetches), Arc::clone(&gate), clock.now());
                tokio::spawn(async move {
                    cache
                        .get(key("a", &["x"]), move || async move {
                            fetches.fetch_add(1, Ordering::SeqCst);
                            gate.notified().await;
                            Ok(token("one", now))
                        })
                        .await
                        .unwrap();
                })
            })
            .collect();
        while fetches.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_panics_does_not_block_the_next() {
        let (clock, cache) = setup(10);
        let error = cache.get(key("a", &["x"]), || async { panic!("defect") }).await.unwrap_err();
        assert_eq!(error.to_string(), "the fetch was cut off");
        assert_eq!(ok(&cache, key("a", &["x"]), "one", clock.now()).await, "one");
    }

    #[tokio::test]
    async fn the_least_recently_used_goes_first() {
        let (clock, cache) = setup(2);
        ok(&cache, key("a", &["x"]), "a", clock.now()).await;
        ok(&cache, key("b", &["x"]), "b", clock.now()).await;
        assert_eq!(ok(&cache, key("a", &["x"]), "a2", clock.now()).await, "a");
        ok(&cache, key("c", &["x"]), "c", clock.now()).await;
        assert_eq!(cache.len(), 2);
        assert_eq!(ok(&cache, key("a", &["x"]), "a3", clock.now()).await, "a");
        assert_eq!(ok(&cache, key("b", &["x"]), "b2", clock.now()).await, "b2");
    }

    #[tokio::test]
    async fn tokens_of_tainted_keys_are_forgotten() {
        let (clock, cache) = setup(10);
        ok(&cache, key("a", &["x"]), "old", clock.now()).await;
        ok(&cache, key("b", &["x"]), "new", clock.now()).await;
        cache.forget_signed_by(&["old".to_string()].into());
        assert_eq!(cache.len(), 1);
        assert_eq!(ok(&cache, key("a", &["x"]), "newer", clock.now()).await, "newer");
    }
}
