#![expect(clippy::cloned_ref_to_slice_refs, reason = "a slice of one clone reads like the others")]

mod bundles;
mod entries;
mod journal;
mod nodes;
mod relationships;

use service_kit::database::{Database, DatabaseError};

use super::testing::{TestStore, domain, entry};
use super::*;

#[tokio::test]
async fn a_database_belongs_to_one_trust_domain() {
    let test = TestStore::new().await;
    let path = test.folder.path().join("issuer.sqlite3");
    let database = Database::open(&path, &MIGRATIONS, test.shared_clock()).await.unwrap();
    let error = Store::open(database, domain("other.example")).await.unwrap_err();
    assert!(error.to_string().contains("belongs to trust domain `cloud.example`"), "{error}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let test = TestStore::new().await;
    let mut tx = test.store.begin("test").await.unwrap();
    sqlx::query("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, x'00', 0)")
        .execute(&mut *tx.connection)
        .await
        .unwrap();
    tx.commit(Touched::default()).await.unwrap();
    let path = test.folder.path().join("issuer.sqlite3");
    let error = Database::open(&path, &MIGRATIONS, test.shared_clock()).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Newer { version: 9999, .. }), "{error}");
}

/// A landed migration never changes: databases in use were made with it. Add its line here when one lands.
#[test]
fn landed_migrations_are_as_they_landed() {
    let landed = [
        (1, "7f8d16363376e9fa3fb2c2f2c7f569cb46073a059b258a913f109df639f9b2da3dece8a4fc134af18a79862791f5dead"),
        (2, "2ede2286706a84cb483ae2bdd4feae1b628dc768f96ab3f8859bf1e0d828cdd8281f666efbccabf931477d3649d29772"),
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let found: Vec<_> = MIGRATIONS.iter().map(|migration| (migration.version, hex(&migration.checksum))).collect();
    assert_eq!(found, landed.map(|(version, sum): (i64, &str)| (version, sum.to_owned())));
}

#[tokio::test]
async fn changes_wake_those_who_wait_for_that_kind() {
    let test = TestStore::new().await;
    let mut changes = test.store.changes();
    let before = *changes.borrow_and_update();
    test.store.create_entries(&[entry("/spire/agent/a", "/w", &["unix:uid:1"])], test.clock_now()).await.unwrap();
    assert!(changes.has_changed().unwrap());
    let after = *changes.borrow_and_update();
    assert!(after.entries > before.entries);
    assert_eq!((after.nodes, after.bundles, after.relationships), (before.nodes, before.bundles, before.relationships));
}

#[tokio::test]
async fn too_many_values_in_a_filter_are_refused() {
    let test = TestStore::new().await;
    let selectors = (0..=MAX_FILTER_VALUES).map(|n| testing::selector(&format!("unix:uid:{n}"))).collect();
    let filter = crate::entry::EntryFilter {
        selectors: Some((selectors, federation_specs::selector::MatchBehavior::Any)),
        ..Default::default()
    };
    assert!(matches!(test.store.count_entries(&filter).await, Err(StoreError::FilterTooLarge(_))));
}

impl TestStore {
    fn clock_now(&self) -> time::OffsetDateTime {
        service_kit::clock::Clock::now(&self.clock)
    }
}
