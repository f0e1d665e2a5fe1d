//! Keys, certificates and tokens made for the tests of this crate.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};

use crate::bundle::{JwtAuthority, X509Authority};
use crate::public_key::PublicKey;

/// An issuer made by rcgen, with its key.
pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn p256() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

pub(crate) fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Parameters of a CA such as SPIRE makes, valid in the years 2020 to 2039.
pub(crate) fn ca_params(common_name: &str, uri: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2039, 1, 1);
    params.subject_alt_names = uri.map(|uri| SanType::URI(uri.try_into().unwrap())).into_iter().collect();
    params
}

pub(crate) fn ca(common_name: &str, uri: Option<&str>) -> Ca {
    CertifiedIssuer::self_signed(ca_params(common_name, uri), p256()).unwrap()
}

pub(crate) fn authority(ca: &Ca) -> X509Authority {
    X509Authority::from_der(ca.as_ref().der()).unwrap()
}

/// A fresh self-signed authority.
pub(crate) fn x509_authority(common_name: &str) -> X509Authority {
    authority(&ca(common_name, Some("spiffe://cloud.example")))
}

/// A fresh P-256 key under a key ID.
pub(crate) fn jwt_authority(key_id: &str) -> JwtAuthority {
    let key = PublicKey::from_spki_der(&p256().subject_public_key_info()).unwrap();
    JwtAuthority::new(key_id, key, None, false).unwrap()
}
