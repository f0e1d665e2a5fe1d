//! Private keys: the [`KeyManager`] trait for the keys a service keeps under a name, and [`PrivateKey`] for keys that
//! live only in this process.

pub mod disk;
pub mod memory;
mod private_key;

#[cfg(test)]
mod conformance;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use async_trait::async_trait;
use federation_specs::public_key::{KeyKind, PublicKey};
use rustls::sign::SigningKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use private_key::PrivateKey;

/// Largest number of keys one manager holds.
pub const MAX_KEYS: usize = 1024;

/// Longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 255;

/// Kinds of key this software makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyType {
    /// ECDSA on P-256.
    #[serde(rename = "ec-p256")]
    EcP256,
    /// ECDSA on P-384.
    #[serde(rename = "ec-p384")]
    EcP384,
    /// RSA, 2048 bits.
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// RSA, 4096 bits.
    #[serde(rename = "rsa-4096")]
    Rsa4096,
}

impl KeyType {
    /// Every type, in the order of the names shown to people.
    pub const ALL: [Self; 4] = [Self::EcP256, Self::EcP384, Self::Rsa2048, Self::Rsa4096];

    /// The configuration name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// The algorithm certificates and tokens are signed with under this type of key.
    pub fn signing_algorithm(self) -> SigningAlgorithm {
        match self {
            Self::EcP256 => SigningAlgorithm::EcdsaSha256,
            Self::EcP384 => SigningAlgorithm::EcdsaSha384,
            Self::Rsa2048 | Self::Rsa4096 => SigningAlgorithm::RsaPkcs1Sha256,
        }
    }

    /// The type of a public key, if it is one this software makes.
    pub fn of(key: &PublicKey) -> Option<Self> {
        match key.kind() {
            KeyKind::P256 => Some(Self::EcP256),
            KeyKind::P384 => Some(Self::EcP384),
            KeyKind::Rsa(2048) => Some(Self::Rsa2048),
            KeyKind::Rsa(4096) => Some(Self::Rsa4096),
            _ => None,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyType {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let known = Self::ALL.into_iter().find(|key_type| key_type.as_str() == text);
        known.ok_or_else(|| KeyError::UnknownType { name: text.to_string() })
    }
}

/// How a message is hashed and signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningAlgorithm {
    /// ECDSA with SHA-256 on P-256; the signature is ASN.1 DER.
    EcdsaSha256,
    /// ECDSA with SHA-384 on P-384; the signature is ASN.1 DER.
    EcdsaSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
}

/// A key a manager holds: its name and its public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// The name it was generated under.
    pub id: String,
    /// Its kind.
    pub key_type: KeyType,
    /// Its public half.
    pub public_key: PublicKey,
}

/// Why a key operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key of that name.
    #[error("key `{id}` does not exist")]
    NotFound {
        /// The name asked for.
        id: String,
    },
    /// The name is empty or too long.
    #[error("key id must have between 1 and {MAX_KEY_ID_BYTES} bytes")]
    BadId,
    /// The manager is full.
    #[error("key manager already holds {MAX_KEYS} keys; remove unused ones")]
    TooMany,
    /// Not a key type.
    #[error("key type `{name}` is not known; use ec-p256, ec-p384, rsa-2048 or rsa-4096")]
    UnknownType {
        /// What was given.
        name: String,
    },
    /// The algorithm does not go with the key.
    #[error("a {key_type} key cannot sign with {algorithm:?}")]
    WrongAlgorithm {
        /// The key's type.
        key_type: KeyType,
        /// The algorithm asked for.
        algorithm: SigningAlgorithm,
    },
    /// The bytes are no usable private key.
    #[error("private key is not a PKCS#8 key of type ec-p256, ec-p384, rsa-2048 or rsa-4096")]
    BadKey,
    /// The crypto library failed.
    #[error("key generation or signing failed in the crypto library")]
    Crypto,
    /// The key file cannot be read or written.
    #[error("key file {} cannot be {action}: {source}; check its owner, its permissions and the free space", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key file holds something else.
    #[error("key file {} is damaged ({reason}); restore it from a backup, or move it away to start with new keys", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manager's backend failed.
    #[error("key manager failed: {0}")]
    Backend(#[source] crate::BoxError),
}

/// Keeps private keys under names and signs with them; private keys never leave it.
#[async_trait]
pub trait KeyManager: Send + Sync + fmt::Debug {
    /// Makes a new key under `id`, replacing the one of that name only when the new one is stored.
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<PublicKey, KeyError>;

    /// Every key, ordered by id.
    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError>;

    /// The key of that name.
    ///
    /// # Errors
    /// [`KeyError::NotFound`] when there is none.
    async fn get(&self, id: &str) -> Result<KeyInfo, KeyError>;

    /// Signs `message` (hashed here) with the key of that name. ECDSA signatures are ASN.1 DER.
    async fn sign(&self, id: &str, message: &[u8], algorithm: SigningAlgorithm) -> Result<Vec<u8>, KeyError>;

    /// Removes the key of that name.
    ///
    /// # Errors
    /// [`KeyError::NotFound`] when there is none.
    async fn remove(&self, id: &str) -> Result<(), KeyError>;

    /// A signer for TLS handshakes under the key of that name.
    async fn tls_signing_key(&self, id: &str) -> Result<Arc<dyn SigningKey>, KeyError>;
}

fn check_id(id: &str) -> Result<(), KeyError> {
    if id.is_empty() || id.len() > MAX_KEY_ID_BYTES { Err(KeyError::BadId) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_type_names_round_trip() {
        for key_type in KeyType::ALL {
            assert_eq!(key_type.to_string().parse::<KeyType>().unwrap(), key_type);
            assert_eq!(serde_json::to_value(key_type).unwrap(), key_type.as_str());
        }
        let error = "ed25519".parse::<KeyType>().unwrap_err();
        assert!(error.to_string().contains("rsa-4096"), "{error}");
    }
}
