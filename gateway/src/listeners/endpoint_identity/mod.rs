//! X509-SVIDs of the `https_spiffe` endpoints. Each comes from one place and is replaced without touching connections.

pub(crate) mod issuer;
pub(crate) mod workload_api;

use std::sync::Arc;

use async_trait::async_trait;
use federation_specs::id::SpiffeId;
use service_kit::{BoxError, lifecycle::Shutdown, tls::SvidCell};

use crate::readiness::Gathered;

/// One endpoint's X509-SVID over time.
#[async_trait]
pub(crate) trait EndpointIdentity: Send + Sync {
    /// The SPIFFE ID, under which readiness tells about it.
    fn id(&self) -> &SpiffeId;

    /// Where handshakes find the current X509-SVID.
    fn cell(&self) -> Arc<SvidCell>;

    /// Keeps it current until `shutdown`. The last good one stays in use, whatever fails.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    async fn run(self: Box<Self>, health: Gathered, shutdown: Shutdown) -> Result<(), BoxError>;
}
