//! Keys that live as long as the process.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use federation_specs::public_key::PublicKey;
use rustls::sign::SigningKey;

use super::{KeyError, KeyInfo, KeyManager, KeyType, MAX_KEYS, PrivateKey, SigningAlgorithm, check_id};

/// A key manager that keeps keys in memory only; after a restart they are gone.
#[derive(Debug, Default)]
pub struct MemoryKeyManager {
    keys: RwLock<BTreeMap<String, PrivateKey>>,
}

impl MemoryKeyManager {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_keys(keys: BTreeMap<String, PrivateKey>) -> Self {
        Self { keys: RwLock::new(keys) }
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, PrivateKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, keys: BTreeMap<String, PrivateKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    pub(super) fn key(&self, id: &str) -> Result<PrivateKey, KeyError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(id).cloned().ok_or_else(|| KeyError::NotFound { id: id.to_string() })
    }
}

pub(super) fn info(id: &str, key: &PrivateKey) -> KeyInfo {
    KeyInfo { id: id.to_string(), key_type: key.key_type(), public_key: key.public_key().clone() }
}

/// Signs on this thread, or for RSA on a blocking one, since it takes milliseconds.
pub(super) async fn sign_off_thread(
    key: PrivateKey,
    message: &[u8],
    algorithm: SigningAlgorithm,
) -> Result<Vec<u8>, KeyError> {
    match key.key_type() {
        KeyType::EcP256 | KeyType::EcP384 => key.sign(message, algorithm),
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            let message = message.to_vec();
            let signed = tokio::task::spawn_blocking(move || key.sign(&message, algorithm)).await;
            signed.map_err(|_| KeyError::Crypto)?
        }
    }
}

pub(super) fn check_room(keys: &BTreeMap<String, PrivateKey>, id: &str) -> Result<(), KeyError> {
    if keys.len() >= MAX_KEYS && !keys.contains_key(id) { Err(KeyError::TooMany) } else { Ok(()) }
}

#[async_trait]
impl KeyManager for MemoryKeyManager {
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<PublicKey, KeyError> {
        check_id(id)?;
        let key = PrivateKey::generate_async(key_type).await?;
        let public = key.public_key().clone();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        check_room(&keys, id)?;
        keys.insert(id.to_string(), key);
        Ok(public)
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.iter().map(|(id, key)| info(id, key)).collect())
    }

    async fn get(&self, id: &str) -> Result<KeyInfo, KeyError> {
        Ok(info(id, &self.key(id)?))
    }

    async fn sign(&self, id: &str, message: &[u8], algorithm: SigningAlgorithm) -> Result<Vec<u8>, KeyError> {
        sign_off_thread(self.key(id)?, message, algorithm).await
    }

    async fn remove(&self, id: &str) -> Result<(), KeyError> {
        let removed = self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        removed.map(drop).ok_or_else(|| KeyError::NotFound { id: id.to_string() })
    }

    async fn tls_signing_key(&self, id: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.key(id)?.tls_signing_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        super::super::conformance::run(&MemoryKeyManager::new()).await;
    }
}
