//! Certificate authorities of the tests: a SPIFFE trust domain's and the web's.

use std::{path::Path, sync::Arc};

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    id::TrustDomain,
    jwt_svid,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use service_kit::{
    keys::{KeyType, PrivateKey, SigningAlgorithm},
    tls::X509Identity,
};
use time::{Duration, OffsetDateTime};

/// The keys of one trust domain.
pub struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    jwt_key: PrivateKey,
    jwt_key_id: String,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn validity(params: &mut CertificateParams, life: Duration) {
    params.not_before = OffsetDateTime::now_utc() - Duration::seconds(1);
    params.not_after = OffsetDateTime::now_utc() + life;
}

impl Authority {
    pub fn new(trust_domain: &TrustDomain) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(&trust_domain.id_string())];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, Duration::DAY);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            trust_domain: trust_domain.clone(),
            issuer: Issuer::new(params, key),
            root,
            jwt_key: PrivateKey::generate(KeyType::EcP256).unwrap(),
            jwt_key_id: format!("key-{}", uuid()),
        }
    }

    pub fn x509(&self) -> X509Authority {
        X509Authority::from_der(&self.root).unwrap()
    }

    pub fn jwt(&self) -> JwtAuthority {
        JwtAuthority::new(self.jwt_key_id.clone(), self.jwt_key.public_key().clone(), None, false).unwrap()
    }

    pub fn bundle(&self, sequence: u64) -> Bundle {
        Bundle::new(self.trust_domain.clone())
            .with_x509_authorities([self.x509()])
            .with_jwt_authorities([self.jwt()])
            .with_refresh_hint(Some(std::time::Duration::from_secs(4)))
            .with_sequence(Some(sequence))
    }

    /// An X509-SVID of this domain, in use for an hour.
    pub fn identity(&self, id: &str) -> X509Identity {
        let (leaf, key) = self.leaf(id);
        X509Identity::new(vec![leaf.into()], &PrivateKey::from_pkcs8(&key).unwrap()).unwrap()
    }

    /// As [`Authority::identity`], valid from a second ago until `life` from now.
    pub fn identity_for(&self, id: &str, life: Duration) -> X509Identity {
        let (leaf, key) = self.leaf_living(id, life);
        X509Identity::new(vec![leaf.into()], &PrivateKey::from_pkcs8(&key).unwrap()).unwrap()
    }

    /// Its certificate and its PKCS#8 key.
    pub fn leaf(&self, id: &str) -> (Vec<u8>, Vec<u8>) {
        self.leaf_living(id, Duration::HOUR)
    }

    /// The same with a life of its own.
    pub fn leaf_living(&self, id: &str, life: Duration) -> (Vec<u8>, Vec<u8>) {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let leaf_key = KeyPair::try_from(key.pkcs8_der().as_slice()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params, life);
        let leaf = params.signed_by(&leaf_key, &self.issuer).unwrap();
        (leaf.der().to_vec(), key.pkcs8_der().to_vec())
    }

    /// Signs a certificate request as an issuer does.
    pub fn sign(&self, csr: &[u8], life: Duration) -> Vec<u8> {
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&csr).unwrap();
        request.params.is_ca = IsCa::ExplicitNoCa;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut request.params, life);
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A JWT-SVID signed with this domain's key.
    pub fn token(&self, claims: &serde_json::Value) -> String {
        let algorithm = self.jwt_key.public_key().jws_algorithm().unwrap();
        let input = jwt_svid::signing_input(algorithm, &self.jwt_key_id, "JWT", claims.as_object().unwrap());
        let signature = self.jwt_key.sign(input.as_bytes(), SigningAlgorithm::EcdsaSha256).unwrap();
        input.assemble(&signature).unwrap()
    }
}

fn uuid() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

/// Names of servers in tests, unless they say theirs.
const THIS_MACHINE: [&str; 2] = ["127.0.0.1", "localhost"];

/// A certificate authority of the web.
pub struct WebAuthority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl WebAuthority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), ca_pem }
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    fn server(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate, key)
    }

    /// `web.pem` and `web.key` for a server on 127.0.0.1.
    pub fn write_server_files(&self, folder: &Path) {
        let (certificate, key) = self.server(&THIS_MACHINE);
        std::fs::write(folder.join("web.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("web.key"), key.serialize_pem()).unwrap();
    }

    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        self.server_config_for(&THIS_MACHINE)
    }

    pub fn server_config_for(&self, names: &[&str]) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.server(names);
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(service_kit::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}
