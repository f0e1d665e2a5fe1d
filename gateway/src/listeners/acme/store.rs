//! What outlives a restart: the account and the certificate, each in a file only this user reads.
//!
//! Every directory has a folder of its own, so that trying another one (a staging directory) loses nothing.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use instant_acme::AccountCredentials;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use service_kit::{BoxError, atomic_file, keys::PrivateKey};
use time::OffsetDateTime;
use url::Url;
use zeroize::{Zeroize as _, Zeroizing};

use super::{certificate::Issued, error::AcmeError};

/// Folder inside the data folder.
pub(crate) const FOLDER: &str = "acme";

const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.json";

/// Permission bits of the files, which hold private keys, and of their folder.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Largest file that is read back.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The files of one directory.
#[derive(Debug, Clone)]
pub(super) struct AcmeStore {
    folder: PathBuf,
}

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredAccount {
    /// Contact the certificate authority was told.
    pub(super) email: Option<String>,
    /// Account URL and private key.
    pub(super) credentials: AccountCredentials,
}

/// The certificate as it is kept.
#[derive(Serialize, Deserialize)]
struct StoredCertificate {
    /// DER certificates in base64, leaf first.
    chain: Vec<String>,
    /// PKCS#8 DER in base64.
    key: String,
}

impl Drop for StoredCertificate {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl AcmeStore {
    /// The folder of `directory` below `data_dir`; nothing is made yet.
    pub(super) fn new(data_dir: &Path, directory: &Url) -> Self {
        let safe = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
        let host: String = directory.host_str().unwrap_or_default().chars().map(safe).collect();
        let hash = digest::digest(&digest::SHA256, directory.as_str().as_bytes());
        let hash: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self { folder: data_dir.join(FOLDER).join(format!("{host}-{hash}")) }
    }

    /// The account, if there is a usable one.
    pub(super) fn account(&self) -> Option<StoredAccount> {
        self.usable(ACCOUNT, |text| Ok(serde_json::from_slice(text)?))
    }

    /// Keeps the account.
    pub(super) fn keep_account(&self, account: &StoredAccount) -> Result<(), AcmeError> {
        self.write(ACCOUNT, account)
    }

    /// Removes the account.
    pub(super) fn forget_account(&self) -> Result<(), AcmeError> {
        match fs::remove_file(self.folder.join(ACCOUNT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(error)),
            _ => Ok(()),
        }
    }

    /// The certificate, if it is for `names` and has not expired.
    pub(super) fn certificate(&self, names: &[String], now: OffsetDateTime) -> Option<Issued> {
        self.usable(CERTIFICATE, |text| {
            let stored: StoredCertificate = serde_json::from_slice(text)?;
            let mut chain = Vec::new();
            for certificate in &stored.chain {
                chain.push(CertificateDer::from(STANDARD.decode(certificate)?));
            }
            let key = PrivateKey::from_pkcs8(&Zeroizing::new(STANDARD.decode(&stored.key)?))?;
            Ok(Issued::new(chain, &key, names, now)?)
        })
    }

    /// Keeps the certificate.
    pub(super) fn keep_certificate(&self, issued: &Issued, key: &PrivateKey) -> Result<(), AcmeError> {
        let stored = StoredCertificate {
            chain: issued.chain().iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            key: STANDARD.encode(key.pkcs8_der().as_slice()),
        };
        self.write(CERTIFICATE, &stored)
    }

    fn error(&self, source: io::Error) -> AcmeError {
        AcmeError::Store { folder: self.folder.display().to_string(), source }
    }

    fn write(&self, name: &str, content: &impl Serialize) -> Result<(), AcmeError> {
        let text = serde_json::to_vec(content).map_err(|error| self.error(error.into()))?;
        let text = Zeroizing::new(text);
        let write = || {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&self.folder)?;
            atomic_file::write(&self.folder.join(name), &text, FILE_MODE)
        };
        write().map_err(|error| self.error(error))
    }

    fn usable<T>(&self, name: &str, parse: impl FnOnce(&[u8]) -> Result<T, BoxError>) -> Option<T> {
        let path = self.folder.join(name);
        let read = || -> Result<Option<T>, BoxError> {
            let file = match fs::File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let mut text = Zeroizing::new(Vec::new());
            file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
            Ok(Some(parse(&text)?))
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "stored ACME file not used");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use service_kit::keys::KeyType;
    use std::os::unix::fs::PermissionsExt as _;
    use time::macros::datetime;

    #[test]
    fn a_certificate_comes_back_while_it_fits() {
        let folder = tempfile::tempdir().unwrap();
        let url: Url = "https://acme.example:14000/dir".parse().unwrap();
        let store = AcmeStore::new(folder.path(), &url);
        let names = ["a.example".to_owned()];
        let now = datetime!(2026-11-22 10:00 UTC);
        assert!(store.certificate(&names, now).is_none());

        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let pair = KeyPair::try_from(key.pkcs8_der().as_slice()).unwrap();
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.not_after = datetime!(2026-12-22 10:00 UTC);
        let chain = vec![params.self_signed(&pair).unwrap().der().clone()];
        let issued = Issued::new(chain, &key, &names, now).unwrap();
        store.keep_certificate(&issued, &key).unwrap();

        let back = store.certificate(&names, now).unwrap();
        assert_eq!((back.chain(), back.not_after), (issued.chain(), issued.not_after));
        let more = ["a.example".to_owned(), "b.example".to_owned()];
        assert!(store.certificate(&more, now).is_none(), "names were added");
        assert!(store.certificate(&names, datetime!(2026-12-22 10:00 UTC)).is_none(), "it expired");
        let path = store.folder.join(CERTIFICATE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&store.folder).unwrap().permissions().mode() & 0o777, 0o700);

        // Another directory has other files; one that is cut short is not used.
        let staging = AcmeStore::new(folder.path(), &"https://acme.example:14000/staging".parse().unwrap());
        assert!(staging.certificate(&names, now).is_none());
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(store.certificate(&names, now).is_none());
        store.forget_account().unwrap();
    }
}
