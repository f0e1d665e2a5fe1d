//! Server configurations that present the current X509-SVID.

use std::{fmt, sync::Arc};

use federation_specs::x509_svid::VerifiedX509Svid;
use rustls::{
    ServerConfig, ServerConnection,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    BundleSource, PeerPolicy, SvidSource, TlsError,
    verifier::{PeerCheck, SpiffeClientVerifier},
};
use crate::{clock::SharedClock, crypto};

/// Whether a server asks its clients for an X509-SVID.
#[derive(Clone)]
pub enum ClientAuth {
    /// Never: what a bundle endpoint does.
    None,
    /// Asks; a client may decline, but what it presents must verify and be welcome.
    Optional {
        /// What to verify with.
        bundles: Arc<dyn BundleSource>,
        /// Who is welcome.
        policy: PeerPolicy,
    },
    /// Insists: a client without an acceptable X509-SVID fails the handshake.
    Required {
        /// What to verify with.
        bundles: Arc<dyn BundleSource>,
        /// Who is welcome.
        policy: PeerPolicy,
    },
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Optional { policy, .. } => f.debug_struct("Optional").field("policy", policy).finish_non_exhaustive(),
            Self::Required { policy, .. } => f.debug_struct("Required").field("policy", policy).finish_non_exhaustive(),
        }
    }
}

impl ClientAuth {
    fn check(&self, clock: &SharedClock) -> Option<PeerCheck> {
        match self {
            Self::None => None,
            Self::Optional { bundles, policy } | Self::Required { bundles, policy } => {
                Some(PeerCheck { bundles: Arc::clone(bundles), policy: policy.clone(), clock: Arc::clone(clock) })
            }
        }
    }
}

/// A configuration for TLS 1.2 and 1.3 that presents the current X509-SVID. Handshakes fail while there is none.
///
/// # Errors
/// [`TlsError::Config`] when rustls refuses the provider, which is a defect.
pub fn server_config(
    svid: Arc<dyn SvidSource>,
    client_auth: &ClientAuth,
    clock: &SharedClock,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = crypto::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_auth.check(clock) {
        None => builder.with_no_client_auth(),
        Some(check) => {
            let mandatory = matches!(client_auth, ClientAuth::Required { .. });
            builder.with_client_cert_verifier(Arc::new(SpiffeClientVerifier { check, mandatory, provider }))
        }
    };
    Ok(Arc::new(finish(builder.with_cert_resolver(Arc::new(SvidResolver(svid))), alpn)))
}

/// What every server configuration has in common: ALPN, and no session tickets or caches.
pub(super) fn finish(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// The identity a client proved in the handshake; `None` if it presented no certificate. The same check as in the
/// handshake, repeated with the bundles of now.
///
/// # Errors
/// [`TlsError`] when the certificate is not (or no longer) acceptable.
pub fn verified_peer(
    connection: &ServerConnection,
    client_auth: &ClientAuth,
    clock: &SharedClock,
) -> Result<Option<VerifiedX509Svid>, TlsError> {
    let Some(check) = client_auth.check(clock) else { return Ok(None) };
    match connection.peer_certificates() {
        None | Some([]) => Ok(None),
        Some(chain) => check.verify(chain).map(Some),
    }
}

/// Presents the current X509-SVID.
struct SvidResolver(Arc<dyn SvidSource>);

impl fmt::Debug for SvidResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SvidResolver")
    }
}

impl ResolvesServerCert for SvidResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current()?.certified()))
    }
}
