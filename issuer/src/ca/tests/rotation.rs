use super::*;
use crate::store::testing::START;

fn short() -> CaConfig {
    CaConfig { ca_ttl: Duration::from_secs(240), ..config() }
}

#[tokio::test]
async fn a_whole_life_of_authorities() {
    // The same lifetime and start as the recorded timeline of SPIRE: prepared at half of the lifetime, active at 5/6.
    let ca = TestCa::new(short()).await;
    let manager = ca.start().await.unwrap();
    assert_eq!(manager.bundle().sequence(), Some(1));
    let (first, none, old) = x509_ids(&manager);
    assert!(none.is_none() && old.is_none());
    let expires = manager.x509_authority_state().unwrap().active.unwrap().expires_at;
    assert_eq!(expires, (START + Duration::from_secs(240)).unix_timestamp());

    ca.advance(110);
    manager.rotate().await;
    assert_eq!(manager.bundle().sequence(), Some(1), "too early");
    ca.advance(10);
    manager.rotate().await;
    let (active, second, _) = x509_ids(&manager);
    assert_eq!(active, first);
    assert!(second.is_some());
    assert_eq!(manager.bundle().sequence(), Some(3), "one for the root, one for the key");
    assert_eq!(roots(&manager), [first.clone().unwrap(), second.clone().unwrap()]);
    let (first_key, second_key, _) = jwt_ids(&manager);
    assert_eq!(key_ids(&manager), [first_key.clone().unwrap(), second_key.clone().unwrap()]);
    ca.advance(70);
    manager.rotate().await;
    assert_eq!(x509_ids(&manager), (first.clone(), second.clone(), None), "prepared once, not active yet");
    ca.advance(10);
    manager.rotate().await;
    assert_eq!(x509_ids(&manager), (second.clone(), None, first.clone()));
    assert_eq!(jwt_ids(&manager), (second_key, None, first_key));
    assert_eq!(manager.bundle().sequence(), Some(3), "activation changes nothing in the bundle");

    // The old one's slot is used again; the old root stays in the bundle.
    ca.advance(40);
    manager.rotate().await;
    let (active, third, old) = x509_ids(&manager);
    assert_eq!((active, old), (second.clone(), None));
    assert_eq!(manager.bundle().sequence(), Some(5));
    assert_eq!(roots(&manager), [first.unwrap(), second.unwrap(), third.unwrap()]);
}

#[tokio::test]
async fn long_lifetimes_are_prepared_30_days_and_activated_7_days_before_the_end() {
    let day = 24 * 3600;
    let ca = TestCa::new(CaConfig { ca_ttl: Duration::from_secs(365 * day), ..config() }).await;
    let manager = ca.start().await.unwrap();
    ca.advance(334 * day);
    manager.rotate().await;
    assert!(x509_ids(&manager).1.is_none());
    ca.advance(day + 1);
    manager.rotate().await;
    assert!(x509_ids(&manager).1.is_some());
    ca.advance(22 * day);
    manager.rotate().await;
    assert!(x509_ids(&manager).2.is_none());
    ca.advance(day + 1);
    manager.rotate().await;
    assert!(x509_ids(&manager).2.is_some());
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_authorities() {
    let ca = TestCa::new(short()).await;
    let manager = ca.start().await.unwrap();
    for seconds in [0, 120, 80, 40] {
        ca.advance(seconds);
        manager.rotate().await;
        let again = ca.start().await.unwrap();
        assert_eq!(x509_ids(&again), x509_ids(&manager), "after {seconds} s");
        assert_eq!(jwt_ids(&again), jwt_ids(&manager));
        assert_eq!(again.bundle(), manager.bundle());
        let svid = again.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        openssl_verify(ca.test.folder.path(), &bundle_roots(&again), &svid.chain, ca.now()).unwrap();
    }
}

#[tokio::test]
async fn a_long_stop_ends_with_new_authorities() {
    let ca = TestCa::new(short()).await;
    let before = x509_ids(&ca.start().await.unwrap());
    ca.advance(3600);
    let manager = ca.start().await.unwrap();
    let (active, prepared, old) = x509_ids(&manager);
    assert_eq!((prepared, old), (None, before.0.clone()));
    assert_ne!(active, before.0);
    assert_eq!(roots(&manager).len(), 2);
}

#[tokio::test]
async fn a_clock_before_the_ca_certificate_stops_the_start() {
    let ca = TestCa::new(config()).await;
    ca.start().await.unwrap();
    ca.test.clock.set(START - Duration::from_secs(60));
    let error = ca.start().await.unwrap_err();
    assert!(matches!(error, CaError::ClockBehind { .. }), "{error}");
    assert!(error.to_string().contains("set the clock right"), "{error}");
    ca.test.clock.set(START - Duration::from_secs(5));
    ca.start().await.unwrap();
}

#[tokio::test]
async fn the_task_rotates_and_prunes_by_the_clock() {
    let ca = TestCa::new(short()).await;
    let manager = ca.start().await.unwrap();
    let shutdown = service_kit::lifecycle::Shutdown::new();
    let task = tokio::spawn(manager.clone().run(shutdown.clone()));
    let (first, _, _) = x509_ids(&manager);
    let own = manager.server_svid().current().unwrap().not_after();
    let mut renewed = false;
    // Short steps for twenty minutes, then long ones until the first root has been pruned.
    let walk = async {
        while roots(&manager).contains(first.as_ref().unwrap()) {
            // Everybody sleeps again before time goes on.
            if ca.test.clock.next_wake().is_none_or(|wake| wake.is_zero()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let early = ca.now() - START < time::Duration::minutes(20);
            ca.advance(if early { 5 } else { 6 * 3600 });
            tokio::time::sleep(Duration::from_millis(1)).await;
            renewed |= manager.server_svid().current().unwrap().not_after() != own;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), walk).await.expect("the first root is pruned");
    assert!(renewed, "the server's X509-SVID was not renewed");
    assert_ne!(x509_ids(&manager).0, first);
    shutdown.trigger();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_servers_own_identity_is_renewed_at_half_life() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let leaf = || manager.server_svid().current().unwrap().chain()[0].to_vec();
    let first = leaf();
    assert_eq!(manager.server_svid().current().unwrap().id().to_string(), "spiffe://cloud.example/spire/server");
    ca.advance(1795);
    manager.rotate_server_svid().await.unwrap();
    assert_eq!(leaf(), first);
    ca.advance(10);
    manager.rotate_server_svid().await.unwrap();
    assert_ne!(leaf(), first);
}

#[tokio::test]
async fn without_jwt_svids_there_are_no_jwt_keys() {
    let ca = TestCa::new(CaConfig { disable_jwt_svids: true, ..short() }).await;
    let manager = ca.start().await.unwrap();
    ca.advance(200);
    manager.rotate().await;
    assert!(manager.bundle().jwt_authorities().is_empty());
    let error = manager.jwt_authority_state().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (AuthorityErrorKind::Unimplemented, "JWT functionality is disabled")
    );
}
