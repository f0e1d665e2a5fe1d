//! Changes of the own bundle: each one that changes anything raises the sequence number by one.

use service_kit::database::Connection;
use std::sync::Arc;

use federation_specs::bundle::{Bundle, JwtAuthority, X509Authority};
use time::OffsetDateTime;

use super::{Store, StoreError, bundles};

/// How long an expired authority stays in the bundle.
pub const EXPIRED_KEPT: time::Duration = time::Duration::hours(24);

const ROOT: &str = "root CA";
const KEY: &str = "key";

impl Store {
    /// Adds authorities; one that is there already (same certificate, same key ID) stays as it is.
    pub async fn append_to_own_bundle(
        &self,
        x509: &[X509Authority],
        jwt: &[JwtAuthority],
    ) -> Result<Arc<Bundle>, StoreError> {
        self.change_own_bundle("bundle.append", |bundle| Ok(appended(bundle, x509, jwt))).await
    }

    /// Marks the X.509 authorities with that subject key ID (lowercase hex) as tainted.
    ///
    /// # Errors
    /// [`StoreError::AuthorityNotFound`], [`StoreError::AlreadyTainted`].
    pub async fn taint_x509_authority(&self, key_id: &str) -> Result<Arc<Bundle>, StoreError> {
        self.change_own_bundle("bundle.taint_x509", |bundle| {
            let found = x509_authorities(&bundle, key_id)?;
            if found.iter().any(|authority| authority.tainted()) {
                return Err(StoreError::AlreadyTainted(ROOT));
            }
            let marked = bundle.x509_authorities().iter().cloned().map(|authority| {
                let tainted = authority.tainted() || authority.key_id_hex() == key_id;
                authority.with_tainted(tainted)
            });
            let marked: Vec<_> = marked.collect();
            Ok(bundle.with_x509_authorities(marked))
        })
        .await
    }

    /// Removes the tainted X.509 authorities with that subject key ID (lowercase hex).
    ///
    /// # Errors
    /// [`StoreError::AuthorityNotFound`], [`StoreError::NotTainted`].
    pub async fn revoke_x509_authority(&self, key_id: &str) -> Result<Arc<Bundle>, StoreError> {
        self.change_own_bundle("bundle.revoke_x509", |bundle| {
            let found = x509_authorities(&bundle, key_id)?;
            if !found.iter().all(|authority| authority.tainted()) {
                return Err(StoreError::NotTainted(ROOT));
            }
            let kept: Vec<_> = bundle
                .x509_authorities()
                .iter()
                .filter(|authority| authority.key_id_hex() != key_id)
                .cloned()
                .collect();
            Ok(bundle.with_x509_authorities(kept))
        })
        .await
    }

    /// Marks a JWT authority as tainted.
    ///
    /// # Errors
    /// [`StoreError::AuthorityNotFound`], [`StoreError::AlreadyTainted`].
    pub async fn taint_jwt_authority(&self, key_id: &str) -> Result<Arc<Bundle>, StoreError> {
        self.change_own_bundle("bundle.taint_jwt", |bundle| {
            if jwt_authority(&bundle, key_id)?.tainted() {
                return Err(StoreError::AlreadyTainted(KEY));
            }
            let marked = bundle.jwt_authorities().iter().cloned().map(|authority| {
                let tainted = authority.tainted() || authority.key_id() == key_id;
                authority.with_tainted(tainted)
            });
            let marked: Vec<_> = marked.collect();
            Ok(bundle.with_jwt_authorities(marked))
        })
        .await
    }

    /// Removes a tainted JWT authority.
    ///
    /// # Errors
    /// [`StoreError::AuthorityNotFound`], [`StoreError::NotTainted`].
    pub async fn revoke_jwt_authority(&self, key_id: &str) -> Result<Arc<Bundle>, StoreError> {
        self.change_own_bundle("bundle.revoke_jwt", |bundle| {
            if !jwt_authority(&bundle, key_id)?.tainted() {
                return Err(StoreError::NotTainted(KEY));
            }
            let kept: Vec<_> =
                bundle.jwt_authorities().iter().filter(|authority| authority.key_id() != key_id).cloned().collect();
            Ok(bundle.with_jwt_authorities(kept))
        })
        .await
    }

    /// Removes authorities that expired more than [`EXPIRED_KEPT`] ago, but never the last one of a kind; returns
    /// whether any was removed.
    pub async fn prune_own_bundle(&self, now: OffsetDateTime) -> Result<bool, StoreError> {
        let before = self.own_bundle();
        let after = self.change_own_bundle("bundle.prune", |bundle| Ok(pruned(bundle, now - EXPIRED_KEPT))).await?;
        Ok(before.is_some_and(|before| before.sequence() != after.sequence()))
    }

    async fn change_own_bundle(
        &self,
        name: &'static str,
        change: impl FnOnce(Bundle) -> Result<Bundle, StoreError> + Send,
    ) -> Result<Arc<Bundle>, StoreError> {
        let mut tx = self.begin(name).await?;
        let bundle = change_in(&mut tx.connection, self, tx.at, change).await?;
        tx.commit(bundles::TOUCHED).await?;
        Ok(Arc::new(bundle))
    }
}

/// Changes the own bundle within a transaction. The bundle of a new trust domain begins without a sequence number: its
/// first X.509 authority and its first JWT key together make number 1.
pub(super) async fn change_in(
    connection: &mut Connection,
    store: &Store,
    at: i64,
    change: impl FnOnce(Bundle) -> Result<Bundle, StoreError> + Send,
) -> Result<Bundle, StoreError> {
    let stored = bundles::find(connection, store.trust_domain()).await?;
    let before = stored.clone().unwrap_or_else(|| Bundle::new(store.trust_domain().clone()));
    let mut after = change(before.clone())?;
    match stored {
        Some(_) if after == before => return Ok(after),
        Some(_) => after = after.with_sequence(Some(before.sequence().unwrap_or(0) + 1)),
        None => {}
    }
    bundles::write(connection, &after, at).await?;
    Ok(after)
}

/// The bundle with authorities added at the end.
pub(super) fn appended(bundle: Bundle, x509: &[X509Authority], jwt: &[JwtAuthority]) -> Bundle {
    let held: Vec<_> = bundle.x509_authorities().to_vec();
    let mut keys: Vec<_> = bundle.jwt_authorities().to_vec();
    let new: Vec<_> = jwt.iter().filter(|key| bundle.find_jwt(key.key_id()).is_none()).cloned().collect();
    keys.extend(new);
    bundle.with_x509_authorities(held.into_iter().chain(x509.iter().cloned())).with_jwt_authorities(keys)
}

fn pruned(bundle: Bundle, expired_before: OffsetDateTime) -> Bundle {
    let newest = bundle.x509_authorities().iter().map(X509Authority::not_after).max();
    let certificates: Vec<_> = bundle
        .x509_authorities()
        .iter()
        .filter(|authority| authority.not_after() >= expired_before || Some(authority.not_after()) == newest)
        .cloned()
        .collect();
    // A key without expiry never expires.
    let end = |key: &JwtAuthority| key.expires_at().unwrap_or(i64::MAX);
    let newest = bundle.jwt_authorities().iter().map(end).max();
    let keys: Vec<_> = bundle
        .jwt_authorities()
        .iter()
        .filter(|key| end(key) >= expired_before.unix_timestamp() || Some(end(key)) == newest)
        .cloned()
        .collect();
    bundle.with_x509_authorities(certificates).with_jwt_authorities(keys)
}

fn x509_authorities<'a>(bundle: &'a Bundle, key_id: &str) -> Result<Vec<&'a X509Authority>, StoreError> {
    let found: Vec<_> = bundle.x509_authorities().iter().filter(|authority| authority.key_id_hex() == key_id).collect();
    if found.is_empty() {
        return Err(StoreError::AuthorityNotFound(ROOT, "subject key ID"));
    }
    Ok(found)
}

fn jwt_authority<'a>(bundle: &'a Bundle, key_id: &str) -> Result<&'a JwtAuthority, StoreError> {
    bundle.find_jwt(key_id).ok_or(StoreError::AuthorityNotFound("JWT Key", "key ID"))
}
