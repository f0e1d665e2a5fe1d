//! Errors of the CA.

use federation_specs::jwt_svid::SigningError;
use federation_specs::x509_svid::{CaCertificateError, SvidCertificateError};
use service_kit::csr::CsrError;
use service_kit::keys::KeyError;
use time::OffsetDateTime;

use super::certificate::CertificateError;
use super::name::NameError;
use super::{MAX_AUDIENCE_BYTES, MAX_AUDIENCES};
use crate::store::StoreError;
use crate::upstream::UpstreamError;

/// Why signing, preparing or loading failed. Where [`CaError::is_internal`] holds, the text is for the log only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// More audiences than a token can bear.
    #[error("invalid JWT-SVID audience: more than {MAX_AUDIENCES} or more than {MAX_AUDIENCE_BYTES} bytes together")]
    LongAudience,
    /// No audience is left after empty ones are dropped.
    #[error("invalid JWT-SVID audience: cannot be empty")]
    EmptyAudience,
    /// `disable_jwt_svids` is set.
    #[error("JWT functionality is disabled")]
    JwtDisabled,
    /// The subject of a request cannot be used.
    #[error("subject of the request cannot be used")]
    Subject,
    /// A name for the certificate is no DNS name.
    #[error("`{name}` is no DNS name: {reason}")]
    DnsName {
        /// What was given.
        name: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// There is no authority that could sign.
    #[error("no authority is ready to sign")]
    NotReady,
    /// The authority that signs has expired.
    #[error("the signing authority has expired")]
    Expired,
    /// The clock is before the beginning of the active CA certificate.
    #[error(
        "the clock says {now}, but the CA certificate in use begins at {not_before}; set the clock right and start again"
    )]
    ClockBehind {
        /// What the clock says.
        now: OffsetDateTime,
        /// Beginning of the certificate.
        not_before: OffsetDateTime,
    },
    /// The same slot was filled again and again while signing.
    #[error("signing keys change too fast to sign")]
    KeyReplaced,
    /// A certificate could not be made.
    #[error("certificate was not signed: {0}")]
    Certificate(#[from] Box<dyn std::error::Error + Send + Sync>),
    /// What was signed does not keep the rules of a CA certificate.
    #[error("CA certificate breaks a rule: {0}")]
    CaRules(#[from] CaCertificateError),
    /// What was signed does not keep the rules of an X509-SVID.
    #[error("X509-SVID breaks a rule: {0}")]
    SvidRules(#[from] SvidCertificateError),
    /// A token could not be put together.
    #[error("token was not signed: {0}")]
    Token(#[from] SigningError),
    /// The key manager failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The request for the upstream authority could not be made.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The upstream authority did not sign.
    #[error("upstream authority did not sign: {0}")]
    Upstream(#[from] UpstreamError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server's own identity cannot be used for TLS.
    #[error("the server's X509-SVID cannot be used: {0}")]
    Tls(#[from] service_kit::tls::TlsError),
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl CaError {
    /// The cause is the server's, not the caller's: answer a fixed text and log this.
    pub fn is_internal(&self) -> bool {
        !matches!(
            self,
            Self::EmptyAudience | Self::LongAudience | Self::JwtDisabled | Self::Subject | Self::DnsName { .. }
        )
    }
}

impl From<CertificateError> for CaError {
    fn from(error: CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired,
            other => Self::Certificate(Box::new(other)),
        }
    }
}

impl From<NameError> for CaError {
    fn from(error: NameError) -> Self {
        Self::Certificate(Box::new(error))
    }
}

/// gRPC code an [`AuthorityError`] goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityErrorKind {
    /// The caller named the wrong authority.
    InvalidArgument,
    /// The server's configuration does not allow it.
    FailedPrecondition,
    /// It failed.
    Internal,
    /// Not yet.
    Unavailable,
    /// Switched off.
    Unimplemented,
}

/// Why an authority was not prepared, activated, tainted or revoked. `Display` is the text for the caller; causes that
/// are not for it are logged where they happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AuthorityError {
    kind: AuthorityErrorKind,
    message: String,
}

impl AuthorityError {
    /// The gRPC code.
    pub fn kind(&self) -> AuthorityErrorKind {
        self.kind
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: AuthorityErrorKind::InvalidArgument, message: message.into() }
    }

    pub(super) fn precondition(message: &str) -> Self {
        Self { kind: AuthorityErrorKind::FailedPrecondition, message: message.to_owned() }
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self { kind: AuthorityErrorKind::Internal, message: message.into() }
    }

    pub(super) fn initializing() -> Self {
        Self { kind: AuthorityErrorKind::Unavailable, message: "server is initializing".to_owned() }
    }

    pub(super) fn jwt_disabled() -> Self {
        Self { kind: AuthorityErrorKind::Unimplemented, message: CaError::JwtDisabled.to_string() }
    }

    /// `what` failed; only what the store says about the authority itself is added.
    pub(super) fn failed(what: &str, error: &CaError) -> Self {
        match error {
            CaError::Store(store) if !store.is_internal() => Self::internal(format!("{what}: {store}")),
            CaError::JwtDisabled => Self::jwt_disabled(),
            other => {
                tracing::error!(error = %other, "{what}");
                Self::internal(what)
            }
        }
    }
}
