//! Signatures of tokens: ES512 by josekit, which the other library lacks, and
//! everything else by jsonwebtoken on aws-lc.

use josekit::jws::ES512;
use josekit::jws::JwsVerifier as _;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::public_key::{JwsAlgorithm, PublicKey};

/// Whether `signature` over `signed` was made by `key` with `algorithm`. False
/// also if the key is of another kind than the algorithm needs.
pub(super) fn verify(algorithm: JwsAlgorithm, key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
    if !algorithm.fits(key.kind()) {
        return false;
    }
    let library_algorithm = match algorithm {
        JwsAlgorithm::RS256 => Algorithm::RS256,
        JwsAlgorithm::RS384 => Algorithm::RS384,
        JwsAlgorithm::RS512 => Algorithm::RS512,
        JwsAlgorithm::PS256 => Algorithm::PS256,
        JwsAlgorithm::PS384 => Algorithm::PS384,
        JwsAlgorithm::PS512 => Algorithm::PS512,
        JwsAlgorithm::ES256 => Algorithm::ES256,
        JwsAlgorithm::ES384 => Algorithm::ES384,
        JwsAlgorithm::ES512 => {
            return ES512
                .verifier_from_der(key.spki_der())
                .is_ok_and(|verifier| verifier.verify(signed, signature).is_ok());
        }
    };
    let library_key = match key.rsa_components() {
        Some((modulus, exponent)) => DecodingKey::from_rsa_raw_components(modulus, exponent),
        None => DecodingKey::from_ec_der(key.subject_key_bits()),
    };
    (DEFAULT_PROVIDER.verifier_factory)(&library_algorithm, &library_key)
        .is_ok_and(|verifier| verifier.verify(signed, &signature.to_vec()).is_ok())
}
