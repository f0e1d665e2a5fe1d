use federation_specs::certificate::Certificate;
use federation_specs::jwt_svid;
use federation_specs::x509_svid::verify_chain;
use serde_json::json;

use super::*;

pub(super) fn jwt_params(path: &str) -> JwtSvidParams {
    JwtSvidParams {
        spiffe_id: crate::store::testing::id(path),
        audience: vec!["a".into()],
        ttl: None,
        include_jti: false,
    }
}

#[tokio::test]
async fn every_key_type_signs_what_others_accept() {
    for key_type in KeyType::ALL {
        let config = CaConfig { ca_key_type: key_type, jwt_key_type: key_type, ..config() };
        let ca = TestCa::new(config).await;
        let manager = ca.start().await.unwrap();
        let svid = manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap();
        openssl_verify(ca.test.folder.path(), &bundle_roots(&manager), &svid.chain, ca.now()).unwrap();
        let verified = verify_chain(&svid.chain, &manager.store.bundles(), ca.now()).unwrap();
        assert_eq!(verified.id(), &svid.spiffe_id);
        assert_eq!(verified.serial_decimal(), svid.serial_decimal);
        let token = manager.sign_jwt_svid(&jwt_params("/w")).await.unwrap().token;
        let verified = jwt_svid::verify(&token, Some("a"), &manager.store.bundles(), ca.now()).unwrap();
        assert_eq!(verified.id(), &svid.spiffe_id);
    }
}

#[tokio::test]
async fn validity_is_asked_for_and_never_beyond_the_ca() {
    let config = CaConfig { agent_ttl: Some(Duration::from_secs(600)), ..config() };
    let ca = TestCa::new(config).await;
    let manager = ca.start().await.unwrap();
    let key = new_key();
    let now = ca.now().unix_timestamp();
    let validity = |svid: &X509Svid| {
        let leaf = Certificate::from_der(&svid.chain[0]).unwrap();
        assert_eq!(leaf.not_after().unix_timestamp(), svid.expires_at);
        (leaf.not_before().unix_timestamp() - now, svid.expires_at - now)
    };
    let svid = manager.sign_x509_svid(&workload_params(&key, "/w")).await.unwrap();
    assert_eq!(validity(&svid), (-10, 3600));
    let asked = X509SvidParams { ttl: Some(Duration::from_secs(120)), ..workload_params(&key, "/w") };
    assert_eq!(validity(&manager.sign_x509_svid(&asked).await.unwrap()), (-10, 120));
    let zero = X509SvidParams { ttl: Some(Duration::ZERO), ..workload_params(&key, "/w") };
    assert_eq!(validity(&manager.sign_x509_svid(&zero).await.unwrap()), (-10, 3600));
    let long = X509SvidParams { ttl: Some(Duration::from_secs(1 << 30)), ..workload_params(&key, "/w") };
    assert_eq!(validity(&manager.sign_x509_svid(&long).await.unwrap()), (-10, 24 * 3600));
    let agent = crate::store::testing::id("/spire/agent/a");
    assert_eq!(validity(&manager.sign_agent_svid(&agent, key.public_key()).await.unwrap()), (-10, 600));
    ca.advance(25 * 3600);
    assert!(matches!(manager.sign_x509_svid(&workload_params(&key, "/w")).await, Err(CaError::Expired)));
    assert!(matches!(manager.sign_jwt_svid(&jwt_params("/w")).await, Err(CaError::Expired)));
}

#[tokio::test]
async fn names_that_are_no_dns_names_are_refused() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    for bad in ["a b.example", "ä.example", "a..example", ""] {
        let params = X509SvidParams { dns_names: vec![bad.into()], ..workload_params(&new_key(), "/w") };
        let error = manager.sign_x509_svid(&params).await.unwrap_err();
        assert!(matches!(error, CaError::DnsName { .. }) && !error.is_internal(), "{bad}: {error}");
    }
    let params = X509SvidParams { subject_der: Some(b"nonsense".to_vec()), ..workload_params(&new_key(), "/w") };
    assert!(matches!(manager.sign_x509_svid(&params).await, Err(CaError::Subject)));
}

#[tokio::test]
async fn claims_of_a_token() {
    let config = CaConfig { jwt_issuer: Some("https://oidc.cloud.example".into()), ..config() };
    let ca = TestCa::new(config).await;
    let manager = ca.start().await.unwrap();
    let now = ca.now().unix_timestamp();
    let params = JwtSvidParams {
        audience: vec!["b".into(), String::new(), "a".into(), "b".into()],
        ttl: Some(Duration::from_secs(77)),
        include_jti: true,
        ..jwt_params("/w")
    };
    let svid = manager.sign_jwt_svid(&params).await.unwrap();
    assert_eq!((svid.issued_at, svid.expires_at), (now, now + 77));
    assert!(!format!("{svid:?}").contains(&svid.token));
    let parts: Vec<serde_json::Value> = svid
        .token
        .split('.')
        .take(2)
        .map(|part| {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        })
        .collect();
    let kid = jwt_ids(&manager).0.unwrap();
    assert_eq!(parts[0], json!({"alg": "ES256", "kid": kid, "typ": "JWT"}));
    let jti = parts[1]["jti"].as_str().unwrap().to_owned();
    assert_eq!(jti.len(), 22);
    assert_eq!(
        parts[1],
        json!({"aud": ["b", "a", "b"], "exp": now + 77, "iat": now, "iss": "https://oidc.cloud.example", "jti": jti,
               "sub": "spiffe://cloud.example/w"})
    );
    let empty = JwtSvidParams { audience: vec![String::new()], ..jwt_params("/w") };
    let error = manager.sign_jwt_svid(&empty).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid JWT-SVID audience: cannot be empty");
    let many = vec!["x".to_owned(); 257];
    let long = vec!["x".repeat((16 << 10) + 1)];
    for audience in [many, long] {
        let error = manager.sign_jwt_svid(&JwtSvidParams { audience, ..jwt_params("/w") }).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid JWT-SVID audience: more than 256 or more than 16384 bytes together");
        assert!(!error.is_internal());
    }
    // Never beyond the key.
    let long = JwtSvidParams { ttl: Some(Duration::from_secs(1 << 30)), ..jwt_params("/w") };
    assert_eq!(manager.sign_jwt_svid(&long).await.unwrap().expires_at, now + 24 * 3600);
}

#[tokio::test]
async fn a_downstream_ca_signs_under_the_same_root() {
    let ca = TestCa::new(config()).await;
    let manager = ca.start().await.unwrap();
    let key = new_key();
    let ttl = Some(Duration::from_secs(7200));
    let downstream = manager.sign_downstream_ca(key.public_key(), ttl).await.unwrap();
    assert_eq!(downstream.roots, bundle_roots(&manager));
    let at = ca.now();
    openssl_verify(ca.test.folder.path(), &downstream.roots, &downstream.chain, at).unwrap();
    let certificate = Certificate::from_der(&downstream.chain[0]).unwrap();
    assert_eq!(certificate.not_after().unix_timestamp(), at.unix_timestamp() + 7200);
    let capped = manager.sign_downstream_ca(key.public_key(), Some(Duration::from_secs(1 << 30))).await.unwrap();
    let certificate = Certificate::from_der(&capped.chain[0]).unwrap();
    assert_eq!(
        certificate.not_after().unix_timestamp(),
        manager.x509_authority_state().unwrap().active.unwrap().expires_at
    );
}

#[tokio::test]
async fn the_unique_id_is_in_workload_subjects_only() {
    let ca = TestCa::new(CaConfig { unique_id: true, ..config() }).await;
    let manager = ca.start().await.unwrap();
    let subject = |svid: X509Svid| {
        let path = ca.test.folder.path().join("one.pem");
        std::fs::write(&path, pem(&svid.chain[0])).unwrap();
        openssl(&["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in", path.to_str().unwrap()]).unwrap()
    };
    let workload = subject(manager.sign_x509_svid(&workload_params(&new_key(), "/w")).await.unwrap());
    // sha256("spiffe://cloud.example/w"), first half.
    let expected = openssl_sha256("spiffe://cloud.example/w");
    assert!(workload.to_lowercase().contains(&format!("={}", &expected[..32])), "{workload} {expected}");
    let agent = crate::store::testing::id("/spire/agent/a");
    let agent = subject(manager.sign_agent_svid(&agent, new_key().public_key()).await.unwrap());
    assert!(agent.trim_end().ends_with("O=SPIRE,C=US") && !agent.contains(&expected[..32]), "{agent}");
}

fn openssl_sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
