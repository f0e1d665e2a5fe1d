//! Certificate signing requests (PKCS#10, RFC 2986).

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::certificate::{SubjectAltNames, subject_alt_names};
use crate::public_key::{PublicKey, PublicKeyError};
use crate::signature::SignatureAlgorithm;

/// Longest signing request read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Why bytes are not an acceptable signing request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRequestError {
    /// No bytes at all.
    #[error("signing request is empty")]
    Empty,
    /// More than [`MAX_REQUEST_BYTES`].
    #[error("signing request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// Not a PKCS#10 request in DER.
    #[error("signing request is not PKCS#10 in DER")]
    Malformed,
    /// Bytes follow the request.
    #[error("bytes follow the signing request")]
    TrailingBytes,
    /// The extensions asked for cannot be read or are given twice.
    #[error("requested extensions are malformed")]
    Extensions,
    /// The key is malformed or of a kind not supported here.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// The request is not signed with its own key.
    #[error("signing request is not signed with its own key")]
    Signature,
}

/// A signing request. Its signature is checked by
/// [`CertificateRequest::verify_signature`], not while reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    subject: Vec<u8>,
    public_key: PublicKey,
    names: SubjectAltNames,
    signed: Vec<u8>,
    signature: Vec<u8>,
    signature_algorithm: Option<SignatureAlgorithm>,
}

impl CertificateRequest {
    /// Reads exactly one PKCS#10 request in DER.
    ///
    /// # Errors
    /// [`CertificateRequestError`].
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateRequestError> {
        if bytes.is_empty() {
            return Err(CertificateRequestError::Empty);
        }
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(CertificateRequestError::TooLong);
        }
        let (rest, parsed) =
            X509CertificationRequest::from_der(bytes).map_err(|_| CertificateRequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateRequestError::TrailingBytes);
        }
        if parsed.signature_value.unused_bits != 0 {
            return Err(CertificateRequestError::Malformed);
        }
        let info = &parsed.certification_request_info;
        Ok(Self {
            subject: info.subject.as_raw().to_vec(),
            public_key: PublicKey::from_spki_der(info.subject_pki.raw)?,
            names: requested_names(&parsed)?,
            signed: info.raw.to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            signature_algorithm: SignatureAlgorithm::from_identifier(&parsed.signature_algorithm),
        })
    }

    /// The key to certify.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Checks that the holder of the key made the request.
    ///
    /// # Errors
    /// [`CertificateRequestError::Signature`].
    pub fn verify_signature(&self) -> Result<(), CertificateRequestError> {
        self.signature_algorithm
            .is_some_and(|algorithm| algorithm.verify(&self.public_key, &self.signed, &self.signature))
            .then_some(())
            .ok_or(CertificateRequestError::Signature)
    }

    /// URI names asked for, in order.
    pub fn uri_sans(&self) -> &[String] {
        &self.names.uris
    }

    /// DNS names asked for, in order.
    pub fn dns_sans(&self) -> &[String] {
        &self.names.dns
    }

    /// The subject's Name, DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// Whether the subject has no attribute.
    pub fn has_empty_subject(&self) -> bool {
        self.subject == [0x30, 0x00]
    }
}

fn requested_names(request: &X509CertificationRequest<'_>) -> Result<SubjectAltNames, CertificateRequestError> {
    let mut names = None;
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(value) if names.is_none() => {
                    let read = subject_alt_names(&value.general_names);
                    names = Some(read.map_err(|_| CertificateRequestError::Extensions)?);
                }
                ParsedExtension::SubjectAlternativeName(_) | ParsedExtension::ParseError { .. } => {
                    return Err(CertificateRequestError::Extensions);
                }
                _ => {}
            }
        }
    }
    Ok(names.unwrap_or_default())
}
