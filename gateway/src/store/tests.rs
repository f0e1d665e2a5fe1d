//! The conformance suite of the store: every test runs on SQLite and on PostgreSQL.

use std::sync::Arc;

mod audit;
mod controls;
mod managed;
mod publications;
mod replicas;
mod schema;
mod webhooks;

use federation_specs::{
    bundle::{Bundle, JwtAuthority},
    bundle_change, bundle_json,
    id::TrustDomain,
    profile::{EndpointProfile, EndpointUrl},
};
use service_kit::{clock::SystemClock, test_postgres::TestDatabase};
use time::macros::datetime;

use super::*;
use crate::{
    api::Via,
    audit::{Action, Actor, Event},
    partners::{HeldBundle, content_digest},
    refresh::{control::Control, relationship::IssuerRelationship},
    served::rendered::digest_hex,
    store::{
        deliveries::{DeliveryState, DriftState},
        relationships::RefreshState,
    },
};

/// An empty database and how it is opened, again and again.
struct Place {
    datastore: Datastore,
    // Removed with the test.
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { datastore: Datastore::Sqlite(folder.path().join("gateway.sqlite3")), _folder: Some(folder) }
    }

    fn postgres() -> Self {
        Self { datastore: postgres(&TestDatabase::create(), "one"), _folder: None }
    }

    /// Another empty one of the same kind.
    fn another(&self) -> Self {
        match self.datastore {
            Datastore::Sqlite(_) => Self::sqlite(),
            Datastore::Postgres { .. } => Self::postgres(),
        }
    }

    /// Opens it as the only gateway there is.
    async fn open(&self) -> Store {
        let store = Store::open(&self.datastore, SystemClock::shared()).await.unwrap();
        take_everything(&store).await;
        store
    }
}

fn postgres(database: &TestDatabase, replica_name: &str) -> Datastore {
    Datastore::Postgres { server: database.server(4), replica_name: replica_name.to_owned() }
}

/// Gives a store every lease, as its coordinator would; others that had them are dead to it.
async fn take_everything(store: &Store) {
    let Some(id) = store.leases().replica().map(str::to_owned) else { return };
    for shard in 0..crate::replicas::shards::SHARDS {
        store.take_lease(&id, shard).await.unwrap();
    }
    let table = store.heartbeat(&id, "one", Some(crate::replicas::leases::LEASE)).await.unwrap();
    store.leases().hold(table.leases.iter().map(|lease| (lease.shard, lease.fencing)).collect());
}

/// Makes of each named function, which takes a [`Place`], a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::tests::Place::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::tests::Place::postgres()).await;
            })+
        }
    };
}
use on_both;

on_both!(
    everything_is_there_after_reopening,
    history_is_bounded_and_keeps_the_newest,
    relationships_of_issuers_are_kept_by_difference,
    damage_is_named,
);

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn bundle(name: &str, key_id: &str, sequence: u64) -> Bundle {
    let key = service_kit::keys::PrivateKey::generate(service_kit::keys::KeyType::EcP256).unwrap();
    let jwt = JwtAuthority::new(key_id, key.public_key().clone(), None, false).unwrap();
    Bundle::new(td(name)).with_jwt_authorities([jwt]).with_sequence(Some(sequence))
}

async fn accept(store: &Store, bundle: &Bundle, state: &RefreshState) -> HeldBundle {
    let document = bundle_json::encode(bundle);
    let held = HeldBundle {
        bundle: Arc::new(bundle.clone()),
        digest: digest_hex(&document),
        content_digest: content_digest(bundle),
        accepted_at: datetime!(2026-11-22 12:00 UTC),
    };
    let change = bundle_change::difference(None, bundle);
    let source_url = "https://p.example/";
    let acceptance = Acceptance { held: &held, document: &document, source_url, change: &change, via: Via::Refresh };
    let control = Control { highest_sequence: bundle.sequence(), ..Control::default() };
    let event = accepted(bundle.trust_domain());
    let partner = bundle.trust_domain();
    let decision =
        Decision { partner, acceptance: Some(acceptance), state: Some(state), control: &control, event: &event };
    store.decide(&decision, Basis::default()).await.unwrap();
    held
}

fn accepted(partner: &TrustDomain) -> Event<'static> {
    Event {
        who: &Actor::Gateway,
        what: Action::Accepted,
        subject: partner.to_string(),
        before: serde_json::Value::Null,
        after: serde_json::json!({"digest": "d"}),
        why: "the test says so",
    }
}

async fn everything_is_there_after_reopening(place: Place) {
    let store = place.open().await;
    let state = RefreshState {
        last_attempt: Some(datetime!(2026-11-22 12:00 UTC)),
        last_success: Some(datetime!(2026-11-22 12:00:01 UTC)),
        confirmed_at: Some(datetime!(2026-11-22 11:59 UTC)),
        next_refresh: Some(datetime!(2026-11-22 12:05 UTC)),
        last_error: Some("no route".to_owned()),
        consecutive_failures: 3,
        etag: Some("\"e\"".to_owned()),
        etag_url: Some("https://p.example/".to_owned()),
        etag_digest: Some("f".to_owned()),
        bootstrap_digest: Some("d".to_owned()),
    };
    let first = bundle("p.example", "one", 4);
    accept(&store, &first, &RefreshState::default()).await;
    let second = bundle("p.example", "two", u64::MAX);
    let held = accept(&store, &second, &state).await;
    accept(&store, &bundle("q.example", "three", 1), &RefreshState::default()).await;
    let delivery = DeliveryState {
        digest: Some(held.digest.clone()),
        delivered_at: Some(datetime!(2026-11-22 12:00 UTC)),
        last_error: None,
        content_digest: Some("c".to_owned()),
        sent: Some("s".to_owned()),
        drift: Some(DriftState { since: datetime!(2026-11-22 12:01 UTC), content_digest: None }),
    };
    store.save_delivery(&td("a.example"), &td("p.example"), &delivery, None).await.unwrap();
    store.close().await;

    let store = place.open().await;
    let bundles = store.partner_bundles().await.unwrap();
    assert_eq!(bundles.len(), 2);
    assert_eq!(*bundles[0].bundle, second);
    assert_eq!((&bundles[0].digest, &bundles[0].content_digest), (&held.digest, &held.content_digest));
    assert_eq!(store.refresh_states().await.unwrap()[&td("p.example")], state);
    assert_eq!(store.controls().await.unwrap()[&td("p.example")].highest_sequence, Some(u64::MAX));
    assert_eq!(store.deliveries(&td("a.example")).await.unwrap()[&td("p.example")], delivery);
    assert!(store.deliveries(&td("b.example")).await.unwrap().is_empty());
    let history = store.history(&td("p.example"), None, 10).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [Some(u64::MAX), Some(4)]);
    assert_eq!((history[0].jwt_added, history[0].source_url.as_str()), (1, "https://p.example/"));
    assert!(store.knows_content(&td("p.example"), &content_digest(&first)).await.unwrap());
    assert!(!store.knows_content(&td("q.example"), &content_digest(&first)).await.unwrap());
}

async fn history_is_bounded_and_keeps_the_newest(place: Place) {
    let store = place.open().await;
    let keys = bundle("p.example", "one", 0);
    for sequence in 1..=(partner_bundles::MAX_HISTORY as u64 + 5) {
        accept(&store, &keys.clone().with_sequence(Some(sequence)), &RefreshState::default()).await;
    }
    let history = store.history(&td("p.example"), None, u32::MAX).await.unwrap();
    assert_eq!(history.len(), partner_bundles::MAX_HISTORY as usize);
    assert_eq!(history[0].sequence, Some(partner_bundles::MAX_HISTORY as u64 + 5));
    assert_eq!(history.last().unwrap().sequence, Some(6));
    assert_eq!(store.partner_bundles().await.unwrap()[0].bundle.sequence(), history[0].sequence);
}

async fn relationships_of_issuers_are_kept_by_difference(place: Place) {
    let store = place.open().await;
    let relationship = |name: &str, url: &str, profile| IssuerRelationship {
        trust_domain: td(name),
        url: EndpointUrl::parse(url).unwrap(),
        profile,
        bundle: Some(Arc::new(bundle(name, "k", 2))),
    };
    let endpoint_id = "spiffe://q.example/gw".parse().unwrap();
    let p = relationship("p.example", "https://p.example/", EndpointProfile::HttpsWeb);
    let q = relationship("q.example", "https://q.example/", EndpointProfile::HttpsSpiffe { endpoint_id });
    let local = td("a.example");
    store.save_issuer_relationships(&local, &[p.clone(), q.clone()], &[]).await.unwrap();
    assert_eq!(store.issuer_relationships().await.unwrap()[&local], [p.clone(), q.clone()]);
    let moved = relationship("q.example", "https://new.example/", EndpointProfile::HttpsWeb);
    store.save_issuer_relationships(&local, std::slice::from_ref(&moved), &[td("p.example")]).await.unwrap();
    assert_eq!(store.issuer_relationships().await.unwrap()[&local], [moved]);
}

async fn damage_is_named(place: Place) {
    let store = place.open().await;
    accept(&store, &bundle("p.example", "k", 1), &RefreshState::default()).await;
    store
        .database
        .run_tx("test", |mut connection| {
            Box::pin(async move {
                let query = sqlx::query("update bundle_history set document = $1").bind(&b"{"[..]);
                query.execute(&mut *connection).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
    let error = store.partner_bundles().await.unwrap_err().to_string();
    assert!(error.contains("partner bundle of `p.example` cannot be read"), "{error}");
    assert!(error.contains("restore the database"), "{error}");
}
