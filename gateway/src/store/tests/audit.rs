//! The audit log in the database: it grows with every change, and whatever is done to it behind its back is found.

use service_kit::database::{Dialect, dialect};

use super::*;
use crate::store::audit::AuditQuery;

on_both!(
    every_change_is_recorded_and_the_log_goes_on_after_reopening,
    the_database_refuses_to_change_or_delete_a_record,
    a_changed_removed_or_moved_record_is_named,
    a_log_cut_off_together_with_its_head_is_found_by_a_copy_of_the_head,
    a_failed_change_leaves_no_record,
);

async fn log_of_five(place: &Place) -> Store {
    let store = place.open().await;
    for sequence in 1..=5 {
        accept(&store, &bundle("p.example", "one", sequence), &RefreshState::default()).await;
    }
    store
}

/// Does to the database what somebody with its file could do.
async fn tamper(store: &Store, statements: &'static [&'static str]) {
    store
        .database
        .run_tx("tamper", |mut connection| {
            Box::pin(async move {
                let triggers: &[&str] = match dialect(&connection) {
                    Dialect::Sqlite => {
                        &["drop trigger audit_log_keeps_records", "drop trigger audit_log_loses_nothing"]
                    }
                    Dialect::Postgres => &["alter table audit_log disable trigger all"],
                };
                for statement in triggers.iter().chain(statements) {
                    sqlx::query(*statement).execute(&mut *connection).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
}

async fn problems(place: &Place, statements: &'static [&'static str]) -> Vec<String> {
    let store = log_of_five(place).await;
    assert!(store.verify_audit(None).await.unwrap().ok);
    tamper(&store, statements).await;
    let report = store.verify_audit(None).await.unwrap();
    assert_eq!(report.ok, report.problems.is_empty());
    report.problems.into_iter().map(|problem| problem.problem).collect()
}

async fn every_change_is_recorded_and_the_log_goes_on_after_reopening(place: Place) {
    let store = log_of_five(&place).await;
    let head = store.verify_audit(None).await.unwrap().head;
    store.close().await;
    let store = place.open().await;
    accept(&store, &bundle("q_1.example", "two", 1), &RefreshState::default()).await;
    let report = store.verify_audit(Some(&head)).await.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.records, report.last, report.copy_found_at), (6, 6, Some(5)));

    let query = |after, newest, limit| AuditQuery { after, newest, limit, ..AuditQuery::default() };
    let sequences = async |query: AuditQuery<'_>| -> Vec<i64> {
        store.audit_records(&query).await.unwrap().iter().map(|record| record.sequence).collect()
    };
    assert_eq!(sequences(query(0, true, 2)).await, [5, 6]);
    assert_eq!(sequences(query(3, false, 2)).await, [4, 5]);
    let about = td("q_1.example");
    assert_eq!(sequences(AuditQuery { subject: Some(&about), limit: 10, ..AuditQuery::default() }).await, [6]);
    let other = td("qa1.example");
    assert!(sequences(AuditQuery { subject: Some(&other), limit: 10, ..AuditQuery::default() }).await.is_empty());
    let record = store.audit_records(&query(5, false, 1)).await.unwrap().remove(0).read().record.unwrap();
    assert_eq!((record.who, record.what, record.subject.as_str()), (Actor::Gateway, Action::Accepted, "q_1.example"));
}

async fn the_database_refuses_to_change_or_delete_a_record(place: Place) {
    let store = log_of_five(&place).await;
    for statement in
        ["update audit_log set record = 'x' where sequence = 2", "delete from audit_log where sequence = 2"]
    {
        let outcome: Result<(), StoreError> = store
            .database
            .run_tx("tamper", |mut connection| {
                Box::pin(async move { Ok(sqlx::query(statement).execute(&mut *connection).await.map(drop)?) })
            })
            .await;
        assert!(outcome.unwrap_err().to_string().contains("append-only"));
    }
    assert!(store.verify_audit(None).await.unwrap().ok);
}

async fn a_changed_removed_or_moved_record_is_named(place: Place) {
    let cases: [(&'static [&'static str], &[&str]); 6] = [
        (
            &["update audit_log set record = replace(record, 'the test', 'nobody') where sequence = 3"],
            &["record 3 does not follow from record 2: record 3 was changed"],
        ),
        (&["update audit_log set hash = upper(hash) where sequence = 2"], &["record 2 does not follow"]),
        (&["delete from audit_log where sequence = 3"], &["record 3 is missing"]),
        (&["delete from audit_log where sequence > 3"], &["records 4 to 5 are missing"]),
        (
            &[
                "update audit_log set sequence = 99 where sequence = 2",
                "update audit_log set sequence = 2 where sequence = 4",
                "update audit_log set sequence = 4 where sequence = 99",
            ],
            &["place 2 is number 4: records were moved", "place 4 is number 2: records were moved"],
        ),
        (&["delete from audit_head"], &["the log says it ends at record 0"]),
    ];
    for (statements, expected) in cases {
        let found = problems(&place.another(), statements).await;
        for text in expected {
            assert!(found.iter().any(|problem| problem.contains(text)), "{statements:?}: {found:?}");
        }
    }
}

async fn a_log_cut_off_together_with_its_head_is_found_by_a_copy_of_the_head(place: Place) {
    let store = log_of_five(&place).await;
    let copy = store.verify_audit(None).await.unwrap().head;
    tamper(
        &store,
        &[
            "delete from audit_log where sequence > 3",
            "update audit_head set sequence = 3, hash = (select hash from audit_log where sequence = 3)",
        ],
    )
    .await;
    assert!(store.verify_audit(None).await.unwrap().ok, "nothing inside the log shows it");
    let report = store.verify_audit(Some(&copy)).await.unwrap();
    assert!(!report.ok);
    assert!(report.problems[0].problem.contains(&copy), "{report:?}");
}

async fn a_failed_change_leaves_no_record(place: Place) {
    let store = log_of_five(&place).await;
    // The delivery of nothing to nowhere breaks a rule of the schema after the record was made.
    let outcome: Result<(), StoreError> = store
        .database
        .run_tx("fail", |mut connection| {
            Box::pin(async move {
                let event = accepted(&td("p.example"));
                crate::store::audit::append(&mut connection, datetime!(2026-11-22 12:00 UTC), &event).await?;
                sqlx::query("insert into deliveries (local_trust_domain) values (null)")
                    .execute(&mut *connection)
                    .await?;
                Ok(())
            })
        })
        .await;
    assert!(outcome.is_err());
    let report = store.verify_audit(None).await.unwrap();
    assert!(report.ok && report.last == 5, "{report:?}");
}
