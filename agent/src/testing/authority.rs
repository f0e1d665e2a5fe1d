//! A certificate and token authority for tests.

use federation_specs::{
    bundle::{Bundle, JwtAuthority, X509Authority},
    id::{SpiffeId, TrustDomain},
    jwt_svid,
    public_key::PublicKey,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use service_kit::keys::{KeyType, PrivateKey, SigningAlgorithm};
use time::{Duration, OffsetDateTime, macros::datetime};

use crate::cache::{entry::Entry, svid::X509Svid};

/// When the clocks of the tests start.
pub(crate) const START: OffsetDateTime = datetime!(2026-01-15 12:00 UTC);

/// A self-signed CA with one JWT key.
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    jwt_key: PrivateKey,
    jwt_key_id: String,
}

impl Authority {
    /// A CA valid from a year before [`START`] to a year after.
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self::valid(trust_domain, START - Duration::days(365), START + Duration::days(365))
    }

    /// A CA with the given validity.
    pub(crate) fn valid(trust_domain: &str, not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
        params.subject_alt_names = vec![SanType::URI(trust_domain.id_string().try_into().unwrap())];
        params.not_before = not_before;
        params.not_after = not_after;
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let jwt_key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let jwt_key_id = format!("{:032x}", rand::random::<u128>());
        Self { trust_domain, issuer: Issuer::new(params, key), certificate, jwt_key, jwt_key_id }
    }

    pub(crate) fn certificate_der(&self) -> Vec<u8> {
        self.certificate.clone()
    }

    pub(crate) fn x509_authority(&self) -> X509Authority {
        X509Authority::from_der(&self.certificate).unwrap()
    }

    pub(crate) fn jwt_authority(&self) -> JwtAuthority {
        JwtAuthority::new(self.jwt_key_id.clone(), self.jwt_key.public_key().clone(), None, false).unwrap()
    }

    /// The bundle with this CA and its JWT key.
    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.trust_domain.clone())
            .with_x509_authorities(vec![self.x509_authority()])
            .with_jwt_authorities(vec![self.jwt_authority()])
    }

    /// A leaf for `id` and a key.
    pub(crate) fn sign(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "US");
        params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().unwrap())];
        params.use_authority_key_identifier_extension = true;
        params.not_before = not_before;
        params.not_after = not_after;
        let key = SubjectPublicKeyInfo::from_der(key.spki_der()).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }

    /// An SVID for an entry, valid from `now` for `lifetime`.
    pub(crate) fn svid(&self, entry: &Entry, now: OffsetDateTime, lifetime: Duration) -> X509Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let leaf = self.sign(&entry.spiffe_id, key.public_key(), now - Duration::seconds(10), now + lifetime);
        X509Svid::new(entry, vec![leaf], key, now).unwrap()
    }

    /// A JWT-SVID.
    pub(crate) fn jwt(&self, id: &SpiffeId, audiences: &[String], now: OffsetDateTime, lifetime: Duration) -> String {
        let header = serde_json::json!({"alg": "ES256", "kid": self.jwt_key_id, "typ": "JWT"});
        let claims = serde_json::json!({
            "aud": audiences,
            "exp": (now + lifetime).unix_timestamp(),
            "iat": now.unix_timestamp(),
            "iss": "https://oidc.example",
            "sub": id.to_string(),
        });
        self.jwt_with(&header, &claims)
    }

    /// A token with this header and these claims, signed with the JWT key.
    pub(crate) fn jwt_with(&self, header: &serde_json::Value, claims: &serde_json::Value) -> String {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        let input = format!(
            "{}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(header.to_string()),
            BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let der = self.jwt_key.sign(input.as_bytes(), SigningAlgorithm::EcdsaSha256).unwrap();
        let signature = jwt_svid::raw_ecdsa_from_der(&der, 32).unwrap();
        format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}
