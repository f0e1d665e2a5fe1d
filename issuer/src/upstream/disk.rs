//! An upstream authority whose certificate and key are files. They are read at each request, so that replacing them
//! takes effect at the next rotation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use federation_specs::bundle::{Bundle, X509Authority};
use federation_specs::certificate::Certificate;
use federation_specs::id::TrustDomain;
use federation_specs::x509_svid::CertificateRequest;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use service_kit::clock::SharedClock;
use service_kit::keys::PrivateKey;
use x509_cert::der::Decode;
use x509_cert::name::Name;
use zeroize::Zeroizing;

use super::{MintedCa, UpstreamAuthority, UpstreamError};
use crate::ca::certificate::{CertificateKey, Issuer, NOT_BEFORE_SLACK, Purpose, Serial, Template, ca_uri, issue};
use crate::ca::name::Subject;

/// Largest file read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// `upstream_authority.disk` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// PEM: the CA certificate, then intermediates. Without `bundle_file_path`, one self-signed certificate.
    pub cert_file_path: PathBuf,
    /// PEM: its private key (PKCS#8, EC or RSA).
    pub key_file_path: PathBuf,
    /// PEM: the root certificates, when the CA certificate is not one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_file_path: Option<PathBuf>,
}

/// Signs with a certificate and key from files.
#[derive(Debug)]
pub struct DiskUpstream {
    config: DiskConfig,
    trust_domain: TrustDomain,
    clock: SharedClock,
}

/// What the files hold.
struct Loaded {
    ca: Certificate,
    key: PrivateKey,
    /// The CA certificate and the intermediates behind it, unless the CA is the root.
    behind: Vec<Vec<u8>>,
    roots: Vec<X509Authority>,
}

impl DiskUpstream {
    /// Checks that the files can be used now.
    ///
    /// # Errors
    /// [`UpstreamError::File`] naming the file and what is wrong.
    pub fn new(config: DiskConfig, trust_domain: TrustDomain, clock: SharedClock) -> Result<Self, UpstreamError> {
        let upstream = Self { config, trust_domain, clock };
        upstream.load()?;
        Ok(upstream)
    }

    fn load(&self) -> Result<Loaded, UpstreamError> {
        let path = &self.config.cert_file_path;
        let certificates = self.certificates(path)?;
        let ca = certificates.first().ok_or_else(|| file_error(path, "holds no certificate"))?.certificate().clone();
        if !ca.is_ca() {
            return Err(file_error(path, "the first certificate is no CA certificate"));
        }
        let key = read_key(&self.config.key_file_path)?;
        if ca.public_key().ok() != Some(key.public_key()) {
            return Err(file_error(
                &self.config.key_file_path,
                "is not the key of the first certificate in the CA file",
            ));
        }
        let (behind, roots) = match &self.config.bundle_file_path {
            None if certificates.len() == 1 && ca.is_self_signed() => (Vec::new(), certificates),
            None => {
                return Err(file_error(
                    path,
                    "must hold one self-signed certificate; set bundle_file_path to the root for an intermediate CA",
                ));
            }
            Some(path) => {
                (certificates.iter().map(|authority| authority.der().to_vec()).collect(), self.certificates(path)?)
            }
        };
        // A root that signs directly is not part of the chain.
        let is_root = |der: &Vec<u8>| roots.iter().any(|root| root.der() == der.as_slice());
        let behind = behind.into_iter().take_while(|der| !is_root(der)).collect();
        Ok(Loaded { ca, key, behind, roots })
    }

    fn certificates(&self, path: &Path) -> Result<Vec<X509Authority>, UpstreamError> {
        let bundle = Bundle::parse_pem_roots(self.trust_domain.clone(), &read(path)?);
        Ok(bundle.map_err(|error| file_error(path, &error.to_string()))?.x509_authorities().to_vec())
    }

    fn check(&self, csr_der: &[u8]) -> Result<CertificateRequest, UpstreamError> {
        let refused = |error: &dyn std::fmt::Display| UpstreamError::Request(error.to_string());
        let request = CertificateRequest::from_der(csr_der).map_err(|error| refused(&error))?;
        request.verify_signature().map_err(|error| refused(&error))?;
        let expected = self.trust_domain.id_string();
        match request.uri_sans() {
            [uri] if *uri == expected => Ok(request),
            other => {
                Err(UpstreamError::Request(format!("exactly one URI SAN `{expected}` is expected, not {other:?}")))
            }
        }
    }
}

#[async_trait]
impl UpstreamAuthority for DiskUpstream {
    async fn mint_x509_ca(&self, csr_der: &[u8], preferred_ttl: Duration) -> Result<MintedCa, UpstreamError> {
        let request = self.check(csr_der)?;
        let loaded = self.load()?;
        let refused = |error: &dyn std::fmt::Display| UpstreamError::Signing(error.to_string());
        let now = self.clock.now();
        let subject = Subject::from_der(request.subject_der()).map_err(|error| refused(&error))?;
        let issuer = issuer(&loaded)?;
        let template = Template {
            purpose: Purpose::Ca,
            serial: Serial::random().map_err(|error| refused(&error))?,
            subject,
            uri: ca_uri(&self.trust_domain),
            dns_names: &[],
            public_key: request.public_key(),
            not_before: now - NOT_BEFORE_SLACK,
            not_after: now + preferred_ttl,
        };
        let mut chain = vec![issue(&template, &issuer).await.map_err(|error| refused(&error))?];
        chain.extend(loaded.behind);
        Ok(MintedCa { chain, roots: loaded.roots })
    }
}

fn issuer(loaded: &Loaded) -> Result<Issuer, UpstreamError> {
    let refused = |error: &dyn std::fmt::Display| UpstreamError::Signing(error.to_string());
    let key_id = match loaded.ca.subject_key_id() {
        Some(id) => id.to_vec(),
        None => loaded.key.public_key().key_id_sha1().to_vec(),
    };
    Ok(Issuer {
        name: Name::from_der(loaded.ca.subject_der()).map_err(|error| refused(&error))?,
        key_id,
        not_after: loaded.ca.not_after(),
        key: CertificateKey::in_process(loaded.key.clone()).map_err(|error| refused(&error))?,
    })
}

fn read_key(path: &Path) -> Result<PrivateKey, UpstreamError> {
    let bytes = read(path)?;
    let der = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| file_error(path, "holds no PEM private key"))?;
    PrivateKey::from_der(&der).map_err(|error| file_error(path, &error.to_string()))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, UpstreamError> {
    let length = std::fs::metadata(path).map_err(|error| file_error(path, &error.to_string()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(file_error(path, "is larger than 1 MiB"));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(|error| file_error(path, &error.to_string()))
}

fn file_error(path: &Path, reason: &str) -> UpstreamError {
    UpstreamError::File { path: path.display().to_string(), reason: reason.to_owned() }
}
