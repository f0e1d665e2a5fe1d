//! One X.509 certificate, read once: the fields every rule of this crate looks
//! at, owned and checked (RFC 5280 section 4).

mod parse;

pub(crate) use parse::subject_alt_names;

use std::fmt;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::der;
use crate::public_key::{PublicKey, PublicKeyError, hex};
use crate::signature::SignatureAlgorithm;

/// Longest certificate read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 64 * 1024;

/// Most certificates read from one concatenation (an X509-SVID chain or the
/// roots of a bundle in the Workload API form).
pub const MAX_CERTIFICATES: usize = 4096;

/// Most names read from one subjectAltName extension.
pub const MAX_SUBJECT_ALT_NAMES: usize = 1024;

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No bytes at all.
    #[error("certificate is empty")]
    Empty,
    /// More than [`MAX_CERTIFICATE_BYTES`].
    #[error("certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong,
    /// The bytes are not a certificate in DER.
    #[error("x509: malformed certificate")]
    Malformed,
    /// More bytes, perhaps another certificate, follow the first.
    #[error("exactly one certificate is expected and more bytes follow it")]
    TrailingBytes,
    /// An extension appears twice or its value cannot be read.
    #[error("certificate extension {0} is repeated or malformed")]
    Extension(String),
    /// The algorithm inside the signed part is not the one outside.
    #[error("certificate names two different signature algorithms")]
    AlgorithmMismatch,
    /// More than [`MAX_SUBJECT_ALT_NAMES`].
    #[error("certificate has more than {MAX_SUBJECT_ALT_NAMES} subject alternative names")]
    TooManyNames,
    /// More than [`MAX_CERTIFICATES`] in one concatenation.
    #[error("more than {MAX_CERTIFICATES} certificates in one list")]
    TooMany,
}

/// Key usage bits (RFC 5280 section 4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage(pub(crate) u16);

impl KeyUsage {
    /// digitalSignature.
    pub const DIGITAL_SIGNATURE: Self = Self(1);
    /// keyEncipherment.
    pub const KEY_ENCIPHERMENT: Self = Self(1 << 2);
    /// keyAgreement.
    pub const KEY_AGREEMENT: Self = Self(1 << 4);
    /// keyCertSign.
    pub const KEY_CERT_SIGN: Self = Self(1 << 5);
    /// cRLSign.
    pub const CRL_SIGN: Self = Self(1 << 6);

    /// The bits of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The basicConstraints extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicConstraints {
    /// Whether the subject is a CA.
    pub ca: bool,
    /// How many intermediate CAs may stand between this and a leaf.
    pub path_length: Option<u32>,
}

/// The purposes of the extendedKeyUsage extension this program looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedKeyUsage {
    /// id-kp-serverAuth.
    pub server_auth: bool,
    /// id-kp-clientAuth.
    pub client_auth: bool,
}

/// The subjectAltName extension, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectAltNames {
    /// uniformResourceIdentifier values, in order.
    pub uris: Vec<String>,
    /// dNSName values, in order.
    pub dns: Vec<String>,
    /// rfc822Name values, in order.
    pub emails: Vec<String>,
    /// iPAddress values, 4 or 16 bytes each.
    pub ips: Vec<Vec<u8>>,
}

/// The nameConstraints extension: for each kind of name the permitted and the
/// excluded bases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameConstraints {
    pub(crate) permitted: Bases,
    pub(crate) excluded: Bases,
}

/// Bases of name constraints by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bases {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) emails: Vec<String>,
    /// Address and mask, one after the other.
    pub(crate) ips: Vec<Vec<u8>>,
}

/// A certificate. Clones share one allocation; equality is that of the DER.
#[derive(Clone)]
pub struct Certificate {
    fields: Arc<Fields>,
}

struct Fields {
    der: Vec<u8>,
    signed_part: std::ops::Range<usize>,
    signature: Vec<u8>,
    signature_algorithm: Option<SignatureAlgorithm>,
    version3: bool,
    serial: String,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    public_key: Result<PublicKey, PublicKeyError>,
    basic_constraints: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
    extended_key_usage: Option<ExtendedKeyUsage>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    names: SubjectAltNames,
    name_constraints: Option<NameConstraints>,
    unknown_critical: Option<String>,
}

impl Certificate {
    /// Reads exactly one certificate in DER; empty input and anything after
    /// the certificate are refused.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        parse::certificate(bytes).map(|fields| Self { fields: Arc::new(fields) })
    }

    /// The whole certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.fields.der
    }

    /// Serial number in decimal.
    pub fn serial_decimal(&self) -> &str {
        &self.fields.serial
    }

    /// Start of validity, inclusive.
    pub fn not_before(&self) -> OffsetDateTime {
        self.fields.not_before
    }

    /// End of validity, inclusive.
    pub fn not_after(&self) -> OffsetDateTime {
        self.fields.not_after
    }

    /// Whether `now` lies in the validity.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.fields.not_before <= now && now <= self.fields.not_after
    }

    /// The subject's Name, DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.fields.subject
    }

    /// The issuer's Name, DER.
    pub fn issuer_der(&self) -> &[u8] {
        &self.fields.issuer
    }

    /// The certified key.
    ///
    /// # Errors
    /// [`PublicKeyError`] if the certificate is sound but its key is of a kind
    /// or size not supported here.
    pub fn public_key(&self) -> Result<&PublicKey, PublicKeyError> {
        self.fields.public_key.as_ref().map_err(Clone::clone)
    }

    /// The basicConstraints extension, if present.
    pub fn basic_constraints(&self) -> Option<BasicConstraints> {
        self.fields.basic_constraints
    }

    /// Whether basicConstraints marks this as a CA.
    pub fn is_ca(&self) -> bool {
        self.fields.basic_constraints.is_some_and(|constraints| constraints.ca)
    }

    /// Whether this may sign certificates: it has the CA flag (a certificate
    /// older than version 3 cannot) and, if it says anything about key usage,
    /// keyCertSign.
    pub fn may_sign_certificates(&self) -> bool {
        let flag = if self.is_version3() { self.is_ca() } else { self.basic_constraints().is_none() };
        flag && self.key_usage().is_none_or(|usage| usage.contains(KeyUsage::KEY_CERT_SIGN))
    }

    /// The keyUsage extension, if present.
    pub fn key_usage(&self) -> Option<KeyUsage> {
        self.fields.key_usage
    }

    /// The extendedKeyUsage extension, if present.
    pub fn extended_key_usage(&self) -> Option<ExtendedKeyUsage> {
        self.fields.extended_key_usage
    }

    /// The subjectKeyIdentifier, if present.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.fields.subject_key_id.as_deref()
    }

    /// The keyIdentifier of the authorityKeyIdentifier, if present.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.fields.authority_key_id.as_deref()
    }

    /// The subject alternative names.
    pub fn names(&self) -> &SubjectAltNames {
        &self.fields.names
    }

    /// Whether issuer and subject are the same name and the signature is made
    /// with the certified key.
    pub fn is_self_signed(&self) -> bool {
        self.fields.issuer == self.fields.subject
            && self.fields.public_key.as_ref().is_ok_and(|key| self.is_signed_by(key))
    }

    /// Whether the signature is made with `key`.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let signed = self.fields.der.get(self.fields.signed_part.clone()).unwrap_or_default();
        self.fields.signature_algorithm.is_some_and(|algorithm| algorithm.verify(key, signed, &self.fields.signature))
    }

    pub(crate) fn is_version3(&self) -> bool {
        self.fields.version3
    }

    pub(crate) fn name_constraints(&self) -> Option<&NameConstraints> {
        self.fields.name_constraints.as_ref()
    }

    /// The first critical extension that is not understood here, or that
    /// constrains names of a kind that cannot be compared.
    pub(crate) fn unknown_critical(&self) -> Option<&str> {
        self.fields.unknown_critical.as_deref()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.fields.der == other.fields.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificate")
            .field("serial", &self.fields.serial)
            .field("subject_key_id", &self.fields.subject_key_id.as_deref().map(hex))
            .field("uris", &self.fields.names.uris)
            .field("not_after", &self.fields.not_after)
            .finish_non_exhaustive()
    }
}

/// Divides a concatenation of DER certificates, the form in which the Workload
/// API carries chains and roots. Only the outer lengths are looked at; an
/// empty input gives an empty list.
///
/// # Errors
/// [`CertificateError::Malformed`] if the bytes are not a run of DER
/// sequences, [`CertificateError::TooLong`] or [`CertificateError::TooMany`].
pub fn split_der_certificates(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(CertificateError::TooMany);
        }
        let (_, rest) = der::take(der::SEQUENCE, bytes).ok_or(CertificateError::Malformed)?;
        let (certificate, rest) = bytes.split_at(bytes.len() - rest.len());
        if certificate.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong);
        }
        certificates.push(certificate.to_vec());
        bytes = rest;
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
