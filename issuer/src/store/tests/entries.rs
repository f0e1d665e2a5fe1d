use std::collections::BTreeSet;

use federation_specs::selector::MatchBehavior;

use crate::entry::{AdditionalAttributes, CreateEntryOutcome, Entry, EntryError, EntryFilter, EntryUpdate, NewEntry};
use crate::store::testing::{START, TestStore, domain, entry, foreign_bundle, id, selector};
use crate::store::{DeleteMode, Page, Store, StoreError};

const AGENT: &str = "/spire/agent/x509pop/a";

async fn create(store: &Store, new: NewEntry) -> Entry {
    match create_outcome(store, new).await.unwrap() {
        CreateEntryOutcome::Created(entry) => entry,
        CreateEntryOutcome::Similar(entry) => panic!("similar to {entry:?}"),
    }
}

async fn create_outcome(store: &Store, new: NewEntry) -> Result<CreateEntryOutcome, StoreError> {
    store.create_entries(&[new], START).await.unwrap().remove(0)
}

async fn update(store: &Store, update: EntryUpdate) -> Result<Entry, StoreError> {
    store.update_entries(&[update]).await.unwrap().remove(0)
}

#[tokio::test]
async fn an_entry_comes_back_as_it_was_given() {
    let test = TestStore::new().await;
    test.store.set_bundle(&foreign_bundle("onprem.example")).await.unwrap();
    let new = NewEntry {
        id: "my-entry_1.x".into(),
        x509_svid_ttl: 120,
        jwt_svid_ttl: 60,
        federates_with: vec![domain("onprem.example"), domain("onprem.example")],
        admin: true,
        downstream: true,
        expires_at: -5,
        dns_names: vec!["b.example".into(), "a.example".into()],
        hint: "internal".into(),
        additional_attributes: Some(AdditionalAttributes { jwt_svid_include_jti: true, ..Default::default() }),
        ..entry(AGENT, "/w", &["unix:uid:2", "k8s:ns:a:b", "unix:uid:1"])
    };
    let created = create(&test.store, new.clone()).await;
    assert_eq!(created.selectors, new.selectors);
    assert_eq!(created.dns_names, new.dns_names);
    assert_eq!(created.federates_with, [domain("onprem.example")]);
    assert_eq!((created.revision_number, created.created_at), (0, START.unix_timestamp()));
    assert!(created.includes_jti() && !created.disables_prefetch());
    assert_eq!(test.reopened().await.get_entry("my-entry_1.x").await.unwrap(), Some(created));
    assert_eq!(test.store.get_entry("other").await.unwrap(), None);
}

#[tokio::test]
async fn similar_entries_and_used_ids_are_told_apart() {
    let test = TestStore::new().await;
    let first = create(&test.store, NewEntry { id: "one".into(), ..entry(AGENT, "/w", &["a:1", "b:2"]) }).await;
    let similar = NewEntry { id: "two".into(), hint: "x".into(), ..entry(AGENT, "/w", &["b:2", "a:1"]) };
    assert_eq!(create_outcome(&test.store, similar).await.unwrap(), CreateEntryOutcome::Similar(first));
    let same_id = NewEntry { id: "one".into(), ..entry(AGENT, "/w", &["a:1"]) };
    let error = create_outcome(&test.store, same_id).await.unwrap_err();
    assert_eq!(error.to_string(), "an entry with ID `one` already exists");
    assert!(!error.is_internal());
    assert_eq!(test.store.count_entries(&EntryFilter::default()).await.unwrap(), 1);
}

#[tokio::test]
async fn one_bad_entry_of_a_batch_does_not_touch_the_others() {
    let test = TestStore::new().await;
    let batch = [
        entry(AGENT, "/a", &["a:1"]),
        entry(AGENT, "/b", &[]),
        NewEntry { federates_with: vec![domain("nowhere.example")], ..entry(AGENT, "/c", &["a:1"]) },
        entry(AGENT, "/d", &["a:1", "a:1"]),
        entry(AGENT, "/a", &["a:1"]),
        entry(AGENT, "/e", &["a:1"]),
    ];
    let outcomes = test.store.create_entries(&batch, START).await.unwrap();
    assert!(matches!(outcomes[0], Ok(CreateEntryOutcome::Created(_))));
    assert!(matches!(outcomes[1], Err(StoreError::Entry(EntryError::NoSelectors))));
    assert_eq!(
        outcomes[2].as_ref().unwrap_err().to_string(),
        "unable to find federated bundle \"spiffe://nowhere.example\""
    );
    assert!(matches!(outcomes[3], Err(StoreError::Entry(EntryError::RepeatedSelector(_)))));
    assert!(matches!(outcomes[4], Ok(CreateEntryOutcome::Similar(_))));
    assert!(matches!(outcomes[5], Ok(CreateEntryOutcome::Created(_))));
    assert_eq!(test.store.count_entries(&EntryFilter::default()).await.unwrap(), 2);
}

#[tokio::test]
async fn rules_that_hold_for_every_entry() {
    let base = || entry(AGENT, "/w", &["a:1"]);
    let long = "x".repeat(1025);
    let cases: [(NewEntry, EntryError); 9] = [
        (NewEntry { x509_svid_ttl: -1, ..base() }, EntryError::NegativeX509SvidTtl),
        (NewEntry { jwt_svid_ttl: -1, ..base() }, EntryError::NegativeJwtSvidTtl),
        (NewEntry { hint: long, ..base() }, EntryError::HintTooLong),
        (NewEntry { id: "a/b".into(), ..base() }, EntryError::IdCharacter("a/b".into())),
        (NewEntry { id: "a".repeat(256), ..base() }, EntryError::IdTooLong),
        (NewEntry { dns_names: vec!["a.b".into(), "a.b".into()], ..base() }, EntryError::RepeatedDnsName("a.b".into())),
        (NewEntry { store_svid: true, ..entry(AGENT, "/w", &["a:1", "b:1"]) }, EntryError::MixedStoreSelectors),
        (
            NewEntry {
                store_svid: true,
                additional_attributes: Some(AdditionalAttributes {
                    disable_x509_svid_prefetch: true,
                    jwt_svid_include_jti: false,
                }),
                ..base()
            },
            EntryError::StoreWithoutPrefetch,
        ),
        (entry(AGENT, "/w", &[]), EntryError::NoSelectors),
    ];
    for (new, expected) in cases {
        assert_eq!(new.check().unwrap_err(), expected);
    }
    assert_eq!(NewEntry { hint: "ä".repeat(1024), ..base() }.check(), Ok(()));
}

#[tokio::test]
async fn an_update_writes_what_it_names_and_raises_the_revision() {
    let test = TestStore::new().await;
    let before = create(&test.store, NewEntry { hint: "old".into(), ..entry(AGENT, "/w", &["a:1"]) }).await;
    let change = EntryUpdate { id: before.id.clone(), hint: Some("new".into()), ..Default::default() };
    let after = update(&test.store, change).await.unwrap();
    assert_eq!(after, Entry { hint: "new".into(), revision_number: 1, ..before.clone() });
    let nothing = EntryUpdate { id: before.id.clone(), ..Default::default() };
    assert_eq!(update(&test.store, nothing).await.unwrap().revision_number, 2);

    let unknown = EntryUpdate { id: "nosuch".into(), ..Default::default() };
    assert!(matches!(update(&test.store, unknown).await, Err(StoreError::NotFound { what: "entry" })));
    let empty = EntryUpdate { id: before.id.clone(), selectors: Some(vec![]), ..Default::default() };
    assert!(matches!(update(&test.store, empty).await, Err(StoreError::Entry(EntryError::NoSelectors))));

    create(&test.store, entry(AGENT, "/w", &["a:2"])).await;
    let clash = EntryUpdate { id: before.id.clone(), selectors: Some(vec![selector("a:2")]), ..Default::default() };
    assert!(matches!(update(&test.store, clash).await, Err(StoreError::SimilarEntry)));
    let moved = EntryUpdate { id: before.id.clone(), selectors: Some(vec![selector("a:3")]), ..Default::default() };
    update(&test.store, moved).await.unwrap();
    let filter = |text| EntryFilter {
        selectors: Some((BTreeSet::from([selector(text)]), MatchBehavior::Exact)),
        ..Default::default()
    };
    assert_eq!(test.store.count_entries(&filter("a:1")).await.unwrap(), 0);
    assert_eq!(test.store.count_entries(&filter("a:3")).await.unwrap(), 1);
}

#[tokio::test]
async fn deleting_and_pruning() {
    let test = TestStore::new().await;
    let now = START.unix_timestamp();
    let kept = create(&test.store, NewEntry { expires_at: now, ..entry(AGENT, "/kept", &["a:1"]) }).await;
    create(&test.store, NewEntry { expires_at: now - 1, ..entry(AGENT, "/past", &["a:1"]) }).await;
    create(&test.store, NewEntry { expires_at: -1, ..entry(AGENT, "/negative", &["a:1"]) }).await;
    let never = create(&test.store, entry(AGENT, "/never", &["a:1"])).await;
    assert_eq!(test.store.prune_entries(START).await.unwrap(), 2);
    assert_eq!(test.store.list_entries(&EntryFilter::default(), Page::ALL).await.unwrap().items, [kept, never.clone()]);

    let outcomes = test.store.delete_entries(&[never.id.clone(), never.id.clone()]).await.unwrap();
    assert_eq!(outcomes[0].as_ref().unwrap(), &never);
    assert!(matches!(outcomes[1], Err(StoreError::NotFound { what: "entry" })));
}

#[tokio::test]
async fn filters_and_pages() {
    let test = TestStore::new().await;
    test.store.set_bundle(&foreign_bundle("onprem.example")).await.unwrap();
    test.store.set_bundle(&foreign_bundle("partner.example")).await.unwrap();
    let federated = |domains: &[&str]| domains.iter().map(|name| domain(name)).collect::<Vec<_>>();
    let a = create(&test.store, NewEntry { hint: "h".into(), ..entry(AGENT, "/a", &["x:1", "x:2"]) }).await;
    let b = create(
        &test.store,
        NewEntry { downstream: true, federates_with: federated(&["onprem.example"]), ..entry("/p", "/b", &["x:1"]) },
    )
    .await;
    let c = create(
        &test.store,
        NewEntry {
            federates_with: federated(&["onprem.example", "partner.example"]),
            ..entry(AGENT, "/a", &["x:2", "x:3"])
        },
    )
    .await;
    let ids = |filter: EntryFilter| {
        let store = test.store.clone();
        async move {
            let items = store.list_entries(&filter, Page::ALL).await.unwrap().items;
            assert_eq!(store.count_entries(&filter).await.unwrap(), items.len() as u64);
            items.into_iter().map(|entry| entry.id).collect::<Vec<_>>()
        }
    };
    let (a, b, c) = (a.id, b.id, c.id);
    assert_eq!(ids(EntryFilter { parent_id: Some(id("/p")), ..Default::default() }).await, [b.clone()]);
    assert_eq!(ids(EntryFilter { spiffe_id: Some(id("/a")), ..Default::default() }).await, [a.clone(), c.clone()]);
    assert_eq!(ids(EntryFilter { hint: "h".into(), ..Default::default() }).await, [a.clone()]);
    assert_eq!(ids(EntryFilter { downstream_only: true, ..Default::default() }).await, [b.clone()]);
    let by_selectors = |values: &[&str], behavior| EntryFilter {
        selectors: Some((values.iter().map(|text| selector(text)).collect(), behavior)),
        ..Default::default()
    };
    assert_eq!(ids(by_selectors(&["x:1", "x:2"], MatchBehavior::Exact)).await, [a.clone()]);
    assert_eq!(ids(by_selectors(&["x:1", "x:2"], MatchBehavior::Subset)).await, [a.clone(), b.clone()]);
    assert_eq!(ids(by_selectors(&["x:2"], MatchBehavior::Superset)).await, [a.clone(), c.clone()]);
    assert_eq!(ids(by_selectors(&["x:1", "x:3"], MatchBehavior::Any)).await, [a.clone(), b.clone(), c.clone()]);
    let by_domains = |names: &[&str], behavior| EntryFilter {
        federates_with: Some((names.iter().map(|name| domain(name)).collect(), behavior)),
        ..Default::default()
    };
    assert_eq!(ids(by_domains(&["onprem.example"], MatchBehavior::Exact)).await, [b.clone()]);
    assert_eq!(ids(by_domains(&["onprem.example"], MatchBehavior::Superset)).await, [b.clone(), c.clone()]);
    assert_eq!(ids(by_domains(&["onprem.example", "x.example"], MatchBehavior::Subset)).await, [b.clone()]);

    let mut page = Page::parse(2, "").unwrap();
    let mut walked = Vec::new();
    loop {
        let paged = test.store.list_entries(&EntryFilter::default(), page).await.unwrap();
        walked.push(paged.items.len());
        if paged.next_token.is_empty() {
            break;
        }
        page = Page::parse(2, &paged.next_token).unwrap();
    }
    assert_eq!(walked, [2, 1, 0]);
}

#[tokio::test]
async fn match_modes_agree_with_the_definition() {
    let test = TestStore::new().await;
    // Every non-empty subset of four selectors, as item and as filter.
    let all = ["s:0", "s:1", "s:2", "s:3"];
    let sets: Vec<BTreeSet<_>> =
        (1u32..16).map(|bits| (0..4).filter(|n| bits & (1 << n) != 0).map(|n| selector(all[n])).collect()).collect();
    let new: Vec<_> = sets
        .iter()
        .enumerate()
        .map(|(n, set)| NewEntry {
            id: n.to_string(),
            selectors: set.iter().cloned().collect(),
            ..entry(AGENT, "/w", &["s:0"])
        })
        .collect();
    test.store.create_entries(&new, START).await.unwrap();
    for wanted in &sets {
        for behavior in [MatchBehavior::Exact, MatchBehavior::Subset, MatchBehavior::Superset, MatchBehavior::Any] {
            let filter = EntryFilter { selectors: Some((wanted.clone(), behavior)), ..Default::default() };
            let found: Vec<usize> = test
                .store
                .list_entries(&filter, Page::ALL)
                .await
                .unwrap()
                .items
                .iter()
                .map(|entry| entry.id.parse().unwrap())
                .collect();
            let expected: Vec<usize> =
                (0..sets.len()).filter(|n| federation_specs::selector::matches(&sets[*n], wanted, behavior)).collect();
            assert_eq!(found, expected, "{wanted:?} {behavior:?}");
        }
    }
}

#[tokio::test]
async fn deleting_a_bundle_that_entries_federate_with() {
    let test = TestStore::new().await;
    let foreign = domain("onprem.example");
    test.store.set_bundle(&foreign_bundle("onprem.example")).await.unwrap();
    let created =
        create(&test.store, NewEntry { federates_with: vec![foreign.clone()], ..entry(AGENT, "/w", &["a:1"]) }).await;
    let error = test.store.delete_bundle(&foreign, DeleteMode::Restrict).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot delete bundle; federated with 1 registration entries");
    test.store.delete_bundle(&foreign, DeleteMode::Dissociate).await.unwrap();
    let left = test.store.get_entry(&created.id).await.unwrap().unwrap();
    assert_eq!((left.federates_with.len(), left.revision_number), (0, 1));

    test.store.set_bundle(&foreign_bundle("onprem.example")).await.unwrap();
    let again =
        EntryUpdate { id: created.id.clone(), federates_with: Some(vec![foreign.clone()]), ..Default::default() };
    update(&test.store, again).await.unwrap();
    test.store.delete_bundle(&foreign, DeleteMode::Delete).await.unwrap();
    assert_eq!(test.store.get_entry(&created.id).await.unwrap(), None);
    assert!(test.store.bundles().get(&foreign).is_none());
}

/// Ten times the entries under one parent must not make the next ones much slower.
#[tokio::test]
async fn many_entries_under_one_parent_cost_no_more_than_few() {
    let test = TestStore::new().await;
    let batch = |from: usize| -> Vec<NewEntry> {
        (from..from + 1000).map(|n| entry(AGENT, &format!("/w/{n}"), &["unix:uid:1"])).collect()
    };
    let mut times = Vec::new();
    for round in 0..10 {
        let entries = batch(round * 1000);
        let begin = tokio::time::Instant::now();
        test.store.create_entries(&entries, START).await.unwrap();
        times.push(begin.elapsed());
    }
    let (first, last) = (times[0] + times[1], times[8] + times[9]);
    assert!(last < first * 4, "first 2000 entries took {first:?}, the last 2000 of 10,000 took {last:?}");
}
