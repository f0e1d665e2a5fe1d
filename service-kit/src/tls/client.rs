//! Client configurations towards SPIFFE peers.

use std::{fmt, sync::Arc};

use federation_specs::id::SpiffeId;
use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};

use super::{
    BundleSource, PeerPolicy, SvidSource, TlsError,
    verifier::{BootstrapServerVerifier, PeerCheck, SpiffeServerVerifier},
};
use crate::{clock::SharedClock, crypto};

/// A configuration that accepts servers `expected` lets in, verified with the current bundles, and presents the
/// current X509-SVID if there is a source of one.
///
/// # Errors
/// [`TlsError::Config`] when rustls refuses the provider, which is a defect.
pub fn spiffe_client_config(
    bundles: Arc<dyn BundleSource>,
    svid: Option<Arc<dyn SvidSource>>,
    expected: PeerPolicy,
    clock: SharedClock,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = crypto::provider();
    let check = PeerCheck { bundles, policy: expected, clock };
    let verifier = Arc::new(SpiffeServerVerifier { check, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match svid {
        Some(source) => builder.with_client_cert_resolver(Arc::new(SvidResolver(source))),
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(finish(config, alpn)))
}

/// A configuration that believes any server whose leaf carries exactly the SPIFFE ID `expected`, without verifying its
/// chain. Only for an insecure bootstrap the operator asked for.
///
/// # Errors
/// As [`spiffe_client_config`].
pub fn insecure_bootstrap_client_config(expected: SpiffeId, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = crypto::provider();
    let verifier = Arc::new(BootstrapServerVerifier { expected, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(Arc::new(finish(config, alpn)))
}

/// What every client configuration has in common: ALPN, and no session resumption.
pub(super) fn finish(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config
}

/// Presents the current X509-SVID.
struct SvidResolver(Arc<dyn SvidSource>);

impl fmt::Debug for SvidResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SvidResolver")
    }
}

impl ResolvesClientCert for SvidResolver {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let identity = self.0.current()?;
        // Without a common scheme no certificate is better than a failed signature.
        identity.certified().key.choose_scheme(schemes)?;
        Some(Arc::clone(identity.certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
