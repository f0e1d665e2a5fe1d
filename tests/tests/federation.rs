//! Two trust domains federate over both profiles, and their workloads talk.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::Domain,
    federation::{Federation, follows},
    forgery::Root,
    plan::Plan,
    tls, wait,
    workload::{self, Workload},
};
use serde_json::json;

/// A JWT-SVID of this domain's workload.
async fn jwt(domain: &Domain, audience: &str) -> Result<String> {
    let answer = domain.agent_cli(&["api", "fetch", "jwt", "-audience", audience, "-output", "json"]).await?.json()?;
    Ok(answer[0]["svids"][0]["svid"].as_str().with_context(|| format!("no token in {answer}"))?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_of_two_domains_talk() -> Result<()> {
    let federation = Federation::start().await?;
    federation.create_entries().await?;
    let (cloud, onprem) = (&federation.cloud, &federation.onprem);
    let (cloud_id, onprem_id) = (cloud.id("/web"), onprem.id("/web"));
    let cloud_workload = Workload::join(&cloud.endpoint_socket()).await?;
    let onprem_workload = Workload::join(&onprem.endpoint_socket()).await?;

    let server = onprem_workload.serve(&[&cloud_id]).await?;
    assert_eq!(cloud_workload.call(server.address, &onprem_id).await?, format!("hello {cloud_id}"));
    let server = cloud_workload.serve(&[&onprem_id]).await?;
    assert_eq!(onprem_workload.call(server.address, &cloud_id).await?, format!("hello {onprem_id}"));

    // Each side also checks who it talks to, not only that it is from a federated domain.
    let error = onprem_workload.call(server.address, &cloud.id("/other")).await;
    ensure!(error.is_err(), "a server with another SPIFFE ID was believed");

    // A token of one domain is validated in the other, and not for another audience.
    let token = jwt(cloud, "onprem-service").await?;
    let validate = ["api", "validate", "jwt", "-svid", &token, "-audience"];
    let valid = onprem.agent_cli(&[&validate[..], &["onprem-service"]].concat()).await?.ok()?;
    ensure!(valid.contains(&cloud_id), "{valid}");
    onprem.agent_cli(&[&validate[..], &["other"]].concat()).await?.refused(&["SVID is not valid:", "audience"])?;
    federation.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_domain_is_refused() -> Result<()> {
    let federation = Federation::start().await?;
    federation.create_entries().await?;
    let (cloud, onprem) = (&federation.cloud, &federation.onprem);
    let mut third = Domain::from_plan(Plan::new("third.example")?);
    third.start_issuer().await?;

    // The server lets in both IDs by name, so only the certificate chain can be what it objects to.
    let (cloud_id, third_id) = (cloud.id("/minted"), third.id("/minted"));
    let server = Workload::join(&onprem.endpoint_socket()).await?.serve(&[&cloud_id, &third_id]).await?;
    for (domain, id) in [(cloud, &cloud_id), (&third, &third_id)] {
        let dir = domain.file("minted");
        std::fs::create_dir(&dir)?;
        let folder = dir.display().to_string();
        domain.issuer_cli(&["x509", "mint", "-spiffeID", id, "-write", &folder]).await?.ok()?;
    }
    let client =
        |domain: &Domain| tls::gullible_client(&domain.file("minted/svid.pem"), &domain.file("minted/key.pem"));
    assert_eq!(workload::call(client(cloud)?, server.address).await?, format!("hello {cloud_id}"));
    let refused = workload::call(client(&third)?, server.address).await;
    ensure!(refused.is_err(), "a workload of a domain nobody federated with was let in");
    let refused = workload::call(tls::gullible_client_without_certificate(), server.address).await;
    ensure!(refused.is_err(), "a caller without certificate was let in");

    // A token of the third domain is refused as well.
    let token = third.issuer_cli(&["jwt", "mint", "-spiffeID", &third_id, "-audience", "x"]).await?.ok()?;
    let arguments = ["api", "validate", "jwt", "-audience", "x", "-svid", token.trim()];
    onprem.agent_cli(&arguments).await?.refused(&[r#"no keys found for trust domain "third.example""#])?;
    third.stop().await?;
    federation.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_signed_by_another_domains_authority_is_refused() -> Result<()> {
    // cloud.example hangs below a root whose key this test holds, so the test can sign as cloud.example's authority.
    let plan = Plan::new("cloud.example")?;
    let root = Root::create(&plan.file("."))?;
    let upstream = json!({"disk": {"cert_file_path": root.certificate, "key_file_path": root.key}});
    let federation =
        Federation::start_with(plan.issuer("upstream_authority", upstream), Plan::new("onprem.example")?).await?;
    federation.create_entries().await?;
    let (cloud, onprem) = (&federation.cloud, &federation.onprem);
    let (cloud_id, onprem_id) = (cloud.id("/forged"), onprem.id("/forged"));

    for domain in [cloud, onprem] {
        let server = Workload::join(&domain.endpoint_socket()).await?.serve(&[&cloud_id, &onprem_id]).await?;
        let folder = tempfile::tempdir()?;
        let (chain, key) = root.sign_leaf(folder.path(), &cloud_id)?;
        let greeting = workload::call(tls::gullible_client(&chain, &key)?, server.address).await?;
        assert_eq!(greeting, format!("hello {cloud_id}"), "the root is not cloud.example's authority after all");
        let (chain, key) = root.sign_leaf(folder.path(), &onprem_id)?;
        let refused = workload::call(tls::gullible_client(&chain, &key)?, server.address).await;
        ensure!(refused.is_err(), "{} let in onprem.example's name signed by cloud.example", domain.name());
    }
    federation.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relationship_made_at_the_issuer_is_polled_by_the_gateway() -> Result<()> {
    let partner = Domain::start("partner.example").await?;
    let home = Domain::start("home.example").await?;
    let bundle = partner.file("bundle.json").display().to_string();
    let endpoint_id = partner.endpoint_id();
    let created = home
        .issuer_cli(&[
            "federation",
            "create",
            "-trustDomain",
            "partner.example",
            "-bundleEndpointURL",
            &partner.bundle_url_spiffe(),
            "-bundleEndpointProfile",
            "https_spiffe",
            "-endpointSpiffeID",
            &endpoint_id,
            "-trustDomainBundlePath",
            &bundle,
            "-trustDomainBundleFormat",
            "spiffe",
        ])
        .await?
        .ok()?;
    ensure!(created.contains("partner.example"), "{created}");
    let listed = home.issuer_cli(&["federation", "list"]).await?.ok()?;
    ensure!(listed.contains("Found 1 federation relationship"), "{listed}");
    wait::until("the gateway works on the relationship", || async {
        let refreshed = home.issuer_cli(&["federation", "refresh", "-id", "partner.example"]).await?.ok()?;
        ensure!(refreshed.contains("Bundle refreshed"), "{refreshed}");
        Ok(())
    })
    .await?;

    // From now on it follows by itself.
    let prepared = partner.issuer_json(&["localauthority", "x509", "prepare"]).await?;
    ensure!(prepared["prepared_authority"]["authority_id"].is_string(), "{prepared}");
    follows(&home, &partner).await?;

    home.issuer_cli(&["federation", "delete", "-id", "partner.example"]).await?.ok()?;
    let arguments = ["federation", "refresh", "-id", "partner.example"];
    home.issuer_cli(&arguments)
        .await?
        .refused(&[r#"there is no federation relationship with trust domain "partner.example""#])?;
    // The gateway takes back what it delivered.
    wait::until("the bundle is gone with the relationship", || async {
        let held = home.issuer_cli(&["bundle", "list", "-id", "spiffe://partner.example"]).await?;
        held.refused(&["bundle not found"]).map(drop)
    })
    .await?;
    home.stop().await?;
    partner.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_partner_costs_only_itself() -> Result<()> {
    let mut federation = Federation::start().await?;
    federation.create_entries().await?;
    let before = federation.cloud.federated_authorities("spiffe://onprem.example").await?;
    federation.onprem.kill9(entente_tests::domain::Service::Gateway).await?;
    // The refresh fails and says so, the bundle held stays, and local identities go on being issued.
    federation.cloud.gateway_cli(&["relationship", "refresh", "onprem.example"]).await?.refused(&[])?;
    assert_eq!(federation.cloud.federated_authorities("spiffe://onprem.example").await?, before);
    Workload::join(&federation.cloud.endpoint_socket()).await?;
    // It comes back, and so does the refresh.
    federation.onprem.restart(entente_tests::domain::Service::Gateway).await?;
    wait::until("the refresh works again", || async {
        federation.cloud.gateway_cli(&["relationship", "refresh", "onprem.example"]).await?.ok()
    })
    .await?;
    federation.stop().await
}
