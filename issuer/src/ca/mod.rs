//! The trust domain's authorities: X.509 CA and JWT signing keys, their rotation, and everything signed with them.
//!
//! Two slots a kind. The next authority is prepared (and published in the bundle) long before it is activated, so that
//! everybody knows it when it begins to sign. A step changes, in this order: the key in the slot, then journal and
//! bundle in one transaction, then the memory. A crash after the first leaves a key nobody was told of, which the next
//! start notices; a crash after the second is finished by reading the journal.

mod authority;
pub(crate) mod certificate;
mod error;
mod jwt;
pub(crate) mod name;
mod rotator;
mod server_svid;
mod sign;
mod slots;
mod x509;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use federation_specs::bundle::{Bundle, JwtAuthority};
use federation_specs::id::TrustDomain;
use service_kit::clock::SharedClock;
use service_kit::keys::{KeyManager, KeyType};
use service_kit::tls::SvidSource;

pub use error::{AuthorityError, AuthorityErrorKind, CaError};
pub use sign::{DownstreamCa, JwtSvid, JwtSvidParams, X509Svid, X509SvidParams};

use crate::store::Store;
use crate::upstream::UpstreamAuthority;
use jwt::JwtSigner;
use server_svid::ServerSvid;
use slots::Slots;
use x509::X509Signer;

/// Audiences in one JWT-SVID.
const MAX_AUDIENCES: usize = 256;

/// Bytes of all audiences of one JWT-SVID, so that it is not too long to be verified.
const MAX_AUDIENCE_BYTES: usize = 16 << 10;

/// Subject of a self-signed CA certificate; a serialNumber attribute is added.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaSubject {
    /// C
    pub country: Vec<String>,
    /// O
    pub organization: Vec<String>,
    /// CN; empty for none.
    pub common_name: String,
}

impl Default for CaSubject {
    /// C=US, O=SPIFFE.
    fn default() -> Self {
        Self { country: vec!["US".into()], organization: vec!["SPIFFE".into()], common_name: String::new() }
    }
}

/// Settings of the CA.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// Lifetime of a CA certificate and of a JWT key.
    pub ca_ttl: Duration,
    /// Key of the CA and of the server's own SVID.
    pub ca_key_type: KeyType,
    /// Key that signs JWT-SVIDs.
    pub jwt_key_type: KeyType,
    /// Subject of the CA certificate.
    pub ca_subject: CaSubject,
    /// Lifetime of an X509-SVID unless its entry or request says otherwise.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of a JWT-SVID unless its entry or request says otherwise.
    pub default_jwt_svid_ttl: Duration,
    /// Lifetime of an agent's X509-SVID; `None` is the X509-SVID default.
    pub agent_ttl: Option<Duration>,
    /// `iss` of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// No JWT keys, no JWT-SVIDs.
    pub disable_jwt_svids: bool,
    /// Workload subjects carry an x500UniqueIdentifier.
    pub unique_id: bool,
}

/// An authority as the LocalAuthority API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// X.509: subject key ID in lowercase hex; JWT: key ID.
    pub authority_id: String,
    /// Unix seconds.
    pub expires_at: i64,
    /// Lowercase hex; empty without upstream authority.
    pub upstream_authority_subject_key_id: String,
}

/// The authorities in the slots of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthorityState {
    /// Signs.
    pub active: Option<Authority>,
    /// Will sign next.
    pub prepared: Option<Authority>,
    /// Signed before.
    pub old: Option<Authority>,
}

/// Makes, rotates and uses the authorities of the trust domain.
#[derive(Debug)]
pub struct CaManager {
    config: CaConfig,
    store: Store,
    keys: Arc<dyn KeyManager>,
    upstream: Option<Arc<dyn UpstreamAuthority>>,
    clock: SharedClock,
    x509: Slots<X509Signer>,
    jwt: Slots<JwtSigner>,
    /// Held while slots change, so that a command and the rotation do not meet.
    steps: tokio::sync::Mutex<()>,
    server_svid: ServerSvid,
}

impl CaManager {
    /// Goes on with the authorities of the journal, makes what is missing and signs the server's own X509-SVID.
    ///
    /// # Errors
    /// [`CaError::ClockBehind`]; anything that keeps the server from having authorities that can sign.
    pub async fn start(
        config: CaConfig,
        store: Store,
        keys: Arc<dyn KeyManager>,
        upstream: Option<Arc<dyn UpstreamAuthority>>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, CaError> {
        let manager = Arc::new(Self {
            config,
            store,
            keys,
            upstream,
            clock,
            x509: Slots::default(),
            jwt: Slots::default(),
            steps: tokio::sync::Mutex::new(()),
            server_svid: ServerSvid::default(),
        });
        manager.warn_about_lifetimes();
        manager.load_x509().await?;
        if !manager.config.disable_jwt_svids {
            manager.load_jwt().await?;
        }
        manager.rotate_at_start().await?;
        manager.sign_server_svid().await?;
        Ok(manager)
    }

    /// The own bundle as it is now. [`Store::changes`] tells when it changes.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.store.own_bundle().unwrap_or_else(|| Arc::new(Bundle::new(self.config.trust_domain.clone())))
    }

    /// The server's own X509-SVID, always a current one.
    pub fn server_svid(&self) -> Arc<dyn SvidSource> {
        self.server_svid.source()
    }

    /// The CA certificate is signed by an upstream authority.
    pub fn has_upstream(&self) -> bool {
        self.upstream.is_some()
    }

    /// Adds the JWT key of a downstream server to the bundle.
    ///
    /// # Errors
    /// [`CaError::Store`].
    pub async fn publish_jwt_authority(&self, authority: JwtAuthority) -> Result<Arc<Bundle>, CaError> {
        Ok(self.store.append_to_own_bundle(&[], &[authority]).await?)
    }

    /// SVIDs that live longer than what is always left of a CA are cut short.
    fn warn_about_lifetimes(&self) {
        let always_left = (self.config.ca_ttl / 6).min(Duration::from_secs(7 * 24 * 3600));
        let agent = self.config.agent_ttl.unwrap_or(self.config.default_x509_svid_ttl);
        for (name, ttl) in [
            ("default_x509_svid_ttl", self.config.default_x509_svid_ttl),
            ("default_jwt_svid_ttl", self.config.default_jwt_svid_ttl),
            ("agent_ttl", agent),
        ] {
            if ttl > always_left {
                tracing::warn!(
                    setting = name,
                    ?ttl,
                    ca_ttl = ?self.config.ca_ttl,
                    "SVIDs may live shorter than configured: raise ca_ttl to at least six times this lifetime"
                );
            }
        }
    }
}
