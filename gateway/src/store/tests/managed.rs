//! Managed relationships are changed all or nothing, and are there after reopening.

use serde_json::json;

use super::*;
use crate::{
    config::Config,
    managed::{
        definition::Wanted,
        error::ManagedError,
        plan::{Kind, Ownership, Plan, Precondition, Request},
    },
    settings::{RelationshipRules, Settings},
    store::audit::AuditQuery,
};

on_both!(a_set_is_stored_under_the_numbers_of_its_records, what_is_refused_leaves_nothing_behind);

fn rules() -> RelationshipRules {
    let config: Config = serde_json::from_value(json!({
        "data_dir": "/nowhere",
        "listeners": {"https_spiffe": {"bind_address": "127.0.0.1", "bind_port": 1}},
        "trust_domains": [{
            "name": "cloud.example", "issuer": {"socket_path": "/nowhere"},
            "endpoint_id": "spiffe://cloud.example/gateway",
        }],
    }))
    .unwrap();
    Settings::check(&config).unwrap().relationship_rules
}

fn request(relationships: &[(&str, &str)], ownership: Ownership) -> Request {
    let wanted = |(name, mode): &(&str, &str)| {
        let item = json!({"trust_domain": name, "url": "https://p.example/", "profile": "https_web", "mode": mode});
        let wanted = Wanted::check(&serde_json::from_value(item).unwrap(), &rules()).unwrap();
        (td(name), wanted)
    };
    Request {
        wanted: relationships.iter().map(wanted).collect(),
        removed: None,
        ownership,
        precondition: None,
        dry_run: false,
        by: Actor::Gateway,
        why: "the test".to_owned(),
    }
}

fn set(prune: bool, confirmed: bool) -> Ownership {
    Ownership::Set { name: "s".to_owned(), prune, confirmed, take_over: false }
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.changes.iter().map(|change| change.kind).collect()
}

async fn a_set_is_stored_under_the_numbers_of_its_records(place: Place) {
    let store = place.open().await;
    let both = request(&[("a.example", "hold"), ("b.example", "auto")], set(true, false));
    let dry = Request { dry_run: true, ..request(&[("a.example", "hold")], set(true, false)) };
    assert_eq!(kinds(&store.change_managed(&dry, 10).await.unwrap()), [Kind::Added]);
    assert!(store.managed().await.unwrap().is_empty());
    let plan = store.change_managed(&both, 10).await.unwrap();
    assert_eq!(plan.changes.iter().map(|change| change.version).collect::<Vec<_>>(), [1, 2]);
    let again = store.change_managed(&both, 10).await.unwrap();
    assert_eq!(kinds(&again), [Kind::Unchanged, Kind::Unchanged]);
    let plan = store.change_managed(&request(&[("a.example", "pinned")], set(true, false)), 10).await.unwrap();
    assert_eq!(kinds(&plan), [Kind::Changed, Kind::Removed]);
    store.close().await;

    let store = place.open().await;
    let kept = store.managed().await.unwrap();
    assert_eq!((kept.len(), kept[0].version, kept[0].set.as_deref()), (1, 3, Some("s")));
    assert_eq!(kept[0].definition["mode"], json!("pinned"));
    assert_eq!(store.managed_definition(&td("a.example")).await.unwrap().as_ref(), kept.first());
    assert_eq!(store.managed_definition(&td("b.example")).await.unwrap(), None);
    let records = store.audit_records(&AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap();
    assert_eq!(records.len(), 4);
    assert!(store.verify_audit(None).await.unwrap().ok);
}

async fn what_is_refused_leaves_nothing_behind(place: Place) {
    let store = place.open().await;
    store
        .change_managed(&request(&[("a.example", "hold"), ("b.example", "hold")], set(false, false)), 2)
        .await
        .unwrap();
    let refused = async |request: Request, room: usize| store.change_managed(&request, room).await.unwrap_err();
    let third = || request(&[("c.example", "hold")], Ownership::Kept);
    assert!(matches!(refused(third(), 2).await, ManagedError::TooMany));
    let none = request(&[], set(true, false));
    assert!(matches!(refused(none, 2).await, ManagedError::ManyRemovals { removed: 2, of: 2, .. }));
    let foreign = Ownership::Set { name: "t".to_owned(), prune: false, confirmed: false, take_over: false };
    let error = refused(request(&[("a.example", "hold")], foreign), 2).await;
    assert!(matches!(error, ManagedError::OtherSet { owner, .. } if owner == "s"));
    for (name, precondition, changed) in [
        ("a.example", Precondition::Absent, "exists already"),
        ("a.example", Precondition::Version(7), "has version 1 now"),
        ("c.example", Precondition::Version(7), "not managed here any more"),
    ] {
        let request = Request { precondition: Some(precondition), ..request(&[(name, "auto")], Ownership::Kept) };
        let error = refused(request, 3).await.to_string();
        assert!(error.contains(changed), "{error}");
    }
    assert_eq!(store.managed().await.unwrap().len(), 2);
    assert_eq!(store.audit_records(&AuditQuery { limit: 10, ..AuditQuery::default() }).await.unwrap().len(), 2);
    // One goes and another one comes: there is room.
    let plan =
        store.change_managed(&request(&[("a.example", "hold"), ("c.example", "hold")], set(true, false)), 2).await;
    assert_eq!(kinds(&plan.unwrap()), [Kind::Unchanged, Kind::Removed, Kind::Added]);
}
