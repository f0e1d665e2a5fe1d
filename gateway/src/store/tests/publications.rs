//! What publishers confirmed.

use time::macros::datetime;

use super::{Place, on_both};
use crate::store::{audit::AuditQuery, publications::Publication};

async fn publications_are_kept_and_recorded(place: Place) {
    let trust_domain = federation_specs::id::TrustDomain::parse("cloud.example").unwrap();
    let store = place.open().await;
    assert_eq!(store.publication(&trust_domain, "bucket").await.unwrap(), None);
    let first = Publication {
        place: "S3 object b/o in eu-west-1".to_owned(),
        digest: "aa".to_owned(),
        sequence: Some(u64::MAX),
        changed_at: datetime!(2026-11-22 12:00 UTC),
        confirmed_at: datetime!(2026-11-22 12:01 UTC),
    };
    store.confirm_publication(&trust_domain, "bucket", &first).await.unwrap();
    let second = Publication { digest: "bb".to_owned(), sequence: None, ..first.clone() };
    store.confirm_publication(&trust_domain, "map", &second).await.unwrap();
    store.confirm_publication(&trust_domain, "bucket", &second).await.unwrap();
    store.confirm_publication(&trust_domain, "bucket", &first).await.unwrap();
    store.record_publication_drift(&trust_domain, "bucket", &first, None).await.unwrap();
    store.close().await;

    let store = place.open().await;
    assert_eq!(store.publication(&trust_domain, "bucket").await.unwrap(), Some(first));
    assert_eq!(store.publication(&trust_domain, "map").await.unwrap(), Some(second));
    store.keep_publications(&[(trust_domain.clone(), "map".to_owned())]).await.unwrap();
    assert_eq!(store.publication(&trust_domain, "bucket").await.unwrap(), None);
    assert!(store.publication(&trust_domain, "map").await.unwrap().is_some());

    let query = AuditQuery { subject: Some(&trust_domain), limit: 10, ..AuditQuery::default() };
    let records = store.audit_records(&query).await.unwrap();
    let records: Vec<_> = records.into_iter().map(|record| record.read().record.unwrap()).collect();
    let digests: Vec<_> = records.iter().map(|record| (&record.before["digest"], &record.after["digest"])).collect();
    let expected = [("", "aa"), ("", "bb"), ("aa", "bb"), ("bb", "aa"), ("aa", "")].map(|(before, after)| {
        let value = |text: &str| if text.is_empty() { serde_json::Value::Null } else { text.into() };
        (value(before), value(after))
    });
    assert_eq!(digests, expected.iter().map(|(before, after)| (before, after)).collect::<Vec<_>>());
    assert!(store.verify_audit(None).await.unwrap().ok);
}

on_both!(publications_are_kept_and_recorded);
