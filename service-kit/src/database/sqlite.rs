//! SQLite: one file, write-ahead log, one connection that writes.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, str::FromStr, time::Duration};

use sqlx::{AnyConnection, ConnectOptions, any::AnyConnectOptions, migrate::Migrator};
use url::Url;

use super::{DatabaseError, Pools, pool_options};

/// Permission bits of a database file made here; SQLite gives its log files the same.
const DATABASE_FILE_MODE: u32 = 0o600;

/// Connections for reading at the same time. Writing has one connection of its own.
const MAX_READERS: u32 = 8;

/// How long SQLite itself waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn open(path: &Path, migrations: &Migrator) -> Result<Pools, DatabaseError> {
    let name = path.display().to_string();
    let open = |reason: String| DatabaseError::Open { database: name.clone(), reason };
    create_file(path).map_err(|error| open(error.to_string()))?;
    let url = url(path).ok_or_else(|| open("its path cannot be made absolute".to_owned()))?;
    let options = AnyConnectOptions::from_str(&url).map_err(|error| DatabaseError::of_opening(error, &name))?;
    // Not through the pool, which would try again and again what cannot be opened.
    let opened = async {
        let mut connection = options.connect().await?;
        prepare(&mut connection, false).await?;
        Ok(connection)
    };
    let mut connection = opened.await.map_err(|error| DatabaseError::of_opening(error, &name))?;
    migrations
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| DatabaseError::of_migrating(error, &name))?;
    sqlx::Connection::close(connection).await.map_err(|error| DatabaseError::of_opening(error, &name))?;
    let writer = pool_options(1).after_connect(|connection, _| Box::pin(prepare(connection, false)));
    let readers = pool_options(MAX_READERS).after_connect(|connection, _| Box::pin(prepare(connection, true)));
    let writer = writer.connect_lazy_with(options.clone());
    Ok(Pools { name, beside: writer.clone(), writer, readers: readers.connect_lazy_with(options) })
}

/// The file as a URL: absolute, and every byte that means something in a URL escaped.
fn url(path: &Path) -> Option<String> {
    let url = Url::from_file_path(std::path::absolute(path).ok()?).ok()?;
    Some(format!("sqlite://{}?mode=rw", url.path()))
}

async fn prepare(connection: &mut AnyConnection, read_only: bool) -> Result<(), sqlx::Error> {
    let timeout = BUSY_TIMEOUT.as_millis();
    let read_only = if read_only { "on" } else { "off" };
    let pragmas = format!(
        "pragma busy_timeout = {timeout}; pragma journal_mode = wal; pragma synchronous = full; \
         pragma foreign_keys = on; pragma query_only = {read_only};"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(pragmas)).execute(connection).await?;
    Ok(())
}

fn create_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(DATABASE_FILE_MODE).open(path).map(drop)
}
