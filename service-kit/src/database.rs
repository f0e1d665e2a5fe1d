//! The database of a service: SQLite in a file, or PostgreSQL. Stores are written once for both: one SQL text with `$1`,
//! `on conflict` and `returning`, and columns of integers, double floats, text and bytes (SQLite has no boolean: use
//! `bigint`, or `cast(… as integer)` where one is read). Where the two need different texts, [`dialect`] tells them apart.
//! [`sqlx::QueryBuilder`] writes `?` for parameters, which only SQLite understands.

mod error;
mod postgres;
mod sqlite;

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::{Connection as _, any::AnyPoolOptions, migrate::Migrator};

use crate::{backoff::Backoff, clock::SharedClock};

pub use error::{Constraint, DatabaseError, TransactionError};
pub use postgres::{MAX_CONNECTIONS, MIN_CONNECTIONS, PostgresServer, PostgresUrlError};

/// How long a task waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a busy transaction is tried in all.
const MAX_ATTEMPTS: u32 = 5;

/// First and longest pause between attempts.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A transaction that takes longer is worth a warning.
const SLOW: Duration = Duration::from_secs(1);

/// What queries are made for.
pub type Backend = sqlx::Any;

/// A connection to either database.
pub type Connection = sqlx::AnyConnection;

/// A row of a result.
pub type Row = sqlx::any::AnyRow;

/// Connections, for single statements.
pub type Pool = sqlx::AnyPool;

/// An open transaction.
pub type Transaction = sqlx::Transaction<'static, Backend>;

/// Which SQL a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite: one process at a time.
    Sqlite,
    /// PostgreSQL: several processes may share it.
    Postgres,
}

/// Which SQL this connection speaks.
pub fn dialect(connection: &Connection) -> Dialect {
    if connection.backend_name() == "SQLite" { Dialect::Sqlite } else { Dialect::Postgres }
}

/// The connection inside a transaction. `'env` is what the transaction's closure may borrow from around it: the bound
/// `'env: 'c` tells the compiler that such borrows outlive the connection's.
#[derive(Debug)]
pub struct Tx<'c, 'env: 'c> {
    connection: &'c mut Connection,
    environment: PhantomData<&'c &'env ()>,
}

impl<'c> Tx<'c, '_> {
    fn new(connection: &'c mut Connection) -> Self {
        Self { connection, environment: PhantomData }
    }
}

impl Deref for Tx<'_, '_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl DerefMut for Tx<'_, '_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
    }
}

/// When a writing transaction may run.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// After all others.
    Alone,
    /// At the same time.
    Beside,
}

/// The connections of a database just opened.
struct Pools {
    name: String,
    writer: Pool,
    /// For [`Database::run_beside`]; the writer where only one connection may write.
    beside: Pool,
    readers: Pool,
}

/// One database with its connections. Clones share them.
#[derive(Debug, Clone)]
pub struct Database {
    name: Arc<str>,
    dialect: Dialect,
    writer: Pool,
    beside: Pool,
    readers: Pool,
    clock: SharedClock,
}

impl Database {
    /// Opens a SQLite database, making the file if it is missing (mode 0600), and brings its schema up to date.
    ///
    /// # Errors
    /// [`DatabaseError`] naming the file; a schema newer than `migrations` is refused and left alone.
    pub async fn open(path: &Path, migrations: &'static Migrator, clock: SharedClock) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        Ok(Self::new(Dialect::Sqlite, sqlite::open(path, migrations).await?, clock))
    }

    /// Opens a database on a PostgreSQL server, which must exist, and brings its schema up to date. Of several processes
    /// that do so at the same time, one does and the others wait.
    ///
    /// # Errors
    /// [`DatabaseError`] naming the server; a schema newer than `migrations` is refused and left alone.
    pub async fn open_postgres(
        server: &PostgresServer,
        migrations: &'static Migrator,
        clock: SharedClock,
    ) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        Ok(Self::new(Dialect::Postgres, postgres::open(server, migrations).await?, clock))
    }

    fn new(dialect: Dialect, pools: Pools, clock: SharedClock) -> Self {
        let Pools { name, writer, beside, readers } = pools;
        Self { name: name.into(), dialect, writer, beside, readers, clock }
    }

    /// The database file, or the server's URL without password.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which SQL it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Connections for single reading statements. Writing through them fails.
    pub fn reader(&self) -> &Pool {
        &self.readers
    }

    /// Runs `work` in one writing transaction: committed if it answers `Ok`, rolled back otherwise, and tried again a
    /// bounded number of times while the database is busy. Writing transactions follow each other, those of other
    /// processes on the same PostgreSQL database included: what one reads does not change before it ends. `work` must
    /// not wait for anything but the database, and must bear being run again. Written as
    /// `run_tx("name", |mut tx| Box::pin(async move { query.execute(&mut *tx).await?; Ok(()) }))`.
    ///
    /// # Errors
    /// The error of `work`, or the database's.
    pub async fn run_tx<'env, T, E: TransactionError>(
        &self,
        name: &'static str,
        work: impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.run(name, Turn::Alone, work).await
    }

    /// As [`Database::run_tx`], but beside other writing transactions where the database allows it (PostgreSQL, read
    /// committed): for a few rows that nobody else's transaction depends on unless it locks them, and that must not wait
    /// for everybody's turn.
    ///
    /// # Errors
    /// The error of `work`, or the database's.
    pub async fn run_beside<'env, T, E: TransactionError>(
        &self,
        name: &'static str,
        work: impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send,
    ) -> Result<T, E> {
        self.run(name, Turn::Beside, work).await
    }

    async fn run<'env, T, E: TransactionError>(
        &self,
        name: &'static str,
        turn: Turn,
        mut work: impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send,
    ) -> Result<T, E> {
        let started = self.clock.now();
        let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            let outcome = self.attempt(turn, &mut work).await;
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

    /// Begins one writing transaction, trying again a bounded number of times while the database is
    /// busy. Dropped without commit, it changes nothing. While it is open every other writer waits: do nothing but
    /// database work in it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn begin(&self, name: &'static str) -> Result<Transaction, DatabaseError> {
        let mut backoff = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            match self.begin_writing(Turn::Alone).await {
                Err(error) if error.is_retryable() && backoff.attempts() + 1 < MAX_ATTEMPTS => {
                    tracing::debug!(transaction = name, attempt = backoff.attempts(), "database busy, trying again");
                    self.clock.sleep(backoff.next()).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn begin_writing(&self, turn: Turn) -> Result<Transaction, DatabaseError> {
        let begun = match (self.dialect, turn) {
            (Dialect::Sqlite, _) => self.writer.begin_with("begin immediate").await,
            (Dialect::Postgres, Turn::Alone) => {
                self.writer.begin_with(sqlx::AssertSqlSafe(postgres::begin_writing())).await
            }
            (Dialect::Postgres, Turn::Beside) => self.beside.begin_with("begin isolation level read committed").await,
        };
        Ok(begun?)
    }

    async fn attempt<'env, T, E: TransactionError>(
        &self,
        turn: Turn,
        work: &mut (impl for<'c> FnMut(Tx<'c, 'env>) -> BoxFuture<'c, Result<T, E>> + Send),
    ) -> Result<T, E> {
        let mut transaction = self.begin_writing(turn).await?;
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
        let begin = match self.dialect {
            Dialect::Sqlite => "begin",
            Dialect::Postgres => "begin isolation level repeatable read, read only",
        };
        let mut transaction = self.readers.begin_with(begin).await.map_err(DatabaseError::from)?;
        let value = work(Tx::new(&mut transaction)).await?;
        transaction.rollback().await.map_err(DatabaseError::from)?;
        Ok(value)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`DatabaseError`] when it does not.
    pub async fn ping(&self) -> Result<(), DatabaseError> {
        let sql = match self.dialect {
            Dialect::Sqlite => "select 1 from sqlite_schema limit 1",
            Dialect::Postgres => "select 1",
        };
        sqlx::query(sql).fetch_optional(&self.readers).await?;
        Ok(())
    }

    /// Whether a change can be stored: writes something that leaves everything as it is.
    ///
    /// # Errors
    /// [`DatabaseError`] when it cannot, for example [`DatabaseError::Full`].
    pub async fn check_writable(&self) -> Result<(), DatabaseError> {
        let mut transaction = self.begin("check").await?;
        match self.dialect {
            Dialect::Sqlite => {
                let version: i64 = sqlx::query_scalar("pragma user_version").fetch_one(&mut *transaction).await?;
                // SQLite writes the number even if it is the same. A pragma takes no parameters.
                let write = format!("pragma user_version = {version}");
                sqlx::query(sqlx::AssertSqlSafe(write)).execute(&mut *transaction).await?;
            }
            // A transaction with a number of its own is written to the log when it commits.
            Dialect::Postgres => {
                sqlx::query("select pg_current_xact_id()::text").execute(&mut *transaction).await?;
            }
        }
        Ok(transaction.commit().await?)
    }

    /// Finishes what is going on and closes the connections. SQLite folds its log into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.beside.close().await;
        self.writer.close().await;
    }
}

/// SQLite ends a transaction by itself when the disk is full or fails. The driver goes on to believe in it, and refuses
/// every further one; such a connection is replaced.
fn pool_options(max_connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
}

#[cfg(test)]
mod tests;
