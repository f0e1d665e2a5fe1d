//! Several gateways on one PostgreSQL database: leases, fencing, and one audit log with several writers.

use std::collections::BTreeSet;

use super::*;
use crate::{
    replicas::{
        leases::LEASE,
        shards::{SHARDS, shard_of},
    },
    store::changes::ChangeKind,
};

async fn two() -> (Store, Store) {
    let database = TestDatabase::create();
    let open = async |name: &str| Store::open(&postgres(&database, name), SystemClock::shared()).await.unwrap();
    (open("one").await, open("two").await)
}

fn id(store: &Store) -> String {
    store.leases().replica().unwrap().to_owned()
}

fn all() -> BTreeSet<u16> {
    (0..SHARDS).collect()
}

async fn held_by(store: &Store, id: &str) -> Vec<(u16, i64)> {
    let table = store.heartbeat(id, "name", None).await.unwrap();
    let mine = table.leases.into_iter().filter(|lease| lease.holder.as_deref() == Some(id));
    mine.map(|lease| (lease.shard, lease.fencing)).collect()
}

#[tokio::test]
async fn a_lease_is_taken_from_the_dead_and_from_nobody_else() {
    let (one, two) = two().await;
    let (first, second) = (id(&one), id(&two));
    one.heartbeat(&first, "one", Some(LEASE)).await.unwrap();
    one.acquire_leases(&first, &all()).await.unwrap();
    assert_eq!(held_by(&one, &first).await.len(), usize::from(SHARDS));

    let table = two.heartbeat(&second, "two", Some(LEASE)).await.unwrap();
    assert_eq!(table.live.len(), 2);
    two.acquire_leases(&second, &all()).await.unwrap();
    assert!(held_by(&two, &second).await.is_empty(), "the first is alive");

    one.release_leases(&first, &BTreeSet::from([3, 7])).await.unwrap();
    two.acquire_leases(&second, &all()).await.unwrap();
    assert_eq!(held_by(&two, &second).await, [(3, 2), (7, 2)]);

    // Its time runs out, which the database alone decides.
    one.heartbeat(&first, "one", Some(std::time::Duration::ZERO)).await.unwrap();
    two.acquire_leases(&second, &all()).await.unwrap();
    let held = held_by(&two, &second).await;
    assert_eq!((held.len(), held[0]), (usize::from(SHARDS), (0, 2)));
    two.leave().await.unwrap();
    assert!(held_by(&two, &second).await.is_empty());
}

#[tokio::test]
async fn who_lost_the_lease_stores_nothing() {
    let (one, two) = two().await;
    take_everything(&one).await;
    let partner = td("p.example");
    let state = RefreshState { consecutive_failures: 1, ..RefreshState::default() };
    one.save_refresh_states(&[(partner.clone(), state.clone())]).await.unwrap();
    two.take_lease(&id(&two), shard_of(&partner)).await.unwrap();

    let newer = RefreshState { consecutive_failures: 2, ..RefreshState::default() };
    let lost = |outcome: Result<(), StoreError>| assert!(matches!(outcome, Err(StoreError::LeaseLost { .. })));
    one.save_refresh_states(&[(partner.clone(), newer.clone())]).await.unwrap();
    let fetched = bundle("p.example", "one", 1);
    let document = bundle_json::encode(&fetched);
    let held = HeldBundle {
        digest: digest_hex(&document),
        content_digest: content_digest(&fetched),
        accepted_at: datetime!(2026-11-22 12:00 UTC),
        bundle: Arc::new(fetched),
    };
    let change = bundle_change::difference(None, &held.bundle);
    let acceptance =
        Acceptance { held: &held, document: &document, source_url: "u", change: &change, via: Via::Refresh };
    let (control, event) = (Control::default(), accepted(&partner));
    let decision = Decision {
        partner: &partner,
        acceptance: Some(acceptance),
        state: Some(&newer),
        control: &control,
        event: &event,
    };
    lost(one.decide(&decision, Basis { seen: None, by_holder: true }).await.map(drop));
    let local = td("p.example");
    lost(one.save_delivery(&local, &td("q.example"), &DeliveryState::default(), None).await);
    lost(one.check_delivers(&local).await);

    assert_eq!(two.refresh_states().await.unwrap()[&partner], state);
    assert!(two.partner_bundles().await.unwrap().is_empty());
    assert!(two.deliveries(&local).await.unwrap().is_empty());
    assert_eq!(two.verify_audit(None).await.unwrap().records, 0);
    // One that took it back by itself has another fencing number.
    let stale = one.leases().fencing(&partner).unwrap();
    one.take_lease(&id(&one), shard_of(&partner)).await.unwrap();
    one.save_refresh_states(&[(partner.clone(), newer.clone())]).await.unwrap();
    assert_eq!(two.refresh_states().await.unwrap()[&partner], state);
    take_everything(&one).await;
    assert!(one.leases().fencing(&partner).unwrap() > stale);
    one.save_refresh_states(&[(partner.clone(), newer.clone())]).await.unwrap();
    assert_eq!(two.refresh_states().await.unwrap()[&partner], newer);
}

#[tokio::test]
async fn a_decision_on_what_another_gateway_changed_is_refused() {
    let (one, two) = two().await;
    let partner = td("p.example");
    let (control, event) = (Control::default(), accepted(&partner));
    let decision = Decision { partner: &partner, acceptance: None, state: None, control: &control, event: &event };
    let basis = |seen| Basis { seen: Some(seen), by_holder: false };
    let first = one.decide(&decision, basis(0)).await.unwrap();
    let stale = two.decide(&decision, basis(0)).await;
    assert!(matches!(stale, Err(StoreError::Changed { .. })), "{stale:?}");
    let changes = two.changes_after(0).await.unwrap();
    assert_eq!((changes.latest, changes.of(ChangeKind::Decision)), (first, BTreeSet::from([partner.clone()])));
    assert!(one.changes_after(0).await.unwrap().of(ChangeKind::Decision).is_empty(), "its own");
    two.decide(&decision, basis(first)).await.unwrap();
    assert_eq!(one.verify_audit(None).await.unwrap().records, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_audit_chain_stays_whole_with_several_writers() {
    let (one, two) = two().await;
    let writers: Vec<_> = (0..60)
        .map(|number| {
            let store = if number % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move {
                let partner = td(&format!("p{number}.example"));
                let (control, event) = (Control::default(), accepted(&partner));
                let decision =
                    Decision { partner: &partner, acceptance: None, state: None, control: &control, event: &event };
                store.decide(&decision, Basis::default()).await.map(drop)
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let report = one.verify_audit(None).await.unwrap();
    assert!(report.ok && report.records == 60, "{report:?}");
}
