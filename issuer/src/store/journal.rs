//! The CA journal: which authorities this server made and in which slot each is, so that a restart goes on with them.
//!
//! A step of the rotation writes the journal and the bundle in one transaction: after a crash either both know an
//! authority or neither does.

use service_kit::database::{Connection, Row};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use federation_specs::bundle::{Bundle, JwtAuthority, X509Authority};
use federation_specs::public_key::PublicKey;
use sqlx::Row as _;

use super::row::{corrupt, from_json, parsed, to_json};
use super::{Store, StoreError, bundles, own_bundle};

/// Most authorities of a kind the journal keeps.
const KEPT: i64 = 10;

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Certificates.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl AuthorityKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
        }
    }
}

/// One of the two places an authority's key can be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

impl FromStr for Slot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "A" => Ok(Self::A),
            "B" => Ok(Self::B),
            other => Err(format!("unknown slot `{other}`")),
        }
    }
}

/// Where an authority is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityStatus {
    /// Published, not signing yet.
    Prepared,
    /// Signing.
    Active,
    /// No longer signing.
    Old,
}

impl AuthorityStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        }
    }
}

impl fmt::Display for AuthorityStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepared => "PREPARED",
            Self::Active => "ACTIVE",
            Self::Old => "OLD",
        })
    }
}

impl FromStr for AuthorityStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Prepared, Self::Active, Self::Old]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("unknown status `{text}`"))
    }
}

/// One authority in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// What it signs.
    pub kind: AuthorityKind,
    /// Where its key is.
    pub slot: Slot,
    /// X.509: subject key ID in lowercase hex; JWT: key ID.
    pub authority_id: String,
    /// Where it is in its life.
    pub status: AuthorityStatus,
    /// Unix seconds.
    pub issued_at: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// Its public key.
    pub public_key: PublicKey,
    /// DER, the CA certificate first, then intermediates; empty for JWT.
    pub certificate_chain: Vec<Vec<u8>>,
    /// Lowercase hex subject key ID of the upstream authority that signed it; empty if it signed itself.
    pub upstream_authority_id: String,
}

impl Store {
    /// The newest authority of each slot.
    pub async fn slots(&self, kind: AuthorityKind) -> Result<Vec<AuthorityRecord>, StoreError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query(
            "select * from ca_journal where row_id in \
             (select max(row_id) from ca_journal where kind = $1 group by slot) order by row_id",
        )
        .bind(kind.as_str())
        .fetch_all(&mut *connection)
        .await?;
        rows.iter().map(|row| read(row, kind)).collect()
    }

    /// Publishes a prepared authority: journal and bundle in one transaction. One that was prepared before and never
    /// used leaves both.
    pub async fn prepare_authority(
        &self,
        record: &AuthorityRecord,
        roots: &[X509Authority],
        jwt: &[JwtAuthority],
    ) -> Result<Arc<Bundle>, StoreError> {
        let mut tx = self.begin("ca.prepare").await?;
        let unused = take_prepared(&mut tx.connection, record.kind).await?;
        insert(&mut tx.connection, record).await?;
        prune(&mut tx.connection, record.kind).await?;
        let bundle = own_bundle::change_in(&mut tx.connection, self, tx.at, |bundle| {
            Ok(own_bundle::appended(without(bundle, &unused), roots, jwt))
        })
        .await?;
        tx.commit(bundles::TOUCHED).await?;
        Ok(Arc::new(bundle))
    }

    /// Takes a prepared authority that cannot be used (its key is lost) out of journal and bundle.
    pub async fn drop_prepared_authority(&self, kind: AuthorityKind) -> Result<(), StoreError> {
        let mut tx = self.begin("ca.drop_prepared").await?;
        let unused = take_prepared(&mut tx.connection, kind).await?;
        own_bundle::change_in(&mut tx.connection, self, tx.at, |bundle| Ok(without(bundle, &unused))).await?;
        tx.commit(bundles::TOUCHED).await
    }

    /// The prepared authority becomes the active one, the active one an old one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the authority is not prepared.
    pub async fn activate_authority(&self, kind: AuthorityKind, authority_id: &str) -> Result<(), StoreError> {
        let mut tx = self.begin("ca.activate").await?;
        sqlx::query("update ca_journal set status = 'old' where kind = $1 and status = 'active'")
            .bind(kind.as_str())
            .execute(&mut *tx.connection)
            .await?;
        let done = sqlx::query(
            "update ca_journal set status = 'active' where kind = $1 and authority_id = $2 and status = 'prepared'",
        )
        .bind(kind.as_str())
        .bind(authority_id)
        .execute(&mut *tx.connection)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "prepared authority" });
        }
        tx.commit(super::changes::Touched::default()).await
    }
}

/// The bundle without the authorities of `unused`. Roots of an upstream authority stay: others may be signed by them.
fn without(bundle: Bundle, unused: &[AuthorityRecord]) -> Bundle {
    let of = |kind: AuthorityKind, id: &str| {
        unused
            .iter()
            .any(|record| record.kind == kind && record.authority_id == id && record.upstream_authority_id.is_empty())
    };
    let certificates: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .filter(|authority| !of(AuthorityKind::X509, &authority.key_id_hex()))
        .cloned()
        .collect();
    let keys: Vec<_> =
        bundle.jwt_authorities().iter().filter(|key| !of(AuthorityKind::Jwt, key.key_id())).cloned().collect();
    bundle.with_x509_authorities(certificates).with_jwt_authorities(keys)
}

async fn take_prepared(connection: &mut Connection, kind: AuthorityKind) -> Result<Vec<AuthorityRecord>, StoreError> {
    let rows = sqlx::query("delete from ca_journal where kind = $1 and status = 'prepared' returning *")
        .bind(kind.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| read(row, kind)).collect()
}

async fn insert(connection: &mut Connection, record: &AuthorityRecord) -> Result<(), StoreError> {
    let chain: Vec<String> = record.certificate_chain.iter().map(|der| BASE64.encode(der)).collect();
    sqlx::query(
        "insert into ca_journal (kind, slot, authority_id, status, issued_at, not_after, public_key, \
         certificate_chain, upstream_authority_id) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(record.kind.as_str())
    .bind(record.slot.to_string())
    .bind(&record.authority_id)
    .bind(record.status.as_str())
    .bind(record.issued_at)
    .bind(record.not_after)
    .bind(BASE64.encode(record.public_key.spki_der()))
    .bind(to_json(&chain)?)
    .bind(&record.upstream_authority_id)
    .execute(connection)
    .await?;
    Ok(())
}

async fn prune(connection: &mut Connection, kind: AuthorityKind) -> Result<(), StoreError> {
    sqlx::query(
        "delete from ca_journal where kind = $1 and status = 'old' and row_id not in \
         (select row_id from ca_journal where kind = $1 order by row_id desc limit $2)",
    )
    .bind(kind.as_str())
    .bind(KEPT)
    .execute(connection)
    .await?;
    Ok(())
}

fn read(row: &Row, kind: AuthorityKind) -> Result<AuthorityRecord, StoreError> {
    let authority_id: String = row.try_get("authority_id")?;
    let reason = |error: &dyn fmt::Display| corrupt("authority", &authority_id, error);
    let chain: Vec<String> = from_json(row, "certificate_chain", &reason)?;
    let chain = chain.iter().map(|text| BASE64.decode(text)).collect::<Result<Vec<_>, _>>();
    let public_key = parsed(row, "public_key", |text| BASE64.decode(text), &reason)?;
    Ok(AuthorityRecord {
        kind,
        slot: parsed(row, "slot", str::parse, &reason)?,
        status: parsed(row, "status", str::parse, &reason)?,
        issued_at: row.try_get("issued_at")?,
        not_after: row.try_get("not_after")?,
        public_key: PublicKey::from_spki_der(&public_key).map_err(|error| reason(&error))?,
        certificate_chain: chain.map_err(|error| reason(&error))?,
        upstream_authority_id: row.try_get("upstream_authority_id")?,
        authority_id,
    })
}
