use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use federation_specs::id::TrustDomain;
use service_kit::clock::{ManualClock, SharedClock, SystemClock};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;

use super::conformance;
use super::disk::{DiskConfig, DiskUpstream};

const NOW: OffsetDateTime = datetime!(2026-11-22 10:00 UTC);

fn domain() -> TrustDomain {
    TrustDomain::parse("cloud.example").unwrap()
}

fn clock() -> SharedClock {
    Arc::new(ManualClock::new(NOW))
}

fn params(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = NOW - time::Duration::days(1);
    params.not_after = NOW + time::Duration::days(30);
    params
}

fn config(folder: &Path) -> DiskConfig {
    DiskConfig {
        cert_file_path: folder.join("cert.pem"),
        key_file_path: folder.join("key.pem"),
        bundle_file_path: None,
    }
}

fn write_root(config: &DiskConfig) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let root = params("root").self_signed(&key).unwrap();
    std::fs::write(&config.cert_file_path, root.pem()).unwrap();
    std::fs::write(&config.key_file_path, key.serialize_pem()).unwrap();
    (root, key)
}

#[tokio::test]
async fn a_root_on_disk_conforms() {
    let folder = TempDir::new().unwrap();
    let config = config(folder.path());
    write_root(&config);
    let authority = DiskUpstream::new(config, domain(), clock()).unwrap();
    conformance::run(&authority, &domain(), NOW).await;
}

#[tokio::test]
async fn an_intermediate_on_disk_conforms() {
    let folder = TempDir::new().unwrap();
    let mut config = config(folder.path());
    let (root, root_key) = write_root(&config);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut below = params("intermediate");
    below.use_authority_key_identifier_extension = true;
    let intermediate = below.signed_by(&key, &rcgen::Issuer::new(params("root"), root_key)).unwrap();
    // A root at the end of the chain file is left out of the chain.
    std::fs::write(&config.cert_file_path, format!("{}{}", intermediate.pem(), root.pem())).unwrap();
    std::fs::write(&config.key_file_path, key.serialize_pem()).unwrap();
    let error = DiskUpstream::new(config.clone(), domain(), clock()).unwrap_err();
    assert!(error.to_string().contains("set bundle_file_path"), "{error}");
    config.bundle_file_path = Some(folder.path().join("bundle.pem"));
    std::fs::write(config.bundle_file_path.as_ref().unwrap(), root.pem()).unwrap();
    let authority = DiskUpstream::new(config, domain(), clock()).unwrap();
    conformance::run(&authority, &domain(), NOW).await;
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = TempDir::new().unwrap();
    let config = config(folder.path());
    let error = || DiskUpstream::new(config.clone(), domain(), clock()).unwrap_err().to_string();
    assert!(error().contains("cert.pem"));
    write_root(&config);
    std::fs::write(&config.key_file_path, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(error().contains("key.pem: is not the key"), "{}", error());
    std::fs::write(&config.key_file_path, "nonsense").unwrap();
    assert!(error().contains("holds no PEM private key"), "{}", error());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = params("leaf");
    leaf.is_ca = rcgen::IsCa::NoCa;
    std::fs::write(&config.cert_file_path, leaf.self_signed(&key).unwrap().pem()).unwrap();
    assert!(error().contains("is no CA certificate"), "{}", error());
}

#[tokio::test]
async fn keys_may_be_in_any_encoding_openssl_writes() {
    for make_key in [
        &["ecparam", "-genkey", "-noout", "-name", "prime256v1"][..],
        &["ecparam", "-genkey", "-noout", "-name", "secp384r1"],
        &["genrsa", "-traditional", "2048"],
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    ] {
        let folder = TempDir::new().unwrap();
        let config = config(folder.path());
        let key = config.key_file_path.to_str().unwrap();
        let cert = config.cert_file_path.to_str().unwrap();
        std::fs::write(key, openssl(make_key)).unwrap();
        openssl(&["req", "-x509", "-new", "-key", key, "-subj", "/O=Example/CN=root", "-days", "3650", "-out", cert]);
        let upstream = DiskUpstream::new(config.clone(), domain(), SystemClock::shared());
        assert!(upstream.is_ok(), "{make_key:?}: {upstream:?}");
    }
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().expect("this test needs the openssl command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
