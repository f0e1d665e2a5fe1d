//! `/live` and `/ready` of each service, and the healthcheck commands: ready means that it does its work.

use anyhow::{Result, ensure};
use entente_tests::{
    domain::{Domain, Service, get},
    plan::Plan,
    ports, wait,
};
use serde_json::{Value, json};

async fn health(domain: &Domain, service: Service, path: &str) -> Result<(u16, Value)> {
    let (status, body) = get(&domain.health_url(service, path)).await?;
    Ok((status, serde_json::from_str(&body)?))
}

/// The names of the subsystems that are not ready.
fn not_ready(body: &Value) -> Vec<&str> {
    let subsystems = body.as_object().into_iter().flatten();
    subsystems.filter(|(_, state)| state["ready"] == false).map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_are_live_and_ready() -> Result<()> {
    let domain = Domain::start("cloud.example").await?;
    for service in [Service::Issuer, Service::Agent, Service::Gateway] {
        for path in ["/live", "/ready"] {
            let (status, body) = health(&domain, service, path).await?;
            ensure!(status == 200, "{} {path}: {status} {body}", service.word());
            ensure!(body.as_object().is_some_and(|body| body.len() >= 2), "names its subsystems: {body}");
        }
        let (status, _) = get(&domain.health_url(service, "/other")).await?;
        ensure!(status == 404, "{status}");
    }
    ensure!(domain.issuer_cli(&["healthcheck"]).await?.ok()?.contains("Server is healthy."));
    ensure!(domain.agent_cli(&["healthcheck"]).await?.ok()?.contains("Agent is healthy."));
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_issuer_is_live_but_not_ready() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    let token = domain.join_token(None).await?;
    domain.kill9(Service::Issuer).await?;
    domain.launch(Service::Agent, &["-joinToken", &token])?;
    wait::until("the agent is live and says what is not ready", || async {
        let (status, body) = health(&domain, Service::Agent, "/live").await?;
        ensure!(status == 200, "{body}");
        let (status, body) = health(&domain, Service::Agent, "/ready").await?;
        ensure!(status == 500 && !not_ready(&body).is_empty(), "{status} {body}");
        Ok(())
    })
    .await?;
    let refused = domain.agent_cli(&["healthcheck"]).await?.refused(&["Agent is unhealthy:"])?;
    ensure!(!refused.contains("panicked"), "{refused}");
    // The issuer comes back, and with it the agent.
    domain.restart(Service::Issuer).await?;
    domain.ready(Service::Agent).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_issuer_names_its_source() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.launch(Service::Gateway, &[])?;
    wait::until("the gateway names its source as not ready", || async {
        let (status, body) = health(&domain, Service::Gateway, "/ready").await?;
        ensure!(status == 500 && not_ready(&body).iter().any(|name| name.contains("source")), "{status} {body}");
        Ok(())
    })
    .await?;
    domain.start_issuer().await?;
    domain.ready(Service::Gateway).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_of_nothing_is_unhealthy() -> Result<()> {
    let domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.issuer_cli(&["healthcheck"]).await?.refused(&["Error: server is unhealthy:"])?;
    domain.agent_cli(&["healthcheck"]).await?.refused(&["Agent is unhealthy:"])?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_port_can_be_chosen() -> Result<()> {
    let port = ports::free()?;
    let health = json!({
        "listener_enabled": true, "bind_address": "127.0.0.1", "bind_port": port, "live_path": "/alive", "ready_path": "/up",
    });
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?.issuer("health", health));
    domain.launch(Service::Issuer, &[])?;
    wait::until("it is up", || async {
        let (status, body) = get(&format!("http://127.0.0.1:{port}/up")).await?;
        ensure!(status == 200, "{body}");
        Ok(())
    })
    .await?;
    ensure!(get(&format!("http://127.0.0.1:{port}/alive")).await?.0 == 200);
    ensure!(get(&format!("http://127.0.0.1:{port}/ready")).await?.0 == 404);
    domain.stop().await
}
