//! One private key held in this process.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use federation_specs::public_key::PublicKey;
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::SigningKey,
};
use zeroize::Zeroizing;

use super::{KeyError, KeyType, SigningAlgorithm};

/// A private key with its public half. The encoding is wiped on drop; `Debug` shows the public side only. Clones share
/// one key.
#[derive(Clone)]
pub struct PrivateKey {
    inner: Arc<Inner>,
}

struct Inner {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
    public: PublicKey,
    key_type: KeyType,
}

enum Pair {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("key_type", &self.inner.key_type).finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Makes a new key. RSA takes from tens of milliseconds up to seconds: call it off the async threads, or use
    /// [`PrivateKey::generate_async`].
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the crypto library fails.
    pub fn generate(key_type: KeyType) -> Result<Self, KeyError> {
        let ecdsa = |algorithm| -> Result<Zeroizing<Vec<u8>>, aws_lc_rs::error::Unspecified> {
            let pair = EcdsaKeyPair::generate(algorithm)?;
            Ok(Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec()))
        };
        let rsa = |size| -> Result<Zeroizing<Vec<u8>>, aws_lc_rs::error::Unspecified> {
            let pair = RsaKeyPair::generate(size)?;
            Ok(Zeroizing::new(AsDer::as_der(&pair)?.as_ref().to_vec()))
        };
        let pkcs8 = match key_type {
            KeyType::EcP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::Rsa2048 => rsa(rsa::KeySize::Rsa2048),
            KeyType::Rsa4096 => rsa(rsa::KeySize::Rsa4096),
        };
        Self::from_pkcs8(&pkcs8.map_err(|_| KeyError::Crypto)?)
    }

    /// Makes a new key, RSA on a blocking thread.
    ///
    /// # Errors
    /// As [`PrivateKey::generate`].
    pub async fn generate_async(key_type: KeyType) -> Result<Self, KeyError> {
        match key_type {
            KeyType::EcP256 | KeyType::EcP384 => Self::generate(key_type),
            KeyType::Rsa2048 | KeyType::Rsa4096 => {
                tokio::task::spawn_blocking(move || Self::generate(key_type)).await.map_err(|_| KeyError::Crypto)?
            }
        }
    }

    /// Reads a PKCS#8 DER key of one of the [`KeyType`]s.
    ///
    /// # Errors
    /// [`KeyError::BadKey`] for anything else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pkcs8 = Zeroizing::new(der.to_vec());
        let (pair, spki) = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Pair::Ecdsa(Box::new(pair)), spki)
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der) {
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Pair::Ecdsa(Box::new(pair)), spki)
        } else {
            let pair = RsaKeyPair::from_pkcs8(der).map_err(|_| KeyError::BadKey)?;
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Pair::Rsa(Box::new(pair)), spki)
        };
        let public = PublicKey::from_spki_der(&spki.map_err(|_| KeyError::Crypto)?).map_err(|_| KeyError::BadKey)?;
        let key_type = KeyType::of(&public).ok_or(KeyError::BadKey)?;
        Ok(Self { inner: Arc::new(Inner { pkcs8, pair, public, key_type }) })
    }

    /// Reads a key in any of the encodings of a PEM file: PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1
    /// (`RSA PRIVATE KEY`).
    ///
    /// # Errors
    /// [`KeyError::BadKey`] for anything that is not one of the [`KeyType`]s.
    pub fn from_der(der: &PrivateKeyDer<'_>) -> Result<Self, KeyError> {
        match der {
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Sec1(key) => {
                let bytes = key.secret_sec1_der();
                let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, bytes)
                    .or_else(|_| EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, bytes))
                    .map_err(|_| KeyError::BadKey)?;
                Self::from_pkcs8(pair.to_pkcs8v1().map_err(|_| KeyError::Crypto)?.as_ref())
            }
            PrivateKeyDer::Pkcs1(key) => {
                let pair = RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(|_| KeyError::BadKey)?;
                Self::from_pkcs8(AsDer::as_der(&pair).map_err(|_| KeyError::Crypto)?.as_ref())
            }
            _ => Err(KeyError::BadKey),
        }
    }

    /// The secret: PKCS#8 DER.
    pub fn pkcs8_der(&self) -> &Zeroizing<Vec<u8>> {
        &self.inner.pkcs8
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.inner.public
    }

    /// The kind of key.
    pub fn key_type(&self) -> KeyType {
        self.inner.key_type
    }

    /// Hashes and signs `message`. ECDSA signatures are ASN.1 DER.
    ///
    /// # Errors
    /// [`KeyError::WrongAlgorithm`] when `algorithm` does not go with the key.
    pub fn sign(&self, message: &[u8], algorithm: SigningAlgorithm) -> Result<Vec<u8>, KeyError> {
        if algorithm != self.inner.key_type.signing_algorithm() {
            return Err(KeyError::WrongAlgorithm { key_type: self.inner.key_type, algorithm });
        }
        let random = SystemRandom::new();
        match &self.inner.pair {
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(|_| KeyError::Crypto)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| KeyError::Crypto)?;
                Ok(signature)
            }
        }
    }

    /// A signer for TLS handshakes.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when rustls does not take the key.
    pub fn tls_signing_key(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.inner.pkcs8.as_slice()));
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| KeyError::Crypto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_hides_the_secret() {
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let key = PrivateKey::generate(key_type).unwrap();
            assert_eq!(key.key_type(), key_type);
            let again = PrivateKey::from_pkcs8(key.pkcs8_der()).unwrap();
            assert_eq!(again.public_key(), key.public_key());
            again.tls_signing_key().unwrap();
            assert_eq!(format!("{key:?}"), format!("PrivateKey {{ key_type: {key_type:?}, .. }}"));
        }
    }

    #[test]
    fn refuses_foreign_bytes_and_algorithms() {
        assert!(matches!(PrivateKey::from_pkcs8(b"garbage"), Err(KeyError::BadKey)));
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        assert!(matches!(
            key.sign(b"m", SigningAlgorithm::RsaPkcs1Sha256),
            Err(KeyError::WrongAlgorithm { key_type: KeyType::EcP256, .. })
        ));
    }
}
