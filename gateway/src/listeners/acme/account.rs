//! The account at the certificate authority: taken up again, or registered once.

use std::{io::Read as _, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use instant_acme::{Account, ExternalAccountKey, NewAccount};
use zeroize::Zeroizing;

use super::{
    directory::Directory,
    error::AcmeError,
    store::{AcmeStore, StoredAccount},
};
use crate::settings::{AcmeSettings, ExternalAccountSettings};

/// Largest file with an HMAC key.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// The account that is kept, or a new one.
pub(super) async fn open(
    settings: &AcmeSettings,
    store: &AcmeStore,
    directory: &Directory,
) -> Result<Account, AcmeError> {
    let Some(StoredAccount { email, credentials }) = store.account() else {
        return register(settings, store, directory).await;
    };
    // The library takes the credentials and does not give them back; they are read again if they are to be kept anew.
    let account = directory.builder().from_credentials(credentials).await?;
    if email == settings.email {
        return Ok(account);
    }
    let contact = contact(settings);
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    match account.update_contacts(&contact).await.map_err(AcmeError::from) {
        Ok(()) => {
            if let Some(stored) = store.account() {
                let stored = StoredAccount { email: settings.email.clone(), credentials: stored.credentials };
                store.keep_account(&stored)?;
            }
            Ok(account)
        }
        Err(AcmeError::UnknownAccount(_)) => register(settings, store, directory).await,
        Err(error) => Err(error),
    }
}

/// Registers an account with a new key, and keeps it.
pub(super) async fn register(
    settings: &AcmeSettings,
    store: &AcmeStore,
    directory: &Directory,
) -> Result<Account, AcmeError> {
    let contact = contact(settings);
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    // Settings without the terms accepted do not get here.
    let account = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = settings.external_account.as_ref().map(external_key).transpose()?;
    let url = settings.directory_url.to_string();
    let (account, credentials) = directory.builder().create(&account, url, external.as_ref()).await?;
    store.keep_account(&StoredAccount { email: settings.email.clone(), credentials })?;
    tracing::info!(directory = %settings.directory_url, account = account.id(), "ACME account registered");
    Ok(account)
}

fn contact(settings: &AcmeSettings) -> Option<String> {
    settings.email.as_ref().map(|email| format!("mailto:{email}"))
}

fn external_key(settings: &ExternalAccountSettings) -> Result<ExternalAccountKey, AcmeError> {
    Ok(ExternalAccountKey::new(settings.key_id.clone(), &hmac_key(&settings.hmac_key_file)?))
}

/// Base64url, with padding or without, as certificate authorities print it.
fn hmac_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, AcmeError> {
    let unreadable = |error: std::io::Error| AcmeError::HmacKey(format!("cannot read {}: {error}", path.display()));
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    match key {
        Ok(key) if !key.is_empty() => Ok(Zeroizing::new(key)),
        _ => Err(AcmeError::HmacKey(format!(
            "{} holds no base64url text; write the HMAC key as the certificate authority gave it",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_keys_are_base64url() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (text, wanted) in [("_-8\n", Some([255, 239])), ("_-8=", Some([255, 239])), ("+/8", None), ("", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(hmac_key(&path).ok().as_deref().map(Vec::as_slice), wanted.as_ref().map(<[u8; 2]>::as_slice));
        }
        let missing = hmac_key(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("external_account.hmac_key_file"), "{missing}");
    }
}
