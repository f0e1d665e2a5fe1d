//! Relationships managed over the admin API, as they were written.

use std::collections::{BTreeMap, BTreeSet};

use federation_specs::id::TrustDomain;
use serde_json::{Map, Value};
use service_kit::database::Connection;
use sqlx::{Row as _, any::AnyRow};
use time::OffsetDateTime;

use super::{
    Store, StoreError, audit, changes, changes::ChangeKind, from_unix, parse_trust_domain, to_unix, unreadable,
};
use crate::{
    audit::{Action, Event, chain::canonical},
    managed::{
        definition::Stored,
        error::ManagedError,
        plan::{Kind, Plan, Request, plan},
    },
};

impl Store {
    /// Every managed relationship, by trust domain.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn managed(&self) -> Result<Vec<Stored>, StoreError> {
        let rows = sqlx::query("select trust_domain, definition, set_name, version, changed_at from managed_relationships order by trust_domain")
            .fetch_all(self.database.reader())
            .await?;
        rows.iter().map(stored).collect()
    }

    /// One managed relationship.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn managed_definition(&self, partner: &TrustDomain) -> Result<Option<Stored>, StoreError> {
        let row = sqlx::query("select trust_domain, definition, set_name, version, changed_at from managed_relationships where trust_domain = $1")
            .bind(partner.as_str())
            .fetch_optional(self.database.reader())
            .await?;
        row.as_ref().map(stored).transpose()
    }

    /// Those of `partners` that are managed relationships.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn managed_of(&self, partners: &BTreeSet<TrustDomain>) -> Result<Vec<Stored>, StoreError> {
        let all = "select trust_domain, definition, set_name, version, changed_at from managed_relationships";
        let only = "select trust_domain, definition, set_name, version, changed_at from managed_relationships
             where trust_domain = any(string_to_array($1, ','))";
        self.rows_of(all, only, Some(partners)).await?.iter().map(stored).collect()
    }

    /// Works out what `request` changes and does it, with an audit record for each relationship that changes, all or
    /// nothing. Afterwards there are at most `room` managed relationships.
    ///
    /// # Errors
    /// [`ManagedError`]; nothing changed then.
    pub async fn change_managed(&self, request: &Request, room: usize) -> Result<Plan, ManagedError> {
        let now = self.now();
        self.database
            .run_tx("change_managed", |mut connection| {
                Box::pin(async move {
                    let before = read(&mut connection, request.only()).await?;
                    let mut plan = plan(&before, request)?;
                    let count: i64 = sqlx::query_scalar("select count(*) from managed_relationships")
                        .fetch_one(&mut *connection)
                        .await?;
                    let count = usize::try_from(count).unwrap_or(usize::MAX) + plan.count(Kind::Added);
                    if plan.count(Kind::Added) > 0 && count.saturating_sub(plan.count(Kind::Removed)) > room {
                        return Err(ManagedError::TooMany);
                    }
                    if !request.dry_run {
                        write(&mut connection, now, request, &mut plan).await?;
                        for change in plan.changes.iter().filter(|change| change.kind != Kind::Unchanged) {
                            let partner = &change.trust_domain;
                            changes::note(&mut connection, &self.leases, ChangeKind::Managed, partner).await?;
                        }
                    }
                    Ok(plan)
                })
            })
            .await
    }
}

async fn read(
    connection: &mut Connection,
    only: Option<&TrustDomain>,
) -> Result<BTreeMap<TrustDomain, Stored>, StoreError> {
    let rows = sqlx::query("select trust_domain, definition, set_name, version, changed_at from managed_relationships where $1 = '' or trust_domain = $1")
        .bind(only.map(TrustDomain::as_str).unwrap_or_default())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| stored(row).map(|stored| (stored.trust_domain.clone(), stored))).collect()
}

fn stored(row: &AnyRow) -> Result<Stored, StoreError> {
    let what = "managed relationship";
    let name: String = row.try_get("trust_domain")?;
    let definition: String = row.try_get("definition")?;
    Ok(Stored {
        trust_domain: parse_trust_domain(what, &name)?,
        definition: serde_json::from_str(&definition).map_err(|cause| unreadable(what, &name, cause))?,
        set: row.try_get("set_name")?,
        version: row.try_get("version")?,
        changed_at: from_unix(row.try_get("changed_at")?),
    })
}

/// Writes the audit records of a plan, and its relationships under their numbers.
async fn write(
    connection: &mut Connection,
    now: OffsetDateTime,
    request: &Request,
    plan: &mut Plan,
) -> Result<(), StoreError> {
    let changes = plan.changes.iter_mut().filter(|change| change.kind != Kind::Unchanged);
    let mut changes: Vec<_> = changes.collect();
    let value = |shown: &Option<Map<String, Value>>| shown.clone().map(Value::Object).unwrap_or_default();
    let events: Vec<_> = changes
        .iter()
        .map(|change| Event {
            who: &request.by,
            what: match change.kind {
                Kind::Added => Action::Added,
                Kind::Removed => Action::Removed,
                Kind::Changed | Kind::Unchanged => Action::Changed,
            },
            subject: change.trust_domain.to_string(),
            before: value(&change.before),
            after: value(&change.after),
            why: &request.why,
        })
        .collect();
    let first = audit::append_all(connection, now, &events).await?;
    drop(events);
    for (change, version) in changes.iter_mut().zip(first..) {
        change.version = version;
        let partner = change.trust_domain.as_str();
        let Some(wanted) = request.wanted.get(&change.trust_domain) else {
            sqlx::query("delete from managed_relationships where trust_domain = $1")
                .bind(partner)
                .execute(&mut *connection)
                .await?;
            continue;
        };
        sqlx::query(
            "insert into managed_relationships (trust_domain, definition, set_name, version, changed_at)
             values ($1, $2, $3, $4, $5)
             on conflict (trust_domain) do update set
               definition = excluded.definition, set_name = excluded.set_name, version = excluded.version,
               changed_at = excluded.changed_at",
        )
        .bind(partner)
        .bind(canonical(&Value::Object(wanted.definition.clone())))
        .bind(&change.set)
        .bind(version)
        .bind(to_unix(now))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
