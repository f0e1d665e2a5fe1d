//! The operations of the LocalAuthority API: look at, prepare, activate, taint and revoke authorities by hand.
//! Texts and their order are those of SPIRE 1.15.

use super::error::AuthorityError;
use super::slots::Contents;
use super::{Authority, AuthorityState, CaManager};
use crate::store::AuthorityStatus;

const NO_ID: &str = "no authority ID provided";
const UNEXPECTED_ID: &str = "unexpected authority ID";
const USES_CURRENT: &str = "unable to use current authority";

impl CaManager {
    /// The X.509 authorities in the slots.
    ///
    /// # Errors
    /// While the server starts.
    pub fn x509_authority_state(&self) -> Result<AuthorityState, AuthorityError> {
        state(&self.x509.contents())
    }

    /// The JWT authorities in the slots.
    ///
    /// # Errors
    /// While the server starts, or when JWT-SVIDs are disabled.
    pub fn jwt_authority_state(&self) -> Result<AuthorityState, AuthorityError> {
        self.require_jwt()?;
        state(&self.jwt.contents())
    }

    /// Makes and publishes the next X.509 authority. One that was prepared before is withdrawn.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn prepare_x509_authority(&self) -> Result<Authority, AuthorityError> {
        let _step = self.steps.lock().await;
        let prepared = self.prepare_x509().await;
        prepared.map_err(|error| AuthorityError::failed("failed to prepare X.509 authority", &error))?;
        prepared_of(&self.x509.contents())
    }

    /// Makes and publishes the next JWT authority. One that was prepared before is withdrawn.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn prepare_jwt_authority(&self) -> Result<Authority, AuthorityError> {
        self.require_jwt()?;
        let _step = self.steps.lock().await;
        let prepared = self.prepare_jwt().await;
        prepared.map_err(|error| AuthorityError::failed("failed to prepare JWT authority", &error))?;
        prepared_of(&self.jwt.contents())
    }

    /// The prepared X.509 authority begins to sign.
    ///
    /// # Errors
    /// [`AuthorityError`] when `authority_id` is not that of the prepared one.
    pub async fn activate_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        let _step = self.steps.lock().await;
        check_activation(&self.x509.contents(), authority_id)?;
        let activated = self.activate_x509().await;
        activated.map_err(|error| AuthorityError::failed("failed to activate X.509 authority", &error))?;
        active_of(&self.x509.contents())
    }

    /// The prepared JWT authority begins to sign.
    ///
    /// # Errors
    /// [`AuthorityError`] when `authority_id` is not that of the prepared one.
    pub async fn activate_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        self.require_jwt()?;
        let _step = self.steps.lock().await;
        check_activation(&self.jwt.contents(), authority_id)?;
        let activated = self.activate_jwt().await;
        activated.map_err(|error| AuthorityError::failed("failed to activate JWT authority", &error))?;
        active_of(&self.jwt.contents())
    }

    /// Marks the old X.509 authority as tainted: everybody renews what it signed.
    ///
    /// # Errors
    /// [`AuthorityError`] for any other authority, and with an upstream authority.
    pub async fn taint_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        if self.has_upstream() {
            return Err(AuthorityError::precondition(
                "local authority can't be tainted if there is an upstream authority",
            ));
        }
        let _step = self.steps.lock().await;
        let authority = check_taint(&self.x509.contents(), authority_id)?;
        self.store
            .taint_x509_authority(authority_id)
            .await
            .map_err(|error| AuthorityError::failed("failed to taint X.509 authority", &error.into()))?;
        tracing::warn!(authority_id, "X.509 authority tainted");
        Ok(authority)
    }

    /// Marks the old JWT authority as tainted.
    ///
    /// # Errors
    /// [`AuthorityError`] for any other authority.
    pub async fn taint_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        self.require_jwt()?;
        let _step = self.steps.lock().await;
        let authority = check_taint(&self.jwt.contents(), authority_id)?;
        self.store
            .taint_jwt_authority(authority_id)
            .await
            .map_err(|error| AuthorityError::failed("failed to taint JWT authority", &error.into()))?;
        tracing::warn!(authority_id, "JWT authority tainted");
        Ok(authority)
    }

    /// Removes the old, tainted X.509 authority from the bundle.
    ///
    /// # Errors
    /// [`AuthorityError`] for any other authority, and with an upstream authority.
    pub async fn revoke_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        if self.has_upstream() {
            return Err(AuthorityError::precondition(
                "local authority can't be revoked if there is an upstream authority",
            ));
        }
        let _step = self.steps.lock().await;
        let contents = self.x509.contents();
        let invalid = |reason: &str| AuthorityError::invalid(format!("invalid authority ID: {reason}"));
        if authority_id.is_empty() {
            return Err(invalid(NO_ID));
        }
        if is_active(&contents, authority_id) {
            return Err(invalid(USES_CURRENT));
        }
        let old = contents.next_with(AuthorityStatus::Old).filter(|old| old.record.authority_id == authority_id);
        let authority = old.ok_or_else(|| invalid("only Old local authority can be revoked"))?.authority();
        self.store
            .revoke_x509_authority(authority_id)
            .await
            .map_err(|error| AuthorityError::failed("failed to revoke X.509 authority", &error.into()))?;
        tracing::warn!(authority_id, "X.509 authority revoked");
        Ok(authority)
    }

    /// Removes a tainted JWT key from the bundle: the old one, or any other that is not in a slot.
    ///
    /// # Errors
    /// [`AuthorityError`] for the active and the prepared one, and for a key that is not tainted or not there.
    pub async fn revoke_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        self.require_jwt()?;
        let _step = self.steps.lock().await;
        let contents = self.jwt.contents();
        let invalid = |reason: &str| AuthorityError::invalid(format!("invalid authority ID: {reason}"));
        if authority_id.is_empty() {
            return Err(invalid(NO_ID));
        }
        if is_active(&contents, authority_id) {
            return Err(invalid(USES_CURRENT));
        }
        let next = contents.next.as_ref().filter(|next| next.record.authority_id == authority_id);
        let authority = match next {
            Some(next) if next.record.status == AuthorityStatus::Prepared => {
                return Err(invalid("unable to use a prepared key"));
            }
            Some(old) => old.authority(),
            None => {
                let bundle = self.bundle();
                let published = bundle.find_jwt(authority_id);
                let published =
                    published.ok_or_else(|| invalid("no JWT authority found with provided authority ID"))?;
                Authority {
                    authority_id: authority_id.to_owned(),
                    expires_at: published.expires_at().unwrap_or(0),
                    upstream_authority_subject_key_id: String::new(),
                }
            }
        };
        self.store
            .revoke_jwt_authority(authority_id)
            .await
            .map_err(|error| AuthorityError::failed("failed to revoke JWT authority", &error.into()))?;
        tracing::warn!(authority_id, "JWT authority revoked");
        Ok(authority)
    }

    /// Marks the upstream root of the old X.509 authority as tainted; returns its ID in lower case.
    ///
    /// # Errors
    /// [`AuthorityError`] for any other root, and without an upstream authority.
    pub async fn taint_x509_upstream_authority(&self, subject_key_id: &str) -> Result<String, AuthorityError> {
        let _step = self.steps.lock().await;
        let id = self.old_upstream(subject_key_id, "provided subject key id is not valid")?;
        self.store
            .taint_x509_authority(&id)
            .await
            .map_err(|error| AuthorityError::failed("failed to taint upstream authority", &error.into()))?;
        tracing::warn!(subject_key_id = id, "X.509 upstream authority tainted");
        Ok(id)
    }

    /// Removes the tainted upstream root of the old X.509 authority from the bundle; returns its ID in lower case.
    ///
    /// # Errors
    /// [`AuthorityError`] for any other root, one that is not tainted, and without an upstream authority.
    pub async fn revoke_x509_upstream_authority(&self, subject_key_id: &str) -> Result<String, AuthorityError> {
        let _step = self.steps.lock().await;
        let id = self.old_upstream(subject_key_id, "invalid subject key ID")?;
        self.store
            .revoke_x509_authority(&id)
            .await
            .map_err(|error| AuthorityError::failed("failed to revoke X.509 upstream authority", &error.into()))?;
        tracing::warn!(subject_key_id = id, "X.509 upstream authority revoked");
        Ok(id)
    }

    /// The named root must have signed the old authority, and not the current one.
    fn old_upstream(&self, subject_key_id: &str, what: &str) -> Result<String, AuthorityError> {
        if !self.has_upstream() {
            return Err(AuthorityError::precondition("upstream authority is not configured"));
        }
        let invalid = |reason: &str| AuthorityError::invalid(format!("{what}: {reason}"));
        if subject_key_id.is_empty() {
            return Err(invalid("no subject key ID provided"));
        }
        let id = subject_key_id.to_ascii_lowercase();
        let contents = self.x509.contents();
        if contents.active.as_ref().is_some_and(|active| active.record.upstream_authority_id == id) {
            return Err(invalid("unable to use upstream authority singing current authority"));
        }
        let old = contents.next_with(AuthorityStatus::Old);
        if old.is_none_or(|old| old.record.upstream_authority_id != id) {
            return Err(invalid("upstream authority didn't sign the old local authority"));
        }
        Ok(id)
    }

    fn require_jwt(&self) -> Result<(), AuthorityError> {
        if self.config.disable_jwt_svids { Err(AuthorityError::jwt_disabled()) } else { Ok(()) }
    }
}

fn state<T>(contents: &Contents<T>) -> Result<AuthorityState, AuthorityError> {
    let state = contents.state();
    if state.active.is_none() { Err(AuthorityError::initializing()) } else { Ok(state) }
}

fn is_active<T>(contents: &Contents<T>, authority_id: &str) -> bool {
    contents.active.as_ref().is_some_and(|active| active.record.authority_id == authority_id)
}

fn prepared_of<T>(contents: &Contents<T>) -> Result<Authority, AuthorityError> {
    contents.state().prepared.ok_or_else(AuthorityError::initializing)
}

fn active_of<T>(contents: &Contents<T>) -> Result<Authority, AuthorityError> {
    contents.state().active.ok_or_else(AuthorityError::initializing)
}

fn check_activation<T>(contents: &Contents<T>, authority_id: &str) -> Result<(), AuthorityError> {
    if authority_id.is_empty() {
        return Err(AuthorityError::invalid(NO_ID));
    }
    let next = contents.next.as_ref().filter(|next| next.record.authority_id == authority_id);
    let next = next.ok_or_else(|| AuthorityError::invalid(UNEXPECTED_ID))?;
    match next.record.status {
        AuthorityStatus::Prepared => Ok(()),
        other => Err(AuthorityError::internal(format!(
            "only Prepared authorities can be activated: unsupported local authority status: {other}"
        ))),
    }
}

fn check_taint<T>(contents: &Contents<T>, authority_id: &str) -> Result<Authority, AuthorityError> {
    if authority_id.is_empty() {
        return Err(AuthorityError::invalid(NO_ID));
    }
    if is_active(contents, authority_id) {
        return Err(AuthorityError::invalid("unable to taint current local authority"));
    }
    let next = contents.next.as_ref().filter(|next| next.record.authority_id == authority_id);
    let next = next.ok_or_else(|| AuthorityError::invalid(UNEXPECTED_ID))?;
    match next.record.status {
        AuthorityStatus::Old => Ok(next.authority()),
        other => Err(AuthorityError::invalid(format!(
            "only Old local authorities can be tainted: unsupported local authority status: {other}"
        ))),
    }
}
