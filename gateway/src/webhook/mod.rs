//! Webhooks: events posted to receivers of the configuration, signed, in order, retried until they are delivered.
//!
//! How an event goes: [`event`] makes the message, the store keeps it with the change it tells of
//! ([`crate::store::webhooks`]), [`lane`] sends it to each webhook, [`watch`] finds what begins and ends by time alone.

pub mod event;
pub mod lane;
pub mod sender;
pub mod signature;
pub mod watch;

use std::{sync::Arc, time::Duration};

use serde_json::Map;
use service_kit::{
    BoxError,
    clock::SharedClock,
    lifecycle::{Shutdown, Tasks},
};
use tokio::sync::watch as channel;

use self::{
    event::{EventFilter, Message, TEST},
    lane::Lane,
    sender::SendError,
};
use crate::{
    metrics::GatewayMetrics,
    refresh::clients::Clients,
    settings::WebhookSettings,
    store::{Store, StoreError, webhooks::OutboxLimits},
};

/// Waits after failures: they double from the first to the last.
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// See [`FIRST_RETRY`].
pub const LAST_RETRY: Duration = Duration::from_secs(15 * 60);

/// Messages that could not be delivered for this long are given up.
pub const MAX_AGE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// Most messages kept; the oldest ones go first.
pub const MAX_MESSAGES: i64 = 100_000;

/// How often the store is asked for new messages, which another replica may have written.
const LOOK: Duration = Duration::from_millis(500);

/// How often messages nobody waits for are removed: once in so many looks.
const LOOKS_PER_PRUNE: u32 = 60;

/// Every webhook of the configuration. Clones share them.
#[derive(Debug, Clone)]
pub struct Webhooks {
    lanes: Vec<Arc<Lane>>,
    /// The number of the last message.
    head: Arc<channel::Sender<i64>>,
}

impl Webhooks {
    /// The webhooks of the configuration, reached the way `clients` go, going on from what the store knows. From now on
    /// the store keeps messages for them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(
        settings: &[WebhookSettings],
        clients: &Arc<Clients>,
        store: &Store,
        clock: &SharedClock,
        metrics: &GatewayMetrics,
    ) -> Result<Self, StoreError> {
        let names: Vec<String> = settings.iter().map(|webhook| webhook.name.clone()).collect();
        store.configure_webhooks(&names).await?;
        let mut states = store.webhooks().await?;
        let lane = |webhook: &WebhookSettings| {
            let state = states.remove(&webhook.name).unwrap_or_default();
            let (clients, clock) = (Arc::clone(clients), Arc::clone(clock));
            Arc::new(Lane::new(webhook.clone(), clients, state, store.clone(), clock, metrics.clone()))
        };
        let head = channel::Sender::new(store.webhook_head().await?);
        Ok(Self { lanes: settings.iter().map(lane).collect(), head: Arc::new(head) })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Lane>> {
        self.lanes.iter().find(|lane| lane.settings().name == name)
    }

    /// The number of the last message.
    pub fn head(&self) -> i64 {
        *self.head.borrow()
    }

    /// Starts delivering.
    pub fn start(&self, tasks: &mut Tasks, store: &Store, clock: &SharedClock, shutdown: &Shutdown) {
        for lane in &self.lanes {
            tasks.spawn("webhook", Arc::clone(lane).run(self.head.subscribe(), shutdown.clone()));
        }
        let looking = look(self.clone(), store.clone(), Arc::clone(clock), shutdown.clone());
        tasks.spawn("webhook messages", looking);
    }
}

/// Sends a test message to one webhook.
///
/// # Errors
/// [`SendError`].
pub async fn test(lane: &Lane, clock: &SharedClock) -> Result<(), SendError> {
    let mut data = Map::new();
    data.insert("webhook".to_owned(), lane.settings().name.clone().into());
    lane.send_now(&Message::new(TEST, clock.now(), data)).await
}

/// Tells the lanes of new messages, and removes old ones.
async fn look(webhooks: Webhooks, store: Store, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
    let filters: Vec<(String, EventFilter)> =
        webhooks.iter().map(|lane| (lane.settings().name.clone(), lane.settings().events.clone())).collect();
    let limits = OutboxLimits { messages: MAX_MESSAGES, age: MAX_AGE };
    let mut looks = 0_u32;
    loop {
        match store.webhook_head().await {
            Ok(now) => {
                webhooks.head.send_if_modified(|known| std::mem::replace(known, now) != now);
            }
            Err(error) => tracing::warn!(%error, "events for webhooks not read"),
        }
        if looks.is_multiple_of(LOOKS_PER_PRUNE) {
            match store.prune_messages(&filters, limits).await {
                Ok(dropped) => {
                    for item in dropped {
                        if let Some(lane) = webhooks.get(&item.webhook) {
                            lane.dropped(item.count);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "old events for webhooks not removed"),
            }
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = clock.sleep(LOOK) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
