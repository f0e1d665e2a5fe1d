//! Trust bundles: the own one and those of other trust domains.
//!
//! Authorities arrive here as [`X509Authority`] and [`JwtAuthority`], which hold exactly one valid certificate or key:
//! nothing that would break a reader can be stored. A snapshot of all bundles is kept in memory and brought up to date
//! before a write returns.

use service_kit::database::{Backend, Connection, Row};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use federation_specs::bundle::{Bundle, BundleSet, JwtAuthority, X509Authority};
use federation_specs::id::TrustDomain;
use federation_specs::public_key::PublicKey;
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row as _};

use super::changes::{self, Removed, Touched};
use super::row::{corrupt, from_json, parsed, to_json};
use super::{Page, Paged, Store, StoreError, entries};

const COLUMNS: &str = "select row_id, trust_domain, x509_authorities, jwt_authorities, wit_authorities, refresh_hint, \
     sequence_number from bundles";

pub(super) const TOUCHED: Touched = Touched { entries: false, nodes: false, bundles: true, relationships: false };

const MISSING: StoreError = StoreError::NotFound { what: "bundle" };

/// What deleting a bundle does to entries that federate with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteMode {
    /// The bundle is not deleted while there are any.
    Restrict,
    /// They are deleted.
    Delete,
    /// They stay and no longer federate with the domain.
    Dissociate,
}

/// Parts of a bundle to write in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleSelection {
    /// X.509 authorities.
    pub x509_authorities: bool,
    /// JWT authorities.
    pub jwt_authorities: bool,
    /// Refresh hint.
    pub refresh_hint: bool,
    /// Sequence number.
    pub sequence_number: bool,
}

impl BundleSelection {
    /// Everything.
    pub const ALL: Self =
        Self { x509_authorities: true, jwt_authorities: true, refresh_hint: true, sequence_number: true };
    /// Nothing.
    pub const NONE: Self =
        Self { x509_authorities: false, jwt_authorities: false, refresh_hint: false, sequence_number: false };
}

impl Store {
    /// Snapshot of every bundle, own and federated, at least as new as the last write through this store.
    pub fn bundles(&self) -> Arc<BundleSet> {
        self.inner.bundles.load_full()
    }

    /// The own bundle; `None` only before the first authority exists.
    pub fn own_bundle(&self) -> Option<Arc<Bundle>> {
        self.inner.bundles.load().get(self.trust_domain()).cloned()
    }

    /// Number of bundles, the own one included.
    pub fn count_bundles(&self) -> u64 {
        self.inner.bundles.load().len() as u64
    }

    /// Bundles in the order stored, the own one among them.
    pub async fn list_bundles(&self, page: Page) -> Result<Paged<Arc<Bundle>>, StoreError> {
        let mut query = QueryBuilder::<Backend>::new(COLUMNS);
        query.push(" where row_id > ").push_bind(page.after).push(" order by row_id limit ").push_bind(page.limit());
        let mut connection = self.connection().await?;
        let rows = query.build().fetch_all(&mut *connection).await?;
        let rows = rows.iter().map(|row| read(row).map(|(row_id, bundle)| (row_id, Arc::new(bundle))));
        Ok(Paged::new(page, rows.collect::<Result<_, _>>()?))
    }

    /// Stores a foreign domain's bundle for the first time.
    ///
    /// # Errors
    /// [`StoreError::BundleExists`], [`StoreError::OwnTrustDomain`].
    pub async fn create_bundle(&self, bundle: &Bundle) -> Result<Arc<Bundle>, StoreError> {
        self.require_foreign(bundle.trust_domain())?;
        let mut tx = self.begin("bundles.create").await?;
        if find(&mut tx.connection, bundle.trust_domain()).await?.is_some() {
            return Err(StoreError::BundleExists);
        }
        write(&mut tx.connection, bundle, tx.at).await?;
        tx.commit(TOUCHED).await?;
        Ok(Arc::new(bundle.clone()))
    }

    /// Stores a foreign domain's bundle in place of any there was.
    ///
    /// # Errors
    /// [`StoreError::OwnTrustDomain`].
    pub async fn set_bundle(&self, bundle: &Bundle) -> Result<Arc<Bundle>, StoreError> {
        self.require_foreign(bundle.trust_domain())?;
        let mut tx = self.begin("bundles.set").await?;
        write(&mut tx.connection, bundle, tx.at).await?;
        tx.commit(TOUCHED).await?;
        Ok(Arc::new(bundle.clone()))
    }

    /// Writes parts of a foreign domain's stored bundle; returns it as it then is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::OwnTrustDomain`].
    pub async fn update_bundle(&self, bundle: &Bundle, parts: BundleSelection) -> Result<Arc<Bundle>, StoreError> {
        self.require_foreign(bundle.trust_domain())?;
        let mut tx = self.begin("bundles.update").await?;
        let mut stored = find(&mut tx.connection, bundle.trust_domain()).await?.ok_or(MISSING)?;
        if parts.x509_authorities {
            stored = stored.with_x509_authorities(bundle.x509_authorities().iter().cloned());
        }
        if parts.jwt_authorities {
            stored = stored.with_jwt_authorities(bundle.jwt_authorities().iter().cloned());
        }
        if parts.refresh_hint {
            stored = stored.with_refresh_hint(bundle.refresh_hint());
        }
        if parts.sequence_number {
            stored = stored.with_sequence(bundle.sequence());
        }
        write(&mut tx.connection, &stored, tx.at).await?;
        tx.commit(TOUCHED).await?;
        Ok(Arc::new(stored))
    }

    /// Deletes a foreign domain's bundle.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::BundleInUse`], [`StoreError::OwnTrustDomain`].
    pub async fn delete_bundle(&self, trust_domain: &TrustDomain, mode: DeleteMode) -> Result<(), StoreError> {
        self.require_foreign(trust_domain)?;
        let mut tx = self.begin("bundles.delete").await?;
        find(&mut tx.connection, trust_domain).await?.ok_or(MISSING)?;
        let mut touched = TOUCHED;
        let entries = entries::count_federating(&mut tx.connection, trust_domain).await?;
        if entries > 0 {
            if mode == DeleteMode::Restrict {
                return Err(StoreError::BundleInUse(entries));
            }
            let delete = mode == DeleteMode::Delete;
            entries::drop_federation(&mut tx.connection, trust_domain, delete, tx.at).await?;
            touched.entries = true;
        }
        sqlx::query("delete from bundles where trust_domain = $1")
            .bind(trust_domain.as_str())
            .execute(&mut *tx.connection)
            .await?;
        changes::removed(&mut tx.connection, Removed::Bundle, trust_domain.as_str(), tx.at).await?;
        tx.commit(touched).await
    }

    /// Brings the snapshot up to date with the database.
    pub(super) async fn reload_bundles(&self) -> Result<(), StoreError> {
        let mut seen = self.inner.bundles_seen.lock().await;
        let mut connection = self.connection().await?;
        // First the counter: what is written between these reads is then read again the next time.
        let latest = changes::latest(&mut connection).await?;
        let (mut set, after) = match changes::removals_after(&mut connection, Removed::Bundle, *seen).await? {
            Some(removed) => {
                let mut set = BundleSet::clone(&self.inner.bundles.load());
                for name in removed {
                    if let Ok(trust_domain) = TrustDomain::parse(&name) {
                        set.remove(&trust_domain);
                    }
                }
                (set, *seen)
            }
            None => (BundleSet::new(), -1),
        };
        let mut query = QueryBuilder::<Backend>::new(COLUMNS);
        query.push(" where changed > ").push_bind(after);
        for row in query.build().fetch_all(&mut *connection).await? {
            set.insert(Arc::new(read(&row)?.1));
        }
        self.inner.bundles.store(Arc::new(set));
        *seen = latest;
        Ok(())
    }

    fn require_foreign(&self, trust_domain: &TrustDomain) -> Result<(), StoreError> {
        if trust_domain == self.trust_domain() { Err(StoreError::OwnTrustDomain) } else { Ok(()) }
    }
}

impl service_kit::tls::BundleSource for Store {
    fn bundles(&self) -> Arc<BundleSet> {
        Self::bundles(self)
    }
}

pub(super) async fn find(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
) -> Result<Option<Bundle>, StoreError> {
    let mut query = QueryBuilder::<Backend>::new(COLUMNS);
    query.push(" where trust_domain = ").push_bind(trust_domain.as_str().to_owned());
    let row = query.build().fetch_optional(connection).await?;
    row.as_ref().map(|row| read(row).map(|(_, bundle)| bundle)).transpose()
}

pub(super) async fn write(connection: &mut Connection, bundle: &Bundle, at: i64) -> Result<(), StoreError> {
    let x509: Vec<_> = bundle.x509_authorities().iter().map(StoredCertificate::from).collect();
    let jwt: Vec<_> = bundle.jwt_authorities().iter().map(StoredKey::from).collect();
    let wit: Vec<_> = bundle.wit_authorities().iter().map(StoredKey::from).collect();
    sqlx::query(
        "insert into bundles (trust_domain, x509_authorities, jwt_authorities, wit_authorities, refresh_hint, \
         sequence_number, changed) values ($1, $2, $3, $4, $5, $6, $7) \
         on conflict (trust_domain) do update set x509_authorities = excluded.x509_authorities, \
         jwt_authorities = excluded.jwt_authorities, wit_authorities = excluded.wit_authorities, \
         refresh_hint = excluded.refresh_hint, sequence_number = excluded.sequence_number, changed = excluded.changed",
    )
    .bind(bundle.trust_domain().as_str())
    .bind(to_json(&x509)?)
    .bind(to_json(&jwt)?)
    .bind(to_json(&wit)?)
    .bind(bundle.refresh_hint().map(|hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX)))
    // Two's complement keeps numbers that do not fit a signed column.
    .bind(bundle.sequence().map(u64::cast_signed))
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct StoredCertificate {
    certificate: String,
    #[serde(default)]
    tainted: bool,
}

impl From<&X509Authority> for StoredCertificate {
    fn from(authority: &X509Authority) -> Self {
        Self { certificate: BASE64.encode(authority.der()), tainted: authority.tainted() }
    }
}

impl StoredCertificate {
    fn read(&self) -> Result<X509Authority, String> {
        let der = BASE64.decode(&self.certificate).map_err(|error| error.to_string())?;
        let authority = X509Authority::from_der(&der).map_err(|error| error.to_string())?;
        Ok(authority.with_tainted(self.tainted))
    }
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    key_id: String,
    public_key: String,
    expires_at: Option<i64>,
    #[serde(default)]
    tainted: bool,
}

impl From<&JwtAuthority> for StoredKey {
    fn from(authority: &JwtAuthority) -> Self {
        Self {
            key_id: authority.key_id().to_owned(),
            public_key: BASE64.encode(authority.public_key().spki_der()),
            expires_at: authority.expires_at(),
            tainted: authority.tainted(),
        }
    }
}

impl StoredKey {
    fn read(self) -> Result<JwtAuthority, String> {
        let spki = BASE64.decode(&self.public_key).map_err(|error| error.to_string())?;
        let key = PublicKey::from_spki_der(&spki).map_err(|error| error.to_string())?;
        JwtAuthority::new(self.key_id, key, self.expires_at, self.tainted).map_err(|error| error.to_string())
    }
}

fn read(row: &Row) -> Result<(i64, Bundle), StoreError> {
    let name: String = row.try_get("trust_domain")?;
    let reason = |error: &dyn std::fmt::Display| corrupt("bundle", &name, error);
    let x509: Vec<StoredCertificate> = from_json(row, "x509_authorities", &reason)?;
    let jwt: Vec<StoredKey> = from_json(row, "jwt_authorities", &reason)?;
    let wit: Vec<StoredKey> = from_json(row, "wit_authorities", &reason)?;
    let refresh_hint: Option<i64> = row.try_get("refresh_hint")?;
    let sequence: Option<i64> = row.try_get("sequence_number")?;
    let x509 = x509.iter().map(StoredCertificate::read).collect::<Result<Vec<_>, _>>();
    let jwt = jwt.into_iter().map(StoredKey::read).collect::<Result<Vec<_>, _>>();
    let wit = wit.into_iter().map(StoredKey::read).collect::<Result<Vec<_>, _>>();
    let bundle = Bundle::new(parsed(row, "trust_domain", TrustDomain::parse, &reason)?)
        .with_x509_authorities(x509.map_err(|error| reason(&error))?)
        .with_jwt_authorities(jwt.map_err(|error| reason(&error))?)
        .with_wit_authorities(wit.map_err(|error| reason(&error))?)
        .with_refresh_hint(refresh_hint.map(|seconds| Duration::from_secs(seconds.unsigned_abs())))
        .with_sequence(sequence.map(i64::cast_unsigned));
    Ok((row.try_get("row_id")?, bundle))
}
