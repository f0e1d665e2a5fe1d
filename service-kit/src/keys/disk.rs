//! Keys in one JSON file: `{"keys":{"<id>":"<base64 PKCS#8>"}}`, tab indented, mode 0600, replaced atomically.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use federation_specs::public_key::PublicKey;
use rustls::sign::SigningKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    KeyError, KeyInfo, KeyManager, KeyType, MAX_KEYS, PrivateKey, SigningAlgorithm, check_id,
    memory::{MemoryKeyManager, check_room, sign_off_thread},
};
use crate::atomic_file;

/// Permission bits of the key file.
const KEY_FILE_MODE: u32 = 0o600;

/// Largest key file read: room for [`MAX_KEYS`] RSA-4096 keys.
const MAX_KEY_FILE_BYTES: u64 = 8 << 20;

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: BTreeMap<String, EncodedKey>,
}

/// The base64 of a PKCS#8 key, wiped on drop.
struct EncodedKey(Zeroizing<String>);

impl Serialize for EncodedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EncodedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A key manager that keeps its keys in one file. Every change is on disk before it is visible.
#[derive(Debug)]
pub struct DiskKeyManager {
    path: PathBuf,
    keys: MemoryKeyManager,
    /// Held while the file is being changed.
    writing: Mutex<()>,
}

impl DiskKeyManager {
    /// Reads the key file; a missing file means no keys yet. The folder must exist.
    ///
    /// # Errors
    /// [`KeyError::File`] or [`KeyError::Damaged`]; the file is never changed by a failed read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, KeyError> {
        let path = path.into();
        let keys = read(&path)?;
        Ok(Self { path, keys: MemoryKeyManager::with_keys(keys), writing: Mutex::new(()) })
    }

    /// The key file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn store(&self, keys: BTreeMap<String, PrivateKey>) -> Result<(), KeyError> {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || -> Result<_, KeyError> {
            let bytes = encode(&keys)?;
            atomic_file::write(&path, &bytes, KEY_FILE_MODE).map_err(|source| KeyError::File {
                path,
                action: "written",
                source,
            })?;
            Ok(keys)
        });
        self.keys.replace(written.await.map_err(|_| KeyError::Crypto)??);
        Ok(())
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, PrivateKey>, KeyError> {
    let file_error = |source| KeyError::File { path: path.to_path_buf(), action: "read", source };
    let damaged = |reason: String| KeyError::Damaged { path: path.to_path_buf(), reason };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(file_error(error)),
    };
    let metadata = file.metadata().map_err(file_error)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "key file is open to other users; setting its mode to 0600");
        if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(KEY_FILE_MODE)) {
            tracing::warn!(path = %path.display(), %error, "mode of the key file not changed");
        }
    }
    if metadata.len() > MAX_KEY_FILE_BYTES {
        return Err(damaged(format!("larger than {MAX_KEY_FILE_BYTES} bytes")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.by_ref().take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes).map_err(file_error)?;
    // serde's message may quote the content, so only the position is shown.
    let parsed: KeyFile = serde_json::from_slice(&bytes)
        .map_err(|error| damaged(format!("no key JSON at line {}, column {}", error.line(), error.column())))?;
    if parsed.keys.len() > MAX_KEYS {
        return Err(damaged(format!("more than {MAX_KEYS} keys")));
    }
    let mut keys = BTreeMap::new();
    for (id, encoded) in parsed.keys {
        check_id(&id).map_err(|error| damaged(error.to_string()))?;
        let der = BASE64_STANDARD.decode(encoded.0.as_bytes()).map(Zeroizing::new);
        let der = der.map_err(|_| damaged(format!("key `{id}` is not base64")))?;
        let key = PrivateKey::from_pkcs8(&der).map_err(|error| damaged(format!("key `{id}`: {error}")))?;
        keys.insert(id, key);
    }
    Ok(keys)
}

fn encode(keys: &BTreeMap<String, PrivateKey>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let encoded = |key: &PrivateKey| EncodedKey(Zeroizing::new(BASE64_STANDARD.encode(key.pkcs8_der().as_slice())));
    let file = KeyFile { keys: keys.iter().map(|(id, key)| (id.clone(), encoded(key))).collect() };
    // Room for everything, so that growing leaves no copies of the keys behind in freed memory.
    let room = file.keys.iter().map(|(id, key)| 6 * id.len() + key.0.len() + 16).sum::<usize>() + 64;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut *bytes, formatter);
    file.serialize(&mut serializer).map_err(|error| KeyError::Backend(error.into()))?;
    Ok(bytes)
}

#[async_trait]
impl KeyManager for DiskKeyManager {
    async fn generate(&self, id: &str, key_type: KeyType) -> Result<PublicKey, KeyError> {
        check_id(id)?;
        let key = PrivateKey::generate_async(key_type).await?;
        let public = key.public_key().clone();
        let _writing = self.writing.lock().await;
        let mut keys = self.keys.snapshot();
        check_room(&keys, id)?;
        keys.insert(id.to_string(), key);
        self.store(keys).await?;
        Ok(public)
    }

    async fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        self.keys.list().await
    }

    async fn get(&self, id: &str) -> Result<KeyInfo, KeyError> {
        self.keys.get(id).await
    }

    async fn sign(&self, id: &str, message: &[u8], algorithm: SigningAlgorithm) -> Result<Vec<u8>, KeyError> {
        sign_off_thread(self.keys.key(id)?, message, algorithm).await
    }

    async fn remove(&self, id: &str) -> Result<(), KeyError> {
        let _writing = self.writing.lock().await;
        let mut keys = self.keys.snapshot();
        keys.remove(id).ok_or_else(|| KeyError::NotFound { id: id.to_string() })?;
        self.store(keys).await
    }

    async fn tls_signing_key(&self, id: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
        self.keys.tls_signing_key(id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        super::super::conformance::run(&DiskKeyManager::open(folder.path().join("keys.json")).unwrap()).await;
    }

    #[tokio::test]
    async fn survives_a_restart_in_the_known_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let first = DiskKeyManager::open(&path).unwrap();
        let public = first.generate("x509-CA-A", KeyType::EcP256).await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\n\t\"keys\": {\n\t\t\"x509-CA-A\": \"MI"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        drop(first);
        let second = DiskKeyManager::open(&path).unwrap();
        assert_eq!(second.get("x509-CA-A").await.unwrap().public_key, public);
    }

    #[tokio::test]
    async fn damaged_files_are_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        for content in ["", "{", "{\"keys\":{\"a\":\"!\"}}", "{\"keys\":{\"a\":\"AAAA\"}}", "{\"keys\":{},\"b\":1}"] {
            fs::write(&path, content).unwrap();
            let error = DiskKeyManager::open(&path).unwrap_err();
            assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("keys.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[tokio::test]
    async fn a_failed_write_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let manager = DiskKeyManager::open(inner.join("keys.json")).unwrap();
        let public = manager.generate("a", KeyType::EcP256).await.unwrap();
        fs::rename(&inner, folder.path().join("gone")).unwrap();
        assert!(matches!(manager.generate("a", KeyType::EcP256).await, Err(KeyError::File { .. })));
        assert!(matches!(manager.remove("a").await, Err(KeyError::File { .. })));
        assert_eq!(manager.get("a").await.unwrap().public_key, public);
    }

    #[test]
    fn a_readable_key_file_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        fs::write(&path, "{\"keys\":{}}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        DiskKeyManager::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
