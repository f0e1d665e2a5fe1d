//! Laying out a token for a signer that holds the key elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::der;
use crate::public_key::JwsAlgorithm;

/// Why a token cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// The bytes are not an ECDSA signature in DER for such a key.
    #[error("signature is not ECDSA in DER with two numbers of at most {0} bytes")]
    EcdsaSignature(usize),
}

/// Header and claims of a token, encoded, waiting for a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningInput {
    algorithm: JwsAlgorithm,
    text: String,
}

/// Encodes the header (`alg`, `kid` and `typ`, which is `JWT` for a JWT-SVID
/// and `wit+jwt` for a WIT-SVID) and the claims (SPIRE 1.15).
pub fn signing_input(algorithm: JwsAlgorithm, key_id: &str, typ: &str, claims: &Map<String, Value>) -> SigningInput {
    let mut header = Map::new();
    header.insert("alg".to_owned(), algorithm.as_str().into());
    header.insert("kid".to_owned(), key_id.into());
    header.insert("typ".to_owned(), typ.into());
    let encode = |members: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(members).to_string());
    SigningInput { algorithm, text: format!("{}.{}", encode(header), encode(claims.clone())) }
}

impl SigningInput {
    /// The bytes to sign with the algorithm: for ECDSA and RSA alike the hash
    /// is the algorithm's (SHA-256 for RS256 and so on).
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The finished token. An ECDSA signature is given in DER, as key managers
    /// make it; any other is given as it is.
    ///
    /// # Errors
    /// [`SigningError::EcdsaSignature`].
    pub fn assemble(self, signature: &[u8]) -> Result<String, SigningError> {
        let coordinate = match self.algorithm {
            JwsAlgorithm::ES256 => Some(32),
            JwsAlgorithm::ES384 => Some(48),
            JwsAlgorithm::ES512 => Some(66),
            _ => None,
        };
        let encoded = match coordinate {
            Some(length) => URL_SAFE_NO_PAD.encode(raw_ecdsa_from_der(signature, length)?),
            None => URL_SAFE_NO_PAD.encode(signature),
        };
        Ok(format!("{}.{encoded}", self.text))
    }
}

/// An ECDSA signature in DER as the two numbers r and s one after the other,
/// each of `coordinate` bytes (RFC 7518 section 3.4): 32 for P-256, 48 for
/// P-384, 66 for P-521.
///
/// # Errors
/// [`SigningError::EcdsaSignature`].
pub fn raw_ecdsa_from_der(signature: &[u8], coordinate: usize) -> Result<Vec<u8>, SigningError> {
    let numbers = || {
        let (contents, rest) = der::take(der::SEQUENCE, signature)?;
        let (r, after) = der::take_positive_integer(contents)?;
        let (s, end) = der::take_positive_integer(after)?;
        (rest.is_empty() && end.is_empty() && r.len() <= coordinate && s.len() <= coordinate).then_some((r, s))
    };
    let (r, s) = numbers().ok_or(SigningError::EcdsaSignature(coordinate))?;
    let mut raw = vec![0; 2 * coordinate];
    raw[coordinate - r.len()..coordinate].copy_from_slice(r);
    raw[2 * coordinate - s.len()..].copy_from_slice(s);
    Ok(raw)
}
