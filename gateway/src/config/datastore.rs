//! Where the gateway keeps its data.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

/// Connections of one gateway to PostgreSQL unless configured.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 10;

/// The database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Datastore {
    /// SQLite, embedded: for one gateway.
    Sqlite {
        /// The file; `gateway.sqlite3` in the data folder unless given.
        #[serde(default)]
        path: Option<PathBuf>,
    },
    /// PostgreSQL 15 or newer: for one gateway or several that share the work.
    Postgres {
        /// `postgres://user@host:5432/database?sslmode=verify-full&sslrootcert=/path/to/ca.pem`, without password.
        url: String,
        /// File with the password; without it PGPASSWORD or `~/.pgpass` is used.
        #[serde(default)]
        password_file: Option<PathBuf>,
        /// Most connections this gateway holds.
        #[serde(default = "default_max_connections")]
        max_connections: u32,
        /// What this gateway is called among those that share the database; the host name unless given.
        #[serde(default)]
        replica_name: Option<String>,
    },
}

impl Default for Datastore {
    fn default() -> Self {
        Self::Sqlite { path: None }
    }
}

fn default_max_connections() -> u32 {
    DEFAULT_MAX_CONNECTIONS
}
