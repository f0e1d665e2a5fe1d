//! When the authorities move on, and the task that watches it.

use std::sync::Arc;
use std::time::Duration;

use federation_specs::public_key::PublicKey;
use service_kit::BoxError;
use service_kit::keys::KeyError;
use service_kit::lifecycle::Shutdown;
use time::OffsetDateTime;

use super::slots::{Contents, Held};
use super::{CaError, CaManager};
use crate::store::{AuthorityKind, AuthorityStatus};

/// How often authorities are looked at.
const ROTATE_EVERY: Duration = Duration::from_secs(10);
/// How often the server's own X509-SVID is looked at.
const SERVER_SVID_EVERY: Duration = Duration::from_secs(5);
/// How often expired authorities are taken out of the bundle.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Which steps are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    prepare: bool,
    activate: bool,
}

fn due<T>(contents: &Contents<T>, now: OffsetDateTime) -> Due {
    match &contents.active {
        Some(active) if active.can_sign_at(now) => {
            Due { prepare: now > active.prepare_after(), activate: now > active.activate_after() }
        }
        _ => Due { prepare: true, activate: true },
    }
}

fn has_usable_next<T>(contents: &Contents<T>, now: OffsetDateTime) -> bool {
    contents.next_with(AuthorityStatus::Prepared).is_some_and(|next| next.can_sign_at(now))
}

impl CaManager {
    /// Watches authorities, bundle and own X509-SVID until shutdown. Nothing that fails ends it: it tries again.
    ///
    /// # Errors
    /// None.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        let rotate = async {
            loop {
                self.clock.sleep(ROTATE_EVERY).await;
                self.rotate().await;
            }
        };
        let own_svid = async {
            loop {
                self.clock.sleep(SERVER_SVID_EVERY).await;
                if let Err(error) = self.rotate_server_svid().await {
                    tracing::error!(%error, "the server's X509-SVID was not rotated");
                }
            }
        };
        let prune = async {
            loop {
                self.clock.sleep(PRUNE_EVERY).await;
                match self.store.prune_own_bundle(self.clock.now()).await {
                    Ok(true) => tracing::info!("expired authorities removed from the bundle"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(%error, "expired authorities were not removed from the bundle"),
                }
            }
        };
        tokio::select! {
            () = rotate => {}
            () = own_svid => {}
            () = prune => {}
            () = shutdown.cancelled() => {}
        }
        Ok(())
    }

    /// Does the steps that are due; a failure is logged and tried again the next time.
    pub(super) async fn rotate(&self) {
        if let Err(error) = self.rotate_x509().await {
            tracing::error!(%error, "X.509 CA was not rotated");
        }
        if let Err(error) = self.rotate_jwt().await {
            tracing::error!(%error, "JWT key was not rotated");
        }
    }

    /// Does the steps that are due; fails only if there is nothing to sign with.
    pub(super) async fn rotate_at_start(&self) -> Result<(), CaError> {
        let now = self.clock.now();
        let rotated = self.rotate_x509().await;
        Self::unless_usable(rotated, &self.x509.contents().active, now, "X.509 CA was not rotated")?;
        let rotated = self.rotate_jwt().await;
        Self::unless_usable(rotated, &self.jwt.contents().active, now, "JWT key was not rotated")
    }

    fn unless_usable<T>(
        rotated: Result<(), CaError>,
        active: &Option<Arc<Held<T>>>,
        now: OffsetDateTime,
        what: &'static str,
    ) -> Result<(), CaError> {
        match rotated {
            Err(error) if active.as_ref().is_some_and(|active| active.can_sign_at(now)) => {
                tracing::error!(%error, "{what}; going on with the old one");
                Ok(())
            }
            other => other,
        }
    }

    async fn rotate_x509(&self) -> Result<(), CaError> {
        let _step = self.steps.lock().await;
        let now = self.clock.now();
        let due = due(&self.x509.contents(), now);
        if due.prepare && !has_usable_next(&self.x509.contents(), now) {
            self.prepare_x509().await?;
        }
        if due.activate {
            self.activate_x509().await?;
        }
        Ok(())
    }

    async fn rotate_jwt(&self) -> Result<(), CaError> {
        if self.config.disable_jwt_svids {
            return Ok(());
        }
        let _step = self.steps.lock().await;
        let now = self.clock.now();
        let due = due(&self.jwt.contents(), now);
        if due.prepare && !has_usable_next(&self.jwt.contents(), now) {
            self.prepare_jwt().await?;
        }
        if due.activate {
            self.activate_jwt().await?;
        }
        Ok(())
    }

    /// The key manager holds that key under that name.
    pub(super) async fn has_key(&self, key_id: &str, public_key: &PublicKey) -> Result<bool, CaError> {
        match self.keys.get(key_id).await {
            Ok(info) => Ok(info.public_key == *public_key),
            Err(KeyError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts an authority of the journal where it belongs when starting. One whose key is lost is never signed with: an
    /// active one stays known until another is active, a prepared one is withdrawn.
    pub(super) async fn place<T>(
        &self,
        kind: AuthorityKind,
        contents: &mut Contents<T>,
        held: Arc<Held<T>>,
    ) -> Result<(), CaError> {
        let record = &held.record;
        match record.status {
            AuthorityStatus::Active => {
                if held.signer.is_none() {
                    tracing::error!(
                        ?kind, slot = %record.slot, authority_id = record.authority_id,
                        "the key of the active authority is lost or another one: a new authority takes over; what the \
                         lost one signed stays valid until it expires"
                    );
                }
                contents.active = Some(held);
            }
            AuthorityStatus::Prepared if held.signer.is_none() => {
                tracing::warn!(
                    ?kind, slot = %record.slot, authority_id = record.authority_id,
                    "the key of the prepared authority is lost or another one: it is withdrawn"
                );
                self.store.drop_prepared_authority(kind).await?;
            }
            // A prepared authority counts more than an old one; there is only one other slot.
            AuthorityStatus::Prepared => contents.next = Some(held),
            AuthorityStatus::Old => contents.next = contents.next.take().or(Some(held)),
        }
        Ok(())
    }
}
