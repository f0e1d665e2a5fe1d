use federation_specs::bundle::X509Authority;
use service_kit::keys::{KeyType, PrivateKey};

use crate::store::testing::{START, TestStore, jwt_key, root};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityStatus, Slot, Store, StoreError};

fn record(slot: Slot, root: &X509Authority) -> AuthorityRecord {
    AuthorityRecord {
        kind: AuthorityKind::X509,
        slot,
        authority_id: root.key_id_hex(),
        status: AuthorityStatus::Prepared,
        issued_at: START.unix_timestamp(),
        not_after: root.not_after().unix_timestamp(),
        public_key: PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone(),
        certificate_chain: vec![root.der().to_vec()],
        upstream_authority_id: String::new(),
    }
}

fn new_root(name: &str) -> X509Authority {
    root(name, START + time::Duration::days(1))
}

async fn statuses(store: &Store) -> Vec<(Slot, AuthorityStatus)> {
    let records = store.slots(AuthorityKind::X509).await.unwrap();
    records.into_iter().map(|record| (record.slot, record.status)).collect()
}

#[tokio::test]
async fn slots_survive_a_restart() {
    let test = TestStore::new().await;
    let (one, two, three) = (new_root("one"), new_root("two"), new_root("three"));
    let first = record(Slot::A, &one);
    test.store.prepare_authority(&first, &[one.clone()], &[]).await.unwrap();
    assert_eq!(test.reopened().await.slots(AuthorityKind::X509).await.unwrap(), [first.clone()]);
    test.store.activate_authority(AuthorityKind::X509, &first.authority_id).await.unwrap();
    test.store.prepare_authority(&record(Slot::B, &two), &[two.clone()], &[]).await.unwrap();
    assert_eq!(statuses(&test.store).await, [(Slot::A, AuthorityStatus::Active), (Slot::B, AuthorityStatus::Prepared)]);
    test.store.activate_authority(AuthorityKind::X509, &two.key_id_hex()).await.unwrap();
    assert_eq!(statuses(&test.store).await, [(Slot::A, AuthorityStatus::Old), (Slot::B, AuthorityStatus::Active)]);
    test.store.prepare_authority(&record(Slot::A, &three), &[three.clone()], &[]).await.unwrap();
    assert_eq!(statuses(&test.store).await, [(Slot::B, AuthorityStatus::Active), (Slot::A, AuthorityStatus::Prepared)]);
    assert_eq!(test.store.own_bundle().unwrap().x509_authorities(), [one, two, three]);
    assert!(test.store.slots(AuthorityKind::Jwt).await.unwrap().is_empty());
}

#[tokio::test]
async fn preparing_again_withdraws_what_was_prepared_in_one_step() {
    let test = TestStore::new().await;
    let (one, two) = (new_root("one"), new_root("two"));
    test.store.prepare_authority(&record(Slot::A, &one), &[one.clone()], &[]).await.unwrap();
    test.store.append_to_own_bundle(&[], &[jwt_key("k", None)]).await.unwrap();
    let bundle = test.store.prepare_authority(&record(Slot::A, &two), &[two.clone()], &[]).await.unwrap();
    assert_eq!((bundle.x509_authorities(), bundle.sequence()), (&[two][..], Some(2)));
    let gone = test.store.activate_authority(AuthorityKind::X509, &one.key_id_hex()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_failed_activation_changes_nothing() {
    let test = TestStore::new().await;
    let one = new_root("one");
    test.store.prepare_authority(&record(Slot::A, &one), &[one.clone()], &[]).await.unwrap();
    test.store.activate_authority(AuthorityKind::X509, &one.key_id_hex()).await.unwrap();
    assert!(test.store.activate_authority(AuthorityKind::X509, "nosuch").await.is_err());
    assert_eq!(statuses(&test.store).await, [(Slot::A, AuthorityStatus::Active)]);
}

#[tokio::test]
async fn roots_of_an_upstream_authority_stay_when_a_prepared_ca_is_replaced() {
    let test = TestStore::new().await;
    let (upstream, ca, other) = (new_root("upstream"), new_root("ca"), new_root("other"));
    let below =
        |ca: &X509Authority| AuthorityRecord { upstream_authority_id: upstream.key_id_hex(), ..record(Slot::A, ca) };
    test.store.prepare_authority(&below(&ca), &[upstream.clone()], &[]).await.unwrap();
    let bundle = test.store.prepare_authority(&below(&other), &[upstream.clone()], &[]).await.unwrap();
    assert_eq!(bundle.x509_authorities(), [upstream]);
}

#[tokio::test]
async fn the_journal_keeps_ten() {
    let test = TestStore::new().await;
    for n in 0..14 {
        let ca = new_root(&n.to_string());
        let slot = if n % 2 == 0 { Slot::A } else { Slot::B };
        test.store.prepare_authority(&record(slot, &ca), &[ca.clone()], &[]).await.unwrap();
        test.store.activate_authority(AuthorityKind::X509, &ca.key_id_hex()).await.unwrap();
    }
    let mut connection = test.store.connection().await.unwrap();
    let rows: i64 = sqlx::query_scalar("select count(*) from ca_journal").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(rows, 10);
}
