//! What is left after the process dies between two effects of a step, and after keys are lost.

use service_kit::keys::KeyManager;

use super::*;

/// State before a step.
#[derive(Debug, Clone, Copy)]
enum Before {
    OnlyActive,
    Prepared,
    Old,
}

const SITUATIONS: [Before; 3] = [Before::OnlyActive, Before::Prepared, Before::Old];

async fn in_situation(before: Before) -> (TestCa, Arc<CaManager>) {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    if !matches!(before, Before::OnlyActive) {
        manager.prepare_x509().await.unwrap();
        manager.prepare_jwt().await.unwrap();
    }
    if matches!(before, Before::Old) {
        manager.activate_x509().await.unwrap();
        manager.activate_jwt().await.unwrap();
    }
    (ca, manager)
}

/// Everything that must hold after any start.
async fn assert_sound(ca: &TestCa, manager: &CaManager) {
    let (active, prepared, _) = x509_ids(manager);
    let roots = roots(manager);
    assert!(roots.contains(active.as_ref().unwrap()));
    assert!(prepared.as_ref().is_none_or(|id| roots.contains(id)));
    let (active_key, prepared_key, _) = jwt_ids(manager);
    let keys = key_ids(manager);
    assert!(keys.contains(active_key.as_ref().unwrap()));
    assert!(prepared_key.as_ref().is_none_or(|id| keys.contains(id)));
    let svid = manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
    openssl_verify(ca.test.folder.path(), &bundle_roots(manager), &svid.chain, ca.now()).unwrap();
    let token = manager.sign_jwt_svid(&signing::jwt_params("/w")).await.unwrap().token;
    federation_specs::jwt_svid::verify(&token, None, &manager.store.bundles(), ca.now()).unwrap();
    // What is prepared can be activated and then signs.
    if prepared.is_some() {
        manager.activate_x509().await.unwrap();
        let svid = manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        openssl_verify(ca.test.folder.path(), &bundle_roots(manager), &svid.chain, ca.now()).unwrap();
    }
}

#[tokio::test]
async fn died_after_the_key_was_made() {
    for before in SITUATIONS {
        let (ca, manager) = in_situation(before).await;
        let (active, prepared, _) = x509_ids(&manager);
        let (_, prepared_key, _) = jwt_ids(&manager);
        for key in [
            format!("x509-CA-{}", manager.x509.contents().free_slot()),
            format!("JWT-Signer-{}", manager.jwt.contents().free_slot()),
        ] {
            ca.keys.generate(&key, KeyType::EcP256).await.unwrap();
        }
        let again = ca.start().await.unwrap();
        assert_eq!(x509_ids(&again).0, active, "{before:?}");
        // What was prepared lost its key: it never signed, so it is withdrawn.
        assert_eq!(x509_ids(&again).1, None, "{before:?}");
        assert!(prepared.is_none_or(|id| !roots(&again).contains(&id)));
        assert!(prepared_key.is_none_or(|id| !key_ids(&again).contains(&id)));
        assert_sound(&ca, &again).await;
    }
}

#[tokio::test]
async fn died_after_journal_and_bundle_were_written() {
    for before in SITUATIONS {
        let (ca, manager) = in_situation(before).await;
        manager.prepare_x509().await.unwrap();
        manager.prepare_jwt().await.unwrap();
        let (wanted, wanted_keys) = (x509_ids(&manager), jwt_ids(&manager));
        // The memory of `manager` is gone.
        let again = ca.start().await.unwrap();
        assert_eq!((x509_ids(&again).0, x509_ids(&again).1), (wanted.0, wanted.1), "{before:?}");
        assert_eq!(jwt_ids(&again).1, wanted_keys.1, "{before:?}");
        assert_sound(&ca, &again).await;
    }
}

#[tokio::test]
async fn died_after_an_activation_was_written() {
    let (ca, manager) = in_situation(Before::Prepared).await;
    let (active, prepared, _) = x509_ids(&manager);
    manager.store.activate_authority(AuthorityKind::X509, prepared.as_ref().unwrap()).await.unwrap();
    let again = ca.start().await.unwrap();
    assert_eq!(x509_ids(&again), (prepared, None, active));
    assert_sound(&ca, &again).await;
}

#[tokio::test]
async fn a_step_that_fails_after_the_key_was_made_can_be_tried_again() {
    let (ca, manager) = in_situation(Before::Prepared).await;
    let (active, lost, _) = x509_ids(&manager);
    // As `prepare_x509` up to the failure.
    manager.x509.key_changes(manager.x509.contents().free_slot());
    ca.keys.generate("x509-CA-B", KeyType::EcP256).await.unwrap();
    assert_eq!(x509_ids(&manager), (active.clone(), None, None), "its key is gone, so it cannot be activated");
    let id = lost.clone().unwrap();
    assert!(manager.activate_x509_authority(&id).await.is_err());
    manager.prepare_x509().await.unwrap();
    assert_eq!(x509_ids(&manager).0, active);
    assert_eq!(roots(&manager).len(), 2);
    assert!(!roots(&manager).contains(&id));
    assert_sound(&ca, &manager).await;
}

#[tokio::test]
async fn a_lost_active_key_is_replaced_and_what_it_signed_stays_valid() {
    for before in SITUATIONS {
        let (ca, manager) = in_situation(before).await;
        let (lost, prepared, _) = x509_ids(&manager);
        let svid = manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        let slot = manager.x509.contents().active.as_ref().unwrap().record.slot;
        ca.keys.remove(&format!("x509-CA-{slot}")).await.unwrap();
        let again = ca.start().await.unwrap();
        let (active, _, old) = x509_ids(&again);
        assert_ne!(active, lost, "{before:?}");
        assert_eq!(old, lost, "{before:?}");
        if prepared.is_some() {
            assert_eq!(active, prepared, "the prepared one takes over");
        }
        openssl_verify(ca.test.folder.path(), &bundle_roots(&again), &svid.chain, ca.now()).unwrap();
        assert_sound(&ca, &again).await;
        // And it stays so.
        assert_eq!(x509_ids(&ca.start().await.unwrap()).0, x509_ids(&again).0);
    }
}

#[tokio::test]
async fn all_keys_lost() {
    for before in SITUATIONS {
        let (mut ca, manager) = in_situation(before).await;
        let (lost, prepared, _) = x509_ids(&manager);
        ca.keys = Arc::new(MemoryKeyManager::new());
        let again = ca.start().await.unwrap();
        assert!(roots(&again).contains(lost.as_ref().unwrap()), "{before:?}");
        assert!(prepared.is_none_or(|id| !roots(&again).contains(&id)), "{before:?}");
        assert_ne!(x509_ids(&again).0, lost);
        assert_sound(&ca, &again).await;
    }
}

#[tokio::test]
async fn signing_notices_that_the_key_of_its_slot_changed() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let held = manager.x509.contents().active.clone().unwrap();
    assert!(manager.x509.key_is_unchanged(&held));
    // Two rotations put a new key into the first slot.
    for _ in 0..2 {
        manager.prepare_x509().await.unwrap();
        manager.activate_x509().await.unwrap();
    }
    assert!(!manager.x509.key_is_unchanged(&held));
    assert!(manager.x509.key_is_unchanged(manager.x509.contents().active.as_ref().unwrap()));
}

#[tokio::test]
async fn signing_goes_on_while_authorities_change() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let signer = manager.clone();
    let signing = tokio::spawn(async move {
        let key = new_key();
        let mut chains = Vec::new();
        for _ in 0..200 {
            match signer.sign_x509_svid(&workload_params(&key, "/w")).await {
                Ok(svid) => chains.push(svid.chain),
                Err(CaError::KeyReplaced) => {}
                Err(error) => panic!("{error}"),
            }
            tokio::task::yield_now().await;
        }
        chains
    });
    for _ in 0..20 {
        manager.prepare_x509().await.unwrap();
        manager.activate_x509().await.unwrap();
    }
    let bundles = manager.store.bundles();
    for chain in signing.await.unwrap() {
        federation_specs::x509_svid::verify_chain(&chain, &bundles, ca.now()).unwrap();
    }
}
