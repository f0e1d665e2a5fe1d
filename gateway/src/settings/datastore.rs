//! Where the gateway keeps its data.

use std::path::{Path, PathBuf};

use service_kit::database::{MAX_CONNECTIONS, MIN_CONNECTIONS, PostgresServer};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    error::{SettingsError, error},
    values::non_empty,
};
use crate::config;

/// Name of the SQLite database inside the data folder.
const FILE_NAME: &str = "gateway.sqlite3";

/// Longest name of a replica.
const MAX_NAME_BYTES: usize = 128;

/// Longest password.
const MAX_PASSWORD_BYTES: usize = 1024;

/// The database.
#[derive(Debug, Clone)]
pub enum Datastore {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database on a PostgreSQL server.
    Postgres {
        /// Which, and how it is reached.
        server: PostgresServer,
        /// What this gateway is called among those that share it.
        replica_name: String,
    },
}

pub(super) fn datastore(datastore: &config::Datastore, data_dir: &Path) -> Result<Datastore, SettingsError> {
    match datastore {
        config::Datastore::Sqlite { path: None } => Ok(Datastore::Sqlite(data_dir.join(FILE_NAME))),
        config::Datastore::Sqlite { path: Some(path) } => {
            Ok(Datastore::Sqlite(non_empty("datastore.sqlite.path", path)?))
        }
        config::Datastore::Postgres { url, password_file, max_connections, replica_name } => {
            if !(MIN_CONNECTIONS..=MAX_CONNECTIONS).contains(max_connections) {
                return Err(error(
                    "datastore.postgres.max_connections",
                    format!("is {max_connections}; use {MIN_CONNECTIONS} to {MAX_CONNECTIONS}"),
                ));
            }
            let password = password_file.as_deref().map(read_password).transpose()?;
            let server = PostgresServer::new(url, password, *max_connections);
            let server = server.map_err(|problem| error("datastore.postgres.url", problem.to_string()))?;
            let replica_name = match replica_name {
                None => host_name(),
                Some(name) if (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control) => {
                    name.clone()
                }
                Some(_) => {
                    return Err(error(
                        "datastore.postgres.replica_name",
                        format!("has to be 1 to {MAX_NAME_BYTES} bytes without control characters; or leave it out"),
                    ));
                }
            };
            Ok(Datastore::Postgres { server, replica_name })
        }
    }
}

/// The machine's, or the pod's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "gateway".to_owned() } else { name.to_owned() }
}

/// The first line: editors and secret stores add a line break.
fn read_password(path: &Path) -> Result<Zeroizing<String>, SettingsError> {
    let key = "datastore.postgres.password_file";
    let wrong = |problem: &str| error(key, format!("{} {problem}", path.display()));
    let mut text =
        Zeroizing::new(std::fs::read_to_string(path).map_err(|cause| wrong(&format!("cannot be read: {cause}")))?);
    let end = text.find(['\r', '\n']).unwrap_or(text.len());
    let password = Zeroizing::new(text.get(..end).unwrap_or_default().to_owned());
    text.zeroize();
    match password.len() {
        0 => Err(wrong("is empty; write the password into it")),
        length if length > MAX_PASSWORD_BYTES => {
            Err(wrong(&format!("holds a line of {length} bytes; use at most {MAX_PASSWORD_BYTES}")))
        }
        _ => Ok(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(password: &str) -> Result<Datastore, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, password).unwrap();
        let url = "postgres://entente@127.0.0.1/entente".to_owned();
        let postgres =
            config::Datastore::Postgres { url, password_file: Some(path), max_connections: 10, replica_name: None };
        datastore(&postgres, folder.path())
    }

    #[test]
    fn sqlite_in_the_data_folder_is_the_default() {
        let data_dir = Path::new("/var/lib/entente");
        let Datastore::Sqlite(path) = datastore(&config::Datastore::default(), data_dir).unwrap() else { panic!() };
        assert_eq!(path, data_dir.join("gateway.sqlite3"));
        let elsewhere = config::Datastore::Sqlite { path: Some("/srv/gateway.db".into()) };
        let Datastore::Sqlite(path) = datastore(&elsewhere, data_dir).unwrap() else { panic!() };
        assert_eq!(path, Path::new("/srv/gateway.db"));
    }

    #[test]
    fn the_password_is_the_first_line_and_is_shown_nowhere() {
        let store = postgres("s3cret\r\nsecond line\n").unwrap();
        assert!(matches!(store, Datastore::Postgres { .. }));
        assert!(!format!("{store:?}").contains("s3cret"));
        assert!(postgres("\n").unwrap_err().to_string().contains("is empty; write the password into it"));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let refused = |url: &str, max_connections| {
            let postgres = config::Datastore::Postgres {
                url: url.to_owned(),
                password_file: None,
                max_connections,
                replica_name: None,
            };
            datastore(&postgres, Path::new("/data")).unwrap_err().to_string()
        };
        let error = refused("postgres://u:p@db.example/e", 10);
        assert!(error.starts_with("datastore.postgres.url: holds a password"), "{error}");
        let error = refused("postgres://u@db.example/e", 1);
        assert_eq!(error, "datastore.postgres.max_connections: is 1; use 3 to 1000");
    }
}
