//! Bundle refreshes on demand: asked of the issuer, done by a connected gateway, reported back.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use federation_specs::{id::TrustDomain, proto::entente::federation::RefreshRequest};
use service_kit::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Longest time to wait for the gateway's report.
const MAX_REFRESH_TIME: Duration = Duration::from_secs(30);

/// Most refreshes waiting at once.
const MAX_WAITING: usize = 1024;

/// Most gateways connected at once.
const MAX_WATCHERS: usize = 64;

/// Requests a slow gateway may be behind.
const WATCHER_QUEUE: usize = 256;

/// Longest error text taken from a gateway.
const MAX_ERROR_CHARS: usize = 1024;

/// Why a refresh did not succeed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RefreshError {
    /// Nobody polls bundle endpoints.
    #[error("no gateway is connected; start one with `entente gateway run`")]
    NoGateway,
    /// The gateway did not report in time.
    #[error("the gateway did not answer within {} seconds", MAX_REFRESH_TIME.as_secs())]
    NoAnswer,
    /// Too many refreshes at once.
    #[error("too many refreshes are waiting; try again later")]
    TooMany,
    /// What the gateway reported.
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug)]
struct Waiting {
    trust_domain: TrustDomain,
    answer: oneshot::Sender<Result<(), RefreshError>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<String, Waiting>,
    watchers: HashMap<u64, mpsc::Sender<RefreshRequest>>,
    next_watcher: u64,
}

/// Connects those who ask for a refresh with the gateways that do it.
#[derive(Debug, Default)]
pub struct RefreshRequests {
    state: Mutex<State>,
}

impl RefreshRequests {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every connected gateway to refresh `trust_domain` now and waits for the first report.
    ///
    /// # Errors
    /// [`RefreshError`].
    pub async fn refresh(&self, trust_domain: &TrustDomain, clock: &SharedClock) -> Result<(), RefreshError> {
        let mut asked = self.ask(trust_domain)?;
        tokio::select! {
            answer = &mut asked.answer => answer.unwrap_or(Err(RefreshError::NoGateway)),
            () = clock.sleep(MAX_REFRESH_TIME) => Err(RefreshError::NoAnswer),
        }
    }

    fn ask(&self, trust_domain: &TrustDomain) -> Result<Asked<'_>, RefreshError> {
        let mut state = self.state();
        if state.waiting.len() >= MAX_WAITING {
            return Err(RefreshError::TooMany);
        }
        let request_id = Uuid::new_v4().to_string();
        let request = RefreshRequest { trust_domain: trust_domain.to_string(), request_id: request_id.clone() };
        let asked = state.watchers.values().filter(|watcher| watcher.try_send(request.clone()).is_ok()).count();
        if asked == 0 {
            return Err(RefreshError::NoGateway);
        }
        let (sender, answer) = oneshot::channel();
        state.waiting.insert(request_id.clone(), Waiting { trust_domain: trust_domain.clone(), answer: sender });
        Ok(Asked { requests: self, request_id, answer })
    }

    /// Takes a gateway's report; `false` when nobody waits for it (any more).
    pub fn report(&self, trust_domain: &TrustDomain, request_id: &str, outcome: Result<(), String>) -> bool {
        let mut state = self.state();
        if state.waiting.get(request_id).is_none_or(|waiting| waiting.trust_domain != *trust_domain) {
            return false;
        }
        let outcome = outcome.map_err(|text| RefreshError::Failed(text.chars().take(MAX_ERROR_CHARS).collect()));
        let waiting = state.waiting.remove(request_id);
        waiting.is_some_and(|waiting| waiting.answer.send(outcome).is_ok())
    }

    /// Registers a connected gateway; `None` when too many are.
    pub fn watch(&self) -> Option<Watcher<'_>> {
        let mut state = self.state();
        if state.watchers.len() >= MAX_WATCHERS {
            return None;
        }
        let (sender, requests) = mpsc::channel(WATCHER_QUEUE);
        let number = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.insert(number, sender);
        Some(Watcher { registry: self, number, requests })
    }
}

/// A refresh somebody waits for; forgotten when dropped.
struct Asked<'a> {
    requests: &'a RefreshRequests,
    request_id: String,
    answer: oneshot::Receiver<Result<(), RefreshError>>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.requests.state().waiting.remove(&self.request_id);
    }
}

/// One connected gateway; unregistered when dropped.
#[derive(Debug)]
pub struct Watcher<'a> {
    registry: &'a RefreshRequests,
    number: u64,
    requests: mpsc::Receiver<RefreshRequest>,
}

impl Watcher<'_> {
    /// Waits for at least one request and returns all that are there.
    pub async fn next(&mut self) -> Vec<RefreshRequest> {
        let mut requests = Vec::new();
        self.requests.recv_many(&mut requests, WATCHER_QUEUE).await;
        requests
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.registry.state().watchers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service_kit::clock::ManualClock;
    use std::sync::Arc;
    use time::macros::datetime;

    fn domain() -> TrustDomain {
        TrustDomain::parse("onprem.example").unwrap()
    }

    fn clock() -> (ManualClock, SharedClock) {
        let manual = ManualClock::new(datetime!(2026-11-22 10:00 UTC));
        (manual.clone(), Arc::new(manual))
    }

    #[tokio::test]
    async fn without_a_gateway_the_refusal_says_what_to_do() {
        let requests = RefreshRequests::default();
        let error = requests.refresh(&domain(), &clock().1).await.unwrap_err();
        assert_eq!(error.to_string(), "no gateway is connected; start one with `entente gateway run`");
        drop(requests.watch());
        assert_eq!(requests.refresh(&domain(), &clock().1).await, Err(RefreshError::NoGateway));
    }

    #[tokio::test]
    async fn the_report_reaches_the_one_who_asked() {
        let requests = RefreshRequests::default();
        let mut watcher = requests.watch().unwrap();
        let (clock, shared) = clock();
        for outcome in [Ok(()), Err("partner is down".to_owned())] {
            let gateway = async {
                let asked = watcher.next().await;
                assert_eq!(asked.len(), 1);
                assert_eq!(asked[0].trust_domain, "onprem.example");
                let other = TrustDomain::parse("other.example").unwrap();
                assert!(!requests.report(&other, &asked[0].request_id, Ok(())), "another domain");
                assert!(requests.report(&domain(), &asked[0].request_id, outcome.clone()));
                assert!(!requests.report(&domain(), &asked[0].request_id, Ok(())), "answered already");
            };
            let domain = domain();
            let (refreshed, ()) = tokio::join!(requests.refresh(&domain, &shared), gateway);
            assert_eq!(refreshed, outcome.map_err(RefreshError::Failed));
        }
        let gateway = async {
            let asked = watcher.next().await;
            clock.advance(MAX_REFRESH_TIME);
            asked
        };
        let domain = domain();
        let (refreshed, asked) = tokio::join!(requests.refresh(&domain, &shared), gateway);
        assert_eq!(refreshed, Err(RefreshError::NoAnswer));
        assert!(!requests.report(&domain, &asked[0].request_id, Ok(())), "too late");
        assert!(requests.state().waiting.is_empty());
    }

    #[test]
    fn the_number_of_gateways_is_bounded() {
        let requests = RefreshRequests::default();
        let watchers: Vec<_> = (0..MAX_WATCHERS).map(|_| requests.watch().unwrap()).collect();
        assert!(requests.watch().is_none());
        drop(watchers);
        assert!(requests.watch().is_some());
    }
}
