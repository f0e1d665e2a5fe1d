//! What every key manager must do. Each implementation's tests call [`run`] on an empty manager.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};

use super::{KeyError, KeyManager, KeyType, MAX_KEY_ID_BYTES, SigningAlgorithm};

pub(super) async fn run(manager: &dyn KeyManager) {
    assert!(manager.list().await.unwrap().is_empty());
    unknown_keys_are_named(manager).await;
    bad_ids_are_refused(manager).await;
    every_type_signs(manager).await;
    generating_again_replaces(manager).await;
    removing_removes(manager).await;
}

async fn unknown_keys_are_named(manager: &dyn KeyManager) {
    assert!(matches!(manager.get("none").await, Err(KeyError::NotFound { id }) if id == "none"));
    let signed = manager.sign("none", b"m", SigningAlgorithm::EcdsaSha256).await;
    assert!(matches!(signed, Err(KeyError::NotFound { .. })));
    assert!(matches!(manager.remove("none").await, Err(KeyError::NotFound { .. })));
    assert!(matches!(manager.tls_signing_key("none").await.err(), Some(KeyError::NotFound { .. })));
}

async fn bad_ids_are_refused(manager: &dyn KeyManager) {
    for id in [String::new(), "x".repeat(MAX_KEY_ID_BYTES + 1)] {
        assert!(matches!(manager.generate(&id, KeyType::EcP256).await, Err(KeyError::BadId)));
    }
}

async fn every_type_signs(manager: &dyn KeyManager) {
    let verifiers: [(KeyType, &'static dyn VerificationAlgorithm); 3] = [
        (KeyType::EcP256, &ECDSA_P256_SHA256_ASN1),
        (KeyType::EcP384, &ECDSA_P384_SHA384_ASN1),
        (KeyType::Rsa2048, &RSA_PKCS1_2048_8192_SHA256),
    ];
    for (key_type, verifier) in verifiers {
        let id = key_type.as_str();
        let public = manager.generate(id, key_type).await.unwrap();
        let info = manager.get(id).await.unwrap();
        assert_eq!((info.id.as_str(), info.key_type, &info.public_key), (id, key_type, &public));
        let signature = manager.sign(id, b"message", key_type.signing_algorithm()).await.unwrap();
        let verifying = UnparsedPublicKey::new(verifier, public.subject_key_bits());
        verifying.verify(b"message", &signature).unwrap();
        assert!(verifying.verify(b"other", &signature).is_err());
        for other in [SigningAlgorithm::EcdsaSha256, SigningAlgorithm::EcdsaSha384, SigningAlgorithm::RsaPkcs1Sha256] {
            let signed = manager.sign(id, b"message", other).await;
            assert_eq!(signed.is_ok(), other == key_type.signing_algorithm());
        }
        let tls = manager.tls_signing_key(id).await.unwrap();
        assert_eq!(tls.public_key().unwrap().as_ref(), public.spki_der());
    }
    let ids: Vec<String> = manager.list().await.unwrap().into_iter().map(|info| info.id).collect();
    assert_eq!(ids, ["ec-p256", "ec-p384", "rsa-2048"]);
}

async fn generating_again_replaces(manager: &dyn KeyManager) {
    let old = manager.get("ec-p256").await.unwrap();
    let new = manager.generate("ec-p256", KeyType::EcP384).await.unwrap();
    assert_ne!(old.public_key, new);
    assert_eq!(manager.get("ec-p256").await.unwrap().public_key, new);
}

async fn removing_removes(manager: &dyn KeyManager) {
    manager.remove("ec-p256").await.unwrap();
    assert!(matches!(manager.get("ec-p256").await, Err(KeyError::NotFound { .. })));
    assert_eq!(manager.list().await.unwrap().len(), 2);
}
