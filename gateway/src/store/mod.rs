//! What the gateway keeps across restarts, in SQLite or PostgreSQL: one aggregate a file.

pub mod audit;
pub mod changes;
pub mod controls;
pub mod deliveries;
pub mod error;
pub mod leases;
pub mod managed;
pub mod partner_bundles;
pub mod publications;
pub mod publisher_states;
pub mod relationships;
pub mod served;
pub mod sources;
mod webhook_messages;
pub mod webhooks;

use std::collections::BTreeSet;

use federation_specs::{
    bundle_json::BundleJsonError,
    id::{IdError, TrustDomain},
};
use service_kit::{
    clock::SharedClock,
    database::{Database, Row},
};
use sqlx::migrate::Migrator;
use time::OffsetDateTime;

use crate::{replicas::leases::Leases, settings::Datastore};

pub use controls::{Basis, Decision};
pub use error::StoreError;
pub use partner_bundles::Acceptance;

/// The schema's history on SQLite. A landed step never changes; each has its counterpart on PostgreSQL.
static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");

/// The schema's history on PostgreSQL.
static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

/// The gateway's database. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    leases: Leases,
    clock: SharedClock,
}

impl Store {
    /// Opens the database, making or upgrading its schema.
    ///
    /// # Errors
    /// [`StoreError::Database`] naming the file or the server.
    pub async fn open(datastore: &Datastore, clock: SharedClock) -> Result<Self, StoreError> {
        let (database, leases) = match datastore {
            Datastore::Sqlite(path) => (Database::open(path, &SQLITE, clock.clone()).await?, Leases::alone()),
            Datastore::Postgres { server, replica_name } => {
                let database = Database::open_postgres(server, &POSTGRES, clock.clone()).await?;
                (database, Leases::shared(process_id()?, replica_name.clone()))
            }
        };
        Ok(Self { database, leases, clock })
    }

    /// Which part of the work is this gateway's.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Every row of a table by the statement `all`, or by `only` those of `names`, which only PostgreSQL understands.
    async fn rows_of(
        &self,
        all: &'static str,
        only: &'static str,
        names: Option<&BTreeSet<TrustDomain>>,
    ) -> Result<Vec<Row>, StoreError> {
        let Some(names) = names else { return Ok(sqlx::query(all).fetch_all(self.database.reader()).await?) };
        let names = names.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(",");
        Ok(sqlx::query(only).bind(names).fetch_all(self.database.reader()).await?)
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.database.ping().await?)
    }

    /// Finishes and closes the file.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

/// A name no other process has, nor had.
fn process_id() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unreadable(what: &'static str, trust_domain: &str, problem: impl ToString) -> StoreError {
    StoreError::Unreadable { what, trust_domain: trust_domain.to_owned(), problem: problem.to_string() }
}

fn parse_trust_domain(what: &'static str, name: &str) -> Result<TrustDomain, StoreError> {
    TrustDomain::parse(name).map_err(|cause: IdError| unreadable(what, name, cause))
}

fn parse_bundle(
    what: &'static str,
    name: &str,
    document: &[u8],
) -> Result<federation_specs::bundle::Bundle, StoreError> {
    let trust_domain = parse_trust_domain(what, name)?;
    let parsed = federation_specs::bundle_json::parse(&trust_domain, document)
        .map_err(|cause: BundleJsonError| unreadable(what, name, cause))?;
    Ok(parsed.bundle)
}

fn from_unix(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn to_unix(time: OffsetDateTime) -> i64 {
    time.unix_timestamp()
}

/// Sequences are stored as the signed integers SQL has; the bits stay the same.
fn to_sql(sequence: u64) -> i64 {
    i64::from_ne_bytes(sequence.to_ne_bytes())
}

fn from_sql(sequence: i64) -> u64 {
    u64::from_ne_bytes(sequence.to_ne_bytes())
}

#[cfg(test)]
mod tests;
