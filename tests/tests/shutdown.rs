//! SIGTERM: every service ends with exit code 0 within moments, whatever is connected to it.

use std::time::Duration;

use anyhow::{Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    peer::Peer,
    workload::Workload,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Longest a service may take to end. SPIRE gives open calls 10 s; nothing here has a reason to take that long.
const PROMPT: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn services_end_promptly_with_clients_connected() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    // Open streams of two clients on the Workload API, and half-open connections on every TCP port.
    let workload = Workload::join(&domain.endpoint_socket()).await?;
    let mut peer = Peer::go_workload_watch(&domain.file("."), &domain.endpoint_socket())?;
    peer.event("x509_source").await?;
    let mut idle = Vec::new();
    for port in [domain.ports().issuer, domain.ports().web, domain.ports().spiffe, domain.ports().issuer_health] {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        connection.write_all(&[0x16, 0x03]).await?;
        idle.push(connection);
    }
    for service in [Service::Gateway, Service::Agent, Service::Issuer] {
        let elapsed = domain.stop_service(service).await?;
        ensure!(elapsed < PROMPT, "the {} took {elapsed:?} to end", service.word());
    }
    drop((workload, idle));
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn services_end_promptly_while_they_wait_for_an_issuer() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    domain.kill9(Service::Issuer).await?;
    for service in [Service::Gateway, Service::Agent] {
        let elapsed = domain.stop_service(service).await?;
        ensure!(elapsed < PROMPT, "the {} took {elapsed:?} to end without an issuer", service.word());
    }
    domain.stop().await
}
