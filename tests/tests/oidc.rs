//! OIDC discovery: a relying party that has nothing but the issuer URL and its web CA verifies our tokens.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::Domain,
    plan::Plan,
    rotation::Kind,
    wait,
    web::{self, get_json},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::Jwk};
use serde_json::{Value, json};

async fn start() -> Result<(Domain, String)> {
    let plan = Plan::new("cloud.example")?;
    let issuer = format!("https://127.0.0.1:{}/cloud.example", plan.ports().web);
    let mut domain = Domain::from_plan(plan.issuer("jwt_issuer", json!(issuer)));
    domain.start_all().await?;
    domain.create_entry("/web", &[]).await?;
    Ok((domain, issuer))
}

/// Verifies a token from the documents at `issuer` alone: its claims.
async fn verify(client: &reqwest::Client, issuer: &str, token: &str) -> Result<Value> {
    let (_, discovery) = get_json(client, &format!("{issuer}/.well-known/openid-configuration")).await?;
    ensure!(discovery["issuer"] == issuer, "{discovery}");
    let (_, jwks) = get_json(client, discovery["jwks_uri"].as_str().context("no jwks_uri")?).await?;
    let header = decode_header(token)?;
    let kid = header.kid.context("the token names no key")?;
    let keys = jwks["keys"].as_array().context("no keys")?;
    let key = keys.iter().find(|key| key["kid"] == kid.as_str()).with_context(|| format!("no key {kid} in {jwks}"))?;
    let algorithms = discovery["id_token_signing_alg_values_supported"].to_string();
    ensure!(algorithms.contains(&format!("{:?}", header.alg)), "{:?} is not in {algorithms}", header.alg);
    ensure!(key["alg"] == format!("{:?}", header.alg) && key["use"] == "sig", "{key}");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["relying-party"]);
    validation.set_issuer(&[issuer]);
    let key: Jwk = serde_json::from_value(key.clone())?;
    Ok(decode::<Value>(token, &DecodingKey::from_jwk(&key)?, &validation)?.claims)
}

async fn token(domain: &Domain) -> Result<String> {
    let arguments = ["api", "fetch", "jwt", "-audience", "relying-party", "-output", "json"];
    let answer = domain.agent_cli(&arguments).await?.json()?;
    Ok(answer[0]["svids"][0]["svid"].as_str().with_context(|| format!("no token in {answer}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_verified_from_the_documents_alone() -> Result<()> {
    let (domain, issuer) = start().await?;
    let client = web::client(domain.web_ca())?;
    let claims = wait::until("the workload gets a token", async || token(&domain).await).await?;
    let claims = verify(&client, &issuer, &claims).await?;
    assert_eq!(claims["sub"], domain.id("/web"));
    assert_eq!(claims["iss"], issuer);

    // A rotation reaches the documents before the new key signs.
    let prepared = domain.prepare_authority(Kind::Jwt).await?;
    wait::until("the prepared key is published", || async {
        let (_, jwks) = get_json(&client, &format!("{issuer}/keys")).await?;
        ensure!(
            jwks["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| key["kid"] == prepared.as_str())),
            "{jwks}"
        );
        Ok(())
    })
    .await?;
    domain.activate_authority(Kind::Jwt, &prepared).await?;
    let minted = ["jwt", "mint", "-spiffeID", &domain.id("/web"), "-audience", "relying-party"];
    let minted = domain.issuer_cli(&minted).await?.ok()?;
    assert_eq!(decode_header(minted.trim())?.kid.as_deref(), Some(prepared.as_str()));
    verify(&client, &issuer, minted.trim()).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_can_be_cached_and_nothing_else_is_served() -> Result<()> {
    let (domain, issuer) = start().await?;
    let client = web::client(domain.web_ca())?;
    for document in [format!("{issuer}/.well-known/openid-configuration"), format!("{issuer}/keys")] {
        let answer = client.get(&document).send().await?;
        ensure!(answer.status() == 200, "{document}: {}", answer.status());
        ensure!(web::header(&answer, "content-type").starts_with("application/json"), "{:?}", answer.headers());
        ensure!(web::header(&answer, "access-control-allow-origin") == "*", "{:?}", answer.headers());
        let tag = web::header(&answer, "etag").to_owned();
        ensure!(!tag.is_empty(), "no ETag: {:?}", answer.headers());
        let again = client.get(&document).header("if-none-match", &tag).send().await?;
        ensure!(again.status() == 304, "{document} with its ETag: {}", again.status());
        ensure!(client.post(&document).send().await?.status() == 405);
    }
    for path in ["/other.example/keys", "/cloud.example/keys/", "/keys", "/.well-known/openid-configuration"] {
        let url = format!("https://127.0.0.1:{}{path}", domain.ports().web);
        let status = client.get(&url).send().await?.status();
        ensure!(status == 404, "{url}: {status}");
    }
    domain.stop().await
}
