//! Certificate authorities and certificates for tests.

use std::sync::Arc;

use federation_specs::{
    bundle::{Bundle, BundleSet, X509Authority},
    id::TrustDomain,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::{
    clock::{Clock, SystemClock},
    keys::PrivateKey,
    tls::X509Identity,
};

/// The authority of a trust domain, or of a few web servers.
pub(crate) struct TestCa {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl TestCa {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, format!("CA of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        Self { trust_domain, issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone())
            .with_x509_authorities([X509Authority::from_der(self.certificate.der()).unwrap()])
    }

    /// An X509-SVID for `id` that is valid for an hour from now.
    pub(crate) fn svid(&self, id: &str) -> X509Identity {
        self.svid_ending(id, SystemClock.now() + Duration::HOUR)
    }

    pub(crate) fn svid_ending(&self, id: &str, not_after: OffsetDateTime) -> X509Identity {
        let (chain, key) = self.leaf(SanType::URI(id.try_into().unwrap()), not_after);
        let key = PrivateKey::from_pkcs8(&key).unwrap();
        X509Identity::new(vec![chain], &key).unwrap()
    }

    /// Certificate and key PEM of a web server called `name`.
    pub(crate) fn web_server(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn leaf(&self, san: SanType, not_after: OffsetDateTime) -> (CertificateDer<'static>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_before = SystemClock.now() - Duration::days(365);
        params.not_after = not_after;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![san];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), key.serialize_der())
    }
}

/// The bundles of several authorities.
pub(crate) fn bundles(authorities: &[&TestCa]) -> BundleSet {
    let mut set = BundleSet::new();
    for authority in authorities {
        set.insert(Arc::new(authority.bundle()));
    }
    set
}
