mod postgres;

use super::*;
use crate::clock::SystemClock;
use sqlx::{Row as _, migrate::Migration};
use std::{borrow::Cow, os::unix::fs::PermissionsExt, sync::LazyLock};

fn migration(version: i64, sql: &'static str) -> Migration {
    let kind = sqlx::migrate::MigrationType::Simple;
    Migration::new(version, Cow::Borrowed("step"), kind, sqlx::SqlStr::from_static(sql), false)
}

fn migrator(migrations: Vec<Migration>) -> Migrator {
    Migrator::with_migrations(migrations)
}

const FIRST: &str = "create table authors (id integer primary key, name text not null unique check (name <> ''));
create table books (id integer primary key, author integer not null references authors (id))";

static ONE: LazyLock<Migrator> = LazyLock::new(|| migrator(vec![migration(1, FIRST)]));
static TWO: LazyLock<Migrator> =
    LazyLock::new(|| migrator(vec![migration(1, FIRST), migration(2, "alter table books add column title text")]));
static CHANGED: LazyLock<Migrator> = LazyLock::new(|| migrator(vec![migration(1, "create table other (id integer)")]));
static BROKEN: LazyLock<Migrator> = LazyLock::new(|| migrator(vec![migration(1, "create nonsense")]));

async fn open(path: &Path, migrations: &'static Migrator) -> Result<Database, DatabaseError> {
    Database::open(path, migrations, SystemClock::shared()).await
}

async fn fresh() -> (tempfile::TempDir, Database) {
    let folder = tempfile::tempdir().unwrap();
    let database = open(&folder.path().join("test.sqlite3"), &ONE).await.unwrap();
    (folder, database)
}

async fn add(connection: &mut Connection, name: &str) -> Result<i64, DatabaseError> {
    let row =
        sqlx::query("insert into authors (name) values ($1) returning id").bind(name).fetch_one(connection).await?;
    Ok(row.get(0))
}

async fn count(database: &Database) -> i64 {
    database
        .run_read(|mut read| {
            Box::pin(async move {
                let row = sqlx::query("select count(*) from authors").fetch_one(&mut *read).await?;
                Ok::<_, DatabaseError>(row.get(0))
            })
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn pragmas_are_in_force() {
    let (_folder, database) = fresh().await;
    let mode = std::fs::metadata(database.name()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let settings = database
        .run_tx("settings", |mut tx| {
            Box::pin(async move {
                let mode: String = sqlx::query("pragma journal_mode").fetch_one(&mut *tx).await?.get(0);
                let sync: i64 = sqlx::query("pragma synchronous").fetch_one(&mut *tx).await?.get(0);
                let keys: i64 = sqlx::query("pragma foreign_keys").fetch_one(&mut *tx).await?.get(0);
                Ok::<_, DatabaseError>((mode, sync, keys))
            })
        })
        .await
        .unwrap();
    assert_eq!(settings, ("wal".to_string(), 2, 1));
    database.ping().await.unwrap();
    assert!(sqlx::query("delete from authors").execute(database.reader()).await.is_err(), "readers cannot write");
}

#[tokio::test]
async fn commits_on_ok_and_rolls_back_on_error() {
    let (_folder, database) = fresh().await;
    database.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, "ada").await })).await.unwrap();
    let failed = database
        .run_tx("fail", |mut tx| {
            Box::pin(async move {
                add(&mut tx, "grace").await?;
                Err::<(), _>(DatabaseError::NotFound)
            })
        })
        .await;
    assert!(matches!(failed, Err(DatabaseError::NotFound)));
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn broken_rules_are_told_apart() {
    let (_folder, database) = fresh().await;
    database.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, "ada").await })).await.unwrap();
    for (sql, kind) in [
        ("insert into authors (name) values ('ada')", Constraint::Unique),
        ("insert into authors (id, name) values (1, 'b')", Constraint::Unique),
        ("insert into authors (name) values ('')", Constraint::Check),
        ("insert into authors (name) values (null)", Constraint::NotNull),
        ("insert into books (author) values (99)", Constraint::ForeignKey),
    ] {
        let error = database
            .run_tx("break", |mut tx| {
                Box::pin(async move { sqlx::query(sql).execute(&mut *tx).await.map(drop).map_err(DatabaseError::from) })
            })
            .await
            .unwrap_err();
        assert!(matches!(&error, DatabaseError::Constraint { kind: found, .. } if *found == kind), "{sql}: {error}");
        assert_eq!(error.is_unique_violation(), kind == Constraint::Unique);
    }
    let missing =
        sqlx::query("select 1 from authors where id = 7").fetch_one(database.reader()).await.map(drop).unwrap_err();
    assert!(matches!(DatabaseError::from(missing), DatabaseError::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_wait_for_each_other() {
    let (_folder, database) = fresh().await;
    let writers: Vec<_> = (0..64)
        .map(|number| {
            let database = database.clone();
            tokio::spawn(async move {
                let name = &format!("author {number}");
                // Borrows from outside the transaction, inside a spawned task: what services do.
                database.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, name).await })).await
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(count(&database).await, 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_transactions_are_tried_again_a_bounded_number_of_times() {
    let (_folder, database) = fresh().await;
    let mut attempts = 0;
    let outcome = database
        .run_tx("busy", |_| {
            attempts += 1;
            let outcome = if attempts < 3 { Err(DatabaseError::Busy) } else { Ok(attempts) };
            Box::pin(async move { outcome })
        })
        .await;
    assert_eq!(outcome.unwrap(), 3);
    let mut attempts = 0;
    let outcome: Result<(), _> = database
        .run_tx("always busy", |_| {
            attempts += 1;
            Box::pin(async { Err(DatabaseError::Busy) })
        })
        .await;
    assert!(matches!(outcome, Err(DatabaseError::Busy)));
    assert_eq!(attempts, MAX_ATTEMPTS);
}

#[tokio::test]
async fn a_view_does_not_change_while_it_is_read() {
    let (_folder, database) = fresh().await;
    let writer = &database;
    let counts = database
        .run_read(|mut read| {
            Box::pin(async move {
                let sql = "select count(*) from authors";
                let before: i64 = sqlx::query(sql).fetch_one(&mut *read).await?.get(0);
                writer.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, "ada").await })).await?;
                let after: i64 = sqlx::query(sql).fetch_one(&mut *read).await?.get(0);
                Ok::<_, DatabaseError>((before, after))
            })
        })
        .await
        .unwrap();
    assert_eq!(counts, (0, 0));
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn schemas_go_forward_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.sqlite3");
    let old = open(&path, &ONE).await.unwrap();
    old.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, "ada").await })).await.unwrap();
    old.close().await;
    let new = open(&path, &TWO).await.unwrap();
    assert_eq!(count(&new).await, 1);
    new.close().await;
    let error = open(&path, &ONE).await.unwrap_err();
    assert!(matches!(&error, DatabaseError::Newer { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    let error = open(&path, &CHANGED).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Migration { .. } | DatabaseError::Newer { .. }), "{error}");
    let other = folder.path().join("other.sqlite3");
    assert!(matches!(open(&other, &BROKEN).await, Err(DatabaseError::Migration { .. })));
}

#[tokio::test]
async fn files_that_are_no_database_are_named_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.sqlite3");
    let garbage = b"this is a text of some length, and no database at all".repeat(100);
    std::fs::write(&path, &garbage).unwrap();
    let error = open(&path, &ONE).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Open { .. }) && error.to_string().contains("test.sqlite3"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), garbage);
    let error = open(&folder.path().join("missing/test.sqlite3"), &ONE).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Open { .. }), "{error}");
    assert!(open(folder.path(), &ONE).await.is_err());
}

#[tokio::test]
async fn what_was_committed_survives_without_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.sqlite3");
    let first = open(&path, &ONE).await.unwrap();
    first.run_tx("add", |mut tx| Box::pin(async move { add(&mut tx, "ada").await })).await.unwrap();
    std::mem::forget(first);
    assert_eq!(count(&open(&path, &ONE).await.unwrap()).await, 1);
}

#[tokio::test]
async fn tells_whether_it_can_be_written() {
    let (folder, database) = fresh().await;
    let log = || std::fs::metadata(folder.path().join("test.sqlite3-wal")).map_or(0, |log| log.len());
    let before = log();
    database.check_writable().await.unwrap();
    assert!(log() > before, "it was written");
    sqlx::query("pragma query_only = on").execute(&database.writer).await.unwrap();
    assert!(matches!(database.check_writable().await, Err(DatabaseError::ReadOnly)));
    database.ping().await.unwrap();
}

/// As it does when the disk is full.
#[tokio::test]
async fn a_transaction_that_sqlite_ends_by_itself_spoils_nothing() {
    let (_folder, database) = fresh().await;
    let mut transaction = database.begin("test").await.unwrap();
    sqlx::query("rollback").execute(&mut *transaction).await.unwrap();
    drop(transaction);
    let mut transaction = database.begin("test").await.unwrap();
    sqlx::query("rollback").execute(&mut *transaction).await.unwrap();
    assert!(transaction.commit().await.is_err());
    for name in ["one", "two"] {
        let mut transaction = database.begin("test").await.unwrap();
        add(&mut transaction, name).await.unwrap();
        transaction.commit().await.unwrap();
    }
    assert_eq!(count(&database).await, 2);
}
