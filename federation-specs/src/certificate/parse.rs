//! From DER to the fields of a [`super::Certificate`].

use std::collections::BTreeSet;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::{
    Bases, BasicConstraints, CertificateError, ExtendedKeyUsage, Fields, KeyUsage, MAX_CERTIFICATE_BYTES,
    MAX_SUBJECT_ALT_NAMES, NameConstraints, SubjectAltNames,
};
use crate::der;
use crate::public_key::PublicKey;
use crate::signature::SignatureAlgorithm;

/// Extensions that may be critical without being looked at: certificate
/// policies constrain nothing unless a policy is asked for, which is never
/// done here (RFC 5280 section 6.1.1).
const HARMLESS_CRITICAL: [&str; 1] = ["2.5.29.32"];

pub(super) fn certificate(bytes: &[u8]) -> Result<Fields, CertificateError> {
    if bytes.is_empty() {
        return Err(CertificateError::Empty);
    }
    if bytes.len() > MAX_CERTIFICATE_BYTES {
        return Err(CertificateError::TooLong);
    }
    let (rest, parsed) = X509Certificate::from_der(bytes).map_err(|_| CertificateError::Malformed)?;
    if !rest.is_empty() {
        return Err(CertificateError::TrailingBytes);
    }
    let signed = &parsed.tbs_certificate;
    if parsed.signature_value.unused_bits != 0 {
        return Err(CertificateError::Malformed);
    }

    let mut fields = Fields {
        der: bytes.to_vec(),
        signed_part: signed_part(bytes)?,
        signature: parsed.signature_value.data.to_vec(),
        signature_algorithm: SignatureAlgorithm::from_identifier(&parsed.signature_algorithm),
        version3: signed.version == X509Version::V3,
        serial: signed.serial.to_string(),
        issuer: signed.issuer.as_raw().to_vec(),
        subject: signed.subject.as_raw().to_vec(),
        not_before: signed.validity.not_before.to_datetime(),
        not_after: signed.validity.not_after.to_datetime(),
        public_key: PublicKey::from_spki_der(signed.subject_pki.raw),
        basic_constraints: None,
        key_usage: None,
        extended_key_usage: None,
        subject_key_id: None,
        authority_key_id: None,
        names: SubjectAltNames::default(),
        name_constraints: None,
        unknown_critical: None,
    };
    let mut seen = BTreeSet::new();
    for extension in signed.extensions() {
        let oid = extension.oid.to_id_string();
        if !seen.insert(oid.clone()) {
            return Err(CertificateError::Extension(oid));
        }
        read_extension(&mut fields, extension, oid)?;
    }
    Ok(fields)
}

/// Where the signed part lies. Walks over the outer elements strictly, because
/// the parser is lenient about what the signature does not cover: a certificate
/// must not have two encodings. The algorithm outside must be the signed one,
/// byte for byte.
fn signed_part(bytes: &[u8]) -> Result<std::ops::Range<usize>, CertificateError> {
    const VERSION: u8 = 0xa0;
    let malformed = CertificateError::Malformed;
    let (contents, _) = der::take(der::SEQUENCE, bytes).ok_or(malformed.clone())?;
    let (signed, after_signed) = der::take(der::SEQUENCE, contents).ok_or(malformed.clone())?;
    let (outer, after_outer) = der::take(der::SEQUENCE, after_signed).ok_or(malformed.clone())?;
    let (_, end) = der::take(der::BIT_STRING, after_outer).ok_or(malformed.clone())?;
    let after_version = der::take(VERSION, signed).map_or(signed, |(_, rest)| rest);
    let (_, after_serial) = der::take(der::INTEGER, after_version).ok_or(malformed.clone())?;
    let (inner, _) = der::take(der::SEQUENCE, after_serial).ok_or(malformed.clone())?;
    if !end.is_empty() {
        return Err(malformed);
    }
    if inner != outer {
        return Err(CertificateError::AlgorithmMismatch);
    }
    let start = bytes.len() - contents.len();
    Ok(start..bytes.len() - after_signed.len())
}

fn read_extension(fields: &mut Fields, extension: &X509Extension<'_>, oid: String) -> Result<(), CertificateError> {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(value) => {
            fields.basic_constraints = Some(BasicConstraints { ca: value.ca, path_length: value.path_len_constraint });
        }
        ParsedExtension::KeyUsage(value) => fields.key_usage = Some(KeyUsage(value.flags)),
        ParsedExtension::ExtendedKeyUsage(value) => {
            fields.extended_key_usage =
                Some(ExtendedKeyUsage { server_auth: value.server_auth, client_auth: value.client_auth });
        }
        ParsedExtension::SubjectKeyIdentifier(value) => fields.subject_key_id = Some(value.0.to_vec()),
        ParsedExtension::AuthorityKeyIdentifier(value) => {
            fields.authority_key_id = value.key_identifier.as_ref().map(|id| id.0.to_vec());
        }
        ParsedExtension::SubjectAlternativeName(value) => {
            fields.names = subject_alt_names(&value.general_names).map_err(|fault| fault.into_error(oid))?;
        }
        ParsedExtension::NameConstraints(value) => {
            let mut constraints = NameConstraints::default();
            let mut comparable = true;
            for (subtrees, bases) in [
                (&value.permitted_subtrees, &mut constraints.permitted),
                (&value.excluded_subtrees, &mut constraints.excluded),
            ] {
                for subtree in subtrees.iter().flatten() {
                    comparable &= add_base(bases, &subtree.base);
                }
            }
            fields.name_constraints = Some(constraints);
            if extension.critical && !comparable {
                fields.unknown_critical.get_or_insert(oid);
            }
        }
        ParsedExtension::ParseError { .. } => return Err(CertificateError::Extension(oid)),
        _ if extension.critical && !HARMLESS_CRITICAL.contains(&oid.as_str()) => {
            fields.unknown_critical.get_or_insert(oid);
        }
        _ => {}
    }
    Ok(())
}

/// What can be wrong with a list of names.
pub(crate) enum NameFault {
    TooMany,
    Malformed,
}

impl NameFault {
    fn into_error(self, oid: String) -> CertificateError {
        match self {
            Self::TooMany => CertificateError::TooManyNames,
            Self::Malformed => CertificateError::Extension(oid),
        }
    }
}

/// Sorts names by kind; kinds nobody looks at are left out.
pub(crate) fn subject_alt_names(general: &[GeneralName<'_>]) -> Result<SubjectAltNames, NameFault> {
    if general.len() > MAX_SUBJECT_ALT_NAMES {
        return Err(NameFault::TooMany);
    }
    let mut names = SubjectAltNames::default();
    for name in general {
        match name {
            GeneralName::URI(text) if text.is_ascii() => names.uris.push((*text).to_owned()),
            GeneralName::DNSName(text) if text.is_ascii() => names.dns.push((*text).to_owned()),
            GeneralName::RFC822Name(text) if text.is_ascii() => names.emails.push((*text).to_owned()),
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => names.ips.push(bytes.to_vec()),
            GeneralName::URI(_)
            | GeneralName::DNSName(_)
            | GeneralName::RFC822Name(_)
            | GeneralName::IPAddress(_)
            | GeneralName::Invalid(..) => return Err(NameFault::Malformed),
            _ => {}
        }
    }
    Ok(names)
}

/// Files a base of a name constraint; false if its kind cannot be compared.
fn add_base(bases: &mut Bases, base: &GeneralName<'_>) -> bool {
    match base {
        GeneralName::URI(text) => bases.uris.push((*text).to_owned()),
        GeneralName::DNSName(text) => bases.dns.push((*text).to_owned()),
        GeneralName::RFC822Name(text) => bases.emails.push((*text).to_owned()),
        GeneralName::IPAddress(bytes) if matches!(bytes.len(), 8 | 32) => bases.ips.push(bytes.to_vec()),
        _ => return false,
    }
    true
}
