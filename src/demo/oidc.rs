//! Step 7: a token is verified as a cloud's IAM would, from nothing but the published documents.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use crate::demo::world::World;

/// Verifies `token` with the documents its `iss` claim leads to.
pub(crate) async fn verify(world: &mut World, token: &str) -> Result<((), Vec<String>)> {
    let layout = world.cloud.layout();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(layout.web_ca())?)?;
    let http = reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build()?;

    let payload = token.split('.').nth(1).context("the token has no claims")?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let issuer = claims["iss"].as_str().context("the token names no issuer")?;
    let url = format!("{issuer}/.well-known/openid-configuration");
    let document: Value = get(&http, &url).await?;
    ensure!(document["issuer"] == issuer, "the document names the issuer {}", document["issuer"]);
    let keys_url = document["jwks_uri"].as_str().context("the document has no jwks_uri")?;
    let keys: JwkSet = serde_json::from_value(get(&http, keys_url).await?)?;

    let header = jsonwebtoken::decode_header(token)?;
    let key_id = header.kid.context("the token names no key")?;
    let key = keys.find(&key_id).with_context(|| format!("no key {key_id} at {keys_url}"))?;
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[world.stock_id()?.to_string()]);
    let verified = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key)?, &validation)?;
    ensure!(verified.claims["sub"] == world.shop_id()?.to_string(), "the subject is {}", verified.claims["sub"]);
    Ok(((), vec![url, format!("{keys_url}: {:?}, key {key_id}", header.alg)]))
}

async fn get(http: &reqwest::Client, url: &str) -> Result<Value> {
    let answer = http.get(url).send().await.with_context(|| format!("cannot read {url}"))?;
    Ok(answer.error_for_status()?.json().await?)
}
