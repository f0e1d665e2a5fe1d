//! The server's own X509-SVID: its key is in memory only; renewed at half-life, and at once when what signed it is
//! tainted.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use service_kit::keys::PrivateKey;
use service_kit::tls::{SvidCell, SvidSource, X509Identity};
use time::OffsetDateTime;

use super::name::Subject;
use super::slots::Held;
use super::x509::X509Signer;
use super::{CaError, CaManager};

/// Where the server's identity is kept.
#[derive(Debug, Default)]
pub(super) struct ServerSvid {
    cell: Arc<SvidCell>,
    signed: ArcSwapOption<Signed>,
}

#[derive(Debug)]
struct Signed {
    half_life: OffsetDateTime,
    by: Arc<Held<X509Signer>>,
}

impl ServerSvid {
    pub(super) fn source(&self) -> Arc<dyn SvidSource> {
        self.cell.clone()
    }
}

impl CaManager {
    /// Renews the identity if it is time.
    pub(super) async fn rotate_server_svid(&self) -> Result<(), CaError> {
        let due = match self.server_svid.signed.load().as_deref() {
            None => true,
            Some(signed) => self.clock.now() >= signed.half_life || signed.by.is_tainted_in(&self.bundle()),
        };
        if due { self.sign_server_svid().await } else { Ok(()) }
    }

    /// Makes a new key and signs the identity with the active CA.
    pub(super) async fn sign_server_svid(&self) -> Result<(), CaError> {
        let now = self.clock.now();
        let id = self.config.trust_domain.server_id();
        let key = PrivateKey::generate_async(self.config.ca_key_type).await?;
        let by = self.x509.contents().active.clone().ok_or(CaError::NotReady)?;
        let ttl = self.config.default_x509_svid_ttl;
        let svid = self.sign_svid(&id, key.public_key(), Subject::svid(), &[], ttl).await?;
        let identity = X509Identity::new(svid.chain.into_iter().map(Into::into).collect(), &key)?;
        let half_life = now + (identity.not_after() - now) / 2;
        tracing::info!(expires = %identity.not_after(), "the server's X509-SVID signed");
        self.server_svid.cell.set(Arc::new(identity));
        self.server_svid.signed.store(Some(Arc::new(Signed { half_life, by })));
        Ok(())
    }
}
