//! go-spiffe and spire-api-sdk on the other side: Workload API, bundle endpoints in both roles and both profiles,
//! the Server API as administrator and as agent, and mTLS between workloads.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::Domain,
    federation::Federation,
    peer::{Peer, text},
    plan::Plan,
    rotation::Kind,
    wait,
    workload::Workload,
};
use serde_json::{Value, json};

mod watching;

#[tokio::test(flavor = "multi_thread")]
async fn workload_api_sources_follow_a_rotation() -> Result<()> {
    watching::follows_a_rotation(|domain| Peer::go_workload_watch(&domain.file("."), &domain.endpoint_socket())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn federation_client_fetches_and_watches_both_profiles() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    let (ca, bootstrap) = (domain.web_ca().display().to_string(), domain.file("bundle.json").display().to_string());
    let endpoint_id = domain.endpoint_id();
    let profiles = [
        (domain.bundle_url_web(), vec!["-profile", "https_web", "-ca-file", &ca]),
        (
            domain.bundle_url_spiffe(),
            vec!["-profile", "https_spiffe", "-endpoint-id", &endpoint_id, "-bootstrap", &bootstrap],
        ),
    ];
    let mut watchers = Vec::new();
    let active = domain.active_authority(Kind::X509).await?;
    for (url, profile) in &profiles {
        let arguments = [&["-trust-domain", "cloud.example", "-url", url], &profile[..]].concat();
        let events = Peer::go(&domain.file("."), "federation-client", &arguments)?.run_to_end().await?;
        let bundle = events.first().context("no bundle")?;
        assert_eq!(bundle["x509_authorities"], json!([active]));
        assert_eq!(bundle["refresh_hint_seconds"], 60);
        assert_eq!(bundle["sequence"].as_u64(), Some(domain.authorities().await?.sequence));
        let watching = [&arguments[..], &["-every", "300ms"]].concat();
        let mut watcher = Peer::go(&domain.file("."), "federation-client", &watching)?;
        watcher.event("bundle").await?;
        watchers.push(watcher);
    }
    // A rotation reaches both, also the one that must authenticate the endpoint with what it fetched.
    let new = domain.prepare_authority(Kind::X509).await?;
    let has = |event: &Value, key: &str| {
        event["x509_authorities"].as_array().is_some_and(|keys| keys.iter().any(|held| held == key))
    };
    for watcher in &mut watchers {
        watcher.event_where("bundle", |event| has(event, &new)).await?;
    }
    domain.activate_authority(Kind::X509, &new).await?;
    domain.taint_authority(Kind::X509, &active).await?;
    domain.revoke_authority(Kind::X509, &active).await?;
    for mut watcher in watchers {
        watcher.event_where("bundle", |event| has(event, &new) && !has(event, &active)).await?;
        watcher.finish().await?;
    }
    // The endpoint's own certificate followed: whoever holds only the new authority can still fetch over https_spiffe.
    let only_new = domain.issuer_cli(&["bundle", "show", "-format", "spiffe"]).await?.ok()?;
    std::fs::write(domain.file("bundle.json"), only_new)?;
    let (url, profile) = &profiles[1];
    let arguments = [&["-trust-domain", "cloud.example", "-url", url], &profile[..]].concat();
    wait::until("the endpoint presents an SVID of the new authority", || async {
        Peer::go(&domain.file("."), "federation-client", &arguments)?.run_to_end().await
    })
    .await?;
    domain.stop().await
}

/// Starts go-spiffe's bundle endpoint for `go.example` and a domain whose gateway refreshes from it.
async fn federate_with_go(profile: &str) -> Result<(Domain, Peer)> {
    let mut plan = Plan::new("cloud.example")?;
    let (certificate, key) = (plan.web_certificate().display().to_string(), plan.web_key().display().to_string());
    let arguments = ["-trust-domain", "go.example", "-profile", profile, "-cert", &certificate, "-key", &key];
    let mut peer = Peer::go(&plan.file("."), "federation-server", &arguments)?;
    let listening = peer.event("listening").await?;
    let mut relationship = json!({
        "trust_domain": "go.example",
        "url": format!("https://{}/", text(&listening, "address")?),
        "profile": profile,
    });
    if profile == "https_web" {
        relationship["ca_file"] = json!(plan.web_ca());
    } else {
        std::fs::write(plan.file("go.json"), text(&listening, "json")?)?;
        relationship["endpoint_spiffe_id"] = listening["endpoint_id"].clone();
        relationship["bootstrap_bundle_file"] = json!(plan.file("go.json"));
    }
    plan.relationship(relationship);
    let mut domain = Domain::from_plan(plan);
    domain.start_all().await?;
    Ok((domain, peer))
}

/// Waits until the issuer holds exactly the JWT keys of an event that describes the partner's bundle.
async fn holds(domain: &Domain, bundle: &Value) -> Result<()> {
    wait::until("the issuer holds go.example's bundle", || async {
        let held = domain.federated_authorities("spiffe://go.example").await?;
        ensure!(json!(held.jwt) == bundle["jwt_authorities"], "held: {held:?}, wanted: {bundle}");
        let wanted = bundle["x509_authorities"].as_array().map_or(0, Vec::len);
        ensure!(held.x509.len() == wanted, "{} X.509 authorities, {wanted} wanted", held.x509.len());
        Ok(())
    })
    .await
}

async fn gateway_follows_go(profile: &str) -> Result<()> {
    let (domain, mut peer) = federate_with_go(profile).await?;
    let bundle = peer.ask("bundle", "bundle").await?;
    holds(&domain, &bundle).await?;
    // Two rotations; in the end only the newest authority is left, which also signs the endpoint's certificate.
    for command in ["prepare", "activate", "prepare", "activate", "drop-old"] {
        let bundle = peer.ask(command, "bundle").await?;
        domain.gateway_cli(&["relationship", "refresh", "go.example"]).await?.ok()?;
        holds(&domain, &bundle).await?;
    }

    // A workload here believes what go.example signed.
    domain.create_entry("/web", &["-federatesWith", "spiffe://go.example"]).await?;
    let minted = peer.ask("jwt /service greeter", "jwt_svid").await?;
    let token = text(&minted, "token")?;
    wait::until("the agent validates go.example's token", || async {
        domain.agent_cli(&["api", "validate", "jwt", "-audience", "greeter", "-svid", token]).await?.ok()
    })
    .await?;

    // A bundle with a lower sequence number is a rollback: refused, and what was held stays.
    let held = domain.federated_authorities("spiffe://go.example").await?;
    peer.ask("prepare", "bundle").await?;
    peer.ask("sequence 1", "bundle").await?;
    domain.gateway_cli(&["relationship", "refresh", "go.example"]).await?.refused(&["sequence"])?;
    assert_eq!(domain.federated_authorities("spiffe://go.example").await?, held);
    peer.finish().await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_refreshes_from_go_spiffe_over_https_web() -> Result<()> {
    gateway_follows_go("https_web").await
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_refreshes_from_go_spiffe_over_https_spiffe() -> Result<()> {
    gateway_follows_go("https_spiffe").await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_api_over_the_socket_and_over_mtls() -> Result<()> {
    let domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    domain.create_entry("/admin", &["-admin"]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    let before = domain.counts().await?;
    let socket = format!("unix://{}", domain.issuer_socket().display());
    let (address, workload_socket) = (domain.issuer_address(), domain.endpoint_socket());
    let ways = [
        vec!["-socket", &socket, "-prefix", "local"],
        vec!["-address", &address, "-workload-socket", &workload_socket, "-prefix", "remote"],
    ];
    for way in ways {
        let arguments = [&["-trust-domain", "cloud.example"], &way[..]].concat();
        let events = Peer::go(&domain.file("."), "server-api", &arguments)?.run_to_end().await?;
        ensure!(events.last().is_some_and(|event| event["event"] == "done"), "{events:#?}");
        ensure!(!events.iter().any(|event| event["event"] == "not_built"), "{events:#?}");
    }
    assert_eq!(domain.counts().await?, before, "the program left something behind");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_made_of_spire_api_sdk_attests_and_signs() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    domain.create_entry("/one", &[]).await?;
    domain.create_entry("/two", &["-dns", "two.example"]).await?;
    let token = domain.join_token(Some(&domain.id("/node"))).await?;
    let (address, bundle) = (domain.issuer_address(), domain.file("bundle.pem").display().to_string());
    let arguments = ["-trust-domain", "cloud.example", "-address", &address, "-bundle", &bundle, "-join-token", &token];
    let events = Peer::go(&domain.file("."), "agent-api", &arguments)?.run_to_end().await?;
    let done = events.last().context("no event")?;
    // The third is the one the join token made, of the agent itself.
    assert_eq!(done["entries"].as_array().map(Vec::len), Some(3), "{done}");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn go_and_rust_workloads_of_two_domains_talk() -> Result<()> {
    let federation = Federation::start().await?;
    federation.create_entries().await?;
    let (cloud, onprem) = (&federation.cloud, &federation.onprem);
    let (cloud_id, onprem_id) = (cloud.id("/web"), onprem.id("/web"));

    let arguments = ["-socket", &onprem.endpoint_socket(), "-authorize", &cloud_id];
    let mut server = Peer::go(&onprem.file("."), "mtls-server", &arguments)?;
    let address = text(&server.event("listening").await?, "address")?.parse()?;
    let workload = Workload::join(&cloud.endpoint_socket()).await?;
    assert_eq!(workload.call(address, &onprem_id).await?, format!("hello {cloud_id}"));
    server.finish().await?;

    let greeter = workload.serve(&[&onprem_id]).await?;
    let url = format!("https://{}/", greeter.address);
    let arguments = ["-socket", &onprem.endpoint_socket(), "-authorize", &cloud_id, "-url", &url];
    let events = Peer::go(&onprem.file("."), "mtls-client", &arguments)?.run_to_end().await?;
    assert_eq!(events[0]["body"], format!("hello {onprem_id}"));
    federation.stop().await
}
