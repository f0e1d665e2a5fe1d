//! Clients that present an X509-SVID: who they are, proven again with the bundles of each moment.

use std::sync::Arc;

use federation_specs::{
    id::SpiffeId,
    x509_svid::{VerifiedX509Svid, X509SvidError, verify_chain},
};
use rustls::ServerConnection;
use rustls_pki_types::CertificateDer;
use service_kit::{
    clock::SharedClock,
    tls::{BundleSource, ClientAuth, PeerPolicy},
};
use time::OffsetDateTime;

/// What the clients of a listener are verified with. A client without an X509-SVID of one of these bundles fails the
/// handshake; what a proven one may do is not decided here.
#[derive(Clone)]
pub(super) struct PeerTrust {
    pub(super) bundles: Arc<dyn BundleSource>,
    pub(super) clock: SharedClock,
}

impl PeerTrust {
    /// How the handshake asks for the X509-SVID.
    pub(super) fn client_auth(&self) -> ClientAuth {
        let policy = PeerPolicy::Custom(Arc::new(|_| true));
        ClientAuth::Required { bundles: Arc::clone(&self.bundles), policy }
    }

    /// The client of a connection whose handshake is over; `None` if it cannot be verified any more.
    pub(super) fn peer(&self, connection: &ServerConnection) -> Option<Peer> {
        let chain: Vec<_> = connection.peer_certificates()?.iter().map(|der| der.clone().into_owned()).collect();
        let until = self.verify(&chain).ok()?.not_after();
        Some(Peer { trust: self.clone(), chain, until })
    }

    fn verify(&self, chain: &[CertificateDer<'static>]) -> Result<VerifiedX509Svid, X509SvidError> {
        verify_chain(chain, &self.bundles.bundles(), self.clock.now())
    }
}

/// The client of one connection.
pub(super) struct Peer {
    trust: PeerTrust,
    chain: Vec<CertificateDer<'static>>,
    /// When its X509-SVID ends, and the connection with it.
    pub(super) until: OffsetDateTime,
}

impl Peer {
    /// Who it is at this moment: authorities may have gone since the handshake.
    pub(super) fn identity(&self) -> PeerIdentity {
        PeerIdentity(self.trust.verify(&self.chain).map(|svid| svid.id().clone()).map_err(Arc::new))
    }
}

/// Who sent a request, or why that is not proven any more. In the extensions of the request.
#[derive(Debug, Clone)]
pub(crate) struct PeerIdentity(pub(crate) Result<SpiffeId, Arc<X509SvidError>>);
