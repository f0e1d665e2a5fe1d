//! How each relationship is doing, and the relationships created at issuers as last seen there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use federation_specs::{
    bundle_json,
    id::{SpiffeId, TrustDomain},
    profile::{EndpointProfile, EndpointUrl},
};
use serde_json::{Value, json};
use service_kit::database::Connection;
use sqlx::Row as _;
use time::OffsetDateTime;

use super::{
    Store, StoreError, audit, changes, changes::ChangeKind, from_unix, leases, parse_bundle, parse_trust_domain,
    to_unix, unreadable,
};
use crate::{
    audit::{Action, Actor, Event},
    refresh::relationship::IssuerRelationship,
};

/// The state of one relationship.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefreshState {
    /// When a fetch was last tried.
    pub last_attempt: Option<OffsetDateTime>,
    /// When the partner last answered with an acceptable bundle, changed or not.
    pub last_success: Option<OffsetDateTime>,
    /// When the partner last served the bundle in force, or one with the same keys.
    pub confirmed_at: Option<OffsetDateTime>,
    /// When the next fetch is due.
    pub next_refresh: Option<OffsetDateTime>,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Entity tag of the last accepted answer.
    pub etag: Option<String>,
    /// The URL that gave it.
    pub etag_url: Option<String>,
    /// Digest of the bundle that answer stood for.
    pub etag_digest: Option<String>,
    /// Content digest of the bootstrap bundle at the last success.
    pub bootstrap_digest: Option<String>,
}

impl Store {
    /// The state of every relationship there is or was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn refresh_states(&self) -> Result<HashMap<TrustDomain, RefreshState>, StoreError> {
        self.read_states(None).await
    }

    /// The states of some relationships.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn refresh_states_of(
        &self,
        partners: &BTreeSet<TrustDomain>,
    ) -> Result<HashMap<TrustDomain, RefreshState>, StoreError> {
        self.read_states(Some(partners)).await
    }

    async fn read_states(
        &self,
        partners: Option<&BTreeSet<TrustDomain>>,
    ) -> Result<HashMap<TrustDomain, RefreshState>, StoreError> {
        let all = "select * from relationships";
        let only = "select * from relationships where trust_domain = any(string_to_array($1, ','))";
        let rows = self.rows_of(all, only, partners).await?;
        rows.into_iter()
            .map(|row| {
                let trust_domain = parse_trust_domain("relationship", row.try_get("trust_domain")?)?;
                let time = |column: &str| row.try_get::<Option<i64>, _>(column).map(|time| time.map(from_unix));
                let state = RefreshState {
                    last_attempt: time("last_attempt")?,
                    last_success: time("last_success")?,
                    confirmed_at: time("confirmed_at")?,
                    next_refresh: time("next_refresh")?,
                    last_error: row.try_get("last_error")?,
                    consecutive_failures: u32::try_from(row.try_get::<i64, _>("consecutive_failures")?)
                        .unwrap_or(u32::MAX),
                    etag: row.try_get("etag")?,
                    etag_url: row.try_get("etag_url")?,
                    etag_digest: row.try_get("etag_digest")?,
                    bootstrap_digest: row.try_get("bootstrap_digest")?,
                };
                Ok((trust_domain, state))
            })
            .collect()
    }

    /// Stores the states of relationships, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_refresh_states(&self, states: &[(TrustDomain, RefreshState)]) -> Result<(), StoreError> {
        self.database
            .run_tx("save_refresh_states", |mut connection| {
                Box::pin(async move {
                    for (trust_domain, state) in states {
                        match leases::guard(&mut connection, &self.leases, trust_domain).await {
                            // Whoever works on it now knows better.
                            Err(StoreError::LeaseLost { .. }) => continue,
                            outcome => outcome?,
                        }
                        upsert(&mut connection, trust_domain, state).await?;
                        changes::note(&mut connection, &self.leases, ChangeKind::State, trust_domain).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The relationships of every issuer as last seen, by local trust domain.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn issuer_relationships(&self) -> Result<BTreeMap<TrustDomain, Vec<IssuerRelationship>>, StoreError> {
        let rows = sqlx::query("select * from issuer_relationships order by local_trust_domain, trust_domain")
            .fetch_all(self.database.reader())
            .await?;
        let mut all: BTreeMap<TrustDomain, Vec<IssuerRelationship>> = BTreeMap::new();
        for row in rows {
            let what = "relationship";
            let local = parse_trust_domain(what, row.try_get("local_trust_domain")?)?;
            let name: String = row.try_get("trust_domain")?;
            let endpoint: Option<String> = row.try_get("endpoint_spiffe_id")?;
            let bootstrap: Option<Vec<u8>> = row.try_get("bootstrap")?;
            let profile = match endpoint {
                None => EndpointProfile::HttpsWeb,
                Some(id) => EndpointProfile::HttpsSpiffe {
                    endpoint_id: SpiffeId::parse(&id).map_err(|cause| unreadable(what, &name, cause))?,
                },
            };
            let bundle = bootstrap.map(|document| parse_bundle(what, &name, &document)).transpose()?;
            all.entry(local).or_default().push(IssuerRelationship {
                trust_domain: parse_trust_domain(what, &name)?,
                url: EndpointUrl::parse(row.try_get("url")?).map_err(|cause| unreadable(what, &name, cause))?,
                profile,
                bundle: bundle.map(Arc::new),
            });
        }
        Ok(all)
    }

    /// Brings what is stored of one issuer's relationships up to date: `changed` ones are written, `removed` ones go.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn save_issuer_relationships(
        &self,
        local: &TrustDomain,
        changed: &[IssuerRelationship],
        removed: &[TrustDomain],
    ) -> Result<(), StoreError> {
        let now = self.now();
        let who = &Actor::Issuer { trust_domain: local.to_string() };
        self.database
            .run_tx("save_issuer_relationships", |mut connection| {
                Box::pin(async move {
                    for trust_domain in removed {
                        // Another gateway may have seen it first.
                        let before = endpoint(&mut connection, local, trust_domain).await?;
                        if before.is_none() {
                            continue;
                        }
                        let event = Event {
                            who,
                            what: Action::Removed,
                            subject: trust_domain.to_string(),
                            before: before.unwrap_or_default(),
                            after: Value::Null,
                            why: "it was removed at the issuer",
                        };
                        audit::append(&mut connection, now, &event).await?;
                        sqlx::query(
                            "delete from issuer_relationships where local_trust_domain = $1 and trust_domain = $2",
                        )
                        .bind(local.as_str())
                        .bind(trust_domain.as_str())
                        .execute(&mut *connection)
                        .await?;
                    }
                    for relationship in changed {
                        let before = endpoint(&mut connection, local, &relationship.trust_domain).await?;
                        insert(&mut connection, local, relationship).await?;
                        let after = endpoint(&mut connection, local, &relationship.trust_domain).await?;
                        // What the issuer holds as bundle comes from deliveries, which have records of their own.
                        if before == after {
                            continue;
                        }
                        let event = Event {
                            who,
                            what: if before.is_some() { Action::Changed } else { Action::Added },
                            subject: relationship.trust_domain.to_string(),
                            before: before.unwrap_or_default(),
                            after: after.unwrap_or_default(),
                            why: "the issuer has it",
                        };
                        audit::append(&mut connection, now, &event).await?;
                    }
                    Ok(())
                })
            })
            .await
    }
}

pub(super) async fn upsert(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    state: &RefreshState,
) -> Result<(), StoreError> {
    sqlx::query(
        "insert into relationships
           (trust_domain, last_attempt, last_success, next_refresh, last_error, consecutive_failures,
            etag, etag_url, etag_digest, bootstrap_digest, confirmed_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (trust_domain) do update set
           last_attempt = excluded.last_attempt, last_success = excluded.last_success,
           next_refresh = excluded.next_refresh, last_error = excluded.last_error,
           consecutive_failures = excluded.consecutive_failures, etag = excluded.etag,
           etag_url = excluded.etag_url, etag_digest = excluded.etag_digest,
           bootstrap_digest = excluded.bootstrap_digest, confirmed_at = excluded.confirmed_at",
    )
    .bind(trust_domain.as_str())
    .bind(state.last_attempt.map(to_unix))
    .bind(state.last_success.map(to_unix))
    .bind(state.next_refresh.map(to_unix))
    .bind(&state.last_error)
    .bind(i64::from(state.consecutive_failures))
    .bind(&state.etag)
    .bind(&state.etag_url)
    .bind(&state.etag_digest)
    .bind(&state.bootstrap_digest)
    .bind(state.confirmed_at.map(to_unix))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(
    connection: &mut Connection,
    local: &TrustDomain,
    relationship: &IssuerRelationship,
) -> Result<(), StoreError> {
    let endpoint = match &relationship.profile {
        EndpointProfile::HttpsWeb => None,
        EndpointProfile::HttpsSpiffe { endpoint_id } => Some(endpoint_id.to_string()),
    };
    sqlx::query(
        "insert into issuer_relationships (local_trust_domain, trust_domain, url, endpoint_spiffe_id, bootstrap)
         values ($1, $2, $3, $4, $5)
         on conflict (local_trust_domain, trust_domain) do update set
           url = excluded.url, endpoint_spiffe_id = excluded.endpoint_spiffe_id, bootstrap = excluded.bootstrap",
    )
    .bind(local.as_str())
    .bind(relationship.trust_domain.as_str())
    .bind(relationship.url.to_string())
    .bind(endpoint)
    .bind(relationship.bundle.as_ref().map(|bundle| bundle_json::encode(bundle)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Where a stored relationship of an issuer is fetched, for the audit log.
async fn endpoint(
    connection: &mut Connection,
    local: &TrustDomain,
    partner: &TrustDomain,
) -> Result<Option<Value>, StoreError> {
    let row = sqlx::query(
        "select url, endpoint_spiffe_id from issuer_relationships where local_trust_domain = $1 and trust_domain = $2",
    )
    .bind(local.as_str())
    .bind(partner.as_str())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let url: String = row.try_get("url")?;
    let endpoint_spiffe_id: Option<String> = row.try_get("endpoint_spiffe_id")?;
    let profile = if endpoint_spiffe_id.is_some() { "https_spiffe" } else { "https_web" };
    let local = local.as_str();
    Ok(Some(json!({
        "url": url, "profile": profile, "endpoint_spiffe_id": endpoint_spiffe_id, "local_trust_domain": local,
    })))
}
