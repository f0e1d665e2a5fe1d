//! X.509 certificates as the issuer writes them: fields, extensions and their order (wire profile of SPIRE 1.15).

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::public_key::{KeyKind, PublicKey};
use service_kit::keys::{KeyError, KeyManager, PrivateKey, SigningAlgorithm};
use signature::Keypair;
use time::OffsetDateTime;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{BitString, Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::{self, DateTime, Decode, Document, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{
    self, AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, SubjectPublicKeyInfoOwned,
    SubjectPublicKeyInfoRef,
};
use x509_cert::time::{Time, Validity};

use super::name::{NameError, Subject};

/// How far in the past certificates begin, for clocks that are behind.
pub(crate) const NOT_BEFORE_SLACK: time::Duration = time::Duration::seconds(10);

const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CertificateError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("certificate cannot be encoded: {0}")]
    Encoding(#[from] der::Error),
    #[error("certificate cannot be built: {0}")]
    Builder(x509_cert::builder::Error),
    #[error("no random number for the serial")]
    Random,
    #[error("a key of kind {0:?} cannot sign certificates; use P-256, P-384 or RSA")]
    SigningKey(KeyKind),
    #[error("the certificate would end before it begins; the signing CA certificate has expired")]
    Expired,
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<x509_cert::builder::Error> for CertificateError {
    fn from(error: x509_cert::builder::Error) -> Self {
        Self::Builder(error)
    }
}

/// A random certificate serial number in [1, 2^128 − 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serial(u128);

impl Serial {
    pub(crate) fn random() -> Result<Self, CertificateError> {
        let random = SystemRandom::new();
        loop {
            let mut bytes = [0u8; 16];
            random.fill(&mut bytes).map_err(|_| CertificateError::Random)?;
            let value = u128::from_be_bytes(bytes);
            if value != 0 {
                return Ok(Self(value));
            }
        }
    }

    pub(crate) fn decimal(self) -> String {
        self.0.to_string()
    }

    fn to_asn1(self) -> Result<SerialNumber, der::Error> {
        let bytes = self.0.to_be_bytes();
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        SerialNumber::new(&bytes[first..])
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Signs certificates.
    Ca,
    /// Identifies a workload, an agent or the server.
    Svid,
}

/// Everything of a certificate but its issuer.
#[derive(Debug)]
pub(crate) struct Template<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) serial: Serial,
    pub(crate) subject: Subject,
    pub(crate) uri: String,
    pub(crate) dns_names: &'a [String],
    pub(crate) public_key: &'a PublicKey,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

/// URI SAN of a CA certificate.
pub(crate) fn ca_uri(trust_domain: &TrustDomain) -> String {
    trust_domain.id_string()
}

/// URI SAN of an SVID.
pub(crate) fn svid_uri(id: &SpiffeId) -> String {
    id.to_string()
}

/// A key that signs certificates, wherever it is kept.
#[derive(Debug, Clone)]
pub(crate) struct CertificateKey {
    place: KeyPlace,
    public_key: PublicKey,
    algorithm: SigningAlgorithm,
}

#[derive(Debug, Clone)]
enum KeyPlace {
    Manager { keys: Arc<dyn KeyManager>, key_id: String },
    Process(PrivateKey),
}

impl CertificateKey {
    /// A key a manager holds.
    pub(crate) fn managed(
        keys: Arc<dyn KeyManager>,
        key_id: String,
        public_key: PublicKey,
    ) -> Result<Self, CertificateError> {
        let algorithm = signing_algorithm(&public_key)?;
        Ok(Self { place: KeyPlace::Manager { keys, key_id }, public_key, algorithm })
    }

    /// A key of this process.
    pub(crate) fn in_process(key: PrivateKey) -> Result<Self, CertificateError> {
        let public_key = key.public_key().clone();
        let algorithm = signing_algorithm(&public_key)?;
        Ok(Self { place: KeyPlace::Process(key), public_key, algorithm })
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.place {
            KeyPlace::Manager { keys, key_id } => keys.sign(key_id, message, self.algorithm).await,
            KeyPlace::Process(key) => key.sign(message, self.algorithm),
        }
    }
}

/// The algorithm a CA key of this kind signs with.
pub(crate) fn signing_algorithm(key: &PublicKey) -> Result<SigningAlgorithm, CertificateError> {
    match key.kind() {
        KeyKind::P256 => Ok(SigningAlgorithm::EcdsaSha256),
        KeyKind::P384 => Ok(SigningAlgorithm::EcdsaSha384),
        KeyKind::Rsa(_) => Ok(SigningAlgorithm::RsaPkcs1Sha256),
        other => Err(CertificateError::SigningKey(other)),
    }
}

/// The CA a certificate is signed by.
#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    /// Subject of the CA certificate.
    pub(crate) name: Name,
    /// Its subject key identifier, copied (not computed) from the CA certificate.
    pub(crate) key_id: Vec<u8>,
    /// Nothing signed outlives this.
    pub(crate) not_after: OffsetDateTime,
    pub(crate) key: CertificateKey,
}

/// Signs `template` with `issuer`; the end is cut to the CA's.
pub(crate) async fn issue(template: &Template<'_>, issuer: &Issuer) -> Result<Vec<u8>, CertificateError> {
    let not_after = template.not_after.min(issuer.not_after);
    build(template, not_after, issuer.name.clone(), Some(&issuer.key_id), &issuer.key).await
}

/// Signs a CA certificate with its own key.
pub(crate) async fn self_sign(template: &Template<'_>, key: &CertificateKey) -> Result<Vec<u8>, CertificateError> {
    build(template, template.not_after, template.subject.to_name()?, None, key).await
}

async fn build(
    template: &Template<'_>,
    not_after: OffsetDateTime,
    issuer: Name,
    authority_key_id: Option<&[u8]>,
    key: &CertificateKey,
) -> Result<Vec<u8>, CertificateError> {
    if not_after <= template.not_before {
        return Err(CertificateError::Expired);
    }
    let profile =
        Profile { issuer, subject: template.subject.to_name()?, extensions: extensions(template, authority_key_id)? };
    let validity = Validity::new(asn1_time(template.not_before)?, asn1_time(not_after)?);
    let spki = SubjectPublicKeyInfoOwned::from_der(template.public_key.spki_der())?;
    let mut builder = CertificateBuilder::new(profile, template.serial.to_asn1()?, validity, spki)?;
    let signer = SignerDescription { public_key: key.public_key.clone(), algorithm: key.algorithm };
    let tbs = builder.finalize(&signer)?;
    let signature = BitString::from_bytes(&key.sign(&tbs).await?)?;
    Ok(builder.assemble(signature, &signer)?.to_der()?)
}

fn extensions(template: &Template<'_>, authority_key_id: Option<&[u8]>) -> Result<Vec<Extension>, der::Error> {
    let mut list = Extensions(Vec::with_capacity(6));
    let ca = template.purpose == Purpose::Ca;
    if ca {
        list.add(true, &KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?;
    } else {
        list.add(true, &KeyUsage(KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment | KeyUsages::KeyAgreement))?;
        list.add(false, &ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]))?;
    }
    list.add(true, &BasicConstraints { ca, path_len_constraint: None })?;
    list.add(false, &SubjectKeyIdentifier(OctetString::new(template.public_key.key_id_sha1())?))?;
    if let Some(id) = authority_key_id {
        let key_identifier = Some(OctetString::new(id)?);
        list.add(false, &AuthorityKeyIdentifier { key_identifier, ..Default::default() })?;
    }
    let dns = template.dns_names.iter().map(|name| Ok(GeneralName::DnsName(Ia5String::new(name)?)));
    let mut names = dns.collect::<Result<Vec<_>, der::Error>>()?;
    names.push(GeneralName::UniformResourceIdentifier(Ia5String::new(&template.uri)?));
    list.add(false, &SubjectAltName(names))?;
    Ok(list.0)
}

/// Extensions in the order they are added.
struct Extensions(Vec<Extension>);

impl Extensions {
    fn add<T>(&mut self, critical: bool, value: &T) -> Result<(), der::Error>
    where
        for<'a> (bool, &'a T): ToExtension<Error = der::Error>,
    {
        let extension = (critical, value).to_extension(&Name::default(), &self.0)?;
        self.0.push(extension);
        Ok(())
    }
}

/// Whole seconds, as UTCTime until 2049.
fn asn1_time(time: OffsetDateTime) -> Result<Time, der::Error> {
    let seconds = u64::try_from(time.unix_timestamp()).map_err(|_| der::Error::from(der::ErrorKind::DateTime))?;
    Ok(Time::from(DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))?))
}

/// Names and extensions, already made.
struct Profile {
    issuer: Name,
    subject: Name,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _spk: SubjectPublicKeyInfoRef<'_>,
        _issuer_spk: SubjectPublicKeyInfoRef<'_>,
        _tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// What the builder wants to know about the signer; the signing itself happens elsewhere, asynchronously.
struct SignerDescription {
    public_key: PublicKey,
    algorithm: SigningAlgorithm,
}

#[derive(Clone)]
struct EncodedKey(PublicKey);

impl Keypair for SignerDescription {
    type VerifyingKey = EncodedKey;

    fn verifying_key(&self) -> EncodedKey {
        EncodedKey(self.public_key.clone())
    }
}

impl EncodePublicKey for EncodedKey {
    fn to_public_key_der(&self) -> spki::Result<Document> {
        Ok(Document::try_from(self.0.spki_der())?)
    }
}

impl DynSignatureAlgorithmIdentifier for SignerDescription {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(self.algorithm.identifier())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_minimal_positive_integers() {
        for (value, der) in [
            (1u128, &b"\x02\x01\x01"[..]),
            (0x80, b"\x02\x02\x00\x80"),
            (u128::MAX, b"\x02\x11\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert_eq!(Serial(value).to_asn1().unwrap().to_der().unwrap(), der);
        }
        assert_ne!(Serial::random().unwrap(), Serial::random().unwrap());
    }

    #[test]
    fn times_after_2049_are_generalized() {
        let utc = asn1_time(time::macros::datetime!(2049-12-31 23:59:59.9 UTC)).unwrap();
        assert!(matches!(utc, Time::UtcTime(_)));
        let general = asn1_time(time::macros::datetime!(2050-01-01 00:00 UTC)).unwrap();
        assert!(matches!(general, Time::GeneralTime(_)));
        assert!(asn1_time(time::macros::datetime!(1969-12-31 23:59 UTC)).is_err());
    }
}
