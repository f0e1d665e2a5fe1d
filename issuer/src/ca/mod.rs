//! The trust domain's authorities: X.509 CA and JWT signing keys, their rotation, and everything signed with them.
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::sync::Arc;
use std::time::Duration;

use federation_specs::bundle::Bundle;
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::public_key::PublicKey;
use service_kit::clock::SharedClock;
use service_kit::keys::{KeyManager, KeyType};
use service_kit::lifecycle::Shutdown;
use service_kit::tls::SvidSource;
use time::OffsetDateTime;

use crate::store::Store;
use crate::upstream::UpstreamAuthority;

/// Subject of a self-signed CA certificate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaSubject {
    pub country: Vec<String>,
    pub organization: Vec<String>,
    pub common_name: String,
}

impl Default for CaSubject {
    /// C=US, O=SPIFFE.
    fn default() -> Self {
        Self { country: vec!["US".into()], organization: vec!["SPIFFE".into()], common_name: String::new() }
    }
}

#[derive(Debug, Clone)]
pub struct CaConfig {
    pub trust_domain: TrustDomain,
    pub ca_ttl: Duration,
    pub ca_key_type: KeyType,
    pub jwt_key_type: KeyType,
    pub ca_subject: CaSubject,
    pub default_x509_svid_ttl: Duration,
    pub default_jwt_svid_ttl: Duration,
    /// `None`: the X509-SVID default.
    pub agent_ttl: Option<Duration>,
    pub jwt_issuer: Option<String>,
    pub disable_jwt_svids: bool,
    /// x500UniqueIdentifier in workload subjects.
    pub unique_id: bool,
}

/// A workload X509-SVID to sign.
#[derive(Debug, Clone)]
pub struct X509SvidParams {
    pub spiffe_id: SpiffeId,
    pub public_key: PublicKey,
    /// SANs in order; the first replaces the common name.
    pub dns_names: Vec<String>,
    /// `None` or zero: the default.
    pub ttl: Option<Duration>,
    /// DER Name of the CSR (minting); `None` or an empty name: C=US, O=SPIRE.
    pub subject_der: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct X509Svid {
    pub spiffe_id: SpiffeId,
    /// DER, leaf first, root excluded.
    pub chain: Vec<Vec<u8>>,
    /// Unix seconds.
    pub expires_at: i64,
    pub serial_decimal: String,
}

#[derive(Debug, Clone)]
pub struct JwtSvidParams {
    pub spiffe_id: SpiffeId,
    /// Empty strings are dropped; none left is an error.
    pub audience: Vec<String>,
    /// `None` or zero: the default.
    pub ttl: Option<Duration>,
    pub include_jti: bool,
}

#[derive(Clone)]
pub struct JwtSvid {
    pub spiffe_id: SpiffeId,
    pub token: String,
    pub expires_at: i64,
    pub issued_at: i64,
}

#[derive(Debug, Clone)]
pub struct DownstreamCa {
    /// DER, the new CA first, root excluded.
    pub chain: Vec<Vec<u8>>,
    /// DER of every root of the own bundle.
    pub roots: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// X.509: lowercase hex SKI; JWT: kid.
    pub authority_id: String,
    /// Unix seconds.
    pub expires_at: i64,
    /// Lowercase hex AKI; empty without upstream authority.
    pub upstream_authority_subject_key_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthorityState {
    pub active: Option<Authority>,
    pub prepared: Option<Authority>,
    pub old: Option<Authority>,
}

/// gRPC code an [`AuthorityError`] maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityErrorKind {
    InvalidArgument,
    FailedPrecondition,
    Internal,
    Unavailable,
    Unimplemented,
}

/// Why an authority was not prepared, activated, tainted or revoked. `Display` is the text for the wire.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AuthorityError {
    kind: AuthorityErrorKind,
    message: String,
}

impl AuthorityError {
    pub fn kind(&self) -> AuthorityErrorKind {
        self.kind
    }
}

/// Why signing or rotating failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// `Display` of these is safe for callers.
    #[error("invalid JWT-SVID audience: cannot be empty")]
    EmptyAudience,
    #[error("JWT functionality is disabled")]
    JwtDisabled,
    #[error("{0}")]
    Internal(String),
}

#[derive(Debug)]
pub struct CaManager {}

impl CaManager {
    /// Loads the journal, prepares and activates what is missing, signs the server's own SVID.
    pub async fn start(
        config: CaConfig,
        store: Store,
        keys: Arc<dyn KeyManager>,
        upstream: Option<Arc<dyn UpstreamAuthority>>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, CaError> {
        todo!()
    }
    /// Rotation (every 10 s), bundle pruning (6 h), own SVID (5 s), until shutdown.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<(), service_kit::BoxError> {
        todo!()
    }
    pub fn bundle(&self) -> Arc<Bundle> {
        todo!()
    }
    /// The server's own X509-SVID.
    pub fn server_svid(&self) -> Arc<dyn SvidSource> {
        todo!()
    }
    pub async fn sign_x509_svid(&self, params: &X509SvidParams) -> Result<X509Svid, CaError> {
        todo!()
    }
    pub async fn sign_agent_svid(&self, agent_id: &SpiffeId, public_key: &PublicKey) -> Result<X509Svid, CaError> {
        todo!()
    }
    pub async fn sign_jwt_svid(&self, params: &JwtSvidParams) -> Result<JwtSvid, CaError> {
        todo!()
    }
    pub async fn sign_downstream_ca(&self, public_key: &PublicKey, preferred_ttl: Option<Duration>) -> Result<DownstreamCa, CaError> {
        todo!()
    }
    pub fn has_upstream(&self) -> bool {
        todo!()
    }
    pub fn x509_authority_state(&self) -> Result<AuthorityState, AuthorityError> {
        todo!()
    }
    pub fn jwt_authority_state(&self) -> Result<AuthorityState, AuthorityError> {
        todo!()
    }
    pub async fn prepare_x509_authority(&self) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn activate_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn taint_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn revoke_x509_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    /// Returns the lower-cased subject key ID.
    pub async fn taint_x509_upstream_authority(&self, subject_key_id: &str) -> Result<String, AuthorityError> {
        todo!()
    }
    pub async fn revoke_x509_upstream_authority(&self, subject_key_id: &str) -> Result<String, AuthorityError> {
        todo!()
    }
    pub async fn prepare_jwt_authority(&self) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn activate_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn taint_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    pub async fn revoke_jwt_authority(&self, authority_id: &str) -> Result<Authority, AuthorityError> {
        todo!()
    }
    /// JWT keys of downstream servers; returns every JWT key of the bundle.
    pub async fn publish_jwt_authority(
        &self,
        authority: federation_specs::bundle::JwtAuthority,
    ) -> Result<Arc<Bundle>, CaError> {
        todo!()
    }
    pub fn now(&self) -> OffsetDateTime {
        todo!()
    }
}
