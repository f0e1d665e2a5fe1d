//! One webhook at work: messages in order, each until it is delivered or given up.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use service_kit::{BoxError, backoff::Backoff, clock::SharedClock, fetch::origin, lifecycle::Shutdown};
use tokio::sync::watch;

use super::{
    FIRST_RETRY, LAST_RETRY,
    event::Message,
    sender::{SendError, Sender},
};
use crate::{
    api::webhooks::{Webhook, WebhookHealth},
    metrics::GatewayMetrics,
    refresh::clients::Clients,
    settings::WebhookSettings,
    store::{
        Store, StoreError,
        webhooks::{WaitingMessage, WebhookState},
    },
};

/// Messages read from the store at once.
const BATCH: u32 = 64;

/// Longest error text kept.
const MAX_ERROR_BYTES: usize = 1024;

/// One webhook.
#[derive(Debug)]
pub struct Lane {
    sender: Sender,
    store: Store,
    clock: SharedClock,
    metrics: GatewayMetrics,
    status: Mutex<Status>,
}

/// How a webhook is doing.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What the store holds as well.
    pub state: WebhookState,
    /// Whether the receiver said that it wants nothing any more.
    pub gone: bool,
    /// When the next attempt is due, while the last one failed.
    pub next_attempt: Option<time::OffsetDateTime>,
}

impl Lane {
    /// The webhook of `settings`, going on from `state`.
    pub fn new(
        settings: WebhookSettings,
        clients: Arc<Clients>,
        state: WebhookState,
        store: Store,
        clock: SharedClock,
        metrics: GatewayMetrics,
    ) -> Self {
        let sender = Sender::new(settings, clients, Arc::clone(&clock));
        let status = Mutex::new(Status { state, ..Status::default() });
        Self { sender, store, clock, metrics, status }
    }

    /// How it is configured.
    pub fn settings(&self) -> &WebhookSettings {
        self.sender.settings()
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message now, out of line.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send_now(&self, message: &Message) -> Result<(), SendError> {
        self.sender.send(message).await
    }

    /// What its work is called where several gateways divide it.
    fn work(&self) -> String {
        format!("webhook {}", self.settings().name)
    }

    /// Delivers until `shutdown`, while the work is this gateway's; `head` is the number of the last message there is.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub async fn run(self: Arc<Self>, mut head: watch::Receiver<i64>, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let (work, mut leases) = (self.work(), self.store.leases().watch());
        let mut here = self.store.leases().holds_work(&work);
        loop {
            here &= self.store.leases().holds_work(&work);
            if !here {
                tokio::select! {
                    () = leases.gained_work(&work) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                // Where the gateway that delivered before came to.
                match self.stored().await {
                    Ok(status) => *self.locked() = status,
                    Err(error) => {
                        tracing::warn!(webhook = self.settings().name, %error, "webhook cannot go on");
                        tokio::select! {
                            () = self.clock.sleep(FIRST_RETRY) => continue,
                            () = shutdown.cancelled() => return Ok(()),
                        }
                    }
                }
                retry.reset();
                here = true;
            }
            let wait = tokio::select! {
                wait = self.round(&mut head, &mut retry) => wait,
                () = leases.lost_work(&work) => continue,
                () = shutdown.cancelled() => return Ok(()),
            };
            let sleep = async {
                match wait {
                    Wait::Retry(pause) => self.clock.sleep(pause).await,
                    // A closed channel means that the gateway stops.
                    Wait::News => drop(head.changed().await),
                    Wait::Restart => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = leases.lost_work(&work) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// What the store knows of how it is doing.
    async fn stored(&self) -> Result<Status, StoreError> {
        let state = self.store.webhooks().await?.remove(&self.settings().name).unwrap_or_default();
        Ok(Status { state, ..Status::default() })
    }

    /// Delivers everything there is, or up to the first failure.
    async fn round(&self, head: &mut watch::Receiver<i64>, retry: &mut Backoff) -> Wait {
        loop {
            head.borrow_and_update();
            let state = self.status().state;
            let messages = match self.store.webhook_messages(state.delivered_to, BATCH).await {
                Ok(messages) => messages,
                Err(error) => return self.store_failed(&error, retry),
            };
            let Some(last) = messages.last().map(|message| message.sequence) else { return Wait::News };
            for waiting in messages {
                let wanted = self.settings().events.wants(&waiting.message.kind);
                // What nobody wants is passed over in memory, and in the store at the end.
                let outcome = if wanted { self.deliver(&waiting).await } else { Ok(()) };
                match outcome {
                    Ok(()) if wanted => retry.reset(),
                    Ok(()) => self.locked().state.delivered_to = waiting.sequence,
                    Err(Undelivered::Gone) => return Wait::Restart,
                    Err(Undelivered::Later(asked)) => {
                        let pause = retry.next().max(asked.unwrap_or_default().min(LAST_RETRY));
                        self.locked().next_attempt = Some(self.clock.now() + pause);
                        return Wait::Retry(pause);
                    }
                    Err(Undelivered::Store(error)) => return self.store_failed(&error, retry),
                }
            }
            let state = self.status().state;
            if state.delivered_to == last
                && let Err(error) = self.store.save_webhook(&self.settings().name, &state).await
            {
                return self.store_failed(&error, retry);
            }
        }
    }

    fn store_failed(&self, error: &StoreError, retry: &mut Backoff) -> Wait {
        tracing::warn!(webhook = self.settings().name, %error, "webhook cannot go on");
        Wait::Retry(retry.next())
    }

    async fn deliver(&self, waiting: &WaitingMessage) -> Result<(), Undelivered> {
        let name = &self.settings().name;
        let outcome = self.sender.send(&waiting.message).await;
        self.metrics.webhook_sent(name, outcome.is_ok());
        let now = self.clock.now();
        let mut status = self.status();
        status.state.last_attempt = Some(now);
        status.next_attempt = None;
        let result = match outcome {
            Ok(()) => {
                if status.state.consecutive_failures > 0 {
                    tracing::info!(webhook = name, "webhook works again");
                }
                status.state.delivered_to = waiting.sequence;
                status.state.last_success = Some(now);
                status.state.last_error = None;
                status.state.consecutive_failures = 0;
                Ok(())
            }
            Err(error) => {
                let mut text = error.to_string();
                text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
                if status.state.last_error.as_ref() != Some(&text) {
                    tracing::warn!(webhook = name, error = %text, "event not delivered; it is sent again later");
                }
                status.state.last_error = Some(text);
                status.state.consecutive_failures = status.state.consecutive_failures.saturating_add(1);
                status.gone = matches!(error, SendError::Gone);
                if status.gone { Err(Undelivered::Gone) } else { Err(Undelivered::Later(error.retry_after())) }
            }
        };
        // What was delivered and could not be noted is delivered again.
        self.store.save_webhook(name, &status.state).await.map_err(Undelivered::Store)?;
        *self.locked() = status;
        result
    }

    /// How it is doing, for operators.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn describe(&self) -> Result<Webhook, StoreError> {
        let settings = self.settings();
        let here = self.store.leases().holds_work(&self.work());
        let Status { state, gone, next_attempt } = if here { self.status() } else { self.stored().await? };
        let waiting = self.store.waiting_messages(state.delivered_to).await?;
        let wanted = || waiting.iter().filter(|item| settings.events.wants(&item.kind));
        let health = match (&state.last_error, state.last_success) {
            _ if gone => WebhookHealth::Disabled,
            (Some(_), _) => WebhookHealth::Failing,
            (None, Some(_)) => WebhookHealth::Healthy,
            (None, None) => WebhookHealth::Pending,
        };
        Ok(Webhook {
            name: settings.name.clone(),
            url: origin(&settings.url).to_string(),
            events: settings.events.names().to_vec(),
            health,
            waiting: wanted().map(|item| item.count).sum(),
            oldest_waiting: wanted().map(|item| item.oldest).min(),
            last_success: state.last_success,
            last_attempt: state.last_attempt,
            next_attempt,
            last_error: state.last_error,
            consecutive_failures: state.consecutive_failures,
            dropped: state.dropped,
        })
    }

    /// Messages were given up.
    pub fn dropped(&self, count: u64) {
        let name = &self.settings().name;
        tracing::warn!(
            webhook = name,
            count,
            "events given up: they could not be delivered in time, or too many waited"
        );
        self.metrics.webhook_dropped(name, count);
        self.locked().state.dropped += count;
    }
}

/// Why a message is not delivered.
enum Undelivered {
    Gone,
    /// The receiver may ask for a pause.
    Later(Option<Duration>),
    Store(StoreError),
}

/// What comes next.
enum Wait {
    /// The same again.
    Retry(Duration),
    /// Something new.
    News,
    /// Nothing before a restart.
    Restart,
}
