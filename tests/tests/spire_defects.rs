//! What breaks SPIRE (seen by running it, and in its code) does not break Entente.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use entente_tests::{documented::documented, domain::Domain, plan::Plan, rotation::Kind, workload::Workload};
use federation_specs::proto::{
    server::bundle::{
        AppendBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest, bundle_client::BundleClient,
    },
    types,
    workload::{JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use serde_json::Value;
use service_kit::grpc::connect::unix_channel;
use tokio::time::timeout;
use tonic::{Code, Request};

fn certificate(asn1: Vec<u8>) -> types::X509Certificate {
    types::X509Certificate { asn1, tainted: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_authority_poisons_the_bundle() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    let mut bundles = BundleClient::new(unix_channel(&domain.issuer_socket()));
    let own = bundles.get_bundle(GetBundleRequest::default()).await?.into_inner();
    let root = own.x509_authorities.first().context("no root")?.asn1.clone();
    let before = domain.authorities().await?;
    for asn1 in [Vec::new(), [root.clone(), root.clone()].concat(), b"no certificate".to_vec(), root[..100].to_vec()] {
        let request = AppendBundleRequest { x509_authorities: vec![certificate(asn1.clone())], ..Default::default() };
        let refused = bundles.append_bundle(request).await.err().context("it was appended")?;
        ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
        ensure!(refused.message().contains(documented("failed to convert X.509 authority")?), "{}", refused.message());
        assert_eq!(domain.authorities().await?, before);

        // The same in a partner's bundle.
        let partner = types::Bundle {
            trust_domain: "partner.example".to_owned(),
            x509_authorities: vec![certificate(asn1)],
            ..Default::default()
        };
        let request = BatchSetFederatedBundleRequest { bundle: vec![partner], ..Default::default() };
        let results = bundles.batch_set_federated_bundle(request).await?.into_inner().results;
        let status = results.first().and_then(|result| result.status.clone()).context("no status")?;
        ensure!(status.code == Code::InvalidArgument as i32, "{status:?}");
        ensure!(status.message.contains(documented("failed to convert bundle")?), "{}", status.message);
        ensure!(domain.federated_authorities("spiffe://partner.example").await.is_err(), "it was stored");
    }
    Workload::join(&domain.endpoint_socket()).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn preparing_twice_leaves_no_orphan() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    for kind in [Kind::X509, Kind::Jwt] {
        let count = async |domain: &Domain| {
            let held = domain.authorities().await?;
            anyhow::Ok(if kind == Kind::X509 { held.x509.len() } else { held.jwt.len() })
        };
        assert_eq!(count(&domain).await?, 1);
        let first = domain.prepare_authority(kind).await?;
        let second = domain.prepare_authority(kind).await?;
        ensure!(first != second);
        let old = domain.active_authority(kind).await?;
        domain.activate_authority(kind, &second).await?;
        domain.taint_authority(kind, &old).await?;
        domain.revoke_authority(kind, &old).await?;
        let left = count(&domain).await?;
        ensure!(left == 1, "{left} authorities are left, so one can never be removed");
    }
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_audience_is_answered_at_once() -> Result<()> {
    let domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    domain.create_entry("/web", &[]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    let mut api = SpiffeWorkloadApiClient::new(unix_channel(&domain.agent_socket()));
    for audience in [vec![], vec![String::new()], vec![String::new(), String::new()]] {
        let mut request = Request::new(JwtsvidRequest { audience, spiffe_id: String::new() });
        request.metadata_mut().insert("workload.spiffe.io", "true".parse()?);
        let answer = timeout(Duration::from_secs(5), api.fetch_jwtsvid(request)).await.context("it hangs")?;
        let refused = answer.err().context("a token without audience")?;
        ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
    }
    // Without the security header nothing is answered either, and at once.
    let refused = api.fetch_x509svid(X509svidRequest::default()).await.err().context("no header was needed")?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
    assert_eq!(refused.message(), documented("security header missing from request")?);
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_has_its_own_jti() -> Result<()> {
    let domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    domain.create_entry("/web", &["-jwtSVIDIncludeJTI"]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let arguments = ["api", "fetch", "jwt", "-audience", "a", "-output", "json"];
        let answer = domain.agent_cli(&arguments).await?.json()?;
        let token = answer[0]["svids"][0]["svid"].as_str().context("no token")?;
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token)?.claims;
        let jti = claims["jti"].as_str().with_context(|| format!("no jti in {claims}"))?;
        ensure!(seen.insert(jti.to_owned()), "{jti} came twice");
    }
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_token_cannot_be_made_again() -> Result<()> {
    use federation_specs::proto::server::agent::{CreateJoinTokenRequest, agent_client::AgentClient};
    let domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    let agents = domain.issuer_json(&["agent", "list"]).await?;
    let path = agents["agents"][0]["id"]["path"].as_str().context("no agent")?;
    let spent = path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut api = AgentClient::new(unix_channel(&domain.issuer_socket()));
    let request = CreateJoinTokenRequest { ttl: 60, token: spent, agent_id: None };
    let refused = api.create_join_token(request).await.err().context("the name of a spent token was taken again")?;
    ensure!(refused.message().contains(documented("join token already exists or was used before")?), "{refused:?}");
    // And names that could not be part of a SPIFFE ID are refused before they can be spent.
    for token in ["with space", "with/slash", ".."] {
        let request = CreateJoinTokenRequest { ttl: 60, token: token.to_owned(), agent_id: None };
        let refused = api.create_join_token(request).await.err().with_context(|| format!("`{token}` was taken"))?;
        ensure!(refused.code() == Code::InvalidArgument, "{refused:?}");
    }
    domain.stop().await
}
