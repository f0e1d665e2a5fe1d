//! Upstream authorities: who signs the server's CA certificate when it does not sign itself.

pub mod disk;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use federation_specs::bundle::X509Authority;

/// An upstream authority's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct MintedCa {
    /// DER, the new CA certificate first, then intermediates up to but excluding the root.
    pub chain: Vec<Vec<u8>>,
    /// Every root the trust domain's bundle must hold for it; at least one.
    pub roots: Vec<X509Authority>,
}

/// Why an upstream authority did not sign. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// A file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The request is not one for a CA of this trust domain.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

/// Signs CA certificates for this server.
///
/// An implementation checks the request (signature, one URI SAN equal to the trust domain's ID), never signs beyond its
/// own validity, and answers with a chain that leads to one of the roots it gives.
#[async_trait]
pub trait UpstreamAuthority: Send + Sync + std::fmt::Debug {
    /// Signs the CA of a PKCS#10 request in DER for `preferred_ttl`, or less.
    async fn mint_x509_ca(&self, csr_der: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError>;
}
