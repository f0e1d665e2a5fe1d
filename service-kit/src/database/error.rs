//! What goes wrong with a database, in the terms of those who run it.

use std::sync::Arc;

use sqlx::{error::ErrorKind, migrate::MigrateError, postgres::PgDatabaseError};

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
        /// What the database said: table and column.
        detail: String,
    },
    /// The one row asked for does not exist.
    #[error("no such row in the database")]
    NotFound,
    /// Another process or task holds the database for too long, or it does not answer in time.
    #[error("database is busy; is another program holding it, or is it overloaded?")]
    Busy,
    /// No space left.
    #[error("database cannot grow, the disk is full; free some space")]
    Full,
    /// It may not be written.
    #[error(
        "database is read-only; make its file and folder writable for this user, or use the PostgreSQL server that is \
         no standby"
    )]
    ReadOnly,
    /// Its files are damaged.
    #[error("database is damaged ({detail}); restore it from a backup")]
    Corrupted {
        /// What the database said.
        detail: String,
    },
    /// Reading or writing the file failed.
    #[error("database file cannot be read or written ({detail}); check the disk")]
    Io {
        /// What the system said.
        detail: String,
    },
    /// The connection to the server is lost or cannot be made.
    #[error("database cannot be reached ({detail}); check that the server runs and the network to it")]
    Unreachable {
        /// What the system or the server said.
        detail: String,
    },
    /// The database cannot be opened.
    #[error("database {database} cannot be opened: {reason}")]
    Open {
        /// The file, or the server and its database.
        database: String,
        /// What is wrong.
        reason: String,
    },
    /// The schema is newer than this program.
    #[error(
        "database {database} was used by a newer version of this program (schema {version}); use that version, or restore a backup made before"
    )]
    Newer {
        /// The file, or the server and its database.
        database: String,
        /// The unknown schema version.
        version: i64,
    },
    /// The schema could not be brought up to date.
    #[error("schema of database {database} cannot be brought up to date: {reason}")]
    Migration {
        /// The file, or the server and its database.
        database: String,
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

    /// The same, said of opening `database`.
    pub(super) fn of_opening(error: sqlx::Error, database: &str) -> Self {
        let reason = match Self::from(error) {
            Self::Corrupted { detail } => {
                format!("it is no database or is damaged ({detail}); restore it from a backup, or move it away")
            }
            // How a URL or a certificate cannot be used.
            Self::Other(error) => error.to_string(),
            other => other.to_string(),
        };
        Self::Open { database: database.to_owned(), reason }
    }

    /// The same, said of bringing the schema of `database` up to date.
    pub(super) fn of_migrating(error: MigrateError, database: &str) -> Self {
        let database = database.to_owned();
        match error {
            MigrateError::VersionMissing(version) => Self::Newer { database, version },
            MigrateError::VersionMismatch(version) => {
                let reason = format!("step {version} is not the one this database was made with");
                Self::Migration { database, reason }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => match Self::from(error) {
                error @ Self::Corrupted { .. } => Self::Open { database, reason: error.to_string() },
                other => Self::Migration { database, reason: other.to_string() },
            },
            other => Self::Migration { database, reason: other.to_string() },
        }
    }
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        let database = match &error {
            sqlx::Error::RowNotFound => return Self::NotFound,
            sqlx::Error::PoolTimedOut => return Self::Busy,
            // SQLite's failures of files have codes of its own: this is a connection.
            sqlx::Error::Io(error) => return Self::Unreachable { detail: error.to_string() },
            sqlx::Error::Tls(error) => return Self::Unreachable { detail: error.to_string() },
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
        let known = match database.try_downcast_ref::<PgDatabaseError>() {
            Some(postgres) => of_postgres(postgres.code(), detail),
            None => database.code().and_then(|code| of_sqlite(code.parse().ok()?, detail)),
        };
        known.unwrap_or_else(|| Self::Other(Arc::new(error)))
    }
}

/// SQLSTATE codes (PostgreSQL, appendix A).
fn of_postgres(code: &str, detail: String) -> Option<DatabaseError> {
    Some(match code {
        // Serialisation failure, deadlock, lock or statement timeout.
        "40001" | "40P01" | "55P03" | "57014" => DatabaseError::Busy,
        // Disk full.
        "53100" => DatabaseError::Full,
        // A standby, or a session that may only read.
        "25006" => DatabaseError::ReadOnly,
        "XX001" | "XX002" => DatabaseError::Corrupted { detail },
        // The session was ended; shutdown; starting; too many connections; wrong user or password; no such database.
        "25P03" | "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "28000" | "28P01" | "3D000" => {
            DatabaseError::Unreachable { detail }
        }
        code if code.starts_with("08") => DatabaseError::Unreachable { detail },
        _ => return None,
    })
}

/// The low byte of SQLite's extended result code is the primary code (sqlite3.h).
fn of_sqlite(code: i32, detail: String) -> Option<DatabaseError> {
    Some(match code & 0xff {
        5 | 6 => DatabaseError::Busy,
        8 => DatabaseError::ReadOnly,
        10 | 14 => DatabaseError::Io { detail },
        11 | 26 => DatabaseError::Corrupted { detail },
        13 => DatabaseError::Full,
        _ => return None,
    })
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
