//! An upstream authority whose certificate and key are files.
#![allow(missing_docs, unused_variables, clippy::todo)]

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use federation_specs::id::TrustDomain;
use service_kit::clock::SharedClock;

use super::{MintedCa, UpstreamAuthority, UpstreamError};

/// `upstream_authority.disk` of the configuration.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    pub cert_file_path: PathBuf,
    pub key_file_path: PathBuf,
    pub bundle_file_path: Option<PathBuf>,
}

#[derive(Debug)]
pub struct DiskUpstream {}

impl DiskUpstream {
    pub fn new(config: DiskConfig, trust_domain: TrustDomain, clock: SharedClock) -> Result<Self, UpstreamError> {
        todo!()
    }
}

#[async_trait]
impl UpstreamAuthority for DiskUpstream {
    async fn mint_x509_ca(&self, csr_der: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        todo!()
    }
}
