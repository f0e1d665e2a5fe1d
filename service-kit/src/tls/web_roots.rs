//! The certificate authorities a client trusts for servers of the web.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::TlsError;

/// Where a client's root certificates come from.
#[derive(Debug, Clone)]
pub enum WebRoots {
    /// The operating system.
    System,
    /// This PEM text; the system's roots do not count then.
    Pem(Vec<u8>),
}

/// Certificate authorities from PEM.
///
/// # Errors
/// [`TlsError::Roots`].
pub(super) fn root_store(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let error = |reason: String| TlsError::Roots { reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|cause| error(cause.to_string()))?;
        store.add(certificate).map_err(|cause| error(cause.to_string()))?;
    }
    if store.is_empty() {
        return Err(error("no certificate found".into()));
    }
    Ok(store)
}
