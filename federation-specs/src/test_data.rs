//! Keys, certificates and tokens made for the tests of this crate.

use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::bundle::{Bundle, BundleSet, JwtAuthority, X509Authority};
use crate::id::TrustDomain;
use crate::public_key::PublicKey;

/// An issuer made by rcgen, with its key.
pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

/// A time inside the validity of everything made here.
pub(crate) const NOW: OffsetDateTime = datetime!(2030-06-01 12:00 UTC);

pub(crate) fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn public_key(pair: &KeyPair) -> PublicKey {
    PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap()
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Parameters of a CA such as SPIRE makes, valid in the years 2020 to 2039.
pub(crate) fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2039, 1, 1);
    params
}

pub(crate) fn ca(common_name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(common_name), p256()).unwrap()
}

pub(crate) fn sub_ca(params: CertificateParams, parent: &Ca) -> Ca {
    CertifiedIssuer::signed_by(params, p256(), parent).unwrap()
}

/// Parameters of an X509-SVID, valid in the years 2020 to 2039.
pub(crate) fn leaf_params(id: &str) -> CertificateParams {
    let mut params = ca_params("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri(id)];
    params
}

pub(crate) fn leaf(params: CertificateParams, issuer: &Ca) -> Vec<u8> {
    params.signed_by(&p256(), issuer).unwrap().der().to_vec()
}

pub(crate) fn authority(ca: &Ca) -> X509Authority {
    X509Authority::from_der(ca.der()).unwrap()
}

/// A fresh self-signed authority.
pub(crate) fn x509_authority(common_name: &str) -> X509Authority {
    authority(&ca(common_name))
}

/// A fresh P-256 key under a key ID.
pub(crate) fn jwt_authority(key_id: &str) -> JwtAuthority {
    JwtAuthority::new(key_id, public_key(&p256()), None, false).unwrap()
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

/// A set of bundles with those X.509 authorities.
pub(crate) fn x509_bundles(bundles: &[(&str, &[&Ca])]) -> BundleSet {
    bundles
        .iter()
        .map(|(name, cas)| {
            Bundle::new(trust_domain(name)).with_x509_authorities(cas.iter().map(|ca| authority(ca))).into()
        })
        .collect()
}

/// Four X.509 and four JWT authorities made once, for tests that need many
/// bundles.
pub(crate) static POOL: LazyLock<(Vec<X509Authority>, Vec<JwtAuthority>)> = LazyLock::new(|| {
    let names = ["a", "b", "c", "d"];
    (names.map(x509_authority).to_vec(), names.map(jwt_authority).to_vec())
});
