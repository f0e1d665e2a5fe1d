//! Public keys as JWK members (RFC 7518 sections 6.2 and 6.3, RFC 8037).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{KeyKind, MAX_SPKI_BYTES, PublicKey, PublicKeyError};
use crate::der;

// AlgorithmIdentifiers, complete DER.
const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
const P384: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// Members that only a private key has.
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

impl PublicKey {
    /// The key as JWK members: `kty`, then `crv`, `x`, `y` or `n`, `e` or
    /// `crv`, `x`, in that order. Nothing else: `use`, `kid` and `alg` are for
    /// the caller.
    pub fn to_jwk(&self) -> Map<String, Value> {
        let mut members = Map::new();
        let mut put = |name: &str, value: String| {
            members.insert(name.to_owned(), Value::String(value));
        };
        match self.kind() {
            KeyKind::Rsa(_) => {
                let (modulus, exponent) = self.rsa_components().unwrap_or_default();
                put("kty", "RSA".to_owned());
                put("n", URL_SAFE_NO_PAD.encode(modulus));
                put("e", URL_SAFE_NO_PAD.encode(exponent));
            }
            KeyKind::Ed25519 => {
                put("kty", "OKP".to_owned());
                put("crv", "Ed25519".to_owned());
                put("x", URL_SAFE_NO_PAD.encode(self.subject_key_bits()));
            }
            kind @ (KeyKind::P256 | KeyKind::P384 | KeyKind::P521) => {
                let point = self.subject_key_bits();
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                put("kty", "EC".to_owned());
                put("crv", curve_name(kind).to_owned());
                put("x", URL_SAFE_NO_PAD.encode(x));
                put("y", URL_SAFE_NO_PAD.encode(y));
            }
        }
        members
    }

    /// Reads the key from JWK members; `use`, `kid`, `alg` and unknown members
    /// are not looked at.
    ///
    /// # Errors
    /// [`PublicKeyError`]; [`PublicKeyError::is_unsupported`] tells an unknown
    /// `kty`, `crv` or size from a malformed key.
    pub fn from_jwk(members: &Map<String, Value>) -> Result<Self, PublicKeyError> {
        let kty = text(members, "kty")?;
        let spki = match kty {
            "RSA" => {
                refuse_private(members)?;
                let (modulus, exponent) = (bytes(members, "n")?, bytes(members, "e")?);
                let key = [der::unsigned_integer(&modulus), der::unsigned_integer(&exponent)].concat();
                spki(RSA, &der::element(der::SEQUENCE, &key))
            }
            "EC" => {
                let (identifier, length) = match text(members, "crv")? {
                    "P-256" => (P256, 32),
                    "P-384" => (P384, 48),
                    "P-521" => (P521, 66),
                    other => return Err(PublicKeyError::UnsupportedCurve(other.to_owned())),
                };
                refuse_private(members)?;
                let (x, y) = (coordinate(members, "x", length)?, coordinate(members, "y", length)?);
                spki(identifier, &[&[4], x.as_slice(), y.as_slice()].concat())
            }
            "OKP" => {
                match text(members, "crv")? {
                    "Ed25519" => {}
                    other => return Err(PublicKeyError::UnsupportedCurve(other.to_owned())),
                }
                refuse_private(members)?;
                spki(ED25519, &coordinate(members, "x", 32)?)
            }
            other => return Err(PublicKeyError::UnsupportedType(other.to_owned())),
        };
        Self::from_spki_der(&spki)
    }
}

fn curve_name(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::P256 => "P-256",
        KeyKind::P384 => "P-384",
        _ => "P-521",
    }
}

fn spki(identifier: &[u8], key_bits: &[u8]) -> Vec<u8> {
    let bit_string = der::element(der::BIT_STRING, &[&[0], key_bits].concat());
    der::element(der::SEQUENCE, &[identifier, bit_string.as_slice()].concat())
}

fn refuse_private(members: &Map<String, Value>) -> Result<(), PublicKeyError> {
    if PRIVATE_MEMBERS.iter().any(|name| members.contains_key(*name)) {
        return Err(PublicKeyError::PrivateJwk);
    }
    Ok(())
}

fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, PublicKeyError> {
    members.get(name).and_then(Value::as_str).ok_or(PublicKeyError::JwkMember(name))
}

fn bytes(members: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, PublicKeyError> {
    let encoded = text(members, name)?;
    if encoded.is_empty() || encoded.len() > 2 * MAX_SPKI_BYTES {
        return Err(PublicKeyError::JwkMember(name));
    }
    URL_SAFE_NO_PAD.decode(encoded).map_err(|_| PublicKeyError::JwkMember(name))
}

fn coordinate(members: &Map<String, Value>, name: &'static str, length: usize) -> Result<Vec<u8>, PublicKeyError> {
    let decoded = bytes(members, name)?;
    if decoded.len() == length { Ok(decoded) } else { Err(PublicKeyError::JwkMember(name)) }
}
