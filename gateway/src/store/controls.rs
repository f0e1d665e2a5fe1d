//! Decisions about relationships: what was decided, what it changes and its audit record, in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use federation_specs::id::TrustDomain;
use service_kit::database::Connection;
use sqlx::Row as _;

use super::{
    Store, StoreError, audit, changes, changes::ChangeKind, from_sql, from_unix, leases, parse_bundle,
    parse_trust_domain, partner_bundles, partner_bundles::Acceptance, relationships, relationships::RefreshState,
    to_sql, to_unix, unreadable,
};
use crate::{
    audit::Event,
    refresh::control::{Control, Frozen, Offer, OfferReason},
};

/// A decision about one relationship.
#[derive(Debug)]
pub struct Decision<'a> {
    /// The partner.
    pub partner: &'a TrustDomain,
    /// A bundle that comes in force.
    pub acceptance: Option<Acceptance<'a>>,
    /// The relationship's state, if it changes with it.
    pub state: Option<&'a RefreshState>,
    /// How the relationship is held from now on.
    pub control: &'a Control,
    /// What happened.
    pub event: &'a Event<'a>,
}

/// What a decision rests on, where several gateways share the database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Basis {
    /// Number of the last decision about the relationship its author knew of; checked if it is `Some`.
    pub seen: Option<i64>,
    /// Whether only the gateway that works on the relationship may take it.
    pub by_holder: bool,
}

impl Store {
    /// Stores a decision, all or nothing. Answers its number.
    ///
    /// # Errors
    /// [`StoreError::Database`], and what [`Basis`] is about: [`StoreError::Changed`], [`StoreError::LeaseLost`];
    /// nothing changed then.
    pub async fn decide(&self, decision: &Decision<'_>, basis: Basis) -> Result<i64, StoreError> {
        let now = self.now();
        self.database
            .run_tx("decide", |mut connection| {
                Box::pin(async move {
                    let (partner, leases) = (decision.partner, &self.leases);
                    if basis.by_holder {
                        leases::guard(&mut connection, leases, partner).await?;
                    }
                    if let Some(seen) = basis.seen {
                        changes::unchanged_since(&mut connection, leases, partner, seen).await?;
                    }
                    if let Some(acceptance) = decision.acceptance {
                        partner_bundles::put_in_force(&mut connection, acceptance).await?;
                    }
                    if let Some(state) = decision.state {
                        relationships::upsert(&mut connection, decision.partner, state).await?;
                        changes::note(&mut connection, leases, ChangeKind::State, partner).await?;
                    }
                    upsert(&mut connection, decision.partner, decision.control).await?;
                    write_offer(&mut connection, decision.partner, decision.control.offer.as_deref()).await?;
                    audit::append(&mut connection, now, decision.event).await?;
                    changes::note(&mut connection, leases, ChangeKind::Decision, partner).await
                })
            })
            .await
    }

    /// What was decided about every relationship there is or was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn controls(&self) -> Result<HashMap<TrustDomain, Control>, StoreError> {
        self.read_controls(None).await
    }

    /// What was decided about some of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn controls_of(
        &self,
        partners: &BTreeSet<TrustDomain>,
    ) -> Result<HashMap<TrustDomain, Control>, StoreError> {
        self.read_controls(Some(partners)).await
    }

    async fn read_controls(
        &self,
        partners: Option<&BTreeSet<TrustDomain>>,
    ) -> Result<HashMap<TrustDomain, Control>, StoreError> {
        let mut controls = HashMap::new();
        let all = "select * from relationship_controls";
        let only = "select * from relationship_controls where trust_domain = any(string_to_array($1, ','))";
        let rows = self.rows_of(all, only, partners).await?;
        for row in rows {
            let partner = parse_trust_domain("relationship", row.try_get("trust_domain")?)?;
            let frozen = match row.try_get::<Option<i64>, _>("frozen_at")? {
                None => None,
                Some(at) => Some(Frozen {
                    at: from_unix(at),
                    by: row.try_get::<Option<String>, _>("frozen_by")?.unwrap_or_default(),
                    why: row.try_get::<Option<String>, _>("frozen_why")?.unwrap_or_default(),
                }),
            };
            let control = Control {
                highest_sequence: row.try_get::<Option<i64>, _>("highest_sequence")?.map(from_sql),
                frozen,
                offer: None,
                expired_at: row.try_get::<Option<i64>, _>("expired_at")?.map(from_unix),
                refused_rollback: row.try_get("refused_rollback")?,
            };
            controls.insert(partner, control);
        }
        let all = "select * from offered_bundles";
        let only = "select * from offered_bundles where trust_domain = any(string_to_array($1, ','))";
        let rows = self.rows_of(all, only, partners).await?;
        for row in rows {
            let name: String = row.try_get("trust_domain")?;
            let document: Vec<u8> = row.try_get("document")?;
            let reason: String = row.try_get("reason")?;
            let offer = Offer {
                bundle: Arc::new(parse_bundle("offered bundle", &name, &document)?),
                document: document.into(),
                digest: row.try_get("digest")?,
                source_url: row.try_get("source_url")?,
                offered_at: from_unix(row.try_get("offered_at")?),
                reason: OfferReason::from_name(&reason).ok_or_else(|| unreadable("offered bundle", &name, &reason))?,
                rejected_at: row.try_get::<Option<i64>, _>("rejected_at")?.map(from_unix),
            };
            let partner = parse_trust_domain("offered bundle", &name)?;
            controls.entry(partner).or_default().offer = Some(Arc::new(offer));
        }
        Ok(controls)
    }
}

async fn upsert(connection: &mut Connection, partner: &TrustDomain, control: &Control) -> Result<(), StoreError> {
    let frozen = control.frozen.as_ref();
    sqlx::query(
        "insert into relationship_controls
           (trust_domain, highest_sequence, frozen_at, frozen_by, frozen_why, expired_at, refused_rollback)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (trust_domain) do update set
           highest_sequence = excluded.highest_sequence, frozen_at = excluded.frozen_at,
           frozen_by = excluded.frozen_by, frozen_why = excluded.frozen_why, expired_at = excluded.expired_at,
           refused_rollback = excluded.refused_rollback",
    )
    .bind(partner.as_str())
    .bind(control.highest_sequence.map(to_sql))
    .bind(frozen.map(|frozen| to_unix(frozen.at)))
    .bind(frozen.map(|frozen| frozen.by.as_str()))
    .bind(frozen.map(|frozen| frozen.why.as_str()))
    .bind(control.expired_at.map(to_unix))
    .bind(&control.refused_rollback)
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_offer(
    connection: &mut Connection,
    partner: &TrustDomain,
    offer: Option<&Offer>,
) -> Result<(), StoreError> {
    let Some(offer) = offer else {
        sqlx::query("delete from offered_bundles where trust_domain = $1")
            .bind(partner.as_str())
            .execute(connection)
            .await?;
        return Ok(());
    };
    let document: &[u8] = &offer.document;
    sqlx::query(
        "insert into offered_bundles (trust_domain, offered_at, reason, rejected_at, digest, source_url, document)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (trust_domain) do update set
           offered_at = excluded.offered_at, reason = excluded.reason, rejected_at = excluded.rejected_at,
           digest = excluded.digest, source_url = excluded.source_url, document = excluded.document",
    )
    .bind(partner.as_str())
    .bind(to_unix(offer.offered_at))
    .bind(offer.reason.as_str())
    .bind(offer.rejected_at.map(to_unix))
    .bind(&offer.digest)
    .bind(&offer.source_url)
    .bind(document)
    .execute(connection)
    .await?;
    Ok(())
}
