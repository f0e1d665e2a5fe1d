//! SQLite: one file, write-ahead log, named transactions that are retried when the database is busy.

use std::{
    fs::OpenOptions,
    io,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::{
    Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    error::ErrorKind,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{backoff::Backoff, clock::SharedClock};

/// Permission bits of a database file made here; SQLite gives its log files the same.
const DATABASE_FILE_MODE: u32 = 0o600;

/// Connections for reading at the same time. Writing has one connection of its own.
const MAX_READERS: u32 = 8;

/// How long SQLite itself waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a task waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a busy transaction is tried in all.
const MAX_ATTEMPTS: u32 = 5;

/// First and longest pause between attempts.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A transaction that takes longer is worth a warning.
const SLOW: Duration = Duration::from_secs(1);

/// Which rule of the schema a change broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// A row with the same key exists.
    Unique,
    /// The row referred to does not exist, or is referred to.
    ForeignKey,
    /// A check of the column failed.
    Check,
    /// A value is missing.
    NotNull,
}

/// Why the database did not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// A rule of the schema was broken; nothing changed.
    #[error("database constraint {kind:?} broken: {detail}")]
    Constraint {
        /// Which kind of rule.
        kind: Constraint,
        /// What SQLite said: table and column.
        detail: String,
    },
    /// The one row asked for does not exist.
    #[error("no such row in the database")]
    NotFound,
    /// Another process or task holds the database for too long.
    #[error("database is busy; is another program holding it open?")]
    Busy,
    /// No space left.
    #[error("database cannot grow, the disk is full; free some space")]
    Full,
    /// The file may not be written.
    #[error("database is read-only; make its file and folder writable for this user")]
    ReadOnly,
    /// The file is damaged.
    #[error("database is damaged ({detail}); restore it from a backup")]
    Corrupted {
        /// What SQLite said.
        detail: String,
    },
    /// Reading or writing the file failed.
    #[error("database file cannot be read or written ({detail}); check the disk")]
    Io {
        /// What the system said.
        detail: String,
    },
    /// The file cannot be opened.
    #[error("database {} cannot be opened: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The schema is newer than this program.
    #[error("database {} was used by a newer version of this program (schema {version}); use that version, or restore a backup made before", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The unknown schema version.
        version: i64,
    },
    /// The schema could not be brought up to date.
    #[error("schema of database {} cannot be brought up to date: {reason}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Anything else, a defect most likely.
    #[error("database failed: {0}")]
    Other(#[source] Arc<sqlx::Error>),
}

impl DatabaseError {
    /// Whether the same transaction may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy)
    }

    /// Whether a row with the same key exists already.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Constraint { kind: Constraint::Unique, .. })
    }
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        let database = match &error {
            sqlx::Error::RowNotFound => return Self::NotFound,
            sqlx::Error::PoolTimedOut => return Self::Busy,
            sqlx::Error::Io(error) => return Self::Io { detail: error.to_string() },
            sqlx::Error::Database(database) => database,
            _ => return Self::Other(Arc::new(error)),
        };
        let detail = database.message().to_string();
        let kind = match database.kind() {
            ErrorKind::UniqueViolation => Some(Constraint::Unique),
            ErrorKind::ForeignKeyViolation => Some(Constraint::ForeignKey),
            ErrorKind::CheckViolation => Some(Constraint::Check),
            ErrorKind::NotNullViolation => Some(Constraint::NotNull),
            _ => None,
        };
        if let Some(kind) = kind {
            return Self::Constraint { kind, detail };
        }
        // The low byte of SQLite's extended result code is the primary code (sqlite3.h).
        let code = database.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
        match code {
            Some(5 | 6) => Self::Busy,
            Some(8) => Self::ReadOnly,
            Some(10 | 14) => Self::Io { detail },
            Some(11 | 26) => Self::Corrupted { detail },
            Some(13) => Self::Full,
            _ => Self::Other(Arc::new(error)),
        }
    }
}

/// An error a transaction may end with.
pub trait TransactionError: From<DatabaseError> {
    /// The database's part in it, if any. Decides whether the transaction is tried again.
    fn database(&self) -> Option<&DatabaseError>;
}

impl TransactionError for DatabaseError {
    fn database(&self) -> Option<&DatabaseError> {
        Some(self)
    }
}

/// The connection inside a transaction. `'env` is what the transaction's closure may borrow from around it: the bound
/// `'env: 'c` tells the compiler that such borrows outlive the connection's.
#[derive(Debug)]
pub struct Tx<'c, 'env: 'c> {
    connection: &'c mut SqliteConnection,
    environment: PhantomData<&'c &'env ()>,
}

impl<'c> Tx<'c, '_> {
    fn new(connection: &'c mut SqliteConnection) -> Self {
        Self { connection, environment: PhantomData }
    }
}

impl Deref for Tx<'_, '_> {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection
    }
}

impl DerefMut for Tx<'_, '_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection
    }
}

/// One SQLite database with its connections. Clones share them.
#[derive(Debug, Clone)]
pub struct Database {
    path: Arc<Path>,
    writer: SqlitePool,
    readers: SqlitePool,
    clock: SharedClock,
}

impl Database {
    /// Opens the database, making the file if it is missing (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`DatabaseError`] naming the file; a schema newer than `migrations` is refused and left alone.
    pub async fn open(path: &Path, migrations: &'static Migrator, clock: SharedClock) -> Result<Self, DatabaseError> {
        let open = |reason: String| DatabaseError::Open { path: path.to_path_buf(), reason };
        create_file(path).map_err(|error| open(error.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool_options(1);
        let writer = writer.connect_with(options.clone()).await.map_err(|error| open_error(path, error))?;
        migrations.run(&writer).await.map_err(|error| migration_error(path, error))?;
        let readers = pool_options(MAX_READERS).connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self { path: path.into(), writer, readers, clock })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connections for single reading statements. Writing through them fails.
    pub fn reader(&self) -> &SqlitePool {
        &self.readers
    }

    /// Runs `work` in one writing transaction (`begin immediate`): committed if it answers `Ok`, rolled back otherwise,
    /// and tried again a bounded number of times while the database is busy. `work` must not wait for anything but the
    /// database, and must bear being run again. Written as
    /// `run_tx("name", |mut tx| Box::pin(async move { query.execute(&mut *tx).await?; Ok(()) }))`.
    ///
    /// # Errors
    /// The error of `work`, or the database's.
    pub async fn run_tx<'env, T, E: TransactionError>(
        &self,
        name: &'static str,
        mut work: impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send,
    ) -> Result<T, E> {
        let started = self.clock.now();
        let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            let outcome = self.attempt(&mut work).await;
            let taken = Duration::try_from(self.clock.now() - started).unwrap_or_default();
            match &outcome {
                Err(error) if error.database().is_some_and(DatabaseError::is_retryable) => {
                    let pause = backoff.next();
                    if backoff.attempts() < MAX_ATTEMPTS {
                        tracing::debug!(
                            transaction = name,
                            attempt = backoff.attempts(),
                            "database busy, trying again"
                        );
                        self.clock.sleep(pause).await;
                        continue;
                    }
                    tracing::warn!(transaction = name, ?taken, "database busy, giving up");
                }
                _ if taken > SLOW => tracing::warn!(transaction = name, ?taken, "slow transaction"),
                _ => tracing::trace!(transaction = name, ?taken, "transaction done"),
            }
            return outcome;
        }
    }

    /// Begins one writing transaction (`begin immediate`), trying again a bounded number of times while the database is
    /// busy. Dropped without commit, it changes nothing. While it is open every other writer waits: do nothing but
    /// database work in it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn begin(&self, name: &'static str) -> Result<Transaction<'static, Sqlite>, DatabaseError> {
        let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            match self.writer.begin_with("begin immediate").await.map_err(DatabaseError::from) {
                Err(error) if error.is_retryable() && backoff.attempts() + 1 < MAX_ATTEMPTS => {
                    tracing::debug!(transaction = name, attempt = backoff.attempts(), "database busy, trying again");
                    self.clock.sleep(backoff.next()).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt<'env, T, E: TransactionError>(
        &self,
        work: &mut (impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send),
    ) -> Result<T, E> {
        let begun = self.writer.begin_with("begin immediate").await;
        let mut transaction = begun.map_err(DatabaseError::from)?;
        match work(Tx::new(&mut transaction)).await {
            Ok(value) => {
                transaction.commit().await.map_err(DatabaseError::from)?;
                Ok(value)
            }
            Err(error) => {
                // Dropping would roll back too, but only when the connection is next used.
                if let Err(rollback) = transaction.rollback().await {
                    tracing::warn!(error = %rollback, "transaction not rolled back");
                }
                Err(error)
            }
        }
    }

    /// Runs `work` on one unchanging view of the database. Written as [`Database::run_tx`].
    ///
    /// # Errors
    /// The error of `work`, or the database's.
    pub async fn run_read<'env, T, E: TransactionError>(
        &self,
        work: impl for<'c> FnOnce(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send,
    ) -> Result<T, E> {
        let mut transaction = self.readers.begin().await.map_err(DatabaseError::from)?;
        let value = work(Tx::new(&mut transaction)).await?;
        transaction.rollback().await.map_err(DatabaseError::from)?;
        Ok(value)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`DatabaseError`] when it does not.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        sqlx::query("select 1 from sqlite_schema limit 1").fetch_optional(&self.readers).await?;
        Ok(())
    }

    /// Whether a change can be stored: writes a part of the file that stays as it is.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot, for example [`DatabaseError::Full`].
    pub async fn check_writable(&self) -> Result<(), DatabaseError> {
        let mut transaction = self.begin("check").await?;
        let version: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *transaction).await?;
        // SQLite writes the number even if it is the same. A pragma takes no parameters.
        sqlx::query(sqlx::AssertSqlSafe(format!("pragma user_version = {version}"))).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Finishes what is going on and closes the file, folding the log into it.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// SQLite ends a transaction by itself when the disk is full or fails. The driver goes on to believe in it, and refuses
/// every further one; such a connection is replaced.
fn pool_options(max_connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
}

fn create_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(DATABASE_FILE_MODE).open(path).map(drop)
}

fn open_error(path: &Path, error: sqlx::Error) -> DatabaseError {
    let reason = match DatabaseError::from(error) {
        DatabaseError::Corrupted { detail } => {
            format!("it is not a SQLite database or is damaged ({detail}); restore it from a backup, or move it away")
        }
        other => other.to_string(),
    };
    DatabaseError::Open { path: path.to_path_buf(), reason }
}

fn migration_error(path: &Path, error: MigrateError) -> DatabaseError {
    let path = path.to_path_buf();
    match error {
        MigrateError::VersionMissing(version) => DatabaseError::Newer { path, version },
        MigrateError::VersionMismatch(version) => {
            let reason = format!("step {version} is not the one this database was made with");
            DatabaseError::Migration { path, reason }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            let error = DatabaseError::from(error);
            match error {
                DatabaseError::Corrupted { .. } => open_error_from(path, &error),
                other => DatabaseError::Migration { path, reason: other.to_string() },
            }
        }
        other => DatabaseError::Migration { path, reason: other.to_string() },
    }
}

fn open_error_from(path: PathBuf, error: &DatabaseError) -> DatabaseError {
    DatabaseError::Open { path, reason: error.to_string() }
}

#[cfg(test)]
mod tests;
