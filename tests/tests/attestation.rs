//! How an agent proves who it is, and what happens when it is evicted or banned.

use anyhow::{Context, Result, ensure};
use entente_tests::{
    cli,
    documented::documented,
    domain::{Domain, Service},
    forgery::Root,
    plan::Plan,
    wait,
    workload::Workload,
};
use serde_json::{Value, json};

/// The one agent the issuer knows.
async fn agent(domain: &Domain) -> Result<Value> {
    let listed = domain.issuer_json(&["agent", "list"]).await?;
    let agents = listed["agents"].as_array().context("no list")?;
    ensure!(agents.len() == 1, "{listed}");
    Ok(agents[0].clone())
}

fn id(agent: &Value) -> String {
    let text = |member: &str| agent["id"][member].as_str().unwrap_or_default().to_owned();
    format!("spiffe://{}{}", text("trust_domain"), text("path"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_certificate_attests_again_and_again() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let node_ca = Root::create(&plan.file("."))?;
    let (certificate, key) = node_ca.sign_leaf(&plan.file("."), "https://node.example")?;
    let plan = plan
        .issuer("node_attestors", json!({"x509pop": {"ca_bundle_path": node_ca.certificate}}))
        .agent("node_attestor", json!({"x509pop": {"certificate_path": certificate, "private_key_path": key}}));
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    domain.launch(Service::Agent, &[])?;
    domain.ready(Service::Agent).await?;
    let first = agent(&domain).await?;
    assert_eq!(first["attestation_type"], "x509pop");
    assert_eq!(first["can_reattest"], true);
    ensure!(id(&first).contains("/spire/agent/x509pop/"), "{first}");

    // Entries below this very agent are served.
    let uid = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let entry = ["entry", "create", "-parentID", &id(&first), "-spiffeID", &domain.id("/web"), "-selector", &uid];
    domain.issuer_cli(&entry).await?.ok()?;
    Workload::join(&domain.endpoint_socket()).await?;

    // Evicted, it attests again by itself, as the same agent.
    domain.issuer_cli(&["agent", "evict", "-spiffeID", &id(&first)]).await?.ok()?;
    wait::until("the evicted agent is back", || async {
        let again = agent(&domain).await?;
        ensure!(
            id(&again) == id(&first) && again["x509svid_serial_number"] != first["x509svid_serial_number"],
            "{again}"
        );
        Ok(())
    })
    .await?;
    domain.process(Service::Agent)?.check_running()?;
    Workload::join(&domain.endpoint_socket()).await?;

    // A join token is no way in where it is not configured.
    let stranger = Plan::new("cloud.example")?
        .agent("server_port", json!(domain.ports().issuer))
        .agent("trust_bundle_path", json!(domain.file("bundle.pem")));
    let stranger = Domain::from_plan(stranger);
    let config = stranger.write_config(Service::Agent)?.display().to_string();
    let answer = cli::entente(&["agent", "run", "-config", &config, "-joinToken", "x"]).await?;
    answer.refused(&[documented("could not find node attestor type")?])?;
    stranger.stop().await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let node_ca = Root::create(&plan.file("."))?;
    let elsewhere = tempfile::tempdir()?;
    let (certificate, key) = Root::create(elsewhere.path())?.sign_leaf(elsewhere.path(), "https://node.example")?;
    let plan = plan
        .issuer("node_attestors", json!({"x509pop": {"ca_bundle_path": node_ca.certificate}}))
        .agent("node_attestor", json!({"x509pop": {"certificate_path": certificate, "private_key_path": key}}));
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    let config = domain.write_config(Service::Agent)?.display().to_string();
    let answer = cli::entente(&["agent", "run", "-config", &config]).await?;
    answer.refused(&[documented("certificate verification failed")?])?;
    ensure!(domain.counts().await?[1] == 0, "an agent was made");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_agent_ends_and_stays_out() -> Result<()> {
    let mut domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    domain.create_entry("/web", &[]).await?;
    let banned = id(&agent(&domain).await?);
    domain.issuer_cli(&["agent", "ban", "-spiffeID", &banned]).await?.ok()?;
    let status = domain.process(Service::Agent)?.wait().await?;
    ensure!(!status.success(), "it ended with {status}");
    let log = domain.process(Service::Agent)?.log();
    ensure!(log.contains(documented("banned")?), "{log}");
    assert_eq!(agent(&domain).await?["banned"], true);
    // Started again it has nothing to show; a new token makes a new agent of it.
    let config = domain.write_config(Service::Agent)?.display().to_string();
    cli::entente(&["agent", "run", "-config", &config]).await?.refused(&["join token"])?;
    domain.start_agent().await?;
    Workload::join(&domain.endpoint_socket()).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_bootstrap_is_possible_and_warns() -> Result<()> {
    let plan =
        Plan::new("cloud.example")?.agent("trust_bundle_path", Value::Null).agent("insecure_bootstrap", json!(true));
    let mut domain = Domain::start_without_gateway(plan).await?;
    domain.create_entry("/web", &[]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    let log = domain.process(Service::Agent)?.log();
    ensure!(log.contains("WARN") && log.contains("insecure"), "{log}");
    domain.stop().await
}
