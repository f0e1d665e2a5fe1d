//! X.509 authorities as PEM certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Bundle, BundleError, X509Authority};
use crate::certificate::{CertificateError, MAX_CERTIFICATES};
use crate::id::TrustDomain;

/// Longest PEM file read, in bytes.
pub const MAX_PEM_BYTES: usize = 4 * 1024 * 1024;

const LINE: usize = 64;

impl Bundle {
    /// Reads X.509 authorities from PEM; blocks other than `CERTIFICATE` are
    /// passed over.
    ///
    /// # Errors
    /// [`BundleError`] if there is no certificate or one of them is bad.
    pub fn parse_pem_roots(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(BundleError::PemTooLong);
        }
        let mut authorities = Vec::new();
        for block in CertificateDer::pem_slice_iter(pem) {
            let certificate = block.map_err(|error| BundleError::Pem(error.to_string()))?;
            if authorities.len() == MAX_CERTIFICATES {
                return Err(CertificateError::TooMany.into());
            }
            authorities.push(X509Authority::from_der(&certificate)?);
        }
        if authorities.is_empty() {
            return Err(BundleError::NoCertificate);
        }
        Ok(Self::new(trust_domain).with_x509_authorities(authorities))
    }

    /// The X.509 authorities as PEM, one block each, in order.
    pub fn to_pem(&self) -> String {
        self.x509_authorities().iter().map(|authority| certificate_pem(authority.der())).collect()
    }
}

/// One certificate as a PEM block with lines of 64 characters and a newline at
/// the end.
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = String::with_capacity(body.len() + body.len() / LINE + 56);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
