//! Checks that the other side holds a certificate's private key: signatures over SHA-256 of both sides' nonces.

use aws_lc_rs::{
    digest::{self, SHA256, SHA256_OUTPUT_LEN},
    signature::{self, EcdsaVerificationAlgorithm, UnparsedPublicKey},
};
use federation_specs::public_key::{KeyKind, PublicKey};
use x509_parser::num_bigint::BigUint;

/// Most bytes of r or s: a P-521 scalar.
const MAX_SCALAR_BYTES: usize = 66;

/// Largest RSA public exponent that is worth computing with.
const MAX_RSA_EXPONENT_BITS: u64 = 32;

/// The end of every RSA-PSS encoded message.
const PSS_TRAILER: u8 = 0xbc;

/// ECDSA over SHA-256 of `message`; `r` and `s` are unsigned big-endian numbers.
pub(super) fn verify_ecdsa(key: &PublicKey, message: &[u8], r: &[u8], s: &[u8]) -> bool {
    let algorithm: &'static EcdsaVerificationAlgorithm = match key.kind() {
        KeyKind::P256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyKind::P384 => &signature::ECDSA_P384_SHA256_ASN1,
        KeyKind::P521 => &signature::ECDSA_P521_SHA256_ASN1,
        _ => return false,
    };
    let (Some(r), Some(s)) = (der_integer(r), der_integer(s)) else { return false };
    let signature = der(0x30, &[r, s].concat());
    UnparsedPublicKey::new(algorithm, key.subject_key_bits()).verify(message, &signature).is_ok()
}

fn der_integer(number: &[u8]) -> Option<Vec<u8>> {
    let first = number.iter().position(|byte| *byte != 0)?;
    let digits = &number[first..];
    if digits.len() > MAX_SCALAR_BYTES {
        return None;
    }
    let mut contents = Vec::with_capacity(digits.len() + 1);
    if digits[0] & 0x80 != 0 {
        contents.push(0);
    }
    contents.extend_from_slice(digits);
    Some(der(0x02, &contents))
}

/// A DER value of at most 255 bytes.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = u8::try_from(contents.len()).unwrap_or(u8::MAX);
    let mut value = vec![tag];
    if length >= 0x80 {
        value.push(0x81);
    }
    value.push(length);
    value.extend_from_slice(contents);
    value
}

/// RSA-PSS with SHA-256 over `message`, whatever the length of the salt.
///
/// Signers take the longest salt that fits, which the crypto library's verifier does not accept, so the check of
/// RFC 8017 section 9.1.2 is done here. Everything it computes with is public.
pub(super) fn verify_rsa_pss(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let Some((modulus, exponent)) = key.rsa_components() else { return false };
    let (n, e) = (BigUint::from_bytes_be(modulus), BigUint::from_bytes_be(exponent));
    if signature.len() != modulus.len() || e.bits() > MAX_RSA_EXPONENT_BITS {
        return false;
    }
    let s = BigUint::from_bytes_be(signature);
    if s >= n {
        return false;
    }
    let Ok(encoded_bits) = usize::try_from(n.bits() - 1) else { return false };
    let encoded_bytes = encoded_bits.div_ceil(8);
    let encoded = s.modpow(&e, &n).to_bytes_be();
    if encoded.len() > encoded_bytes {
        return false;
    }
    let mut padded = vec![0; encoded_bytes - encoded.len()];
    padded.extend_from_slice(&encoded);
    emsa_pss_verify(message, &padded, encoded_bits)
}

fn emsa_pss_verify(message: &[u8], encoded: &[u8], encoded_bits: usize) -> bool {
    let Some((&PSS_TRAILER, body)) = encoded.split_last() else { return false };
    let Some(mask_length) = body.len().checked_sub(SHA256_OUTPUT_LEN) else { return false };
    let (masked, hash) = body.split_at(mask_length);
    let unused_bits = 8 * encoded.len() - encoded_bits;
    let unused_mask = !(0xff_u8.checked_shr(u32::try_from(unused_bits).unwrap_or(8)).unwrap_or(0));
    if masked.first().is_some_and(|first| first & unused_mask != 0) {
        return false;
    }
    let mut block: Vec<u8> = masked.iter().zip(mgf1(hash, mask_length)).map(|(byte, mask)| byte ^ mask).collect();
    if let Some(first) = block.first_mut() {
        *first &= !unused_mask;
    }
    let Some(separator) = block.iter().position(|byte| *byte != 0) else { return false };
    if block[separator] != 1 {
        return false;
    }
    let salt = &block[separator + 1..];
    let mut context = digest::Context::new(&SHA256);
    context.update(&[0; 8]);
    context.update(digest::digest(&SHA256, message).as_ref());
    context.update(salt);
    context.finish().as_ref() == hash
}

fn mgf1(seed: &[u8], length: usize) -> Vec<u8> {
    let mut mask = Vec::with_capacity(length + SHA256_OUTPUT_LEN);
    let mut counter: u32 = 0;
    while mask.len() < length {
        let mut context = digest::Context::new(&SHA256);
        context.update(seed);
        context.update(&counter.to_be_bytes());
        mask.extend_from_slice(context.finish().as_ref());
        counter += 1;
    }
    mask.truncate(length);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::{
        rand::SystemRandom,
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair},
    };
    use service_kit::keys::{KeyType, PrivateKey};

    const MESSAGE: &[u8] = b"both nonces";

    #[test]
    fn rsa_pss_with_a_short_salt_verifies_and_any_change_does_not() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let key = PrivateKey::from_pkcs8(
            aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref(),
        )
        .unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA256, &SystemRandom::new(), MESSAGE, &mut signature).unwrap();
        let key = key.public_key();
        assert!(verify_rsa_pss(key, MESSAGE, &signature));
        assert!(!verify_rsa_pss(key, b"other", &signature));
        for at in [0, 100, signature.len() - 1] {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(!verify_rsa_pss(key, MESSAGE, &changed), "byte {at}");
        }
        assert!(!verify_rsa_pss(key, MESSAGE, &signature[1..]));
        assert!(!verify_rsa_pss(key, MESSAGE, &[0xff; 256]));
        assert!(!verify_rsa_pss(key, MESSAGE, &[0; 256]));
        let (r, s) = signature.split_at(128);
        assert!(!verify_ecdsa(key, MESSAGE, r, s), "another kind of key");
    }

    #[test]
    fn ecdsa_takes_bare_numbers() {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.pkcs8_der()).unwrap();
        assert_eq!(pair.public_key().as_ref(), key.public_key().subject_key_bits());
        let signature = pair.sign(&SystemRandom::new(), MESSAGE).unwrap();
        let raw = federation_specs::jwt_svid::raw_ecdsa_from_der(signature.as_ref(), 32).unwrap();
        let (r, s) = raw.split_at(32);
        assert!(verify_ecdsa(key.public_key(), MESSAGE, r, s));
        assert!(!verify_ecdsa(key.public_key(), b"other", r, s));
        assert!(!verify_ecdsa(key.public_key(), MESSAGE, s, r));
        assert!(!verify_ecdsa(key.public_key(), MESSAGE, &[], s));
        assert!(!verify_ecdsa(key.public_key(), MESSAGE, &[0; 8], s));
        assert!(!verify_ecdsa(key.public_key(), MESSAGE, &[1; 70], s));
        assert!(!verify_rsa_pss(key.public_key(), MESSAGE, &raw));
    }
}
