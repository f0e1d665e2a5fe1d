//! Node certificates and agents for tests.

use federation_specs::attestation::{
    EcdsaSignatureResponse, NONCE_BYTES, X509popChallenge, X509popPayload, X509popResponse,
};

/// A node CA and a leaf it signed, with the leaf's key.
pub(crate) struct Pki {
    pub(crate) root: rcgen::Certificate,
    pub(crate) leaf: rcgen::Certificate,
    pub(crate) leaf_key: rcgen::KeyPair,
}

/// Makes both; `change` adjusts the leaf.
pub(crate) fn pki(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Pki {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root_params = rcgen::CertificateParams::default();
    root_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root_params.distinguished_name.push(rcgen::DnType::CommonName, "test root");
    let root = root_params.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::new(root_params, root_key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    change(&mut params);
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    Pki { root, leaf, leaf_key }
}

pub(crate) fn uri(text: &str) -> rcgen::SanType {
    rcgen::SanType::URI(text.try_into().unwrap())
}

/// Signs challenges as an agent does.
pub(crate) fn sign(key: &rcgen::KeyPair, challenge: &[u8]) -> Vec<u8> {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };
    let challenge = X509popChallenge::from_json(challenge).unwrap().ecdsa_signature.unwrap();
    let nonce = vec![9; NONCE_BYTES];
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &[challenge.nonce, nonce.clone()].concat()).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    let response = EcdsaSignatureResponse { nonce, r: r.to_vec(), s: s.to_vec() };
    X509popResponse { rsa_signature: None, ecdsa_signature: Some(response) }.to_json()
}

/// The payload with these certificates.
pub(crate) fn payload(certificates: &[Vec<u8>]) -> Vec<u8> {
    X509popPayload { certificates: certificates.to_vec() }.to_json()
}
