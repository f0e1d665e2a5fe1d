//! TLS between SPIFFE peers and towards the web: configurations whose certificates and trust follow the current SVID
//! and bundles without a restart.
//!
//! Peers are verified by the X509-SVID rules alone (`federation_specs::x509_svid::verify_chain`), never by host name.
//! No session is resumed, because it would outlive the bundle it was verified with; only a client of [`ServerTrust`]
//! resumes, and verifies the certificates of the session again each time.

mod client;
mod identity;
mod server;
mod server_trust;
mod verifier;
mod web;
mod web_roots;

use std::{fmt, io, path::PathBuf, sync::Arc};

use federation_specs::{
    id::{SpiffeId, TrustDomain},
    x509_svid::X509SvidError,
};

pub use client::{insecure_bootstrap_client_config, spiffe_client_config};
pub use identity::{BundleCell, BundleSource, SvidCell, SvidSource, X509Identity};
pub use server::{ClientAuth, server_config, verified_peer};
pub use server_trust::ServerTrust;
pub use verifier::refusal;
pub use web::{WebCertificate, resolver_server_config, web_client_config, web_server_config};
pub use web_roots::WebRoots;

/// The ALPN protocol of HTTP/2, which gRPC needs.
pub const ALPN_H2: &[u8] = b"h2";

/// The ALPN protocol of HTTP/1.1.
pub const ALPN_HTTP11: &[u8] = b"http/1.1";

/// Which peers are welcome, once their X509-SVID is proven.
#[derive(Clone)]
pub enum PeerPolicy {
    /// This one only.
    Exactly(SpiffeId),
    /// Any identity of this trust domain.
    MemberOf(TrustDomain),
    /// Whoever one of these lets in.
    AnyOf(Vec<PeerPolicy>),
    /// Whoever the function answers `true` for.
    Custom(Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>),
}

impl PeerPolicy {
    /// Whether the policy lets `id` in.
    pub fn allows(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exactly(expected) => id == expected,
            Self::MemberOf(trust_domain) => id.is_member_of(trust_domain),
            Self::AnyOf(policies) => policies.iter().any(|policy| policy.allows(id)),
            Self::Custom(allows) => allows(id),
        }
    }
}

impl fmt::Display for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(id) => write!(f, "{id}"),
            Self::MemberOf(trust_domain) => write!(f, "an identity of {trust_domain}"),
            Self::AnyOf(policies) => {
                for (index, policy) in policies.iter().enumerate() {
                    let or = if index == 0 { "" } else { " or " };
                    write!(f, "{or}{policy}")?;
                }
                Ok(())
            }
            Self::Custom(_) => f.write_str("another identity"),
        }
    }
}

impl fmt::Debug for PeerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(id) => write!(f, "Exactly({id})"),
            Self::MemberOf(trust_domain) => write!(f, "MemberOf({trust_domain})"),
            Self::AnyOf(policies) => f.debug_tuple("AnyOf").field(policies).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// Why a TLS configuration or identity could not be made, or a peer not accepted.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No X509-SVID to present.
    #[error("no X509-SVID to present yet")]
    NoIdentity,
    /// The chain of an identity is empty.
    #[error("certificate chain is empty")]
    EmptyChain,
    /// The private key is another one than the leaf certificate's.
    #[error("private key does not belong to the certificate")]
    KeyMismatch,
    /// The private key cannot be used for TLS.
    #[error("private key cannot be used for TLS: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate is no valid X509-SVID.
    #[error("{0}")]
    Svid(#[source] Arc<X509SvidError>),
    /// The peer is proven but not welcome.
    #[error("the peer presents {actual}, which is not expected here (expected {expected})")]
    UnexpectedPeer {
        /// Who it is.
        actual: SpiffeId,
        /// Who would be welcome.
        expected: PeerPolicy,
    },
    /// A certificate or key file cannot be read.
    #[error("{what} {} cannot be read: {source}", path.display())]
    File {
        /// `certificate file` or `key file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A PEM file holds something else.
    #[error("{what} {} holds no usable PEM: {reason}", path.display())]
    Pem {
        /// `certificate file` or `key file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Root certificates given as PEM are not usable.
    #[error("CA certificates are not usable: {reason}; give PEM with at least one CA certificate")]
    Roots {
        /// What is wrong with them.
        reason: String,
    },
    /// rustls refused the configuration.
    #[error("TLS configuration refused: {0}")]
    Config(#[from] rustls::Error),
}

impl From<X509SvidError> for TlsError {
    fn from(error: X509SvidError) -> Self {
        Self::Svid(Arc::new(error))
    }
}

#[cfg(test)]
mod tests;
