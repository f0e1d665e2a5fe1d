//! OIDC discovery: a token is verified from nothing but the documents.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use serde_json::{Value, json};

use crate::support::{LOCAL, Setup, client::Connection};

fn client_config(setup: &Setup) -> std::sync::Arc<rustls::ClientConfig> {
    let roots = service_kit::tls::WebRoots::Pem(setup.web.ca_pem().as_bytes().to_vec());
    service_kit::tls::web_client_config(&roots, service_kit::clock::SystemClock::shared(), &[]).unwrap()
}

#[tokio::test]
async fn a_token_is_verified_from_nothing_but_the_documents() {
    let setup = Setup::new().await;
    let issuer_url = format!("https://oidc.example:8443/{LOCAL}");
    let gateway = setup.start().await;
    let mut client = Connection::open(gateway.web_address, &client_config(&setup)).await.unwrap();

    let path = format!("/{LOCAL}/.well-known/openid-configuration");
    let answer = client.send("GET", &path, &[("x-forwarded-host", "evil.example")]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_eq!(answer.headers()["cache-control"], "public, max-age=30");
    let discovery: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(discovery["issuer"], issuer_url.as_str(), "as configured, whatever host was asked");
    assert_eq!(discovery["jwks_uri"], format!("{issuer_url}/keys"));
    assert_eq!(discovery["authorization_endpoint"], "");
    assert_eq!(discovery["response_types_supported"], json!(["id_token"]));
    assert_eq!(discovery["subject_types_supported"], json!(["public"]));
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["RS256", "ES256", "ES384"]));

    let jwks_path = url::Url::parse(discovery["jwks_uri"].as_str().unwrap()).unwrap().path().to_owned();
    let answer = client.send("GET", &jwks_path, &[]).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let raw: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(raw["keys"].as_array().unwrap().len(), 1, "X.509 authorities are left out");
    for member in ["kid", "kty", "crv", "x", "y"] {
        assert!(raw["keys"][0][member].is_string(), "{member}");
    }
    assert_eq!((&raw["keys"][0]["alg"], &raw["keys"][0]["use"]), (&json!("ES256"), &json!("sig")));
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(client.send("GET", &jwks_path, &[("if-none-match", &etag)]).await.status(), 304);
    let head = client.send("HEAD", &jwks_path, &[]).await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));

    let exp = time::OffsetDateTime::now_utc().unix_timestamp() + 300;
    let claims = json!({
        "sub": format!("spiffe://{LOCAL}/shop"), "aud": ["sts.example"], "exp": exp, "iss": issuer_url,
    });
    let token = setup.issuer.state().authority.token(&claims);
    let keys: JwkSet = serde_json::from_slice(answer.body()).unwrap();
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let jwk = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["sts.example"]);
    validation.set_issuer(&[discovery["issuer"].as_str().unwrap()]);
    let key = DecodingKey::from_jwk(jwk).unwrap();
    let verified = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    assert_eq!(verified.claims["sub"], format!("spiffe://{LOCAL}/shop"));

    let wrong = client.send("POST", &jwks_path, &[]).await;
    assert_eq!((wrong.status().as_u16(), wrong.body().as_slice()), (405, &b"method not allowed\n"[..]));
    gateway.stop().await;
}

#[tokio::test]
async fn a_domain_without_jwt_keys_says_so() {
    let setup = Setup::new().await;
    {
        let mut state = setup.issuer.state();
        state.own = state.own.clone().with_jwt_authorities([]);
    }
    let gateway = setup.start().await;
    let mut client = Connection::open(gateway.web_address, &client_config(&setup)).await.unwrap();
    let answer = client.send("GET", &format!("/{LOCAL}/keys"), &[]).await;
    let text = &b"jwt not supported/enabled in this service\n"[..];
    assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (501, text));
    let discovery = client.send("GET", &format!("/{LOCAL}/.well-known/openid-configuration"), &[]).await;
    assert_eq!(discovery.status(), 200);
    gateway.stop().await;
}
