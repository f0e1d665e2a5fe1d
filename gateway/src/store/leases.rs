//! Leases of gateways that share a database. Expiry is judged by the database's clock alone.

use std::{collections::BTreeSet, time::Duration};

use federation_specs::id::TrustDomain;
use service_kit::database::Connection;
use sqlx::Row as _;

use super::{Store, StoreError};
use crate::replicas::{leases::Leases, shards::shard_of};

/// Now in Unix milliseconds, as the database counts.
macro_rules! now {
    () => {
        "(extract(epoch from clock_timestamp()) * 1000)::bigint"
    };
}

/// Replicas that are gone for so long are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// One part of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Which.
    pub shard: u16,
    /// Who has it, dead or alive.
    pub holder: Option<String>,
    /// Grows with each holder.
    pub fencing: i64,
}

/// The leases as they are now.
#[derive(Debug, Clone, Default)]
pub struct LeaseTable {
    /// Replicas that are alive: ID and name.
    pub live: Vec<(String, String)>,
    /// Every part.
    pub leases: Vec<LeaseRecord>,
}

impl Store {
    /// Says that this replica is alive for another `lease`, if it is `Some`, and reads all leases.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn heartbeat(
        &self,
        id: &str,
        name: &str,
        lease: Option<Duration>,
    ) -> Result<LeaseTable, StoreError> {
        self.database
            .run_beside("heartbeat", |mut connection| {
                Box::pin(async move {
                    if let Some(lease) = lease {
                        sqlx::query(concat!(
                            "insert into replicas (id, name, started_at, expires_at) values ($1, $2, ",
                            now!(),
                            ", ",
                            now!(),
                            " + $3) on conflict (id) do update set expires_at = excluded.expires_at"
                        ))
                        .bind(id)
                        .bind(name)
                        .bind(millis(lease))
                        .execute(&mut *connection)
                        .await?;
                        sqlx::query(concat!("delete from replicas where expires_at < ", now!(), " - $1"))
                            .bind(millis(FORGET_AFTER))
                            .execute(&mut *connection)
                            .await?;
                    }
                    read(&mut connection).await
                })
            })
            .await
    }

    /// Takes those of `shards` that nobody alive has.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn acquire_leases(&self, id: &str, shards: &BTreeSet<u16>) -> Result<(), StoreError> {
        let list = &list(shards);
        self.database
            .run_beside("acquire_leases", |mut connection| {
                Box::pin(async move {
                    sqlx::query(concat!(
                        "update leases set holder = $1, fencing = fencing + 1
                         where shard = any(string_to_array($2, ',')::bigint[]) and (holder is null or not exists (
                           select 1 from replicas where replicas.id = leases.holder and replicas.expires_at > ",
                        now!(),
                        "))"
                    ))
                    .bind(id)
                    .bind(list)
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Takes one part, whoever has it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn take_lease(&self, id: &str, shard: u16) -> Result<(), StoreError> {
        self.database
            .run_beside("take_lease", |mut connection| {
                Box::pin(async move {
                    sqlx::query(
                        "update leases set holder = $1, fencing = fencing + 1
                         where shard = $2 and holder is distinct from $1",
                    )
                    .bind(id)
                    .bind(i64::from(shard))
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Gives parts back.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn release_leases(&self, id: &str, shards: &BTreeSet<u16>) -> Result<(), StoreError> {
        let list = &list(shards);
        self.database
            .run_beside("release_leases", |mut connection| {
                Box::pin(async move {
                    sqlx::query(
                        "update leases set holder = null
                         where shard = any(string_to_array($2, ',')::bigint[]) and holder = $1",
                    )
                    .bind(id)
                    .bind(list)
                    .execute(&mut *connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Gives everything back at once: this replica ends. Nothing happens where no other replica can be.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn leave(&self) -> Result<(), StoreError> {
        let Some(id) = self.leases.replica() else { return Ok(()) };
        self.database
            .run_beside("leave", |mut connection| {
                Box::pin(async move {
                    let release = sqlx::query("update leases set holder = null where holder = $1").bind(id);
                    release.execute(&mut *connection).await?;
                    sqlx::query("delete from replicas where id = $1").bind(id).execute(&mut *connection).await?;
                    Ok(())
                })
            })
            .await
    }
}

async fn read(connection: &mut Connection) -> Result<LeaseTable, StoreError> {
    let mut table = LeaseTable::default();
    let rows = sqlx::query(concat!("select id, name from replicas where expires_at > ", now!(), " order by id"))
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        table.live.push((row.try_get("id")?, row.try_get("name")?));
    }
    let rows = sqlx::query("select shard, holder, fencing from leases order by shard").fetch_all(connection).await?;
    for row in rows {
        let shard = u16::try_from(row.try_get::<i64, _>("shard")?).unwrap_or(u16::MAX);
        table.leases.push(LeaseRecord { shard, holder: row.try_get("holder")?, fencing: row.try_get("fencing")? });
    }
    Ok(table)
}

/// Refuses to go on unless this replica has the lease of what belongs to `name`, and keeps it until the transaction
/// ends. To be called in every transaction that stores what the holder of the lease found out.
pub(super) async fn guard(connection: &mut Connection, leases: &Leases, name: &TrustDomain) -> Result<(), StoreError> {
    let Some(id) = leases.replica() else { return Ok(()) };
    let lost = || StoreError::LeaseLost { trust_domain: name.to_string() };
    let fencing = leases.fencing(name).ok_or_else(lost)?;
    let row = sqlx::query("select 1 from leases where shard = $1 and holder = $2 and fencing = $3 for share")
        .bind(i64::from(shard_of(name)))
        .bind(id)
        .bind(fencing)
        .fetch_optional(connection)
        .await?;
    row.map(drop).ok_or_else(lost)
}

fn list(shards: &BTreeSet<u16>) -> String {
    shards.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
