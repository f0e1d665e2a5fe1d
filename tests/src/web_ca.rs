//! A web certificate authority with one certificate for `localhost` and 127.0.0.1.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// PEM files of an authority and of the certificate it signed.
#[derive(Debug, Clone)]
pub struct WebCa {
    /// The authority, for clients.
    pub ca: PathBuf,
    /// The serving certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl WebCa {
    /// Makes both and writes them to `dir`.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::create_with(dir, |_| ())
    }

    /// The same with a serving certificate whose parameters `change` may spoil.
    pub fn create_with(dir: &Path, change: impl FnOnce(&mut CertificateParams)) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "Entente test web CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;

        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()])?;
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        leaf.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        change(&mut leaf);
        let leaf_key = KeyPair::generate()?;
        let leaf_certificate = leaf.signed_by(&leaf_key, &Issuer::from_params(&authority, &authority_key))?;

        let made = Self { ca: dir.join("web-ca.pem"), certificate: dir.join("web.pem"), key: dir.join("web.key") };
        fs::write(&made.ca, authority_certificate.pem())?;
        fs::write(&made.certificate, leaf_certificate.pem())?;
        fs::write(&made.key, leaf_key.serialize_pem())?;
        Ok(made)
    }
}
