//! The CA below an upstream authority on disk.

use federation_specs::certificate::Certificate;
use federation_specs::id::TrustDomain;
use federation_specs::x509_svid::verify_chain;

use super::*;
use crate::upstream::disk::{DiskConfig, DiskUpstream};

/// Files of an upstream authority made with rcgen.
pub(super) struct TestUpstream {
    config: DiskConfig,
    pub(super) root: Vec<u8>,
}

fn ca_params(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    params.not_before = crate::store::testing::START - time::Duration::days(1);
    params.not_after = crate::store::testing::START + time::Duration::days(30);
    params
}

fn key_pair(key_type: KeyType) -> rcgen::KeyPair {
    let algorithm = match key_type {
        KeyType::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        _ => &rcgen::PKCS_ECDSA_P256_SHA256,
    };
    rcgen::KeyPair::generate_for(algorithm).unwrap()
}

impl TestUpstream {
    /// A self-signed root that signs directly.
    pub(super) fn root(folder: &Path, key_type: KeyType, name: &str) -> Self {
        let key = key_pair(key_type);
        let root = ca_params(name).self_signed(&key).unwrap();
        let files = Self { config: Self::files(folder, false), root: root.der().to_vec() };
        std::fs::write(&files.config.cert_file_path, root.pem()).unwrap();
        std::fs::write(&files.config.key_file_path, key.serialize_pem()).unwrap();
        files
    }

    /// An intermediate CA below a root.
    pub(super) fn intermediate(folder: &Path) -> Self {
        let (root_key, key) = (key_pair(KeyType::EcP256), key_pair(KeyType::EcP256));
        let root = ca_params("root").self_signed(&root_key).unwrap();
        let issuer = rcgen::Issuer::new(ca_params("root"), root_key);
        let mut params = ca_params("intermediate");
        params.use_authority_key_identifier_extension = true;
        let intermediate = params.signed_by(&key, &issuer).unwrap();
        let files = Self { config: Self::files(folder, true), root: root.der().to_vec() };
        std::fs::write(&files.config.cert_file_path, intermediate.pem()).unwrap();
        std::fs::write(&files.config.key_file_path, key.serialize_pem()).unwrap();
        std::fs::write(files.config.bundle_file_path.as_ref().unwrap(), root.pem()).unwrap();
        files
    }

    fn files(folder: &Path, bundle: bool) -> DiskConfig {
        DiskConfig {
            cert_file_path: folder.join("upstream.pem"),
            key_file_path: folder.join("upstream-key.pem"),
            bundle_file_path: bundle.then(|| folder.join("upstream-bundle.pem")),
        }
    }

    pub(super) fn authority(&self, trust_domain: TrustDomain, clock: SharedClock) -> Arc<dyn UpstreamAuthority> {
        Arc::new(DiskUpstream::new(self.config.clone(), trust_domain, clock).unwrap())
    }

    fn root_id(&self) -> String {
        let certificate = Certificate::from_der(&self.root).unwrap();
        crate::ca::x509::hex(certificate.subject_key_id().unwrap())
    }
}

async fn below(upstream: &TestUpstream, config: CaConfig) -> TestCa {
    let mut ca = TestCa::new(config).await;
    ca.upstream = Some(upstream.authority(domain("cloud.example"), ca.test.shared_clock()));
    ca
}

#[tokio::test]
async fn chains_lead_to_the_upstream_root() {
    for length in [2, 3] {
        let folder = tempfile::TempDir::new().unwrap();
        let upstream = match length {
            2 => TestUpstream::root(folder.path(), KeyType::EcP256, "root"),
            _ => TestUpstream::intermediate(folder.path()),
        };
        let ca = below(&upstream, config()).await;
        let manager = ca.start().await.unwrap();
        assert_eq!(bundle_roots(&manager), [upstream.root.clone()]);
        let svid = manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        assert_eq!(svid.chain.len(), length);
        openssl_verify(folder.path(), &[upstream.root.clone()], &svid.chain, ca.now()).unwrap();
        verify_chain(&svid.chain, &manager.store.bundles(), ca.now()).unwrap();
        let downstream = manager.sign_downstream_ca(new_key().public_key(), None).await.unwrap();
        openssl_verify(folder.path(), &downstream.roots, &downstream.chain, ca.now()).unwrap();
        let active = manager.x509_authority_state().unwrap().active.unwrap();
        assert_eq!(active.upstream_authority_subject_key_id, upstream.root_id());
        // The same after a restart.
        let again = ca.start().await.unwrap();
        assert_eq!(again.x509_authority_state().unwrap().active.unwrap(), active);
        let svid = again.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        assert_eq!(svid.chain.len(), length);
    }
}

#[tokio::test]
async fn replaced_files_take_effect_at_the_next_rotation_and_the_old_root_can_go() {
    let folder = tempfile::TempDir::new().unwrap();
    let first = TestUpstream::root(folder.path(), KeyType::EcP256, "first root");
    let ca = below(&first, config()).await;
    let manager = ca.start().await.unwrap();
    let second = TestUpstream::root(folder.path(), KeyType::EcP256, "second root");
    let refused = |outcome: Result<String, AuthorityError>, text: &str| {
        assert_eq!(outcome.unwrap_err().to_string(), text);
    };
    refused(
        manager.taint_x509_upstream_authority("").await,
        "provided subject key id is not valid: no subject key ID provided",
    );
    refused(
        manager.taint_x509_upstream_authority("AA").await,
        "provided subject key id is not valid: upstream authority didn't sign the old local authority",
    );
    refused(
        manager.revoke_x509_upstream_authority("AA").await,
        "invalid subject key ID: upstream authority didn't sign the old local authority",
    );
    let current = x509_ids(&manager).0.unwrap();
    let error = manager.taint_x509_authority(&current).await.unwrap_err();
    assert_eq!(error.to_string(), "local authority can't be tainted if there is an upstream authority");
    assert_eq!(error.kind(), AuthorityErrorKind::FailedPrecondition);
    let error = manager.revoke_x509_authority(&current).await.unwrap_err();
    assert_eq!(error.to_string(), "local authority can't be revoked if there is an upstream authority");

    let prepared = manager.prepare_x509_authority().await.unwrap();
    assert_eq!(prepared.upstream_authority_subject_key_id, second.root_id());
    assert_eq!(bundle_roots(&manager), [first.root.clone(), second.root.clone()]);
    refused(
        manager.taint_x509_upstream_authority(&first.root_id()).await,
        "provided subject key id is not valid: unable to use upstream authority singing current authority",
    );
    manager.activate_x509_authority(&prepared.authority_id).await.unwrap();
    refused(
        manager.revoke_x509_upstream_authority(&first.root_id()).await,
        "failed to revoke X.509 upstream authority: it is not possible to revoke an untainted root CA",
    );
    let own = || manager.server_svid().current().unwrap().chain()[0].to_vec();
    let before = own();
    let id = manager.taint_x509_upstream_authority(&first.root_id().to_uppercase()).await.unwrap();
    assert_eq!(id, first.root_id());
    manager.rotate_server_svid().await.unwrap();
    assert_ne!(own(), before, "signed below a tainted root");
    refused(
        manager.taint_x509_upstream_authority(&id).await,
        "failed to taint upstream authority: root CA is already tainted",
    );
    manager.revoke_x509_upstream_authority(&id).await.unwrap();
    assert_eq!(bundle_roots(&manager), [second.root.clone()]);
}

#[tokio::test]
async fn an_upstream_that_is_away_stops_a_first_start_but_not_a_running_ca() {
    let folder = tempfile::TempDir::new().unwrap();
    let upstream = TestUpstream::root(folder.path(), KeyType::EcP256, "root");
    let ca = below(&upstream, CaConfig { ca_ttl: Duration::from_secs(240), ..config() }).await;
    let saved = std::fs::read(&upstream.config.key_file_path).unwrap();
    std::fs::remove_file(&upstream.config.key_file_path).unwrap();
    let error = ca.start().await.unwrap_err();
    assert!(error.to_string().contains("upstream-key.pem"), "{error}");
    std::fs::write(&upstream.config.key_file_path, &saved).unwrap();
    let manager = ca.start().await.unwrap();
    std::fs::remove_file(&upstream.config.key_file_path).unwrap();
    ca.advance(130);
    manager.rotate().await;
    assert!(x509_ids(&manager).1.is_none());
    let again = ca.start().await.unwrap();
    again.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
    std::fs::write(&upstream.config.key_file_path, &saved).unwrap();
    again.rotate().await;
    assert!(x509_ids(&again).1.is_some());
}
