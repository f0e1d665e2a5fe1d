//! Messages to webhooks: kept with what they tell of, in order, until everybody has them or they are given up.

use std::time::Duration;

use service_kit::clock::ManualClock;

use super::*;
use crate::{
    store::webhooks::{Dropped, OutboxLimits, WebhookState},
    webhook::event::{Condition, EventFilter, Message},
};

on_both!(
    messages_are_kept_only_for_somebody_and_go_when_everybody_has_them,
    the_oldest_go_when_they_are_too_many_or_too_old_and_that_is_recorded_once,
    conditions_are_told_once_also_after_reopening,
);

const NOON: time::OffsetDateTime = datetime!(2026-11-22 12:00 UTC);
const LIMITS: OutboxLimits = OutboxLimits { messages: 5, age: Duration::from_secs(3600) };

fn filter(names: &[&str]) -> EventFilter {
    EventFilter::new(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn open(place: &Place, clock: &ManualClock) -> Store {
    Store::open(&place.datastore, Arc::new(clock.clone())).await.unwrap()
}

async fn waiting(store: &Store, after: i64) -> Vec<i64> {
    store.webhook_messages(after, 100).await.unwrap().iter().map(|message| message.sequence).collect()
}

async fn delivered(store: &Store, name: &str, to: i64) {
    let state = WebhookState { delivered_to: to, ..WebhookState::default() };
    store.save_webhook(name, &state).await.unwrap();
}

async fn happen(store: &Store, count: u64) {
    for sequence in 1..=count {
        accept(store, &bundle("p.example", "one", sequence), &RefreshState::default()).await;
    }
}

async fn messages_are_kept_only_for_somebody_and_go_when_everybody_has_them(place: Place) {
    let clock = ManualClock::new(NOON);
    let store = open(&place, &clock).await;
    happen(&store, 2).await;
    assert!(waiting(&store, 0).await.is_empty(), "nobody is to be told");
    store.configure_webhooks(&names(&["a", "b"])).await.unwrap();
    happen(&store, 3).await;
    store.close().await;

    let store = open(&place, &clock).await;
    store.configure_webhooks(&names(&["a", "b", "new"])).await.unwrap();
    assert_eq!(waiting(&store, 0).await, [1, 2, 3]);
    let states = store.webhooks().await.unwrap();
    assert_eq!((states["a"].delivered_to, states["new"].delivered_to), (0, 3), "a new one begins with what is next");
    delivered(&store, "a", 3).await;
    delivered(&store, "b", 1).await;
    let filters = [("a".to_owned(), filter(&[])), ("b".to_owned(), filter(&[])), ("new".to_owned(), filter(&[]))];
    assert_eq!(store.prune_messages(&filters, LIMITS).await.unwrap(), []);
    assert_eq!(waiting(&store, 0).await, [2, 3]);
    delivered(&store, "a", 2).await;
    assert_eq!(store.webhooks().await.unwrap()["a"].delivered_to, 3, "never back");
    let kinds = store.waiting_messages(1).await.unwrap();
    assert_eq!((kinds[0].kind.as_str(), kinds[0].count, kinds[0].oldest), ("bundle.accepted", 2, NOON));

    // The one that lags is configured no more.
    store.configure_webhooks(&names(&["a"])).await.unwrap();
    store.prune_messages(&filters, LIMITS).await.unwrap();
    assert!(waiting(&store, 0).await.is_empty());
    assert_eq!(store.webhook_head().await.unwrap(), 3);
}

async fn the_oldest_go_when_they_are_too_many_or_too_old_and_that_is_recorded_once(place: Place) {
    let clock = ManualClock::new(NOON);
    let store = open(&place, &clock).await;
    store.configure_webhooks(&names(&["all", "few"])).await.unwrap();
    let filters = [("all".to_owned(), filter(&[])), ("few".to_owned(), filter(&["relationship.*"]))];
    happen(&store, 8).await;
    let dropped = |count| vec![Dropped { webhook: "all".to_owned(), count }];
    assert_eq!(store.prune_messages(&filters, LIMITS).await.unwrap(), dropped(3), "few wanted none of them");
    assert_eq!(waiting(&store, 0).await, [4, 5, 6, 7, 8]);
    assert_eq!(store.prune_messages(&filters, LIMITS).await.unwrap(), []);
    clock.advance(Duration::from_secs(1800));
    happen(&store, 1).await;
    clock.advance(Duration::from_secs(1801));
    assert_eq!(store.prune_messages(&filters, LIMITS).await.unwrap(), dropped(5));
    assert_eq!(waiting(&store, 0).await, [9]);
    assert_eq!(store.webhooks().await.unwrap()["all"].dropped, 8);

    let recorded = async || {
        let query = crate::store::audit::AuditQuery { limit: 100, ..Default::default() };
        let records = store.audit_records(&query).await.unwrap().into_iter().filter_map(|record| record.read().record);
        records.filter(|record| record.what == Action::WebhookDropped).map(|record| record.subject).collect::<Vec<_>>()
    };
    assert_eq!(recorded().await, ["all"]);
    assert_eq!(store.webhook_head().await.unwrap(), 9, "nothing is told about webhooks");
    // It works again, and fails again.
    delivered(&store, "all", 9).await;
    happen(&store, 6).await;
    assert_eq!(store.prune_messages(&filters, LIMITS).await.unwrap(), dropped(1));
    assert_eq!(recorded().await, ["all", "all"]);
}

async fn conditions_are_told_once_also_after_reopening(place: Place) {
    let clock = ManualClock::new(NOON);
    let store = open(&place, &clock).await;
    store.configure_webhooks(&names(&["a"])).await.unwrap();
    let key = (Condition::BundleStale, "p.example".to_owned());
    let message = |kind: &str| Some(Message::new(kind, NOON, serde_json::Map::new()));
    let began = [(key.clone(), Some(NOON), message("bundle.stale"))];
    store.change_conditions(&began).await.unwrap();
    store.change_conditions(&began).await.unwrap();
    store.close().await;
    let store = open(&place, &clock).await;
    assert_eq!(store.webhook_conditions().await.unwrap(), [(key.clone(), NOON)].into());
    let ended = [(key, None, message("bundle.fresh"))];
    store.change_conditions(&ended).await.unwrap();
    store.change_conditions(&ended).await.unwrap();
    assert!(store.webhook_conditions().await.unwrap().is_empty());
    let told: Vec<String> =
        store.webhook_messages(0, 10).await.unwrap().into_iter().map(|message| message.message.kind).collect();
    assert_eq!(told, ["bundle.stale", "bundle.fresh"]);
}
