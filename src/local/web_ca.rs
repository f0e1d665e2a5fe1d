//! A private web CA on loopback: what `https_web` endpoints present where no public CA can reach.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use time::{Duration, OffsetDateTime};

use crate::local::layout::Layout;

/// Days a loopback web certificate is valid.
const VALID_DAYS: i64 = 30;

/// Writes the CA certificate, and a certificate and key for `localhost` and 127.0.0.1 signed by it.
/// The CA's key is used once and forgotten. A folder that has them keeps them while they are valid
/// for another day.
pub(crate) fn ensure(layout: &Layout, now: OffsetDateTime) -> Result<()> {
    if still_valid(&layout.web_certificate(), now) && layout.web_ca().exists() && layout.web_key().exists() {
        return Ok(());
    }
    let ca_key = KeyPair::generate().context("cannot make a key for the loopback web CA")?;
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Entente loopback web CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut ca, now);
    let ca_certificate = ca.self_signed(&ca_key).context("cannot make the loopback web CA")?;
    let issuer = Issuer::from_params(&ca, &ca_key);

    let key = KeyPair::generate().context("cannot make a key for the loopback web certificate")?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).context("cannot name the web certificate")?;
    leaf.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    validity(&mut leaf, now);
    let certificate = leaf.signed_by(&key, &issuer).context("cannot sign the loopback web certificate")?;

    write(&layout.web_ca(), ca_certificate.pem().as_bytes(), 0o644)?;
    write(&layout.web_key(), key.serialize_pem().as_bytes(), 0o600)?;
    write(&layout.web_certificate(), certificate.pem().as_bytes(), 0o644)
}

fn validity(params: &mut CertificateParams, now: OffsetDateTime) {
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(VALID_DAYS);
}

fn still_valid(file: &Path, now: OffsetDateTime) -> bool {
    let Ok(pem) = std::fs::read(file) else { return false };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return false };
    pem.parse_x509().is_ok_and(|certificate| certificate.validity().not_after.to_datetime() > now + Duration::days(1))
}

/// Writes a file that others may read only as `mode` says.
pub(crate) fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(file)
        .and_then(|mut handle| handle.write_all(bytes))
        .with_context(|| format!("cannot write {}", file.display()))
}
