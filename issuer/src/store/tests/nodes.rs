use std::collections::BTreeSet;

use federation_specs::public_key::PublicKey;
use federation_specs::selector::MatchBehavior;
use service_kit::keys::{KeyType, PrivateKey};

use time::OffsetDateTime;

use crate::entry::EntryFilter;
use crate::node::{AttestOutcome, Attestation, JoinTokenError, JoinTokenState, Node, NodeFilter, SpentToken};
use crate::store::testing::{START, TestStore, id, selector};
use crate::store::{Page, Store, StoreError};

fn attestation(path: &str, serial: &str, selectors: &[&str]) -> Attestation {
    Attestation {
        agent_id: id(path),
        attestation_type: "x509pop".into(),
        serial_number: serial.into(),
        expires_at: START.unix_timestamp() + 600,
        can_reattest: true,
        selectors: selectors.iter().map(|text| selector(text)).collect(),
    }
}

fn joined(token: &str, serial: &str) -> Attestation {
    Attestation {
        attestation_type: "join_token".into(),
        can_reattest: false,
        ..attestation(&format!("/spire/agent/join_token/{token}"), serial, &[])
    }
}

fn key() -> PublicKey {
    PrivateKey::generate(KeyType::EcP256).unwrap().public_key().clone()
}

/// An attestation that spends a token with this key.
async fn spend(store: &Store, token: &str, serial: &str, key: &PublicKey, now: OffsetDateTime) -> AttestOutcome {
    let spent = SpentToken { token, public_key: key };
    store.attest_node(&joined(token, serial), Some(spent), now).await.unwrap()
}

async fn attest(store: &Store, attestation: &Attestation) -> Node {
    match store.attest_node(attestation, None, START).await.unwrap() {
        AttestOutcome::Stored(node) => node,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn attesting_again_replaces_serial_and_selectors_but_keeps_the_type() {
    let test = TestStore::new().await;
    let first = attest(&test.store, &attestation("/spire/agent/a", "1", &["x:1", "x:2"])).await;
    assert_eq!(first.serial_number, "1");
    test.store.set_agent_version(&id("/spire/agent/a"), "1.2.3").await.unwrap();
    test.store.renew_node(&id("/spire/agent/a"), "2", START.unix_timestamp() + 900).await.unwrap();
    let again = Attestation { attestation_type: "other".into(), ..attestation("/spire/agent/a", "3", &["x:3"]) };
    let node = attest(&test.store, &again).await;
    assert_eq!(
        (node.serial_number.as_str(), node.new_serial_number.as_str(), node.attestation_type.as_str()),
        ("3", "", "x509pop")
    );
    assert_eq!(node.selectors, BTreeSet::from([selector("x:3")]));
    assert_eq!(node.agent_version, "1.2.3");
    assert_eq!(test.reopened().await.get_node(&id("/spire/agent/a")).await.unwrap(), Some(node));
}

#[tokio::test]
async fn a_renewed_serial_becomes_current_on_first_use() {
    let test = TestStore::new().await;
    let agent = id("/spire/agent/a");
    attest(&test.store, &attestation("/spire/agent/a", "1", &[])).await;
    test.store.renew_node(&agent, "2", 2000).await.unwrap();
    let node = test.store.renew_node(&agent, "3", 3000).await.unwrap();
    assert_eq!((node.serial_number.as_str(), node.new_serial_number.as_str()), ("1", "3"));
    // The first renewal was overwritten, so it promotes nothing.
    let node = test.store.promote_node(&agent, "2").await.unwrap();
    assert_eq!((node.serial_number.as_str(), node.new_serial_number.as_str()), ("1", "3"));
    let node = test.store.promote_node(&agent, "3").await.unwrap();
    assert_eq!((node.serial_number.as_str(), node.expires_at, node.new_serial_number.as_str()), ("3", 3000, ""));
    assert!(!test.store.promote_node(&agent, "").await.unwrap().is_banned());
    let unknown = test.store.renew_node(&id("/spire/agent/b"), "1", 1).await;
    assert!(matches!(unknown, Err(StoreError::NotFound { what: "agent" })));
}

#[tokio::test]
async fn a_banned_node_stays_banned() {
    let test = TestStore::new().await;
    let agent = id("/spire/agent/a");
    attest(&test.store, &attestation("/spire/agent/a", "1", &[])).await;
    test.store.renew_node(&agent, "2", 2000).await.unwrap();
    let node = test.store.ban_node(&agent).await.unwrap();
    assert!(node.is_banned() && node.new_serial_number.is_empty());
    let outcome = test.store.attest_node(&attestation("/spire/agent/a", "4", &[]), None, START).await.unwrap();
    assert_eq!(outcome, AttestOutcome::Banned);
    assert!(test.store.renew_node(&agent, "5", 1).await.is_err());
    assert!(test.store.promote_node(&agent, "2").await.unwrap().is_banned());
    test.store.delete_node(&agent).await.unwrap();
    assert!(!attest(&test.store, &attestation("/spire/agent/a", "6", &[])).await.is_banned());
}

#[tokio::test]
async fn a_join_token_works_once_and_never_again() {
    let test = TestStore::new().await;
    let expires = START.unix_timestamp() + 60;
    test.store.create_join_token("abc-1", expires, None, START).await.unwrap();
    let state = test.store.join_token_state("abc-1", START).await.unwrap();
    assert_eq!(state, JoinTokenState::Usable { expires_at: expires });
    let stored = spend(&test.store, "abc-1", "1", &key(), START).await;
    assert!(matches!(stored, AttestOutcome::Stored(_)));
    assert_eq!(test.store.join_token_state("abc-1", START).await.unwrap(), JoinTokenState::JustSpent);
    let later = START + time::Duration::minutes(11);
    assert_eq!(test.store.join_token_state("abc-1", later).await.unwrap(), JoinTokenState::Unknown);
    let again = spend(&test.store, "abc-1", "2", &key(), START).await;
    assert_eq!(again, AttestOutcome::TokenUnknown);
    // Neither the spent value nor one that names an agent can be created.
    for _ in 0..2 {
        let error = test.store.create_join_token("abc-1", expires, None, START).await.unwrap_err();
        assert!(matches!(error, StoreError::JoinToken(JoinTokenError::Exists)), "{error}");
        test.store.prune_join_tokens(START + time::Duration::days(365)).await.unwrap();
    }
}

/// The answer to an attestation may be lost, and the agent with it.
#[tokio::test]
async fn the_agent_that_spent_a_token_may_ask_again_for_a_short_time() {
    let test = TestStore::new().await;
    let (agent, thief) = (key(), key());
    let agent_id = id("/spire/agent/join_token/t");
    test.store.create_join_token("t", START.unix_timestamp() + 60, None, START).await.unwrap();
    assert!(matches!(spend(&test.store, "t", "1", &agent, START).await, AttestOutcome::Stored(_)));
    let soon = START + time::Duration::minutes(9);
    assert_eq!(spend(&test.store, "t", "2", &thief, soon).await, AttestOutcome::TokenUnknown);
    assert_eq!(test.store.get_node(&agent_id).await.unwrap().unwrap().serial_number, "1");
    assert!(matches!(spend(&test.store, "t", "3", &agent, soon).await, AttestOutcome::Stored(_)));
    assert_eq!(test.store.get_node(&agent_id).await.unwrap().unwrap().serial_number, "3");
    // The time counts from the first use.
    let late = START + time::Duration::minutes(11);
    assert_eq!(spend(&test.store, "t", "4", &agent, late).await, AttestOutcome::TokenUnknown);
    test.store.ban_node(&agent_id).await.unwrap();
    assert_eq!(spend(&test.store, "t", "5", &agent, soon).await, AttestOutcome::Banned);
    test.store.delete_node(&agent_id).await.unwrap();
    assert_eq!(spend(&test.store, "t", "6", &agent, soon).await, AttestOutcome::TokenUnknown);
}

#[tokio::test]
async fn an_expired_token_is_told_apart_and_a_refused_attestation_spends_nothing() {
    let test = TestStore::new().await;
    let expires = START.unix_timestamp() + 60;
    test.store.create_join_token("t", expires, None, START).await.unwrap();
    let late = START + time::Duration::seconds(61);
    assert_eq!(test.store.join_token_state("t", late).await.unwrap(), JoinTokenState::Expired);
    let outcome = spend(&test.store, "t", "1", &key(), late).await;
    assert_eq!(outcome, AttestOutcome::TokenExpired);
    assert_eq!(test.store.get_node(&id("/spire/agent/join_token/t")).await.unwrap(), None);

    attest(&test.store, &joined("t", "0")).await;
    test.store.ban_node(&id("/spire/agent/join_token/t")).await.unwrap();
    let outcome = spend(&test.store, "t", "1", &key(), START).await;
    assert_eq!(outcome, AttestOutcome::Banned);
    assert!(matches!(test.store.join_token_state("t", START).await.unwrap(), JoinTokenState::Usable { .. }));
}

#[tokio::test]
async fn of_many_uses_at_once_one_succeeds() {
    let test = TestStore::new().await;
    test.store.create_join_token("t", START.unix_timestamp() + 60, None, START).await.unwrap();
    let uses = (0..8).map(|n| {
        let store = test.store.clone();
        tokio::spawn(async move { spend(&store, "t", &n.to_string(), &key(), START).await })
    });
    let mut stored = 0;
    for outcome in futures::future::join_all(uses).await {
        match outcome.unwrap() {
            AttestOutcome::Stored(_) => stored += 1,
            other => assert_eq!(other, AttestOutcome::TokenUnknown),
        }
    }
    assert_eq!(stored, 1);
}

#[tokio::test]
async fn token_values_are_path_segments() {
    let test = TestStore::new().await;
    for bad in ["", "a/b", "a b", ".", "..", "ä", "a%20", &"x".repeat(256)] {
        let error = test.store.create_join_token(bad, i64::MAX, None, START).await.unwrap_err();
        assert!(matches!(error, StoreError::JoinToken(JoinTokenError::NotPathSegment)), "{bad}");
    }
    test.store.create_join_token("A-z_0.9", i64::MAX, None, START).await.unwrap();
}

#[tokio::test]
async fn an_alias_comes_with_the_token_and_goes_with_the_agent() {
    let test = TestStore::new().await;
    let expires = START.unix_timestamp() + 60;
    test.store.create_join_token("t", expires, Some(&id("/node")), START).await.unwrap();
    let filter = EntryFilter { spiffe_id: Some(id("/node")), ..Default::default() };
    let entries = test.store.list_entries(&filter, Page::ALL).await.unwrap().items;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].parent_id, id("/spire/agent/join_token/t"));
    assert_eq!(entries[0].selectors, [selector("spiffe_id:spiffe://cloud.example/spire/agent/join_token/t")]);
    // Another entry of the agent stays.
    let other = crate::store::testing::entry("/spire/agent/join_token/t", "/w", &["unix:uid:1"]);
    test.store.create_entries(&[other], START).await.unwrap();
    spend(&test.store, "t", "1", &key(), START).await;
    test.store.delete_node(&id("/spire/agent/join_token/t")).await.unwrap();
    assert_eq!(test.store.count_entries(&filter).await.unwrap(), 0);
    assert_eq!(test.store.count_entries(&EntryFilter::default()).await.unwrap(), 1);
}

#[tokio::test]
async fn filters() {
    let test = TestStore::new().await;
    attest(&test.store, &attestation("/spire/agent/a", "1", &["x:1"])).await;
    attest(&test.store, &joined("t", "2")).await;
    let late = Attestation { expires_at: 5, ..attestation("/spire/agent/c", "3", &["x:1", "x:2"]) };
    attest(&test.store, &late).await;
    test.store.ban_node(&id("/spire/agent/c")).await.unwrap();
    let found = |filter: NodeFilter| {
        let store = test.store.clone();
        async move {
            let nodes = store.list_nodes(&filter, Page::ALL).await.unwrap().items;
            assert_eq!(store.count_nodes(&filter).await.unwrap(), nodes.len() as u64);
            nodes.iter().map(|node| node.agent_id.path().rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(found(NodeFilter::default()).await, ["a", "t", "c"]);
    assert_eq!(found(NodeFilter { attestation_type: Some("join_token".into()), ..Default::default() }).await, ["t"]);
    assert_eq!(found(NodeFilter { banned: Some(true), ..Default::default() }).await, ["c"]);
    assert_eq!(found(NodeFilter { banned: Some(false), ..Default::default() }).await, ["a", "t"]);
    assert_eq!(found(NodeFilter { can_reattest: Some(false), ..Default::default() }).await, ["t"]);
    assert_eq!(found(NodeFilter { expires_before: Some(6), ..Default::default() }).await, ["c"]);
    let selectors =
        |behavior| NodeFilter { selectors: Some((BTreeSet::from([selector("x:1")]), behavior)), ..Default::default() };
    assert_eq!(found(selectors(MatchBehavior::Exact)).await, ["a"]);
    assert_eq!(found(selectors(MatchBehavior::Superset)).await, ["a", "c"]);
    let page = Page::parse(2, "").unwrap();
    let paged = test.store.list_nodes(&NodeFilter::default(), page).await.unwrap();
    assert_eq!((paged.items.len(), paged.next_token.is_empty()), (2, false));
}
