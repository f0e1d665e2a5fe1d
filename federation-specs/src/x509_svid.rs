//! X509-SVIDs: what makes a leaf one, how it is verified against the bundle of
//! its own trust domain, and what the issuer demands of certificates and
//! signing requests (X509-SVID standard; SPIRE 1.15).

mod name_constraints;
mod path;
mod request;
mod rules;

use time::OffsetDateTime;

pub use crate::certificate::{CertificateError, split_der_certificates};
pub use path::{MAX_CHAIN_CERTIFICATES, MAX_INTERMEDIATES, MAX_SIGNATURE_CHECKS, verify_path};
pub use request::{CertificateRequest, CertificateRequestError, MAX_REQUEST_BYTES};
pub use rules::{CaCertificateError, SvidCertificateError, check_ca_certificate, check_svid_certificate};

use crate::bundle::BundleSet;
use crate::certificate::{Certificate, KeyUsage};
use crate::id::{IdError, SpiffeId, TrustDomain};

/// Why a certificate chain does not prove a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// The chain holds no certificate.
    #[error("X509-SVID has no certificate")]
    EmptyChain,
    /// The chain holds more than [`MAX_CHAIN_CERTIFICATES`].
    #[error("X509-SVID has more than {MAX_CHAIN_CERTIFICATES} certificates")]
    ChainTooLong,
    /// A certificate cannot be read.
    #[error("certificate {index} of the X509-SVID: {source}")]
    Certificate {
        /// Position in the chain; the leaf is 0.
        index: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The leaf has no URI name.
    #[error("leaf certificate has no URI SAN; an X509-SVID has exactly one")]
    NoUriSan,
    /// The leaf has several URI names.
    #[error("leaf certificate has more than one URI SAN; an X509-SVID has exactly one")]
    SeveralUriSans,
    /// The URI name is no SPIFFE ID.
    #[error("leaf certificate has an invalid SPIFFE ID: {0}")]
    InvalidId(IdError),
    /// The SPIFFE ID has no path, so it names a trust domain.
    #[error("leaf certificate has the SPIFFE ID of a trust domain; an X509-SVID's ID has a path")]
    NoPath,
    /// The leaf is marked as CA.
    #[error("leaf certificate has the CA flag set; a signing certificate cannot identify a peer")]
    LeafIsCa,
    /// The leaf may sign certificates.
    #[error("leaf certificate has key usage keyCertSign set")]
    LeafKeyCertSign,
    /// The leaf may sign revocation lists.
    #[error("leaf certificate has key usage cRLSign set")]
    LeafCrlSign,
    /// No bundle is held for the leaf's trust domain.
    #[error("no X.509 bundle for trust domain \"{0}\"; federate with it first")]
    NoBundle(TrustDomain),
    /// The bundle of the leaf's trust domain has no X.509 authority.
    #[error("bundle of trust domain \"{0}\" has no X.509 authorities")]
    NoAuthorities(TrustDomain),
    /// A certificate of the only possible path is expired.
    #[error("certificate expired at {0}")]
    Expired(OffsetDateTime),
    /// A certificate of the only possible path is not valid yet.
    #[error("certificate is not valid before {0}; check the clocks")]
    NotYetValid(OffsetDateTime),
    /// No authority of the bundle signed the chain.
    #[error("certificate is not signed by an authority of its trust domain")]
    UnknownAuthority,
    /// The name fits an authority whose key did not make the signature.
    #[error("certificate signature is invalid")]
    BadSignature,
    /// A certificate above the leaf must not sign certificates.
    #[error("intermediate certificate is not a CA that may sign certificates")]
    IssuerNotCa,
    /// A CA stands above more CAs than its pathLenConstraint allows.
    #[error("path length constraint of a CA is exceeded")]
    PathLength,
    /// More than [`MAX_INTERMEDIATES`] stand between leaf and authority.
    #[error("more than {MAX_INTERMEDIATES} intermediate certificates")]
    TooManyIntermediates,
    /// More than [`MAX_SIGNATURE_CHECKS`] were needed.
    #[error("building the certificate path took more than {MAX_SIGNATURE_CHECKS} signature checks")]
    TooMuchWork,
    /// A CA's name constraints exclude a name below it.
    #[error("name {0:?} is outside the name constraints of a CA")]
    NameConstraint(String),
    /// A critical extension, by object identifier, that is not understood.
    #[error("critical extension {0} is not supported")]
    UnknownCriticalExtension(String),
}

/// A verified X509-SVID. Only [`verify_chain`] makes one, so holding it proves
/// that the chain led to an authority of the ID's own trust domain at the time
/// of the verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedX509Svid {
    id: SpiffeId,
    leaf: Certificate,
}

impl VerifiedX509Svid {
    /// The proven SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.leaf.not_after()
    }

    /// The leaf certificate, DER.
    pub fn leaf_der(&self) -> &[u8] {
        self.leaf.der()
    }

    /// Serial number of the leaf in decimal.
    pub fn serial_decimal(&self) -> &str {
        self.leaf.serial_decimal()
    }

    /// The leaf certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }
}

/// The SPIFFE ID of a leaf certificate in DER, after the rules an X509-SVID
/// leaf must keep (X509-SVID section 5.2): exactly one URI SAN, a SPIFFE ID
/// with a path, no CA flag, neither keyCertSign nor cRLSign. Nothing is said
/// about who signed it.
///
/// # Errors
/// [`X509SvidError`] naming the rule that is broken.
pub fn leaf_spiffe_id(der: &[u8]) -> Result<SpiffeId, X509SvidError> {
    let leaf = Certificate::from_der(der).map_err(|source| X509SvidError::Certificate { index: 0, source })?;
    leaf_id(&leaf)
}

/// As [`leaf_spiffe_id`], for a certificate already read.
///
/// # Errors
/// [`X509SvidError`] naming the rule that is broken.
pub fn leaf_id(leaf: &Certificate) -> Result<SpiffeId, X509SvidError> {
    let id = match leaf.names().uris.as_slice() {
        [] => return Err(X509SvidError::NoUriSan),
        [uri] => SpiffeId::parse(uri).map_err(X509SvidError::InvalidId)?,
        _ => return Err(X509SvidError::SeveralUriSans),
    };
    if leaf.is_ca() {
        return Err(X509SvidError::LeafIsCa);
    }
    if let Some(usage) = leaf.key_usage() {
        if usage.contains(KeyUsage::KEY_CERT_SIGN) {
            return Err(X509SvidError::LeafKeyCertSign);
        }
        if usage.contains(KeyUsage::CRL_SIGN) {
            return Err(X509SvidError::LeafCrlSign);
        }
    }
    if id.path().is_empty() {
        return Err(X509SvidError::NoPath);
    }
    Ok(id)
}

/// Verifies a chain, leaf first and each certificate in DER, as X509-SVID. The
/// trust domain is taken from the leaf and only the bundle held under exactly
/// that name is used. Any extended key usage is accepted; tainted authorities
/// still verify (SPIRE 1.15).
///
/// # Errors
/// [`X509SvidError`] naming the rule that is broken.
pub fn verify_chain<C: AsRef<[u8]>>(
    chain: &[C],
    bundles: &BundleSet,
    now: OffsetDateTime,
) -> Result<VerifiedX509Svid, X509SvidError> {
    if chain.len() > MAX_CHAIN_CERTIFICATES {
        return Err(X509SvidError::ChainTooLong);
    }
    let mut certificates = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        let certificate =
            Certificate::from_der(der.as_ref()).map_err(|source| X509SvidError::Certificate { index, source })?;
        certificates.push(certificate);
    }
    let (leaf, intermediates) = certificates.split_first().ok_or(X509SvidError::EmptyChain)?;
    let id = leaf_id(leaf)?;
    let bundle = bundles.get(id.trust_domain()).ok_or_else(|| X509SvidError::NoBundle(id.trust_domain().clone()))?;
    if bundle.x509_authorities().is_empty() {
        return Err(X509SvidError::NoAuthorities(id.trust_domain().clone()));
    }
    let authorities: Vec<&Certificate> =
        bundle.x509_authorities().iter().map(|authority| authority.certificate()).collect();
    verify_path(leaf, intermediates, &authorities, now)?;
    Ok(VerifiedX509Svid { id, leaf: leaf.clone() })
}

#[cfg(test)]
mod tests;
