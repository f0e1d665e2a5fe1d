//! Certificates compared with those of a running SPIRE (testdata/certs), as OpenSSL prints both.

use std::path::PathBuf;

use x509_cert::der::Encode;

use super::*;
use crate::ca::name::Subject;

/// Prints every certificate of a PEM file; serial numbers, dates, keys and key identifiers set aside.
fn printed(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let one = |block: &str| {
        let file = folder.path().join("one.pem");
        std::fs::write(&file, format!("{block}{end}")).unwrap();
        normalised(&openssl(&["x509", "-noout", "-text", "-in", file.to_str().unwrap()]).unwrap())
    };
    text.split_inclusive(end)
        .map(|block| block.trim_end_matches(end))
        .filter(|b| !b.trim().is_empty())
        .map(one)
        .collect()
}

fn normalised(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut after_signature = false;
    for line in text.lines() {
        let line = line.trim().replace(" = ", "=");
        let hex = line.len() > 2 && line.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') && line.contains(':');
        after_signature |= line == "Signature Value:";
        if hex || line.starts_with("Not Before") || line.starts_with("Not After") || after_signature {
            continue;
        }
        if line.starts_with("Serial Number:") {
            lines.push("Serial Number:".into());
            continue;
        }
        lines.push(without_serial_attribute(&line));
    }
    lines.join("\n")
}

/// `serialNumber=<digits>` of a name.
fn without_serial_attribute(line: &str) -> String {
    match line.split_once("serialNumber=") {
        Some((before, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{before}serialNumber=<digits>")
        }
        _ => line.to_owned(),
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/certs").join(format!("{name}.pem"))
}

fn assert_like(name: &str, chain: &[Vec<u8>]) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ours.pem");
    std::fs::write(&path, chain.iter().map(|der| pem(der)).collect::<String>()).unwrap();
    assert_eq!(printed(&path), printed(&golden(name)), "{name}");
}

#[tokio::test]
async fn certificates_look_like_those_of_spire() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let key = new_key();
    assert_like("cloud-ca", &bundle_roots(&manager));
    let server: Vec<Vec<u8>> =
        manager.server_svid().current().unwrap().chain().iter().map(|der| der.to_vec()).collect();
    assert_like("cloud-server", &server);

    let agent = id_of("cloud-agent-join-token");
    assert_like("cloud-agent-join-token", &manager.sign_agent_svid(&agent, key.public_key()).await.unwrap().chain);

    // The CSR of the minted ones had the subject O=MyOrg, CN=my cn.
    let names = ["db.cloud.example", "db2.cloud.example"];
    for (name, dns_names, subject) in [
        ("cloud-workload", &names[..0], None),
        ("cloud-workload-dns", &names[..], None),
        ("cloud-minted-ok-subject", &names[..0], Some(csr_subject())),
        ("cloud-minted-ok-subject-dns", &["d.example"][..], Some(csr_subject())),
    ] {
        let params = X509SvidParams {
            spiffe_id: id_of(name),
            dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
            subject_der: subject,
            ..workload_params(&key, "/w")
        };
        assert_like(name, &manager.sign_x509_svid(&params).await.unwrap().chain);
    }

    let downstream = manager.sign_downstream_ca(key.public_key(), None).await.unwrap();
    assert_like("cloud-downstream-ca", &downstream.chain);
}

fn csr_subject() -> Vec<u8> {
    let name: x509_cert::name::Name = "CN=my cn,O=MyOrg".parse().unwrap();
    let encoded = name.to_der().unwrap();
    assert!(!Subject::from_der(&encoded).unwrap().is_empty());
    encoded
}

/// SPIFFE ID of a recorded certificate.
fn id_of(name: &str) -> federation_specs::id::SpiffeId {
    use rustls_pki_types::pem::PemObject;
    let der = rustls_pki_types::CertificateDer::from_pem_file(golden(name)).unwrap();
    federation_specs::x509_svid::leaf_spiffe_id(&der).unwrap()
}

#[tokio::test]
async fn chains_below_an_upstream_authority_look_like_those_of_spire() {
    let folder = tempfile::TempDir::new().unwrap();
    let upstream = super::upstream::TestUpstream::root(folder.path(), KeyType::EcP384, "onprem upstream root 2");
    let subject =
        CaSubject { country: vec!["CH".into()], organization: vec!["Example".into()], common_name: "onprem CA".into() };
    let config = CaConfig {
        trust_domain: domain("onprem.example"),
        ca_key_type: KeyType::EcP384,
        ca_subject: subject,
        ..config()
    };
    let clock = service_kit::clock::ManualClock::new(crate::store::testing::START);
    let clock: SharedClock = Arc::new(clock);
    let path = folder.path().join("onprem.sqlite3");
    let database = service_kit::database::Database::open(&path, &crate::store::MIGRATIONS, clock.clone());
    let store = Store::open(database.await.unwrap(), domain("onprem.example")).await.unwrap();
    let authority = upstream.authority(domain("onprem.example"), clock.clone());
    let keys = Arc::new(MemoryKeyManager::new());
    let manager = CaManager::start(config, store, keys, Some(authority), clock).await.unwrap();
    let server: Vec<Vec<u8>> =
        manager.server_svid().current().unwrap().chain().iter().map(|der| der.to_vec()).collect();
    assert_like("onprem-server-chain", &server);
}
