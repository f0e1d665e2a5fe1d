//! Public keys that may sign or be certified: RSA, the three NIST curves of
//! JOSE, and Ed25519, as SubjectPublicKeyInfo DER (RFC 5280 section 4.1) and
//! as JWK members (RFC 7518 section 6, RFC 8037).

mod algorithm;
mod jwk;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, signature};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

pub use algorithm::{JwsAlgorithm, UnknownAlgorithm};

use crate::der;

/// Smallest RSA modulus taken, in bits (SPIRE 1.15).
pub const MIN_RSA_BITS: usize = 2048;
/// Largest RSA modulus taken, in bits; bounds the work of one verification.
pub const MAX_RSA_BITS: usize = 8192;
/// Longest SubjectPublicKeyInfo read, in bytes.
pub const MAX_SPKI_BYTES: usize = 8192;
/// Largest RSA public exponent taken, as SPIRE's language has it.
const MAX_RSA_EXPONENT: u64 = (1 << 31) - 1;

/// Why a public key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The bytes are not one SubjectPublicKeyInfo.
    #[error("public key is not a valid PKIX SubjectPublicKeyInfo: {0}")]
    Malformed(&'static str),
    /// A kind of key this program does not know, by object identifier or `kty`.
    #[error("public key type {0} is not supported; use RSA, EC P-256, P-384, P-521 or Ed25519")]
    UnsupportedType(String),
    /// A curve this program does not know.
    #[error("elliptic curve {0} is not supported; use P-256, P-384 or P-521")]
    UnsupportedCurve(String),
    /// A modulus outside [`MIN_RSA_BITS`]`..=`[`MAX_RSA_BITS`].
    #[error("RSA key has {0} bits; it must have {MIN_RSA_BITS} to {MAX_RSA_BITS}")]
    RsaSize(usize),
    /// The point is not on its curve, or the exponent makes no sense.
    #[error("public key value is not valid for its type")]
    InvalidValue,
    /// A JWK member is absent or has the wrong form.
    #[error("JWK member `{0}` is missing or malformed")]
    JwkMember(&'static str),
    /// The JWK carries private members.
    #[error("JWK holds a private key; publish the public members only")]
    PrivateJwk,
}

impl PublicKeyError {
    /// Whether the key may be well formed but is of a kind, curve or size that
    /// is not known here. Such a key in a bundle is skipped, as the standard
    /// asks (SPIFFE Trust Domain and Bundle section 4.2.1, RFC 7517 section 5).
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::UnsupportedType(_) | Self::UnsupportedCurve(_) | Self::RsaSize(_))
    }
}

/// The kind of a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA with a modulus of that many bits.
    Rsa(usize),
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// Bytes of one coordinate of an elliptic curve point; `None` for others.
    pub fn coordinate_bytes(self) -> Option<usize> {
        match self {
            Self::P256 => Some(32),
            Self::P384 => Some(48),
            Self::P521 => Some(66),
            Self::Rsa(_) | Self::Ed25519 => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(formatter, "RSA {bits}"),
            Self::P256 => formatter.write_str("EC P-256"),
            Self::P384 => formatter.write_str("EC P-384"),
            Self::P521 => formatter.write_str("EC P-521"),
            Self::Ed25519 => formatter.write_str("Ed25519"),
        }
    }
}

/// A public key whose form and value have been checked. Clones share one
/// allocation; equality is that of the key, whatever way its DER was written.
#[derive(Clone)]
pub struct PublicKey {
    spki: Arc<[u8]>,
    bits: Arc<[u8]>,
    kind: KeyKind,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.bits == other.bits
    }
}

impl Eq for PublicKey {}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.bits.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({}, {})", self.kind, hex(&self.key_id_sha1()))
    }
}

impl PublicKey {
    /// Reads exactly one SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`PublicKeyError`]: malformed, of an unknown kind or size, or a value
    /// that cannot be such a key.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, PublicKeyError> {
        if spki.len() > MAX_SPKI_BYTES {
            return Err(PublicKeyError::Malformed("too long"));
        }
        let (rest, info) =
            SubjectPublicKeyInfo::from_der(spki).map_err(|_| PublicKeyError::Malformed("not DER of that type"))?;
        if !rest.is_empty() {
            return Err(PublicKeyError::Malformed("bytes follow the key"));
        }
        Self::from_parsed(spki, &info)
    }

    fn from_parsed(spki: &[u8], info: &SubjectPublicKeyInfo<'_>) -> Result<Self, PublicKeyError> {
        if info.subject_public_key.unused_bits != 0 {
            return Err(PublicKeyError::Malformed("key bits are not whole bytes"));
        }
        let bits: &[u8] = &info.subject_public_key.data;
        let algorithm = &info.algorithm.algorithm;
        let parameters = info.algorithm.parameters.as_ref();
        let kind = if *algorithm == OID_PKCS1_RSAENCRYPTION {
            if parameters.is_none_or(|any| any.as_null().is_err()) {
                return Err(PublicKeyError::Malformed("RSA parameters are not NULL"));
            }
            check_rsa(bits)?
        } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = parameters
                .and_then(|any| any.as_oid().ok())
                .ok_or_else(|| PublicKeyError::UnsupportedCurve("with explicit parameters".to_owned()))?;
            let kind = if curve == OID_EC_P256 {
                KeyKind::P256
            } else if curve == OID_NIST_EC_P384 {
                KeyKind::P384
            } else if curve == OID_NIST_EC_P521 {
                KeyKind::P521
            } else {
                return Err(PublicKeyError::UnsupportedCurve(curve.to_id_string()));
            };
            check_point(kind, bits)?;
            kind
        } else if *algorithm == OID_SIG_ED25519 {
            if parameters.is_some() {
                return Err(PublicKeyError::Malformed("Ed25519 takes no parameters"));
            }
            check_ed25519(bits)?;
            KeyKind::Ed25519
        } else {
            return Err(PublicKeyError::UnsupportedType(algorithm.to_id_string()));
        };
        Ok(Self { spki: Arc::from(spki), bits: Arc::from(bits), kind })
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The kind of the key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Contents of the subjectPublicKey BIT STRING: an uncompressed point, an
    /// RSAPublicKey, or the 32 bytes of Ed25519.
    pub fn subject_key_bits(&self) -> &[u8] {
        &self.bits
    }

    /// SHA-1 of [`PublicKey::subject_key_bits`], the key identifier of
    /// certificates (SPIRE 1.15; RFC 5280 section 4.2.1.2 method 1).
    pub fn key_id_sha1(&self) -> [u8; 20] {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.bits);
        let mut id = [0; 20];
        id.copy_from_slice(digest.as_ref());
        id
    }

    /// The algorithm this key signs JWTs with by default: RS256 for RSA, ES256,
    /// ES384 or ES512 by curve; `None` for Ed25519, which JWT-SVIDs do not
    /// allow (JWT-SVID section 2.1).
    pub fn jws_algorithm(&self) -> Option<JwsAlgorithm> {
        match self.kind {
            KeyKind::Rsa(_) => Some(JwsAlgorithm::RS256),
            KeyKind::P256 => Some(JwsAlgorithm::ES256),
            KeyKind::P384 => Some(JwsAlgorithm::ES384),
            KeyKind::P521 => Some(JwsAlgorithm::ES512),
            KeyKind::Ed25519 => None,
        }
    }

    /// Modulus and public exponent, big-endian without leading zeros; `None`
    /// unless the key is RSA.
    pub fn rsa_components(&self) -> Option<(&[u8], &[u8])> {
        match self.kind {
            KeyKind::Rsa(_) => split_rsa(&self.bits),
            _ => None,
        }
    }
}

fn split_rsa(bits: &[u8]) -> Option<(&[u8], &[u8])> {
    let (contents, rest) = der::take(der::SEQUENCE, bits)?;
    let (modulus, after) = der::take_positive_integer(contents)?;
    let (exponent, end) = der::take_positive_integer(after)?;
    (rest.is_empty() && end.is_empty()).then_some((modulus, exponent))
}

fn check_rsa(bits: &[u8]) -> Result<KeyKind, PublicKeyError> {
    let (modulus, exponent) = split_rsa(bits).ok_or(PublicKeyError::Malformed("not an RSAPublicKey"))?;
    let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let size = (modulus.len() * 8).saturating_sub(leading);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&size) {
        return Err(PublicKeyError::RsaSize(size));
    }
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    let value = exponent.iter().take(5).fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
    if !odd(modulus) || !odd(exponent) || !(3..=MAX_RSA_EXPONENT).contains(&value) {
        return Err(PublicKeyError::InvalidValue);
    }
    Ok(KeyKind::Rsa(size))
}

fn check_point(kind: KeyKind, point: &[u8]) -> Result<(), PublicKeyError> {
    let algorithm: &'static dyn signature::VerificationAlgorithm = match kind {
        KeyKind::P256 => &signature::ECDSA_P256_SHA256_ASN1,
        KeyKind::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        _ => &signature::ECDSA_P521_SHA512_ASN1,
    };
    let uncompressed = kind.coordinate_bytes().map(|coordinate| 1 + 2 * coordinate);
    if Some(point.len()) != uncompressed || point.first() != Some(&4) {
        return Err(PublicKeyError::Malformed("the point must be uncompressed and as long as its curve"));
    }
    signature::ParsedPublicKey::new(algorithm, point).map_err(|_| PublicKeyError::InvalidValue)?;
    Ok(())
}

fn check_ed25519(bits: &[u8]) -> Result<(), PublicKeyError> {
    if bits.len() != 32 {
        return Err(PublicKeyError::Malformed("an Ed25519 key has 32 bytes"));
    }
    signature::ParsedPublicKey::new(&signature::ED25519, bits).map_err(|_| PublicKeyError::InvalidValue)?;
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
        text
    })
}

#[cfg(test)]
mod tests;
