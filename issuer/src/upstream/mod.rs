//! Upstream authorities: who signs the server's CA certificate when it is not self-signed.
#![allow(missing_docs)]

pub mod disk;

use std::time::Duration;

use async_trait::async_trait;
use federation_specs::bundle::X509Authority;

/// An upstream authority's answer.
#[derive(Debug, Clone)]
pub struct MintedCa {
    /// DER, the new CA first, then intermediates up to but excluding the root.
    pub chain: Vec<Vec<u8>>,
    pub roots: Vec<X509Authority>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UpstreamError(pub String);

#[async_trait]
pub trait UpstreamAuthority: Send + Sync + std::fmt::Debug {
    async fn mint_x509_ca(&self, csr_der: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError>;
}
