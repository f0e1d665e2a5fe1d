//! The audit log in the database: it grows with every change, and whatever is done to it behind its back is found.

use service_kit::database::{Dialect, dialect};

use super::*;
use crate::store::audit::{AuditQuery, MAX_PAGE};

on_both!(
    every_change_is_recorded_and_the_log_goes_on_after_reopening,
    the_database_refuses_to_change_or_delete_a_record,
    a_changed_removed_or_moved_record_is_named,
    a_log_cut_off_together_with_its_head_is_found_by_a_copy_of_the_head,
    a_failed_change_leaves_no_record,
    records_about_a_domain_are_read_by_an_index_however_many_there_are,
    a_log_from_before_the_index_is_read_by_subject,
);

/// Records of the large log, and how many trust domains they are about.
const MANY: usize = 5_000;
const DOMAINS: usize = 500;

/// Appends a record about each of these.
async fn append(store: &Store, subjects: &[String]) {
    store
        .database
        .run_tx("append", |mut connection| {
            Box::pin(async move {
                let event = |subject: &String| Event { subject: subject.clone(), ..accepted(&td("p.example")) };
                let events: Vec<_> = subjects.iter().map(event).collect();
                crate::store::audit::append_all(&mut connection, datetime!(2026-11-22 12:00 UTC), &events).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
}

async fn sequences(store: &Store, query: AuditQuery<'_>) -> Vec<i64> {
    store.audit_records(&query).await.unwrap().iter().map(|record| record.sequence).collect()
}

/// How the database goes about a query, in its words.
async fn plan(store: &Store, query: &AuditQuery<'_>) -> String {
    let explain = match store.database.dialect() {
        Dialect::Sqlite => "explain query plan",
        Dialect::Postgres => "explain",
    };
    let statement = format!("{explain} {}", query.statement());
    let mut statement = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(query.after).bind(i64::MAX).bind(10_i64);
    if let Some(subject) = query.subject {
        statement = statement.bind(subject.as_str());
    }
    let rows = statement.fetch_all(store.database.reader()).await.unwrap();
    let last = |row: &service_kit::database::Row| sqlx::Row::get::<String, _>(row, sqlx::Row::len(row) - 1);
    rows.iter().map(last).collect::<Vec<_>>().join("\n")
}

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
    assert_eq!(sequences(&store, query(0, true, 2)).await, [5, 6]);
    assert_eq!(sequences(&store, query(3, false, 2)).await, [4, 5]);
    let about = td("q_1.example");
    assert_eq!(sequences(&store, AuditQuery { subject: Some(&about), ..query(0, false, 10) }).await, [6]);
    let other = td("qa1.example");
    assert!(sequences(&store, AuditQuery { subject: Some(&other), ..query(0, false, 10) }).await.is_empty());
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

async fn records_about_a_domain_are_read_by_an_index_however_many_there_are(place: Place) {
    let store = place.open().await;
    // Deliveries and publications are about their domain, what only begins or ends like it is not.
    let subject = |number: usize| match (number % DOMAINS, number / DOMAINS % 3) {
        (domain, 0) => format!("p{domain}.example"),
        (domain, 1) => format!("p{domain}.example at cloud.example"),
        (domain, _) => format!("p{domain}.example at s3"),
    };
    let subjects: Vec<String> = (0..MANY).map(subject).collect();
    append(&store, &subjects).await;
    append(&store, &["p7.example.net", "xp7.example", "cloud.example at p7.example"].map(str::to_owned)).await;
    if store.database.dialect() == Dialect::Postgres {
        tamper(&store, &["analyze audit_log"]).await;
    }

    let seven = td("p7.example");
    let all: Vec<i64> =
        (0..MANY as i64).filter(|number| number % DOMAINS as i64 == 7).map(|number| number + 1).collect();
    let about = AuditQuery { subject: Some(&seven), limit: MAX_PAGE, ..AuditQuery::default() };
    assert_eq!(sequences(&store, about.clone()).await, all);
    // Pages, from either end.
    let (middle, limit) = (all[4], 3);
    assert_eq!(sequences(&store, AuditQuery { limit, ..about.clone() }).await, all[..3]);
    assert_eq!(sequences(&store, AuditQuery { after: middle, limit, ..about.clone() }).await, all[5..8]);
    assert_eq!(sequences(&store, AuditQuery { newest: true, limit, ..about.clone() }).await, all[7..]);
    let before = AuditQuery { before: Some(middle), newest: true, limit, ..about.clone() };
    assert_eq!(sequences(&store, before).await, all[1..4]);

    for newest in [false, true] {
        let plan = plan(&store, &AuditQuery { newest, ..about.clone() }).await;
        assert!(plan.contains("audit_log_by_subject"), "{plan}");
        for slow in ["SCAN", "TEMP B-TREE", "Seq Scan"] {
            assert!(!plan.contains(slow), "{slow}: {plan}");
        }
    }
}

async fn a_log_from_before_the_index_is_read_by_subject(place: Place) {
    let store = place.open().await;
    append(&store, &["p.example", "q.example at cloud.example", "q.example", "p.example"].map(str::to_owned)).await;
    let head = store.verify_audit(None).await.unwrap().head;
    // As the step before left it, with a record that somebody damaged.
    let statements: &'static [&'static str] = match store.database.dialect() {
        Dialect::Sqlite => &[
            "drop index audit_log_by_subject",
            "drop table publisher_states",
            "alter table audit_log drop column about",
            "delete from _sqlx_migrations where version = 9",
            "update audit_log set record = 'no record' where sequence = 3",
        ],
        Dialect::Postgres => &[
            "drop table publisher_states",
            "alter table audit_log drop column about",
            "drop function audit_record_is_about",
            "delete from _sqlx_migrations where version = 9",
            "update audit_log set record = 'no record' where sequence = 3",
        ],
    };
    tamper(&store, statements).await;
    store.close().await;

    let store = place.open().await;
    append(&store, &["q.example".to_owned()]).await;
    let (p, q) = (td("p.example"), td("q.example"));
    let about = |subject| AuditQuery { subject: Some(subject), limit: 10, ..AuditQuery::default() };
    assert_eq!(sequences(&store, about(&p)).await, [1, 4]);
    assert_eq!(sequences(&store, about(&q)).await, [2, 5]);
    let report = store.verify_audit(Some(&head)).await.unwrap();
    assert_eq!((report.records, report.problems.len()), (5, 1), "{report:?}");
    assert!(report.problems[0].problem.contains("record 3"), "{report:?}");
}
