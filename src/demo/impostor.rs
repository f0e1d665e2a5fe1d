//! Certificates that must be refused: what the demo attacks its own workloads with.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use federation_specs::bundle::{Bundle, BundleSet};
use federation_specs::id::SpiffeId;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use service_kit::clock::SystemClock;
use service_kit::keys::PrivateKey;
use service_kit::tls::{self, BundleCell, PeerPolicy, SvidCell, X509Identity};
use time::{Duration, OffsetDateTime};

use crate::demo::workload;
use crate::local::web_ca;

/// Makes a root CA for `cloud.example`, to be its issuer's upstream authority.
pub(crate) fn make_root(certificate: &Path, key: &Path, now: OffsetDateTime) -> Result<()> {
    let pair = KeyPair::generate().context("cannot make a key for the root CA")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "Cloud Example");
    params.distinguished_name.push(DnType::CommonName, "Cloud Example Root");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(30);
    let root = params.self_signed(&pair).context("cannot make the root CA")?;
    web_ca::write(key, pair.serialize_pem().as_bytes(), 0o600)?;
    web_ca::write(certificate, root.pem().as_bytes(), 0o644)
}

/// A leaf that claims `id`, signed by the root of another domain; chain in DER and key.
pub(crate) fn forge(
    root: &Path,
    root_key: &Path,
    id: &SpiffeId,
    now: OffsetDateTime,
) -> Result<(Vec<Vec<u8>>, PrivateKey)> {
    let root_key = KeyPair::from_pem(&std::fs::read_to_string(root_key)?).context("cannot read the root's key")?;
    let root = std::fs::read_to_string(root)?;
    let issuer = Issuer::from_ca_cert_pem(&root, root_key).context("cannot read the root")?;
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(id.to_string().try_into().context("the ID is no URI")?)];
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.not_before = now - Duration::minutes(1);
    leaf.not_after = now + Duration::hours(1);
    let certificate = leaf.signed_by(&key, &issuer).context("cannot sign the forged certificate")?;
    Ok((vec![certificate.der().to_vec()], PrivateKey::from_pkcs8(&key.serialize_der())?))
}

/// Calls the workload `server` with this certificate; what it answered.
pub(crate) async fn call(
    server: SocketAddr,
    server_id: &SpiffeId,
    server_bundle: &Bundle,
    chain: Vec<Vec<u8>>,
    key: &PrivateKey,
) -> Result<String> {
    let mut set = BundleSet::default();
    set.insert(Arc::new(server_bundle.clone()));
    let chain = chain.into_iter().map(Into::into).collect();
    let svid = Arc::new(SvidCell::holding(X509Identity::new(chain, key)?));
    let config = tls::spiffe_client_config(
        Arc::new(BundleCell::new(set)),
        Some(svid),
        PeerPolicy::Exactly(server_id.clone()),
        SystemClock::shared(),
        &[tls::ALPN_HTTP11],
    )?;
    workload::call(server, config).await
}

/// The same, for a certificate that must be refused by a TLS alert; names the alert.
pub(crate) async fn refused(
    server: SocketAddr,
    server_id: &SpiffeId,
    server_bundle: &Bundle,
    chain: Vec<Vec<u8>>,
    key: &PrivateKey,
) -> Result<String> {
    match call(server, server_id, server_bundle, chain, key).await {
        Ok(answer) => bail!("the certificate was accepted: {answer}"),
        Err(error) => match alert(&error) {
            Some(alert) => Ok(format!("TLS alert {alert:?}")),
            None => Err(error.context("refused, but not by a TLS alert")),
        },
    }
}

/// The TLS alert by which the other side ended the connection.
fn alert(error: &anyhow::Error) -> Option<rustls::AlertDescription> {
    error.chain().find_map(|cause| {
        let tls = cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()?;
        match tls {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    })
}
