use federation_specs::profile::{EndpointProfile, EndpointUrl};

use crate::store::testing::{TestStore, domain, foreign_bundle, id};
use crate::store::{Page, Relationship, RelationshipUpdate, StoreError};

fn web(name: &str) -> Relationship {
    Relationship {
        trust_domain: domain(name),
        bundle_endpoint_url: EndpointUrl::parse(&format!("https://{name}:8443/bundle")).unwrap(),
        profile: EndpointProfile::HttpsWeb,
    }
}

#[tokio::test]
async fn a_relationship_lives_and_its_bundle_outlives_it() {
    let test = TestStore::new().await;
    let relationship = web("onprem.example");
    let bundle = foreign_bundle("onprem.example");
    test.store.create_relationship(&relationship, Some(&bundle)).await.unwrap();
    assert!(matches!(test.store.create_relationship(&relationship, None).await, Err(StoreError::RelationshipExists)));
    let stored = test.reopened().await.get_relationship(&domain("onprem.example")).await.unwrap();
    assert_eq!(stored, Some(relationship.clone()));
    assert_eq!(test.store.bundles().get(&domain("onprem.example")).map(|b| (**b).clone()), Some(bundle));

    let profile = EndpointProfile::HttpsSpiffe { endpoint_id: id("/gateway") };
    let update = RelationshipUpdate {
        trust_domain: domain("onprem.example"),
        bundle_endpoint_url: None,
        profile: Some(profile.clone()),
    };
    let updated = test.store.update_relationship(&update, None).await.unwrap();
    assert_eq!(updated, Relationship { profile, ..relationship });
    assert_eq!(test.store.get_relationship(&domain("onprem.example")).await.unwrap(), Some(updated));

    test.store.delete_relationship(&domain("onprem.example")).await.unwrap();
    assert!(test.store.bundles().get(&domain("onprem.example")).is_some());
    assert_eq!(test.store.get_relationship(&domain("onprem.example")).await.unwrap(), None);
    let missing = test.store.delete_relationship(&domain("onprem.example")).await.unwrap_err();
    assert_eq!(missing.to_string(), "federation relationship not found");
    assert!(matches!(test.store.update_relationship(&update, None).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn pages_and_refusals() {
    let test = TestStore::new().await;
    assert!(matches!(
        test.store.create_relationship(&web("cloud.example"), None).await,
        Err(StoreError::OwnTrustDomain)
    ));
    for name in ["b.example", "a.example", "c.example"] {
        // A bundle of another domain is never stored under this relationship.
        test.store.create_relationship(&web(name), Some(&foreign_bundle("x.example"))).await.unwrap();
    }
    assert!(test.store.bundles().is_empty());
    let page = test.store.list_relationships(Page::parse(2, "").unwrap()).await.unwrap();
    assert_eq!(page.items, [web("b.example"), web("a.example")]);
    let rest = test.store.list_relationships(Page::parse(2, &page.next_token).unwrap()).await.unwrap();
    assert_eq!(rest.items, [web("c.example")]);
}
