//! What other gateways on the same database changed: each notes what it wrote, in the transaction that writes it, and
//! reads what others noted since it last looked. A gateway that is alone notes nothing.

use std::collections::{BTreeSet, HashMap};

use federation_specs::id::TrustDomain;
use service_kit::database::Connection;
use sqlx::Row as _;

use super::{Store, StoreError, parse_trust_domain};
use crate::replicas::leases::Leases;

/// Changes read at once.
const MAX_PAGE: i64 = 1000;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The state of a relationship, by partner.
    State,
    /// What was decided about a relationship, the bundle in force included, by partner.
    Decision,
    /// Deliveries to an issuer, by its trust domain.
    Delivery,
    /// The own bundle of a served trust domain.
    Own,
    /// A managed relationship, by partner.
    Managed,
}

impl ChangeKind {
    const ALL: [Self; 5] = [Self::State, Self::Decision, Self::Delivery, Self::Own, Self::Managed];

    fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Decision => "decision",
            Self::Delivery => "delivery",
            Self::Own => "own",
            Self::Managed => "managed",
        }
    }
}

/// What others changed, up to and including a number.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The last number read.
    pub latest: i64,
    /// Names by kind.
    pub names: HashMap<&'static str, BTreeSet<TrustDomain>>,
    /// Decisions this gateway stored itself, by partner: the number of each. Those it does not know of are news to it, as
    /// the answer to a commit may be lost.
    pub own_decisions: HashMap<TrustDomain, i64>,
}

impl Changes {
    /// The names of one kind.
    pub fn of(&self, kind: ChangeKind) -> BTreeSet<TrustDomain> {
        self.names.get(kind.as_str()).cloned().unwrap_or_default()
    }
}

impl Store {
    /// Number of the last change.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn latest_change(&self) -> Result<i64, StoreError> {
        let latest = sqlx::query_scalar("select coalesce(max(number), 0) from changes");
        Ok(latest.fetch_one(self.database.reader()).await?)
    }

    /// What others changed after number `after`, at most a page of it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn changes_after(&self, after: i64) -> Result<Changes, StoreError> {
        let me = self.leases.replica().unwrap_or_default();
        let rows =
            sqlx::query("select kind, name, number, replica from changes where number > $1 order by number limit $2")
                .bind(after)
                .bind(MAX_PAGE)
                .fetch_all(self.database.reader())
                .await?;
        let mut changes = Changes { latest: after, ..Changes::default() };
        for row in rows {
            changes.latest = row.try_get("number")?;
            let kind: String = row.try_get("kind")?;
            // Those of a newer version are nothing this one knows about.
            let Some(kind) = ChangeKind::ALL.into_iter().find(|known| known.as_str() == kind) else { continue };
            let mine = row.try_get::<String, _>("replica")? == me;
            if mine && kind != ChangeKind::Decision {
                continue;
            }
            let name = parse_trust_domain("change", row.try_get("name")?)?;
            if mine {
                changes.own_decisions.insert(name, changes.latest);
            } else {
                changes.names.entry(kind.as_str()).or_default().insert(name);
            }
        }
        Ok(changes)
    }

    /// Numbers of the last decisions about some partners.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn decision_numbers_of(
        &self,
        partners: &BTreeSet<TrustDomain>,
    ) -> Result<HashMap<TrustDomain, i64>, StoreError> {
        self.read_numbers(Some(partners)).await
    }

    /// Numbers of the last decisions about each partner.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn decision_numbers(&self) -> Result<HashMap<TrustDomain, i64>, StoreError> {
        self.read_numbers(None).await
    }

    async fn read_numbers(
        &self,
        partners: Option<&BTreeSet<TrustDomain>>,
    ) -> Result<HashMap<TrustDomain, i64>, StoreError> {
        let all = "select name, number from changes where kind = 'decision'";
        let only = "select name, number from changes where kind = 'decision' and name = any(string_to_array($1, ','))";
        let rows = self.rows_of(all, only, partners).await?;
        rows.into_iter()
            .map(|row| Ok((parse_trust_domain("change", row.try_get("name")?)?, row.try_get("number")?)))
            .collect()
    }
}

/// Notes a change within the caller's writing transaction. Answers its number; 0 where nobody else looks.
pub(super) async fn note(
    connection: &mut Connection,
    leases: &Leases,
    kind: ChangeKind,
    name: &TrustDomain,
) -> Result<i64, StoreError> {
    let Some(replica) = leases.replica() else { return Ok(0) };
    let number = sqlx::query_scalar(
        "insert into changes (kind, name, number, replica) values ($1, $2, nextval('change_numbers'), $3)
         on conflict (kind, name) do update set number = excluded.number, replica = excluded.replica returning number",
    )
    .bind(kind.as_str())
    .bind(name.as_str())
    .bind(replica)
    .fetch_one(connection)
    .await?;
    Ok(number)
}

/// Refuses to go on if a decision about `partner` was taken that its author did not know: `seen` is the number of the
/// last one it knew.
pub(super) async fn unchanged_since(
    connection: &mut Connection,
    leases: &Leases,
    partner: &TrustDomain,
    seen: i64,
) -> Result<(), StoreError> {
    if !leases.are_shared() {
        return Ok(());
    }
    let number: Option<i64> = sqlx::query_scalar("select number from changes where kind = $1 and name = $2")
        .bind(ChangeKind::Decision.as_str())
        .bind(partner.as_str())
        .fetch_optional(connection)
        .await?;
    if number.unwrap_or_default() == seen {
        return Ok(());
    }
    Err(StoreError::Changed { trust_domain: partner.to_string() })
}
