//! Federation relationships: where the bundle of a foreign trust domain is fetched.

use federation_specs::bundle::Bundle;
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::profile::{EndpointProfile, EndpointUrl};
use service_kit::database::{Connection, Row};
use sqlx::Row as _;

use super::changes::Touched;
use super::row::{corrupt, parsed};
use super::{Page, Paged, Store, StoreError, bundles};

const HTTPS_WEB: &str = "https_web";
const HTTPS_SPIFFE: &str = "https_spiffe";

const MISSING: StoreError = StoreError::NotFound { what: "federation relationship" };

/// A federation relationship. The bundle itself is among the bundles, under the same trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relationship {
    /// The foreign trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub bundle_endpoint_url: EndpointUrl,
    /// How the endpoint is authenticated.
    pub profile: EndpointProfile,
}

/// A change of a relationship: every `Some` field is written.
#[derive(Debug, Clone)]
pub struct RelationshipUpdate {
    /// Which relationship.
    pub trust_domain: TrustDomain,
    /// New URL.
    pub bundle_endpoint_url: Option<EndpointUrl>,
    /// New profile.
    pub profile: Option<EndpointProfile>,
}

impl Store {
    /// Stores a relationship, and its bundle if one is given.
    ///
    /// # Errors
    /// [`StoreError::RelationshipExists`], [`StoreError::OwnTrustDomain`].
    pub async fn create_relationship(
        &self,
        relationship: &Relationship,
        bundle: Option<&Bundle>,
    ) -> Result<Relationship, StoreError> {
        if relationship.trust_domain == *self.trust_domain() {
            return Err(StoreError::OwnTrustDomain);
        }
        let mut tx = self.begin("relationships.create").await?;
        if find(&mut tx.connection, &relationship.trust_domain).await?.is_some() {
            return Err(StoreError::RelationshipExists);
        }
        write(&mut tx.connection, relationship, tx.at).await?;
        let touched = write_bundle(&mut tx.connection, relationship, bundle, tx.at).await?;
        tx.commit(touched).await?;
        Ok(relationship.clone())
    }

    /// The relationship with a domain.
    pub async fn get_relationship(&self, trust_domain: &TrustDomain) -> Result<Option<Relationship>, StoreError> {
        let mut connection = self.connection().await?;
        find(&mut connection, trust_domain).await
    }

    /// Relationships in the order stored.
    pub async fn list_relationships(&self, page: Page) -> Result<Paged<Relationship>, StoreError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query("select * from federation_relationships where row_id > $1 order by row_id limit $2")
            .bind(page.after)
            .bind(page.limit())
            .fetch_all(&mut *connection)
            .await?;
        Ok(Paged::new(page, rows.iter().map(read).collect::<Result<_, _>>()?))
    }

    /// Changes a relationship, and stores its bundle if one is given.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn update_relationship(
        &self,
        update: &RelationshipUpdate,
        bundle: Option<&Bundle>,
    ) -> Result<Relationship, StoreError> {
        let mut tx = self.begin("relationships.update").await?;
        let mut relationship = find(&mut tx.connection, &update.trust_domain).await?.ok_or(MISSING)?;
        if let Some(url) = &update.bundle_endpoint_url {
            relationship.bundle_endpoint_url = url.clone();
        }
        if let Some(profile) = &update.profile {
            relationship.profile = profile.clone();
        }
        write(&mut tx.connection, &relationship, tx.at).await?;
        let touched = write_bundle(&mut tx.connection, &relationship, bundle, tx.at).await?;
        tx.commit(touched).await?;
        Ok(relationship)
    }

    /// Deletes a relationship; the stored bundle stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_relationship(&self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        let mut tx = self.begin("relationships.delete").await?;
        let done = sqlx::query("delete from federation_relationships where trust_domain = $1")
            .bind(trust_domain.as_str())
            .execute(&mut *tx.connection)
            .await?;
        if done.rows_affected() == 0 {
            return Err(MISSING);
        }
        tx.commit(touched(false)).await
    }
}

fn touched(bundles: bool) -> Touched {
    Touched { entries: false, nodes: false, bundles, relationships: true }
}

/// A bundle is stored under its own name only, so one of another domain is not stored at all.
async fn write_bundle(
    connection: &mut Connection,
    relationship: &Relationship,
    bundle: Option<&Bundle>,
    at: i64,
) -> Result<Touched, StoreError> {
    match bundle.filter(|bundle| *bundle.trust_domain() == relationship.trust_domain) {
        Some(bundle) => {
            bundles::write(connection, bundle, at).await?;
            Ok(touched(true))
        }
        None => Ok(touched(false)),
    }
}

async fn find(connection: &mut Connection, trust_domain: &TrustDomain) -> Result<Option<Relationship>, StoreError> {
    let row = sqlx::query("select * from federation_relationships where trust_domain = $1")
        .bind(trust_domain.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(|row| read(row).map(|(_, relationship)| relationship)).transpose()
}

async fn write(connection: &mut Connection, relationship: &Relationship, at: i64) -> Result<(), StoreError> {
    let (profile, endpoint_id) = match &relationship.profile {
        EndpointProfile::HttpsWeb => (HTTPS_WEB, None),
        EndpointProfile::HttpsSpiffe { endpoint_id } => (HTTPS_SPIFFE, Some(endpoint_id.as_str())),
    };
    sqlx::query(
        "insert into federation_relationships (trust_domain, bundle_endpoint_url, bundle_endpoint_profile, \
         endpoint_spiffe_id, changed) values ($1, $2, $3, $4, $5) \
         on conflict (trust_domain) do update set bundle_endpoint_url = excluded.bundle_endpoint_url, \
         bundle_endpoint_profile = excluded.bundle_endpoint_profile, \
         endpoint_spiffe_id = excluded.endpoint_spiffe_id, changed = excluded.changed",
    )
    .bind(relationship.trust_domain.as_str())
    .bind(relationship.bundle_endpoint_url.to_string())
    .bind(profile)
    .bind(endpoint_id)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

fn read(row: &Row) -> Result<(i64, Relationship), StoreError> {
    let name: String = row.try_get("trust_domain")?;
    let reason = |error: &dyn std::fmt::Display| corrupt("federation relationship", &name, error);
    let profile: String = row.try_get("bundle_endpoint_profile")?;
    let endpoint_id: Option<String> = row.try_get("endpoint_spiffe_id")?;
    let profile = match (profile.as_str(), endpoint_id) {
        (HTTPS_WEB, _) => EndpointProfile::HttpsWeb,
        (HTTPS_SPIFFE, Some(id)) => {
            EndpointProfile::HttpsSpiffe { endpoint_id: SpiffeId::parse(&id).map_err(|error| reason(&error))? }
        }
        (other, _) => return Err(reason(&format!("unknown endpoint profile `{other}`"))),
    };
    let relationship = Relationship {
        trust_domain: parsed(row, "trust_domain", TrustDomain::parse, &reason)?,
        bundle_endpoint_url: parsed(row, "bundle_endpoint_url", EndpointUrl::parse, &reason)?,
        profile,
    };
    Ok((row.try_get("row_id")?, relationship))
}
