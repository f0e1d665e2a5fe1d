//! A store in a temporary folder, and things to put into it.

use std::sync::Arc;
use std::time::Duration;

use federation_specs::bundle::{Bundle, JwtAuthority, X509Authority};
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::selector::Selector;
use service_kit::clock::{ManualClock, SharedClock};
use service_kit::database::Database;
use service_kit::keys::{KeyType, PrivateKey};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::macros::datetime;

use super::{MIGRATIONS, Store};
use crate::entry::NewEntry;

/// Where tests begin.
pub(crate) const START: OffsetDateTime = datetime!(2026-11-22 10:01:24.5 UTC);

/// A store with the folder it lives in and the clock it runs by.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) clock: ManualClock,
    pub(crate) folder: TempDir,
}

impl TestStore {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let clock = ManualClock::new(START);
        let store = open(&folder, &clock).await;
        Self { store, clock, folder }
    }

    /// The same database after a restart.
    pub(crate) async fn reopened(&self) -> Store {
        open(&self.folder, &self.clock).await
    }

    pub(crate) fn shared_clock(&self) -> SharedClock {
        Arc::new(self.clock.clone())
    }
}

async fn open(folder: &TempDir, clock: &ManualClock) -> Store {
    let path = folder.path().join("issuer.sqlite3");
    let database = Database::open(&path, &MIGRATIONS, Arc::new(clock.clone())).await.unwrap();
    Store::open(database, domain("cloud.example")).await.unwrap()
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// An ID of cloud.example.
pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::from_parts(&domain("cloud.example"), path).unwrap()
}

pub(crate) fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

/// An entry below an agent, with one selector.
pub(crate) fn entry(parent: &str, path: &str, selectors: &[&str]) -> NewEntry {
    NewEntry {
        id: String::new(),
        spiffe_id: id(path),
        parent_id: id(parent),
        selectors: selectors.iter().map(|text| selector(text)).collect(),
        x509_svid_ttl: 0,
        jwt_svid_ttl: 0,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        expires_at: 0,
        dns_names: Vec::new(),
        store_svid: false,
        hint: String::new(),
        additional_attributes: None,
    }
}

/// A self-signed CA certificate.
pub(crate) fn root(name: &str, not_after: OffsetDateTime) -> X509Authority {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = not_after - Duration::from_secs(86400);
    params.not_after = not_after;
    let key = rcgen::KeyPair::generate().unwrap();
    X509Authority::from_der(params.self_signed(&key).unwrap().der()).unwrap()
}

pub(crate) fn jwt_key(key_id: &str, expires_at: Option<i64>) -> JwtAuthority {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    JwtAuthority::new(key_id, key.public_key().clone(), expires_at, false).unwrap()
}

/// A bundle of another trust domain with one root.
pub(crate) fn foreign_bundle(name: &str) -> Bundle {
    Bundle::new(domain(name)).with_x509_authorities([root(name, START + time::Duration::days(1))])
}
