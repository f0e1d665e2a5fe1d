#![expect(clippy::cloned_ref_to_slice_refs, reason = "a slice of one clone reads like the others")]

mod commands;
mod crash;
mod profile;
mod rotation;
mod signing;
mod upstream;

use std::path::Path;
use std::process::Command;

use service_kit::clock::Clock;
use service_kit::keys::PrivateKey;
use service_kit::keys::memory::MemoryKeyManager;
use time::OffsetDateTime;

use super::*;
use crate::store::AuthorityKind;
use crate::store::testing::{TestStore, domain};

/// A CA that can be stopped and started again with the same database and keys.
struct TestCa {
    test: TestStore,
    keys: Arc<MemoryKeyManager>,
    config: CaConfig,
    upstream: Option<Arc<dyn UpstreamAuthority>>,
}

fn config() -> CaConfig {
    CaConfig {
        trust_domain: domain("cloud.example"),
        ca_ttl: Duration::from_secs(24 * 3600),
        ca_key_type: KeyType::EcP256,
        jwt_key_type: KeyType::EcP256,
        ca_subject: CaSubject::default(),
        default_x509_svid_ttl: Duration::from_secs(3600),
        default_jwt_svid_ttl: Duration::from_secs(300),
        agent_ttl: None,
        jwt_issuer: None,
        disable_jwt_svids: false,
        unique_id: false,
    }
}

impl TestCa {
    async fn new(config: CaConfig) -> Self {
        let test = TestStore::new().await;
        Self { test, keys: Arc::new(MemoryKeyManager::new()), config, upstream: None }
    }

    async fn start(&self) -> Result<Arc<CaManager>, CaError> {
        let store = self.test.reopened().await;
        let clock = self.test.shared_clock();
        CaManager::start(self.config.clone(), store, self.keys.clone(), self.upstream.clone(), clock).await
    }

    fn advance(&self, seconds: u64) {
        self.test.clock.advance(Duration::from_secs(seconds));
    }

    fn now(&self) -> OffsetDateTime {
        self.test.clock.now()
    }
}

/// Authority IDs of the slots: active, prepared, old.
type Ids = (Option<String>, Option<String>, Option<String>);

fn ids(state: AuthorityState) -> Ids {
    let id = |authority: Option<Authority>| authority.map(|authority| authority.authority_id);
    (id(state.active), id(state.prepared), id(state.old))
}

fn x509_ids(manager: &CaManager) -> Ids {
    ids(manager.x509_authority_state().unwrap())
}

fn jwt_ids(manager: &CaManager) -> Ids {
    ids(manager.jwt_authority_state().unwrap())
}

/// Subject key IDs in the bundle, in order.
fn roots(manager: &CaManager) -> Vec<String> {
    manager.bundle().x509_authorities().iter().map(|authority| authority.key_id_hex()).collect()
}

fn key_ids(manager: &CaManager) -> Vec<String> {
    manager.bundle().jwt_authorities().iter().map(|authority| authority.key_id().to_owned()).collect()
}

fn workload_params(key: &PrivateKey, path: &str) -> X509SvidParams {
    X509SvidParams {
        spiffe_id: crate::store::testing::id(path),
        public_key: key.public_key().clone(),
        dns_names: vec![],
        ttl: None,
        subject_der: None,
    }
}

fn new_key() -> PrivateKey {
    PrivateKey::generate(KeyType::EcP256).unwrap()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn openssl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl").args(arguments).output().expect("these tests need the openssl command");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
}

/// What OpenSSL thinks of a chain (leaf first) under the roots.
fn openssl_verify(folder: &Path, roots: &[Vec<u8>], chain: &[Vec<u8>], at: OffsetDateTime) -> Result<String, String> {
    let file = |name: &str, certificates: &[Vec<u8>]| {
        let path = folder.join(name);
        std::fs::write(&path, certificates.iter().map(|der| pem(der)).collect::<String>()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, leaf) = (file("roots.pem", roots), file("leaf.pem", &chain[..1]));
    let at = at.unix_timestamp().to_string();
    let mut arguments = vec!["verify", "-x509_strict", "-attime", &at, "-CAfile", &ca];
    let untrusted = file("untrusted.pem", &chain[1..]);
    if chain.len() > 1 {
        arguments.extend(["-untrusted", &untrusted]);
    }
    arguments.push(&leaf);
    openssl(&arguments)
}

fn bundle_roots(manager: &CaManager) -> Vec<Vec<u8>> {
    manager.bundle().x509_authorities().iter().map(|authority| authority.der().to_vec()).collect()
}
