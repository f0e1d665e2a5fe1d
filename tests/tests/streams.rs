//! 5,000 FetchX509SVID streams opened at once are all answered, and the agent goes on serving.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use entente_tests::{domain::Domain, plan::Plan, wait::LIMIT, workload::Workload};
use futures::{StreamExt, future::try_join_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spiffe::WorkloadApiClient;
use tokio::time::{Instant, timeout};

const STREAMS: usize = 5_000;

/// Streams on one connection in the second test.
const PER_CONNECTION: usize = 100;

/// Longest all streams together may wait for their first answer, on two slow cores and in a debug build.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// Raises this process's soft limit of open files to its hard limit and checks that it suffices.
fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let available = limit.maximum.unwrap_or(u64::MAX);
    ensure!(
        available >= 2 * STREAMS as u64,
        "the hard limit of open files is {available}; {} are needed: raise it with `ulimit -Hn`",
        2 * STREAMS
    );
    Ok(())
}

/// Opens [`STREAMS`] streams over as many clients as given, checks that each is answered and updated, and that the
/// agent serves others meanwhile and afterwards.
async fn all_are_answered(domain: &Domain, connections: usize) -> Result<()> {
    let endpoint = domain.endpoint_socket();
    let clients = try_join_all((0..connections).map(|_| WorkloadApiClient::connect_to(&endpoint))).await?;
    let begin = Instant::now();
    let opened = clients.iter().flat_map(|client| {
        (0..STREAMS / connections).map(async move |_| {
            let mut stream = Box::pin(client.stream_x509_contexts().await?);
            let first = stream.next().await.context("a stream ended without an answer")??;
            ensure!(first.svids().len() == 1, "{} SVIDs", first.svids().len());
            anyhow::Ok(stream)
        })
    });
    let mut streams =
        timeout(ANSWERED_WITHIN, try_join_all(opened)).await.context("not every stream was answered")??;
    ensure!(streams.len() == STREAMS, "{} streams", streams.len());
    let answered = begin.elapsed();

    // Another caller is served at once, and the agent calls itself healthy.
    let later = timeout(Duration::from_secs(10), Workload::join(&endpoint)).await.context("a later caller hangs")??;
    ensure!(domain.agent_cli(&["healthcheck"]).await?.ok()?.contains("Agent is healthy."));

    // Each open stream gets the next change.
    let entry = domain.create_entry("/second", &[]).await?;
    let updates = streams.iter_mut().map(async |stream| {
        loop {
            let update = stream.next().await.context("a stream ended before the update")??;
            if update.svids().len() == 2 {
                return anyhow::Ok(());
            }
        }
    });
    timeout(LIMIT, try_join_all(updates)).await.context("not every stream was updated")??;
    drop((streams, clients, later));

    domain.issuer_cli(&["entry", "delete", "-entryID", &entry]).await?.ok()?;
    Workload::join(&endpoint).await?;
    ensure!(answered < ANSWERED_WITHIN, "{answered:?}");
    Ok(())
}

async fn start() -> Result<Domain> {
    allow_many_files()?;
    // Debug logs of 5,000 calls would be what is measured.
    let plan = Plan::new("cloud.example")?.agent("log_level", "info".into()).issuer("log_level", "info".into());
    let domain = Domain::start_without_gateway(plan).await?;
    domain.create_entry("/web", &[]).await?;
    Workload::join(&domain.endpoint_socket()).await?;
    Ok(domain)
}

#[tokio::test(flavor = "multi_thread")]
async fn from_as_many_connections() -> Result<()> {
    let domain = start().await?;
    all_are_answered(&domain, STREAMS).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn multiplexed_on_few_connections() -> Result<()> {
    let domain = start().await?;
    all_are_answered(&domain, STREAMS / PER_CONNECTION).await?;
    domain.stop().await
}
