//! What publishers confirmed.

use service_kit::clock::{Clock as _, SystemClock};
use time::{Duration, OffsetDateTime, macros::datetime};

use super::{Place, on_both};
use crate::store::{
    audit::AuditQuery,
    publications::{Publication, PublisherKey},
    publisher_states::{Drift, PublisherState},
};

async fn publications_are_kept_and_recorded(place: Place) {
    let trust_domain = federation_specs::id::TrustDomain::parse("cloud.example").unwrap();
    let (bucket, map) =
        (PublisherKey::shared(trust_domain.clone(), "bucket"), PublisherKey::shared(trust_domain.clone(), "map"));
    let store = place.open().await;
    assert_eq!(store.publication(&bucket).await.unwrap(), None);
    let first = Publication {
        place: "S3 object b/o in eu-west-1".to_owned(),
        digest: "aa".to_owned(),
        sequence: Some(u64::MAX),
        changed_at: datetime!(2026-11-22 12:00 UTC),
        confirmed_at: datetime!(2026-11-22 12:01 UTC),
    };
    store.confirm_publication(&bucket, &first).await.unwrap();
    let second = Publication { digest: "bb".to_owned(), sequence: None, ..first.clone() };
    store.confirm_publication(&map, &second).await.unwrap();
    store.confirm_publication(&bucket, &second).await.unwrap();
    store.confirm_publication(&bucket, &first).await.unwrap();
    store.record_publication_drift(&bucket, &first, None).await.unwrap();
    store.close().await;

    let store = place.open().await;
    assert_eq!(store.publication(&bucket).await.unwrap(), Some(first));
    assert_eq!(store.publication(&map).await.unwrap(), Some(second));
    store.keep_publications(&[(trust_domain.clone(), "map".to_owned())]).await.unwrap();
    assert_eq!(store.publication(&bucket).await.unwrap(), None);
    assert!(store.publication(&map).await.unwrap().is_some());

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

async fn what_is_confirmed_again_is_no_news_but_its_number_is_known(place: Place) {
    let trust_domain = federation_specs::id::TrustDomain::parse("cloud.example").unwrap();
    let bucket = PublisherKey::shared(trust_domain.clone(), "bucket");
    let store = place.open().await;
    let publication = Publication {
        place: "S3 object b/o in eu-west-1".to_owned(),
        digest: "aa".to_owned(),
        sequence: Some(7),
        changed_at: datetime!(2026-11-22 12:00 UTC),
        confirmed_at: datetime!(2026-11-22 12:01 UTC),
    };
    store.confirm_publication(&bucket, &publication).await.unwrap();
    store.forget_source(&trust_domain, "a source that is configured no more").await.unwrap();
    assert_eq!(store.publication(&bucket).await.unwrap().unwrap().sequence, None, "it may go back");
    store.confirm_publication(&bucket, &publication).await.unwrap();
    assert_eq!(store.publication(&bucket).await.unwrap(), Some(publication));
    let query = AuditQuery { subject: Some(&trust_domain), limit: 10, ..AuditQuery::default() };
    assert_eq!(store.audit_records(&query).await.unwrap().len(), 1);
}

async fn how_a_publisher_is_doing_is_kept(place: Place) {
    let trust_domain = federation_specs::id::TrustDomain::parse("cloud.example").unwrap();
    let bucket = PublisherKey::shared(trust_domain, "bucket");
    let key = ("cloud.example".to_owned(), "bucket".to_owned());
    let store = place.open().await;
    let at = datetime!(2026-11-22 12:00 UTC);
    let failing = PublisherState {
        last_success: Some(at),
        last_attempt: Some(at + Duration::MINUTE),
        next_attempt: Some(at + Duration::HOUR),
        consecutive_failures: 3,
        last_error: Some("no".to_owned()),
        drift: Some(Drift { at, digest: None, count: 2 }),
    };
    for state in [PublisherState::default(), failing] {
        store.save_publisher_state(&bucket, "S3 object b/o", &state).await.unwrap();
        assert_eq!(store.publisher_states().await.unwrap()[&key], ("S3 object b/o".to_owned(), state));
    }
}

/// Where each gateway has a place of its own, what one of them published is no other's.
async fn files_of_several_gateways_are_kept_apart(place: Place) {
    let trust_domain = federation_specs::id::TrustDomain::parse("cloud.example").unwrap();
    let of = |gateway: &str| PublisherKey::of_gateway(trust_domain.clone(), "local", gateway);
    let store = place.open().await;
    let publication = |digest: &str, confirmed_at: OffsetDateTime| Publication {
        place: "file /f".to_owned(),
        digest: digest.to_owned(),
        sequence: Some(1),
        changed_at: confirmed_at,
        confirmed_at,
    };
    let now = SystemClock.now();
    store.confirm_publication(&of("two"), &publication("bb", now)).await.unwrap();
    store.confirm_publication(&of("gone"), &publication("cc", now - Duration::days(31))).await.unwrap();
    assert_eq!(store.publication(&of("one")).await.unwrap(), None);
    store.keep_publications(&[(trust_domain.clone(), "local".to_owned())]).await.unwrap();
    assert_eq!(store.publication(&of("two")).await.unwrap().unwrap().digest, "bb");
    assert_eq!(store.publication(&of("gone")).await.unwrap(), None);
    store.keep_publications(&[(trust_domain.clone(), "other".to_owned())]).await.unwrap();
    assert_eq!(store.publication(&of("two")).await.unwrap(), None);
}

on_both!(
    publications_are_kept_and_recorded,
    what_is_confirmed_again_is_no_news_but_its_number_is_known,
    how_a_publisher_is_doing_is_kept,
    files_of_several_gateways_are_kept_apart,
);
