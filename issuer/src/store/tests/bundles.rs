use std::time::Duration;

use federation_specs::bundle::Bundle;

use crate::store::testing::{START, TestStore, domain, foreign_bundle, jwt_key, root};
use crate::store::{BundleSelection, DeleteMode, Page, StoreError};

fn day() -> time::OffsetDateTime {
    START + time::Duration::days(1)
}

#[tokio::test]
async fn the_own_bundle_grows_and_its_sequence_with_it() {
    let test = TestStore::new().await;
    assert!(test.store.own_bundle().is_none());
    let (one, two) = (root("one", day()), root("two", day()));
    test.store.append_to_own_bundle(&[one.clone()], &[]).await.unwrap();
    let bundle = test.store.append_to_own_bundle(&[], &[jwt_key("k", None)]).await.unwrap();
    assert_eq!(bundle.sequence(), Some(1), "a new server's first root and key make number 1");
    let bundle = test.store.append_to_own_bundle(&[one.clone(), two.clone()], &[]).await.unwrap();
    assert_eq!((bundle.sequence(), bundle.x509_authorities().len()), (Some(2), 2));
    let again = test.store.append_to_own_bundle(&[two.clone()], &[jwt_key("k", None)]).await.unwrap();
    assert_eq!(again.sequence(), Some(2), "nothing new, no new number");
    assert_eq!(test.store.own_bundle(), Some(bundle.clone()));
    assert_eq!(test.reopened().await.own_bundle(), Some(bundle));
}

#[tokio::test]
async fn only_tainted_authorities_are_revoked() {
    let test = TestStore::new().await;
    let (one, two) = (root("one", day()), root("two", day()));
    test.store.append_to_own_bundle(&[one.clone(), two], &[jwt_key("k", None), jwt_key("l", None)]).await.unwrap();
    let id = one.key_id_hex();
    let text = |error: StoreError| {
        assert!(!error.is_internal());
        error.to_string()
    };
    let error = test.store.revoke_x509_authority(&id).await.unwrap_err();
    assert_eq!(text(error), "it is not possible to revoke an untainted root CA");
    let bundle = test.store.taint_x509_authority(&id).await.unwrap();
    assert!(bundle.x509_authorities()[0].tainted() && !bundle.x509_authorities()[1].tainted());
    assert_eq!(text(test.store.taint_x509_authority(&id).await.unwrap_err()), "root CA is already tainted");
    assert!(test.reopened().await.own_bundle().unwrap().x509_authorities()[0].tainted());
    // Appending it again does not make it good.
    let bundle = test.store.append_to_own_bundle(&[one.clone()], &[]).await.unwrap();
    assert!(bundle.x509_authorities()[0].tainted());
    let bundle = test.store.revoke_x509_authority(&id).await.unwrap();
    assert_eq!(bundle.x509_authorities().len(), 1);
    let error = test.store.revoke_x509_authority(&id).await.unwrap_err();
    assert_eq!(text(error), "no root CA found with provided subject key ID");

    let error = test.store.revoke_jwt_authority("k").await.unwrap_err();
    assert_eq!(text(error), "it is not possible to revoke an untainted key");
    test.store.taint_jwt_authority("k").await.unwrap();
    let bundle = test.store.revoke_jwt_authority("k").await.unwrap();
    assert_eq!(bundle.jwt_authorities().len(), 1);
    let error = test.store.revoke_jwt_authority("k").await.unwrap_err();
    assert_eq!(text(error), "no JWT Key found with provided key ID");
    let before = test.store.own_bundle().unwrap().sequence();
    assert!(test.store.taint_jwt_authority("nosuch").await.is_err());
    assert_eq!(test.store.own_bundle().unwrap().sequence(), before);
}

#[tokio::test]
async fn pruning_keeps_a_day_and_the_last_of_each_kind() {
    let test = TestStore::new().await;
    let hour = time::Duration::hours(1);
    let (past, recent) = (root("past", START - hour * 25), root("recent", START - hour * 23));
    let key = |id: &str, at: time::OffsetDateTime| jwt_key(id, Some(at.unix_timestamp()));
    test.store
        .append_to_own_bundle(
            &[past, recent.clone()],
            &[key("past", START - hour * 26), key("later", START - hour * 25)],
        )
        .await
        .unwrap();
    assert!(test.store.prune_own_bundle(START).await.unwrap());
    let bundle = test.store.own_bundle().unwrap();
    assert_eq!(bundle.x509_authorities(), [recent]);
    assert_eq!(bundle.jwt_authorities().iter().map(|key| key.key_id()).collect::<Vec<_>>(), ["later"]);
    assert!(!test.store.prune_own_bundle(START + hour * 1000).await.unwrap(), "the last ones stay");
    assert_eq!(test.store.own_bundle(), Some(bundle));
}

#[tokio::test]
async fn foreign_bundles_are_kept_as_given() {
    let test = TestStore::new().await;
    let given = foreign_bundle("onprem.example")
        .with_jwt_authorities([jwt_key("k", Some(77))])
        .with_wit_authorities([jwt_key("w", None)])
        .with_refresh_hint(Some(Duration::from_secs(60)))
        .with_sequence(Some(u64::MAX));
    test.store.create_bundle(&given).await.unwrap();
    assert!(matches!(test.store.create_bundle(&given).await, Err(StoreError::BundleExists)));
    let stored = test.reopened().await.bundles();
    assert_eq!(stored.get(&domain("onprem.example")).map(|bundle| (**bundle).clone()), Some(given.clone()));

    let other = foreign_bundle("onprem.example").with_sequence(Some(3)).with_refresh_hint(Some(Duration::from_secs(9)));
    let parts = BundleSelection { x509_authorities: true, sequence_number: true, ..BundleSelection::NONE };
    let updated = test.store.update_bundle(&other, parts).await.unwrap();
    assert_eq!(updated.x509_authorities(), other.x509_authorities());
    assert_eq!(updated.jwt_authorities(), given.jwt_authorities());
    assert_eq!((updated.refresh_hint(), updated.sequence()), (given.refresh_hint(), Some(3)));
    let unknown = test.store.update_bundle(&foreign_bundle("nowhere.example"), BundleSelection::ALL).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "bundle" })));
}

#[tokio::test]
async fn the_own_bundle_is_not_a_foreign_one() {
    let test = TestStore::new().await;
    let own = Bundle::new(domain("cloud.example")).with_x509_authorities([root("x", day())]);
    assert!(matches!(test.store.create_bundle(&own).await, Err(StoreError::OwnTrustDomain)));
    assert!(matches!(test.store.set_bundle(&own).await, Err(StoreError::OwnTrustDomain)));
    assert!(matches!(test.store.update_bundle(&own, BundleSelection::ALL).await, Err(StoreError::OwnTrustDomain)));
    let deleted = test.store.delete_bundle(&domain("cloud.example"), DeleteMode::Delete).await;
    assert!(matches!(deleted, Err(StoreError::OwnTrustDomain)));
    assert!(test.store.bundles().is_empty());
}

#[tokio::test]
async fn lists_counts_and_the_snapshot_agree() {
    let test = TestStore::new().await;
    test.store.append_to_own_bundle(&[root("own", day())], &[]).await.unwrap();
    for name in ["b.example", "a.example", "c.example"] {
        test.store.set_bundle(&foreign_bundle(name)).await.unwrap();
    }
    assert_eq!(test.store.count_bundles(), 4);
    let listed = test.store.list_bundles(Page::ALL).await.unwrap().items;
    let names: Vec<_> = listed.iter().map(|bundle| bundle.trust_domain().as_str()).collect();
    assert_eq!(names, ["cloud.example", "b.example", "a.example", "c.example"]);
    let page = test.store.list_bundles(Page::parse(3, "").unwrap()).await.unwrap();
    assert_eq!(page.items.len(), 3);
    let rest = test.store.list_bundles(Page::parse(3, &page.next_token).unwrap()).await.unwrap();
    assert_eq!(rest.items.len(), 1);

    test.store.delete_bundle(&domain("a.example"), DeleteMode::Restrict).await.unwrap();
    test.store.set_bundle(&foreign_bundle("d.example")).await.unwrap();
    let names: Vec<_> = test.store.bundles().iter().map(|bundle| bundle.trust_domain().to_string()).collect();
    assert_eq!(names, ["b.example", "c.example", "cloud.example", "d.example"]);
    test.store.set_bundle(&foreign_bundle("a.example")).await.unwrap();
    assert!(test.store.bundles().get(&domain("a.example")).is_some());
}
