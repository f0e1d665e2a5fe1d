//! Certificates no issuer would sign.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, string::Ia5String,
};

/// A root authority whose key the test holds; give its files to an issuer as upstream authority `disk`.
#[derive(Debug)]
pub struct Root {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    /// Makes one and writes it to `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Entente test upstream root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (certificate_file, key_file) = (dir.join("upstream-root.pem"), dir.join("upstream-root.key"));
        fs::write(&certificate_file, certificate.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok(Self { certificate: certificate_file, key: key_file, issuer: Issuer::new(params, key) })
    }

    /// An X509-SVID for any SPIFFE ID, whichever its trust domain: `svid.pem` and `key.pem` in `dir`.
    pub fn sign_leaf(&self, dir: &Path, spiffe_id: &str) -> Result<(PathBuf, PathBuf)> {
        self.sign_leaf_with(dir, spiffe_id, |_| ())
    }

    /// The same with parameters `change` may spoil.
    pub fn sign_leaf_with(
        &self,
        dir: &Path,
        spiffe_id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spiffe_id)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (certificate_file, key_file) = (dir.join("svid.pem"), dir.join("key.pem"));
        fs::write(&certificate_file, certificate.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok((certificate_file, key_file))
    }
}
