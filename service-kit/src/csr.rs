//! Certificate signing requests (PKCS#10).

use federation_specs::id::SpiffeId;
use x509_cert::{
    attr::Attributes,
    der::{
        self, Decode, Encode,
        asn1::{Any, BitString, Ia5String, Null, OctetString},
        oid::{AssociatedOid, db::rfc5912},
    },
    ext::{
        Extension,
        pkix::{SubjectAltName, name::GeneralName},
    },
    name::Name,
    request::{CertReq, CertReqInfo, ExtensionReq, Version},
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};

use crate::keys::{KeyError, KeyManager, PrivateKey, SigningAlgorithm};

/// Most DNS names in one request.
pub const MAX_DNS_NAMES: usize = 256;

/// Why a request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The subject is no distinguished name.
    #[error("subject `{subject}` is not a distinguished name; write it as `CN=name,O=organisation,C=US`")]
    Subject {
        /// What was given.
        subject: String,
    },
    /// Too many DNS names.
    #[error("{count} DNS names are more than the {MAX_DNS_NAMES} allowed in one request")]
    TooManyDnsNames {
        /// How many were given.
        count: usize,
    },
    /// A DNS name is not ASCII.
    #[error("DNS name `{name}` is not ASCII; give its punycode form")]
    DnsName {
        /// What was given.
        name: String,
    },
    /// The key failed to sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The encoder failed.
    #[error("certificate request cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
}

/// Subject of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsrSubject(Name);

impl Default for CsrSubject {
    /// `C=US, O=SPIRE`, the subject SPIRE's agents and commands ask with.
    fn default() -> Self {
        // RFC 4514 text is written from the last component to the first.
        Self("O=SPIRE,C=US".parse().unwrap_or_default())
    }
}

impl CsrSubject {
    /// No subject at all.
    pub fn empty() -> Self {
        Self(Name::default())
    }

    /// Reads RFC 4514 text, most specific component first: `CN=name,O=organisation,C=US`.
    ///
    /// # Errors
    /// [`CsrError::Subject`].
    pub fn parse(text: &str) -> Result<Self, CsrError> {
        text.parse().map(Self).map_err(|_| CsrError::Subject { subject: text.to_string() })
    }

    /// Reads an encoded distinguished name.
    ///
    /// # Errors
    /// [`CsrError::Encoding`].
    pub fn from_der(name: &[u8]) -> Result<Self, CsrError> {
        Ok(Self(Name::from_der(name)?))
    }
}

impl SigningAlgorithm {
    /// The X.509 identifier of this algorithm.
    pub fn identifier(self) -> AlgorithmIdentifierOwned {
        match self {
            Self::EcdsaSha256 => AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_256, parameters: None },
            Self::EcdsaSha384 => AlgorithmIdentifierOwned { oid: rfc5912::ECDSA_WITH_SHA_384, parameters: None },
            Self::RsaPkcs1Sha256 => AlgorithmIdentifierOwned {
                oid: rfc5912::SHA_256_WITH_RSA_ENCRYPTION,
                parameters: Some(Any::from(Null)),
            },
        }
    }
}

/// Makes a request signed by a key of this process. Without a URI and DNS names it carries no extension.
///
/// # Errors
/// [`CsrError`].
pub fn create(
    key: &PrivateKey,
    subject: CsrSubject,
    uri: Option<&SpiffeId>,
    dns_names: &[String],
) -> Result<Vec<u8>, CsrError> {
    let algorithm = key.key_type().signing_algorithm();
    let unsigned = Unsigned::new(key.public_key().spki_der(), subject, uri, dns_names)?;
    let signature = key.sign(&unsigned.bytes, algorithm)?;
    unsigned.assemble(&signature, algorithm)
}

/// Makes a request signed by a key a manager holds.
///
/// # Errors
/// [`CsrError`].
pub async fn create_with_manager(
    manager: &dyn KeyManager,
    key_id: &str,
    subject: CsrSubject,
    uri: Option<&SpiffeId>,
    dns_names: &[String],
) -> Result<Vec<u8>, CsrError> {
    let info = manager.get(key_id).await?;
    let algorithm = info.key_type.signing_algorithm();
    let unsigned = Unsigned::new(info.public_key.spki_der(), subject, uri, dns_names)?;
    let signature = manager.sign(key_id, &unsigned.bytes, algorithm).await?;
    unsigned.assemble(&signature, algorithm)
}

/// The part of a request that is signed, with its encoding.
struct Unsigned {
    info: CertReqInfo,
    bytes: Vec<u8>,
}

impl Unsigned {
    fn new(spki: &[u8], subject: CsrSubject, uri: Option<&SpiffeId>, dns_names: &[String]) -> Result<Self, CsrError> {
        if dns_names.len() > MAX_DNS_NAMES {
            return Err(CsrError::TooManyDnsNames { count: dns_names.len() });
        }
        let mut names = Vec::new();
        if let Some(id) = uri {
            names.push(GeneralName::UniformResourceIdentifier(Ia5String::new(&id.to_string())?));
        }
        for name in dns_names {
            let ascii = Ia5String::new(name).map_err(|_| CsrError::DnsName { name: name.clone() })?;
            names.push(GeneralName::DnsName(ascii));
        }
        let mut attributes = Attributes::new();
        if !names.is_empty() {
            let san = Extension {
                extn_id: SubjectAltName::OID,
                critical: false,
                extn_value: OctetString::new(SubjectAltName(names).to_der()?)?,
            };
            attributes.insert(ExtensionReq(vec![san]).try_into()?)?;
        }
        let public_key = SubjectPublicKeyInfoOwned::from_der(spki)?;
        let info = CertReqInfo { version: Version::V1, subject: subject.0, public_key, attributes };
        let bytes = info.to_der()?;
        Ok(Self { info, bytes })
    }

    fn assemble(self, signature: &[u8], algorithm: SigningAlgorithm) -> Result<Vec<u8>, CsrError> {
        let request = CertReq {
            info: self.info,
            algorithm: algorithm.identifier(),
            signature: BitString::from_bytes(signature)?,
        };
        Ok(request.to_der()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeyType, memory::MemoryKeyManager};
    use x509_parser::{certification_request::X509CertificationRequest, extensions::ParsedExtension, prelude::FromDer};

    fn names(der: &[u8]) -> Vec<String> {
        let (rest, request) = X509CertificationRequest::from_der(der).unwrap();
        assert!(rest.is_empty());
        request.verify_signature().unwrap();
        let mut names = vec![request.certification_request_info.subject.to_string()];
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(san) = extension {
                names.extend(san.general_names.iter().map(ToString::to_string));
            }
        }
        names
    }

    #[test]
    fn carries_the_default_subject_the_id_and_the_names() {
        let id = SpiffeId::parse("spiffe://example.org/web").unwrap();
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = PrivateKey::generate(key_type).unwrap();
            let der = create(&key, CsrSubject::default(), Some(&id), &["web.example.org".into()]).unwrap();
            let names = names(&der);
            assert_eq!(names[0], "C=US, O=SPIRE");
            assert!(names[1].contains("spiffe://example.org/web") && names[2].contains("web.example.org"), "{names:?}");
        }
    }

    #[test]
    fn has_no_extension_without_names() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let der = create(&key, CsrSubject::empty(), None, &[]).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(request.certification_request_info.attributes().is_empty());
        assert_eq!(names(&der), [""]);
    }

    #[tokio::test]
    async fn a_manager_signs_too() {
        let manager = MemoryKeyManager::new();
        manager.generate("agent", KeyType::EcP256).await.unwrap();
        let subject = CsrSubject::parse("CN=agent,O=SPIRE,C=US").unwrap();
        let der = create_with_manager(&manager, "agent", subject, None, &[]).await.unwrap();
        assert_eq!(names(&der), ["C=US, O=SPIRE, CN=agent"]);
        assert!(matches!(
            create_with_manager(&manager, "other", CsrSubject::default(), None, &[]).await,
            Err(CsrError::Key(KeyError::NotFound { .. }))
        ));
    }

    #[test]
    fn bad_input_is_named() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert!(matches!(CsrSubject::parse("nonsense"), Err(CsrError::Subject { .. })));
        assert!(matches!(
            create(&key, CsrSubject::default(), None, &["büro.example".into()]),
            Err(CsrError::DnsName { .. })
        ));
        let many = vec!["a.example".to_string(); MAX_DNS_NAMES + 1];
        assert!(matches!(create(&key, CsrSubject::default(), None, &many), Err(CsrError::TooManyDnsNames { .. })));
    }

    #[test]
    fn openssl_accepts_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request.der");
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        std::fs::write(&path, create(&key, CsrSubject::default(), None, &["a.example".into()]).unwrap()).unwrap();
        let Ok(output) = std::process::Command::new("openssl")
            .args(["req", "-inform", "DER", "-noout", "-verify", "-in"])
            .arg(&path)
            .output()
        else {
            return; // openssl is not installed
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
