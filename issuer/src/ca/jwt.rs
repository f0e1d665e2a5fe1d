//! The keys that sign JWT-SVIDs, in their slots.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use federation_specs::bundle::JwtAuthority;
use federation_specs::public_key::{JwsAlgorithm, PublicKey};
use service_kit::keys::SigningAlgorithm;

use super::certificate::signing_algorithm;
use super::slots::Contents;
use super::{CaError, CaManager};
use crate::store::{AuthorityKind, AuthorityRecord, AuthorityStatus, Slot};

const KEY_ID_LENGTH: usize = 32;
const KEY_ID_ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// What signing tokens takes.
#[derive(Debug, Clone)]
pub(super) struct JwtSigner {
    /// In the key manager.
    pub(super) key_id: String,
    pub(super) algorithm: JwsAlgorithm,
    pub(super) signing: SigningAlgorithm,
}

fn key_id(slot: Slot) -> String {
    format!("JWT-Signer-{slot}")
}

impl CaManager {
    /// Puts what the journal knows into the slots.
    pub(super) async fn load_jwt(&self) -> Result<(), CaError> {
        let records = self.store.slots(AuthorityKind::Jwt).await?;
        let mut contents = Contents::default();
        for record in records {
            let found = self.has_key(&key_id(record.slot), &record.public_key).await?;
            let signer = if found { Some(signer(record.slot, &record.public_key)?) } else { None };
            self.place(AuthorityKind::Jwt, &mut contents, self.jwt.hold(record, signer)).await?;
        }
        self.jwt.set(contents);
        Ok(())
    }

    /// Makes the next JWT key and publishes it. Called with the step lock held.
    pub(super) async fn prepare_jwt(&self) -> Result<(), CaError> {
        let slot = self.jwt.contents().free_slot();
        self.jwt.key_changes(slot);
        let public_key = self.keys.generate(&key_id(slot), self.config.jwt_key_type).await?;
        let now = self.clock.now();
        let expires = now + self.config.ca_ttl;
        let record = AuthorityRecord {
            kind: AuthorityKind::Jwt,
            slot,
            authority_id: random_key_id()?,
            status: AuthorityStatus::Prepared,
            issued_at: now.unix_timestamp(),
            not_after: expires.unix_timestamp(),
            public_key: public_key.clone(),
            certificate_chain: Vec::new(),
            upstream_authority_id: String::new(),
        };
        let signer = signer(slot, &public_key)?;
        let published = JwtAuthority::new(&record.authority_id, public_key, Some(record.not_after), false)
            .map_err(|error| CaError::Certificate(Box::new(error)))?;
        self.store.prepare_authority(&record, &[], &[published]).await?;
        tracing::info!(slot = %slot, authority_id = record.authority_id, %expires, "JWT key prepared");
        self.jwt.put_prepared(self.jwt.hold(record, Some(signer)));
        Ok(())
    }

    /// The prepared JWT key begins to sign. Called with the step lock held.
    pub(super) async fn activate_jwt(&self) -> Result<(), CaError> {
        let contents = self.jwt.contents();
        let prepared = contents.next_with(AuthorityStatus::Prepared).ok_or(CaError::NotReady)?;
        self.store.activate_authority(AuthorityKind::Jwt, &prepared.record.authority_id).await?;
        self.jwt.swap();
        tracing::info!(
            slot = %prepared.record.slot,
            authority_id = prepared.record.authority_id,
            expires = %prepared.not_after(),
            "JWT key activated"
        );
        Ok(())
    }
}

fn signer(slot: Slot, public_key: &PublicKey) -> Result<JwtSigner, CaError> {
    let signing = signing_algorithm(public_key)?;
    let algorithm = match signing {
        SigningAlgorithm::EcdsaSha256 => JwsAlgorithm::ES256,
        SigningAlgorithm::EcdsaSha384 => JwsAlgorithm::ES384,
        SigningAlgorithm::RsaPkcs1Sha256 => JwsAlgorithm::RS256,
    };
    Ok(JwtSigner { key_id: key_id(slot), algorithm, signing })
}

/// 32 letters and digits, each equally likely.
fn random_key_id() -> Result<String, CaError> {
    let random = SystemRandom::new();
    let mut id = String::with_capacity(KEY_ID_LENGTH);
    let mut bytes = [0u8; KEY_ID_LENGTH];
    // The largest multiple of 62 in a byte: anything above would favour the first letters.
    let limit = 248;
    while id.len() < KEY_ID_LENGTH {
        random.fill(&mut bytes).map_err(|_| CaError::Random)?;
        let letters =
            bytes.iter().filter(|byte| **byte < limit).map(|byte| char::from(KEY_ID_ALPHABET[usize::from(*byte % 62)]));
        id.extend(letters.take(KEY_ID_LENGTH - id.len()));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_are_32_letters_and_digits() {
        let (one, other) = (random_key_id().unwrap(), random_key_id().unwrap());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric()), "{one}");
        assert_ne!(one, other);
    }
}
