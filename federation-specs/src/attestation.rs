//! What agents and issuers say to each other while a node is attested
//! (SPIRE 1.15). Byte values travel as standard base64
//! with padding inside JSON, as Go writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name and selector type of attestation by join token.
pub const JOIN_TOKEN: &str = "join_token";
/// Name and selector type of attestation by possession of a certificate.
pub const X509POP: &str = "x509pop";

/// Longest attestation payload, challenge or answer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Most certificates in an x509pop payload, whatever the issuer allows.
pub const MAX_X509POP_CERTIFICATES: usize = 32;
/// Bytes of each x509pop nonce.
pub const NONCE_BYTES: usize = 32;

/// Why a message is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// More than [`MAX_MESSAGE_BYTES`].
    #[error("attestation message is longer than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// Not the JSON expected.
    #[error("failed to unmarshal data: {0}")]
    Json(#[from] serde_json::Error),
    /// More than [`MAX_X509POP_CERTIFICATES`].
    #[error("more than {MAX_X509POP_CERTIFICATES} certificates in the payload")]
    TooManyCertificates,
}

/// What an agent sends first for x509pop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509popPayload {
    /// Certificates in DER, the leaf first.
    #[serde(default, with = "byte_lists")]
    pub certificates: Vec<Vec<u8>>,
}

/// What the issuer asks of the holder of an x509pop leaf: exactly one of the
/// two, by the type of the leaf's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509popChallenge {
    /// For an RSA key.
    #[serde(default)]
    pub rsa_signature: Option<NonceChallenge>,
    /// For an ECDSA key.
    #[serde(default)]
    pub ecdsa_signature: Option<NonceChallenge>,
}

/// Random bytes to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonceChallenge {
    /// [`NONCE_BYTES`] bytes.
    #[serde(default, with = "bytes")]
    pub nonce: Vec<u8>,
}

/// The agent's answer to an x509pop challenge. Signed is SHA-256 over the
/// challenge's nonce and then the answer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509popResponse {
    /// By an RSA key.
    #[serde(default)]
    pub rsa_signature: Option<RsaSignatureResponse>,
    /// By an ECDSA key.
    #[serde(default)]
    pub ecdsa_signature: Option<EcdsaSignatureResponse>,
}

/// RSASSA-PSS with SHA-256; the salt may have any length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RsaSignatureResponse {
    /// [`NONCE_BYTES`] bytes of the agent's own.
    #[serde(default, with = "bytes")]
    pub nonce: Vec<u8>,
    /// The signature.
    #[serde(default, with = "bytes")]
    pub signature: Vec<u8>,
}

/// ECDSA over the digest itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcdsaSignatureResponse {
    /// [`NONCE_BYTES`] bytes of the agent's own.
    #[serde(default, with = "bytes")]
    pub nonce: Vec<u8>,
    /// r, big-endian without leading zeros.
    #[serde(default, with = "bytes")]
    pub r: Vec<u8>,
    /// s, as r.
    #[serde(default, with = "bytes")]
    pub s: Vec<u8>,
}

impl X509popPayload {
    /// Reads a payload; unknown members are ignored.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn from_json(message: &[u8]) -> Result<Self, AttestationError> {
        let payload: Self = read(message)?;
        if payload.certificates.len() > MAX_X509POP_CERTIFICATES {
            return Err(AttestationError::TooManyCertificates);
        }
        Ok(payload)
    }

    /// The payload as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        write(self)
    }
}

impl X509popChallenge {
    /// Reads a challenge; unknown members are ignored.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn from_json(message: &[u8]) -> Result<Self, AttestationError> {
        read(message)
    }

    /// The challenge as JSON; the absent kind is `null`.
    pub fn to_json(&self) -> Vec<u8> {
        write(self)
    }
}

impl X509popResponse {
    /// Reads an answer; unknown members are ignored.
    ///
    /// # Errors
    /// [`AttestationError`].
    pub fn from_json(message: &[u8]) -> Result<Self, AttestationError> {
        read(message)
    }

    /// The answer as JSON; the absent kind is `null`.
    pub fn to_json(&self) -> Vec<u8> {
        write(self)
    }
}

fn read<T: for<'de> Deserialize<'de>>(message: &[u8]) -> Result<T, AttestationError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(AttestationError::TooLong);
    }
    Ok(serde_json::from_slice(message)?)
}

fn write<T: Serialize>(value: &T) -> Vec<u8> {
    // Structures of texts always become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Go's `[]byte`: base64, or `null` for none.
mod bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(value))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        STANDARD.decode(text.unwrap_or_default()).map_err(D::Error::custom)
    }
}

/// Go's `[][]byte`.
mod byte_lists {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter().map(|bytes| STANDARD.encode(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
        texts.iter().map(|text| STANDARD.decode(text).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_challenge_and_response_round_trip() {
        for text in
            [include_str!("../testdata/attest/x509pop-ec.txt"), include_str!("../testdata/attest/x509pop-rsa.txt")]
        {
            for line in text.lines() {
                if let Some(json) = line.strip_prefix("challenge ") {
                    let challenge = X509popChallenge::from_json(json.as_bytes()).unwrap();
                    assert_eq!(String::from_utf8(challenge.to_json()).unwrap(), json);
                    assert_ne!(challenge.rsa_signature.is_some(), challenge.ecdsa_signature.is_some());
                } else if let Some(json) = line.strip_prefix("response ") {
                    let response = X509popResponse::from_json(json.as_bytes()).unwrap();
                    let again = X509popResponse::from_json(&response.to_json()).unwrap();
                    assert_eq!(again, response);
                }
            }
        }
    }

    #[test]
    fn payload_is_a_list_of_base64() {
        let payload = X509popPayload { certificates: vec![vec![1, 2, 3], vec![255]] };
        assert_eq!(payload.to_json(), br#"{"certificates":["AQID","/w=="]}"#);
        assert_eq!(X509popPayload::from_json(&payload.to_json()).unwrap(), payload);
        assert!(X509popPayload::from_json(br#"{"certificates":null,"more":1}"#).unwrap().certificates.is_empty());
        let text = X509popPayload::from_json(b"\0").unwrap_err().to_string();
        assert!(text.starts_with("failed to unmarshal data: "), "{text}");
        let many = X509popPayload { certificates: vec![vec![1]; 33] };
        assert!(matches!(X509popPayload::from_json(&many.to_json()), Err(AttestationError::TooManyCertificates)));
    }
}
