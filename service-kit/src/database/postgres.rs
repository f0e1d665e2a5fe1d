//! PostgreSQL: one database on a server, used by several processes at a time.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use sqlx::{AnyConnection, ConnectOptions, any::AnyConnectOptions, migrate::Migrator};
use url::Url;
use zeroize::Zeroizing;

use super::{DatabaseError, Pools, pool_options};

/// Oldest server version this is tested with, as `server_version_num` counts.
const OLDEST_VERSION: i64 = 150_000;

/// A statement that takes longer is given up, waiting for locks included.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// A transaction whose process says nothing for so long is ended by the server, so that a process that stopped in the
/// middle of one holds nobody else up.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// Fewest connections: one that writes, one for leases, one that reads.
pub const MIN_CONNECTIONS: u32 = 3;

/// Most connections.
pub const MAX_CONNECTIONS: u32 = 1000;

/// Parameters of the URL that are understood; the others would be ignored silently.
const PARAMETERS: [&str; 8] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "application_name", "statement-cache-capacity"];

/// The key of the lock that makes writing transactions of all processes follow each other ("entente" in ASCII). Such
/// locks belong to one database.
const WRITER_LOCK: i64 = 0x65_6e74_656e_7465;

/// Begins a writing transaction: it waits until no other process has one open. Under that lock nobody else changes what
/// its statements read, and none fails for having raced with another.
pub(super) fn begin_writing() -> String {
    format!("begin isolation level read committed; select pg_advisory_xact_lock({WRITER_LOCK})")
}

/// Why a server's URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresUrlError {
    /// It is no URL.
    #[error("is not a URL ({0}); write postgres://user@host:5432/database")]
    Syntax(String),
    /// It is the URL of something else.
    #[error("is not a PostgreSQL URL; write postgres://user@host:5432/database")]
    Scheme,
    /// It names no server.
    #[error("names no host; write postgres://user@host:5432/database, or postgres://user@%2Frun%2Fpostgresql/database")]
    Host,
    /// It names no user or database.
    #[error("names no {0}; write postgres://user@host:5432/database")]
    Missing(&'static str),
    /// It holds the password, which would then be in a file that others may read.
    #[error("holds a password; take it out and use password_file, or the environment variable PGPASSWORD")]
    Password,
    /// A parameter nobody knows.
    #[error("has the unknown parameter `{0}`; known are {known}", known = PARAMETERS.join(", "))]
    Parameter(String),
}

/// A database on a PostgreSQL server and how to reach it.
#[derive(Clone)]
pub struct PostgresServer {
    url: Url,
    password: Option<Zeroizing<String>>,
    max_connections: u32,
}

impl PostgresServer {
    /// Checks `url` (`postgres://user@host:port/database?sslmode=…`). A server on another machine is asked for TLS and
    /// its name verified (`verify-full`), unless the URL says otherwise. Without `password` those of libpq are used:
    /// `PGPASSWORD`, then `~/.pgpass`. `max_connections` is brought into its bounds.
    ///
    /// # Errors
    /// [`PostgresUrlError`].
    pub fn new(url: &str, password: Option<Zeroizing<String>>, max_connections: u32) -> Result<Self, PostgresUrlError> {
        let mut url = Url::parse(url).map_err(|error| PostgresUrlError::Syntax(error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(PostgresUrlError::Scheme);
        }
        let mut host = url.host_str().map(str::to_owned);
        let mut tls_chosen = false;
        for (key, value) in url.query_pairs() {
            match &*key {
                "password" => return Err(PostgresUrlError::Password),
                key if !PARAMETERS.contains(&key) => return Err(PostgresUrlError::Parameter(key.to_owned())),
                "host" => host = Some(value.into_owned()),
                "sslmode" => tls_chosen = true,
                _ => {}
            }
        }
        if url.password().is_some() {
            return Err(PostgresUrlError::Password);
        }
        let host = host.filter(|host| !host.is_empty()).ok_or(PostgresUrlError::Host)?;
        if url.username().is_empty() {
            return Err(PostgresUrlError::Missing("user"));
        }
        if url.path().trim_start_matches('/').is_empty() {
            return Err(PostgresUrlError::Missing("database"));
        }
        if !tls_chosen && !is_local(&host) {
            url.query_pairs_mut().append_pair("sslmode", "verify-full");
        }
        Ok(Self { url, password, max_connections: max_connections.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS) })
    }

    fn options(&self) -> Result<AnyConnectOptions, sqlx::Error> {
        let mut url = self.url.clone();
        if let Some(password) = &self.password {
            // Only URLs without host refuse a password, and those name a socket by parameter.
            if url.set_password(Some(password)).is_err() {
                url.query_pairs_mut().append_pair("password", password);
            }
        }
        AnyConnectOptions::from_url(&url)
    }
}

/// Without the password.
impl fmt::Display for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max_connections = self.max_connections;
        f.debug_struct("PostgresServer")
            .field("url", &self.url.as_str())
            .field("max_connections", &max_connections)
            .finish_non_exhaustive()
    }
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A path, percent-encoded or not, is a socket.
    host == "localhost"
        || host.starts_with('/')
        || host.to_ascii_lowercase().starts_with("%2f")
        || IpAddr::from_str(host).is_ok_and(|address| address.is_loopback())
}

pub(super) async fn open(server: &PostgresServer, migrations: &Migrator) -> Result<Pools, DatabaseError> {
    let name = server.to_string();
    let opening = |error: sqlx::Error| DatabaseError::of_opening(error, &name);
    let options = server.options().map_err(opening)?;
    // Not through the pool, which would try again and again what cannot be opened.
    let mut connection = options.connect().await.map_err(opening)?;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::integer")
        .fetch_one(&mut connection)
        .await
        .map_err(opening)?;
    if i64::from(version) < OLDEST_VERSION {
        let reason = format!("the server is PostgreSQL {}; use 15 or newer", version / 10_000);
        return Err(DatabaseError::Open { database: name, reason });
    }
    // A step of the schema may take longer than any statement of the service.
    migrations
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| DatabaseError::of_migrating(error, &name))?;
    sqlx::Connection::close(connection).await.map_err(opening)?;
    let pool = |connections: u32, read_only: bool| {
        let pool =
            pool_options(connections).after_connect(move |connection, _| Box::pin(prepare(connection, read_only)));
        pool.connect_lazy_with(options.clone())
    };
    // One writes, one stands beside, the others read.
    let readers = pool(server.max_connections - 2, true);
    Ok(Pools { writer: pool(1, false), beside: pool(1, false), readers, name })
}

async fn prepare(connection: &mut AnyConnection, read_only: bool) -> Result<(), sqlx::Error> {
    let (statement, idle) = (STATEMENT_TIMEOUT.as_millis(), IDLE_IN_TRANSACTION.as_millis());
    let read_only = if read_only { "on" } else { "off" };
    let settings = format!(
        "set statement_timeout = {statement}; set idle_in_transaction_session_timeout = {idle}; \
         set default_transaction_read_only = {read_only};"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<PostgresServer, PostgresUrlError> {
        PostgresServer::new(url, Some(Zeroizing::new("s3cr:et/@".to_owned())), 10)
    }

    #[test]
    fn a_server_elsewhere_is_verified_unless_the_url_says_otherwise() {
        for (url, expected) in [
            ("postgres://u@db.example/e", "postgres://u@db.example/e?sslmode=verify-full"),
            ("postgres://u@10.0.0.1:5433/e", "postgres://u@10.0.0.1:5433/e?sslmode=verify-full"),
            ("postgresql://u@db.example/e?sslmode=disable", "postgresql://u@db.example/e?sslmode=disable"),
            ("postgres://u@127.0.0.1/e", "postgres://u@127.0.0.1/e"),
            ("postgres://u@[::1]/e", "postgres://u@[::1]/e"),
            ("postgres://u@localhost/e", "postgres://u@localhost/e"),
            ("postgres://u@%2Frun%2Fpostgresql/e", "postgres://u@%2Frun%2Fpostgresql/e"),
        ] {
            assert_eq!(server(url).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (url, expected) in [
            ("db.example", "is not a URL"),
            ("mysql://u@db.example/e", "is not a PostgreSQL URL"),
            ("postgres:///e", "names no host"),
            ("postgres://db.example/e", "names no user"),
            ("postgres://u@db.example", "names no database"),
            ("postgres://u:p@db.example/e", "holds a password"),
            ("postgres://u@db.example/e?password=p", "holds a password"),
            ("postgres://u@db.example/e?sslmod=disable", "unknown parameter `sslmod`"),
        ] {
            let error = server(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
        }
    }

    #[test]
    fn the_password_is_given_to_the_driver_only() {
        let server = server("postgres://u@db.example/e").unwrap();
        assert_eq!(server.options().unwrap().database_url.password(), Some("s3cr%3Aet%2F%40"));
        assert!(!format!("{server:?} {server}").contains("s3cr"));
    }
}
