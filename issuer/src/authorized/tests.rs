use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::entry::{Entry, EntryUpdate};
use crate::node::{Attestation, Node};
use crate::store::ChangedRows;
use crate::store::testing::{START, TestStore, domain, entry, id, selector};

const SERVER: &str = "/spire/server";

fn stored(entry_id: &str, parent: &str, path: &str, selectors: &[&str]) -> Entry {
    Entry {
        id: entry_id.into(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors.iter().map(|text| selector(text)).collect(),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: vec![],
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: vec![],
        store_svid: false,
        hint: String::new(),
        additional_attributes: None,
        revision_number: 0,
        created_at: 0,
    }
}

fn node(path: &str, selectors: &[&str]) -> Node {
    Node {
        agent_id: id(path),
        attestation_type: "x509pop".into(),
        serial_number: "1".into(),
        expires_at: 0,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: true,
        agent_version: String::new(),
        selectors: selectors.iter().map(|text| selector(text)).collect(),
    }
}

fn snapshot(entries: Vec<Entry>, nodes: Vec<Node>) -> EntrySnapshot {
    EntrySnapshot::new(domain("cloud.example")).with(ChangedRows {
        latest: 1,
        everything: true,
        removed_entries: vec![],
        removed_nodes: vec![],
        entries,
        nodes,
    })
}

fn ids(snapshot: &EntrySnapshot, agent: &str) -> BTreeSet<String> {
    let found = snapshot.authorized_entries(&id(agent));
    let ids: BTreeSet<String> = found.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(ids.len(), found.len(), "each once");
    ids
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn an_agent_gets_its_own_entries_and_what_is_below_them() {
    let snapshot = snapshot(
        vec![
            stored("direct", "/spire/agent/a", "/w1", &["u:1"]),
            stored("below", "/w1", "/w2", &["u:1"]),
            stored("deeper", "/w2", "/w3", &["u:1"]),
            stored("other", "/spire/agent/b", "/w4", &["u:1"]),
        ],
        vec![],
    );
    assert_eq!(ids(&snapshot, "/spire/agent/a"), set(&["direct", "below", "deeper"]));
    assert_eq!(ids(&snapshot, "/spire/agent/b"), set(&["other"]));
    assert_eq!(ids(&snapshot, "/spire/agent/c"), set(&[]));
}

#[test]
fn an_alias_applies_when_the_node_has_all_its_selectors_and_is_never_returned() {
    let entries = vec![
        stored("alias", SERVER, "/cluster", &["n:1", "n:2"]),
        stored("workload", "/cluster", "/w", &["u:1"]),
        stored("second-alias", SERVER, "/cluster", &["n:3"]),
    ];
    let nodes = vec![
        node("/spire/agent/both", &["n:0", "n:1", "n:2", "n:3"]),
        node("/spire/agent/one", &["n:1"]),
        node("/spire/agent/none", &[]),
    ];
    let snapshot = snapshot(entries, nodes);
    assert_eq!(ids(&snapshot, "/spire/agent/both"), set(&["workload"]));
    assert_eq!(ids(&snapshot, "/spire/agent/one"), set(&[]));
    assert_eq!(ids(&snapshot, "/spire/agent/none"), set(&[]));
    assert_eq!(snapshot.authorized_entry(&id("/spire/agent/both"), "workload").unwrap().id, "workload");
    assert!(snapshot.authorized_entry(&id("/spire/agent/both"), "alias").is_none());
    assert!(snapshot.authorized_entry(&id("/spire/agent/one"), "workload").is_none());
    assert!(snapshot.authorized_entry(&id("/spire/agent/both"), "nosuch").is_none());
}

#[test]
fn cycles_end() {
    let snapshot = snapshot(
        vec![
            stored("in", "/spire/agent/a", "/x", &["u:1"]),
            stored("xy", "/x", "/y", &["u:1"]),
            stored("yx", "/y", "/x", &["u:1"]),
            stored("self", "/z", "/z", &["u:1"]),
        ],
        vec![],
    );
    assert_eq!(ids(&snapshot, "/spire/agent/a"), set(&["in", "xy", "yx"]));
    assert!(snapshot.authorized_entry(&id("/spire/agent/a"), "yx").is_some());
    assert!(snapshot.authorized_entry(&id("/spire/agent/a"), "self").is_none());
    assert!(snapshot.authorized_entry(&id("/spire/agent/b"), "yx").is_none());
}

/// A snapshot must not cost more than its entries, also when one parent has them all.
#[test]
fn many_entries_under_one_parent() {
    const ENTRIES: usize = 50_000;
    let entries = (0..ENTRIES).map(|n| stored(&n.to_string(), "/spire/agent/a", &format!("/w{n}"), &["u:1"])).collect();
    let begin = tokio::time::Instant::now();
    let first = snapshot(entries, vec![]);
    assert_eq!(first.authorized_entries(&id("/spire/agent/a")).len(), ENTRIES);
    let second = first.with(ChangedRows {
        latest: 2,
        everything: false,
        removed_entries: vec!["0".into()],
        removed_nodes: vec![],
        entries: vec![stored("new", "/w1", "/below", &["u:1"])],
        nodes: vec![],
    });
    assert!(second.authorized_entry(&id("/spire/agent/a"), "new").is_some());
    assert_eq!((first.len(), second.len()), (ENTRIES, ENTRIES));
    assert!(first.authorized_entry(&id("/spire/agent/a"), "0").is_some(), "the first version is as it was");
    // Quadratic work would take minutes.
    assert!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
}

#[tokio::test]
async fn the_index_follows_the_store() {
    let test = TestStore::new().await;
    let index = EntryIndex::start(test.store.clone()).await.unwrap();
    let agent = id("/spire/agent/a");
    let created = test.store.create_entries(&[entry("/cluster", "/w", &["u:1"])], START).await.unwrap();
    let crate::entry::CreateEntryOutcome::Created(created) = created.into_iter().next().unwrap().unwrap() else {
        panic!("exists")
    };
    test.store.create_entries(&[entry(SERVER, "/cluster", &["n:1"])], START).await.unwrap();
    assert!(index.fresh().await.unwrap().authorized_entries(&agent).is_empty());
    let attestation = Attestation {
        agent_id: agent.clone(),
        attestation_type: "x509pop".into(),
        serial_number: "1".into(),
        expires_at: 0,
        can_reattest: true,
        selectors: BTreeSet::from([selector("n:1")]),
    };
    test.store.attest_node(&attestation, None, START).await.unwrap();
    let found = index.fresh().await.unwrap().authorized_entries(&agent);
    assert_eq!(found.iter().map(|entry| entry.as_ref()).collect::<Vec<_>>(), [&created]);

    let update = EntryUpdate { id: created.id.clone(), spiffe_id: Some(id("/v")), ..Default::default() };
    test.store.update_entries(&[update]).await.unwrap();
    let snapshot = index.fresh().await.unwrap();
    assert_eq!(snapshot.authorized_entries(&agent)[0].spiffe_id, id("/v"));
    assert!(snapshot.entries_of(&id("/w")).is_empty());
    assert_eq!(snapshot.entries_of(&id("/v")).len(), 1);
    assert!(Arc::ptr_eq(&snapshot, &index.fresh().await.unwrap()), "nothing changed, nothing is made anew");

    test.store.delete_node(&agent).await.unwrap();
    assert!(index.fresh().await.unwrap().authorized_entries(&agent).is_empty());
    test.store.attest_node(&attestation, None, START).await.unwrap();
    test.store.delete_entries(&[created.id]).await.unwrap();
    assert!(index.fresh().await.unwrap().authorized_entries(&agent).is_empty());
    assert_eq!(index.current().len(), 1);
}

#[tokio::test]
async fn the_task_wakes_by_itself() {
    let test = TestStore::new().await;
    let index = EntryIndex::start(test.store.clone()).await.unwrap();
    let shutdown = Shutdown::new();
    let task = tokio::spawn(index.clone().run(Duration::from_secs(5), test.shared_clock(), shutdown.clone()));
    test.store.create_entries(&[entry("/spire/agent/a", "/w", &["u:1"])], START).await.unwrap();
    let woken = async {
        while index.current().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), woken).await.expect("the index wakes");
    shutdown.trigger();
    task.await.unwrap().unwrap();
}

/// The rules as they are written, on plain lists.
fn naive(entries: &[Entry], nodes: &[Node], agent: &SpiffeIdAlias) -> BTreeSet<String> {
    let server = domain("cloud.example").server_id();
    let selectors = nodes.iter().find(|node| node.agent_id == *agent).map(|node| &node.selectors);
    let mut identities = vec![agent.clone()];
    for alias in entries.iter().filter(|entry| entry.parent_id == server) {
        if selectors.is_some_and(|held| alias.selectors.iter().all(|wanted| held.contains(wanted))) {
            identities.push(alias.spiffe_id.clone());
        }
    }
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for entry in entries.iter().filter(|entry| entry.parent_id != server) {
            if identities.contains(&entry.parent_id) {
                found.insert(entry.id.clone());
                identities.push(entry.spiffe_id.clone());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

type SpiffeIdAlias = federation_specs::id::SpiffeId;

fn some_entry() -> impl Strategy<Value = (usize, usize, Vec<usize>)> {
    (0..12usize, 0..8usize, prop::collection::btree_set(0..4usize, 1..3).prop_map(|set| set.into_iter().collect()))
}

fn path_of(n: usize) -> String {
    match n {
        8 => SERVER.to_owned(),
        9 => "/spire/agent/a".to_owned(),
        10 => "/spire/agent/b".to_owned(),
        11 => "/spire/agent/c".to_owned(),
        n => format!("/w{n}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_snapshot_agrees_with_the_rules(
        made in prop::collection::vec(some_entry(), 0..24),
        later in prop::collection::vec((0..24usize, some_entry()), 0..8),
        removed in prop::collection::vec(0..24usize, 0..6),
        node_bits in prop::collection::vec(0..16u8, 2),
    ) {
        let build = |n: usize, (parent, path, selectors): &(usize, usize, Vec<usize>)| {
            let texts: Vec<String> = selectors.iter().map(|n| format!("n:{n}")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            stored(&n.to_string(), &path_of(*parent), &path_of(*path), &texts)
        };
        let nodes: Vec<Node> = node_bits.iter().zip(["/spire/agent/a", "/spire/agent/b"]).map(|(bits, path)| {
            let texts: Vec<String> = (0..4).filter(|n| bits & (1 << n) != 0).map(|n| format!("n:{n}")).collect();
            node(path, &texts.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        let mut entries: std::collections::BTreeMap<String, Entry> =
            made.iter().enumerate().map(|(n, parts)| (n.to_string(), build(n, parts))).collect();
        let first = snapshot(entries.values().cloned().collect(), nodes.clone());
        // A second state made from the first one by changes.
        for n in &removed {
            entries.remove(&n.to_string());
        }
        let changed: Vec<Entry> = later.iter().map(|(n, parts)| build(*n, parts)).collect();
        for entry in &changed {
            entries.insert(entry.id.clone(), entry.clone());
        }
        let second = first.with(ChangedRows {
            latest: 2,
            everything: false,
            removed_entries: removed.iter().map(ToString::to_string).collect(),
            removed_nodes: vec![],
            entries: changed,
            nodes: vec![],
        });
        let entries: Vec<Entry> = entries.into_values().collect();
        prop_assert_eq!(second.len(), entries.len());
        for agent in ["/spire/agent/a", "/spire/agent/b", "/spire/agent/c"] {
            let expected = naive(&entries, &nodes, &id(agent));
            prop_assert_eq!(ids(&second, agent), expected.clone());
            for entry in &entries {
                let one = second.authorized_entry(&id(agent), &entry.id);
                prop_assert_eq!(one.is_some(), expected.contains(&entry.id), "{}", entry.id);
            }
        }
    }
}
