//! The crates `spiffe` and `spiffe-rustls` fetch and watch X509- and JWT-SVIDs across a rotation. (Most other suites
//! use them as workloads too.)

use anyhow::{Context, Result, ensure};
use entente_tests::{domain::Domain, rotation::Kind, wait, workload::Workload};
use spiffe::{JwtSource, JwtSvid, TrustDomain, WorkloadApiClient};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn x509_source_follows_a_rotation() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &["-hint", "front"]).await?;
    let workload = Workload::join(&domain.endpoint_socket()).await?;
    let source = workload.source().clone();
    let first = source.svid()?;
    assert_eq!(first.spiffe_id().to_string(), domain.id("/web"));
    assert_eq!(first.hint(), Some("front"));
    let trust_domain = TrustDomain::new("cloud.example")?;
    let bundle = source.try_bundle_for_trust_domain(&trust_domain).context("no bundle")?;
    assert_eq!(bundle.authorities().len(), 1);

    let old = domain.active_authority(Kind::X509).await?;
    let new = domain.prepare_authority(Kind::X509).await?;
    wait::until("the source holds both authorities", || async {
        let bundle = source.try_bundle_for_trust_domain(&trust_domain).context("no bundle")?;
        ensure!(bundle.authorities().len() == 2, "{} authorities", bundle.authorities().len());
        Ok(())
    })
    .await?;
    domain.activate_authority(Kind::X509, &new).await?;
    domain.taint_authority(Kind::X509, &old).await?;
    let mut updates = source.updated();
    timeout(wait::LIMIT, async {
        while source.svid()?.leaf() == first.leaf() {
            updates.changed().await?;
        }
        anyhow::Ok(())
    })
    .await
    .context("no new SVID")??;

    // mTLS with itself, through spiffe-rustls, with the new certificate; then without the old authority.
    let id = domain.id("/web");
    let server = workload.serve(&[&id]).await?;
    assert_eq!(workload.call(server.address, &id).await?, format!("hello {id}"));
    domain.revoke_authority(Kind::X509, &old).await?;
    wait::until("the old authority is gone", || async {
        let bundle = source.try_bundle_for_trust_domain(&trust_domain).context("no bundle")?;
        ensure!(bundle.authorities().len() == 1, "{} authorities", bundle.authorities().len());
        Ok(())
    })
    .await?;
    assert_eq!(workload.call(server.address, &id).await?, format!("hello {id}"));
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_source_follows_a_rotation() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    let source = timeout(wait::LIMIT, JwtSource::builder().endpoint(domain.endpoint_socket()).build()).await??;
    let client = WorkloadApiClient::connect_to(domain.endpoint_socket()).await?;
    let trust_domain = TrustDomain::new("cloud.example")?;

    let token = source.fetch_jwt_svid(["a", "b"]).await?;
    assert_eq!(token.spiffe_id().to_string(), domain.id("/web"));
    JwtSvid::parse_and_validate(token.token(), &source, &["b"])?;
    ensure!(JwtSvid::parse_and_validate(token.token(), &source, &["c"]).is_err());
    client.validate_jwt_token("a", token.token()).await?;
    ensure!(client.validate_jwt_token("c", token.token()).await.is_err());

    let old = domain.active_authority(Kind::Jwt).await?;
    let new = domain.prepare_authority(Kind::Jwt).await?;
    wait::until("the source holds both keys", || async {
        let bundle = source.try_bundle_for_trust_domain(&trust_domain).context("no bundle")?;
        ensure!(bundle.find_jwt_authority(&new).is_some() && bundle.find_jwt_authority(&old).is_some());
        Ok(())
    })
    .await?;
    domain.activate_authority(Kind::Jwt, &new).await?;
    domain.taint_authority(Kind::Jwt, &old).await?;
    // The agent throws away what the tainted key signed, so the same audiences give a new token.
    wait::until("tokens are signed by the new key", || async {
        let token = source.fetch_jwt_svid(["a", "b"]).await?;
        let kid = jsonwebtoken::decode_header(token.token())?.kid;
        ensure!(kid.as_deref() == Some(new.as_str()), "signed by {kid:?}");
        JwtSvid::parse_and_validate(token.token(), &source, &["a"])?;
        Ok(())
    })
    .await?;
    domain.revoke_authority(Kind::Jwt, &old).await?;
    wait::until("tokens of the revoked key are refused", || async {
        ensure!(client.validate_jwt_token("a", token.token()).await.is_err(), "still accepted");
        Ok(())
    })
    .await?;
    domain.stop().await
}
