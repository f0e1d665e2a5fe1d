//! The life of one relationship: wait, fetch, wait again. Nothing here is shared with another relationship except the
//! places for fetches at the same time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    decision_error::DecisionError,
    deliver::Deliveries,
    lanes::{Lane, Lanes},
    relationship::Definition,
    requests::{Request, Requests},
    schedule::{Schedule, catch_up},
    updater::{Endpoint, Life, UpdateError, Updater},
};
use crate::{
    audit::Actor,
    replicas::leases::{LOOK, LeaseWatch},
    store::{StoreError, relationships::RefreshState},
};

/// Longest error text kept of a failed refresh.
const MAX_ERROR_BYTES: usize = 2048;

/// What those are told who asked for a refresh that another gateway has to do.
const TAKEN_OVER: &str = "another gateway has taken over the work on this relationship meanwhile; try again";

/// What the tasks of all relationships share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) updater: Updater,
    pub(super) deliveries: Arc<Deliveries>,
    pub(super) lanes: Lanes,
}

/// One relationship's task.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) definition: watch::Receiver<Arc<Definition>>,
    pub(super) requests: Arc<Requests>,
    /// What others read; written after each attempt.
    pub(super) status: Arc<Mutex<RefreshState>>,
    pub(super) cancelled: CancellationToken,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.requests.close();
    }
}

impl Task {
    /// Runs until cancelled.
    pub(super) async fn run(mut self) {
        let mut definition = Arc::clone(&self.definition.borrow_and_update());
        // Boxed, as most of what follows: a task that waits, as nearly all do, is to be small.
        let mut state = Box::new(self.status.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let held = self.shared.updater.partners().get(&definition.trust_domain);
        let hint = held.as_ref().and_then(|held| held.bundle.refresh_hint());
        let mut schedule = Schedule::new(*self.shared.updater.limits(), hint);
        let known = held.is_some() && is_known(&definition, &state);
        let mut endpoint = Endpoint::default();
        let mut wait = self.wait_at_start(&state, known, hint);
        let mut leases = self.shared.updater.store().leases().watch();
        loop {
            if !self.shared.updater.store().leases().holds(&definition.trust_domain) {
                // Boxed, as below.
                if !Box::pin(self.stand_by(&mut leases, &mut definition)).await {
                    return;
                }
                // What the gateway that worked on it before found out.
                *state = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let known = is_known(&definition, &state);
                wait = self.wait_at_start(&state, known, hint);
            }
            // In this order, so that nothing is fetched by a definition that has changed.
            let request = tokio::select! {
                biased;
                () = self.cancelled.cancelled() => return,
                () = leases.lost(&definition.trust_domain) => continue,
                changed = self.definition.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let before = std::mem::replace(&mut definition, Arc::clone(&self.definition.borrow_and_update()));
                    let failing_and_helped =
                        state.consecutive_failures > 0 && definition.bootstrap != before.bootstrap;
                    if definition.same_endpoint(&before) && !failing_and_helped {
                        wait = self.first_wait(&state);
                        continue;
                    }
                    endpoint = Endpoint::default();
                    None
                }
                request = self.requests.next() => Some(request),
                () = self.shared.updater.clock().sleep(wait) => None,
            };
            wait = Box::pin(self.refresh(&definition, &mut endpoint, &mut state, &mut schedule, request)).await;
            endpoint.rest(wait);
            if self.cancelled.is_cancelled() {
                return;
            }
        }
    }

    /// Whether the relationship is still there, fetched from where it was and with the same policy.
    fn is_still(&self, definition: &Definition) -> bool {
        let now = self.definition.borrow();
        !self.cancelled.is_cancelled() && now.same_endpoint(definition) && now.policy == definition.policy
    }

    /// Waits while another gateway works on the relationship; `false` when it ends.
    async fn stand_by(&mut self, leases: &mut LeaseWatch, definition: &mut Arc<Definition>) -> bool {
        while let Some(request) = self.requests.take() {
            answer(Some(request), Err(TAKEN_OVER.to_owned()));
        }
        let partner = definition.trust_domain.clone();
        loop {
            tokio::select! {
                () = self.cancelled.cancelled() => return false,
                () = leases.gained(&partner) => return true,
                changed = self.definition.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    *definition = Arc::clone(&self.definition.borrow_and_update());
                }
            }
        }
    }

    /// The wait before the first refresh by this gateway. A partner never fetched comes before those whose bundle is
    /// only due.
    fn wait_at_start(&self, state: &RefreshState, known: bool, hint: Option<Duration>) -> Duration {
        match known.then(|| self.first_wait(state)) {
            Some(Duration::ZERO) => {
                let updater = &self.shared.updater;
                catch_up(updater.limits(), hint, updater.partners().count())
            }
            Some(wait) => wait,
            None => Duration::ZERO,
        }
    }

    /// The rest of the wait that was decided before, at most one regular interval.
    fn first_wait(&self, state: &RefreshState) -> Duration {
        let now = self.shared.updater.clock().now();
        let rest = state.next_refresh.map_or(Duration::ZERO, |next| (next - now).try_into().unwrap_or_default());
        rest.min(self.shared.updater.limits().max_interval)
    }

    async fn refresh(
        &self,
        definition: &Definition,
        endpoint: &mut Endpoint,
        state: &mut RefreshState,
        schedule: &mut Schedule,
        request: Option<Request>,
    ) -> Duration {
        let shared = &*self.shared;
        let options = request.as_ref().map(|request| request.options.clone()).unwrap_or_default();
        let by = request.as_ref().map_or(Actor::Gateway, |request| request.by.clone());
        let lane = if request.is_some() || state.consecutive_failures == 0 { Lane::Quick } else { Lane::Slow };
        let clock = shared.updater.clock();
        let outcome = tokio::select! {
            place = shared.lanes.place(lane) => {
                state.last_attempt = Some(clock.now());
                let as_defined = || self.is_still(definition);
                let life = Life { cancelled: &self.cancelled, as_defined: &as_defined };
                let update = shared.updater.update(definition, &options, &by, endpoint, state, &life);
                // Boxed, so that a relationship that waits is small.
                Box::pin(place.hold(clock, update)).await
            }
            () = self.cancelled.cancelled() => Err(UpdateError::Cancelled),
        };
        let now = shared.updater.clock().now();
        let metrics = shared.deliveries.metrics();
        if !matches!(outcome, Err(UpdateError::Cancelled)) {
            metrics.refreshed(&definition.trust_domain, outcome.is_ok());
        }
        if matches!(outcome, Err(UpdateError::Decision(DecisionError::Rollback { .. }))) {
            metrics.rollback(&definition.trust_domain);
        }
        let (wait, answer) = match outcome {
            Ok(update) => {
                if state.last_error.take().is_some() {
                    tracing::info!(trust_domain = %definition.trust_domain, "refresh works again");
                }
                state.last_success = Some(now);
                if update.confirmed {
                    state.confirmed_at = Some(now);
                }
                state.consecutive_failures = 0;
                (schedule.after_success(update.refresh_hint), Ok(update.changed))
            }
            Err(UpdateError::Cancelled) => {
                answer(request, Err(UpdateError::Cancelled.to_string()));
                return Duration::ZERO;
            }
            Err(error @ UpdateError::Decision(DecisionError::Redefined)) => {
                answer(request, Err(error.to_string()));
                state.next_refresh = Some(now);
                return Duration::ZERO;
            }
            Err(UpdateError::Decision(DecisionError::Store(StoreError::LeaseLost { .. }))) => {
                answer(request, Err(TAKEN_OVER.to_owned()));
                return LOOK;
            }
            Err(error) => {
                let mut text = error.to_string();
                text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
                if state.last_error.as_ref() != Some(&text) {
                    tracing::warn!(
                        trust_domain = %definition.trust_domain,
                        url = %definition.url,
                        error = %text,
                        "refresh failed; the bundle held stays in force"
                    );
                }
                state.consecutive_failures = state.consecutive_failures.saturating_add(1);
                state.last_error = Some(text.clone());
                (schedule.after_failure(), Err(text))
            }
        };
        state.next_refresh = Some(now + wait);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = state.clone();
        shared.updater.decisions().states().put(&definition.trust_domain, state.clone());
        if answer.is_ok() {
            shared.deliveries.refreshed(&definition.trust_domain, &definition.receivers);
        }
        self::answer(request, answer);
        wait
    }
}

/// Whether the last answer came from an endpoint the relationship still has.
fn is_known(definition: &Definition, state: &RefreshState) -> bool {
    definition.urls().any(|url| state.etag_url.as_deref() == Some(&url.to_string()))
}

/// Whoever asked may have gone away, which is fine.
fn answer(request: Option<Request>, outcome: Result<bool, String>) {
    if let Some(request) = request {
        let _ = request.reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of them wait at any time, and what one takes is taken by each.
    #[test]
    fn a_task_that_waits_is_small() {
        fn size_of_future<F: Future>(_: impl FnOnce(Task) -> F) -> usize {
            size_of::<F>()
        }
        let size = size_of_future(Task::run);
        assert!(size <= 1024, "{size} bytes");
    }
}
