//! What the issuer demands of the certificates it signs or is given (SPIRE 1.15).

use time::OffsetDateTime;

use crate::certificate::{Certificate, CertificateError, KeyUsage};
use crate::id::{SpiffeId, TrustDomain};

/// Why a certificate cannot be the CA of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaCertificateError {
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No basicConstraints.
    #[error("basic constraints are not present")]
    NoBasicConstraints,
    /// The CA flag is not set.
    #[error("CA flag is not set")]
    NotCa,
    /// keyCertSign is not set.
    #[error("key usage keyCertSign is not set")]
    NoKeyCertSign,
    /// A usage besides keyCertSign, cRLSign and digitalSignature.
    #[error("only key usages keyCertSign, cRLSign and digitalSignature may be set")]
    ForeignKeyUsage,
    /// Several URI names.
    #[error("only one URI SAN is allowed")]
    SeveralUriSans,
    /// The URI name is not that of the trust domain.
    #[error("URI SAN must be {0}")]
    WrongUriSan(String),
    /// `now` is before its validity.
    #[error("certificate is not valid before {0}; check the clocks")]
    NotYetValid(OffsetDateTime),
    /// `now` is after its validity.
    #[error("certificate expired at {0}")]
    Expired(OffsetDateTime),
}

/// Why a certificate cannot be the X509-SVID it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidCertificateError {
    /// It cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// No basicConstraints.
    #[error("basic constraints are not present")]
    NoBasicConstraints,
    /// The CA flag is set.
    #[error("CA flag is set")]
    IsCa,
    /// digitalSignature is not set.
    #[error("key usage digitalSignature is not set")]
    NoDigitalSignature,
    /// A usage besides digitalSignature, keyEncipherment and keyAgreement.
    #[error("only key usages digitalSignature, keyEncipherment and keyAgreement may be set")]
    ForeignKeyUsage,
    /// An extended key usage without both TLS purposes.
    #[error("extended key usage must hold both serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// Not exactly one URI name.
    #[error("exactly one URI SAN is expected")]
    UriSanCount,
    /// The URI name is not the expected ID.
    #[error("URI SAN must be {0}")]
    WrongUriSan(SpiffeId),
    /// `now` is before its validity.
    #[error("certificate is not valid before {0}; check the clocks")]
    NotYetValid(OffsetDateTime),
    /// `now` is after its validity.
    #[error("certificate expired at {0}")]
    Expired(OffsetDateTime),
}

/// Checks that a certificate in DER may be a CA of `trust_domain` at `now`.
///
/// # Errors
/// [`CaCertificateError`] naming the rule that is broken.
pub fn check_ca_certificate(
    der: &[u8],
    trust_domain: &TrustDomain,
    now: OffsetDateTime,
) -> Result<Certificate, CaCertificateError> {
    const ALLOWED: KeyUsage = KeyUsage::KEY_CERT_SIGN.union(KeyUsage::CRL_SIGN).union(KeyUsage::DIGITAL_SIGNATURE);
    let certificate = Certificate::from_der(der)?;
    let constraints = certificate.basic_constraints().ok_or(CaCertificateError::NoBasicConstraints)?;
    if !constraints.ca {
        return Err(CaCertificateError::NotCa);
    }
    let usage = certificate.key_usage().unwrap_or(KeyUsage(0));
    if !usage.contains(KeyUsage::KEY_CERT_SIGN) {
        return Err(CaCertificateError::NoKeyCertSign);
    }
    if !ALLOWED.contains(usage) {
        return Err(CaCertificateError::ForeignKeyUsage);
    }
    match certificate.names().uris.as_slice() {
        [] => {}
        [uri] if *uri == trust_domain.id_string() => {}
        [_] => return Err(CaCertificateError::WrongUriSan(trust_domain.id_string())),
        _ => return Err(CaCertificateError::SeveralUriSans),
    }
    if now < certificate.not_before() {
        return Err(CaCertificateError::NotYetValid(certificate.not_before()));
    }
    if now > certificate.not_after() {
        return Err(CaCertificateError::Expired(certificate.not_after()));
    }
    Ok(certificate)
}

/// Checks that a certificate in DER may be the X509-SVID of `id` at `now`.
///
/// # Errors
/// [`SvidCertificateError`] naming the rule that is broken.
pub fn check_svid_certificate(
    der: &[u8],
    id: &SpiffeId,
    now: OffsetDateTime,
) -> Result<Certificate, SvidCertificateError> {
    const ALLOWED: KeyUsage =
        KeyUsage::DIGITAL_SIGNATURE.union(KeyUsage::KEY_ENCIPHERMENT).union(KeyUsage::KEY_AGREEMENT);
    let certificate = Certificate::from_der(der)?;
    let constraints = certificate.basic_constraints().ok_or(SvidCertificateError::NoBasicConstraints)?;
    if constraints.ca {
        return Err(SvidCertificateError::IsCa);
    }
    let usage = certificate.key_usage().unwrap_or(KeyUsage(0));
    if !usage.contains(KeyUsage::DIGITAL_SIGNATURE) {
        return Err(SvidCertificateError::NoDigitalSignature);
    }
    if !ALLOWED.contains(usage) {
        return Err(SvidCertificateError::ForeignKeyUsage);
    }
    if certificate.extended_key_usage().is_some_and(|purposes| !(purposes.server_auth && purposes.client_auth)) {
        return Err(SvidCertificateError::ExtendedKeyUsage);
    }
    match certificate.names().uris.as_slice() {
        [uri] if *uri == id.as_str() => {}
        [_] => return Err(SvidCertificateError::WrongUriSan(id.clone())),
        _ => return Err(SvidCertificateError::UriSanCount),
    }
    if now < certificate.not_before() {
        return Err(SvidCertificateError::NotYetValid(certificate.not_before()));
    }
    if now > certificate.not_after() {
        return Err(SvidCertificateError::Expired(certificate.not_after()));
    }
    Ok(certificate)
}
