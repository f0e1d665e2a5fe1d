//! `kill -9` of any process at any time: it starts again from its folder and goes on with the same authorities.

use anyhow::{Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    federation::Federation,
    rotation::Kind,
    wait,
    workload::Workload,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_goes_on_with_the_same_authorities() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    let workload = Workload::join(&domain.endpoint_socket()).await?;
    let prepared = domain.prepare_authority(Kind::X509).await?;
    let (authorities, counts) = (domain.authorities().await?, domain.counts().await?);
    let active = domain.active_authority(Kind::X509).await?;

    for _ in 0..3 {
        domain.kill9(Service::Issuer).await?;
        domain.restart(Service::Issuer).await?;
        assert_eq!(domain.authorities().await?, authorities);
        assert_eq!(domain.counts().await?, counts);
        assert_eq!(domain.active_authority(Kind::X509).await?, active);
    }
    // The authority prepared before the crash can still be activated, and signs.
    domain.activate_authority(Kind::X509, &prepared).await?;
    assert_eq!(domain.active_authority(Kind::X509).await?, prepared);

    // The agent found its way back: it takes new work.
    domain.create_entry("/after", &[]).await?;
    wait::until("the agent serves an entry made after the crash", || async {
        let context = workload.source().x509_context()?;
        ensure!(context.svids().len() == 2, "{} SVIDs", context.svids().len());
        Ok(())
    })
    .await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_issuer_confirmed_is_kept() -> Result<()> {
    let mut domain = Domain::from_plan(entente_tests::plan::Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    let mut confirmed = 0;
    for round in 0..3_u32 {
        // Kill it while entries are being created, at no particular moment.
        let creating = async {
            let mut created = 0_u64;
            while domain.create_entry(&format!("/round/{round}/{created}"), &[]).await.is_ok() {
                created += 1;
            }
            created
        };
        let pid = domain.pid(Service::Issuer)?;
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(u64::from(600 + 333 * round))).await;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        };
        let (created, killed) = tokio::join!(creating, killing);
        killed?;
        confirmed += created;
        domain.restart(Service::Issuer).await?;
        let stored = domain.counts().await?[0].as_u64().unwrap_or_default();
        // One more may have been stored whose confirmation did not arrive.
        ensure!(
            stored >= confirmed && stored <= confirmed + 1 + u64::from(round),
            "{confirmed} entries were confirmed, {stored} are stored"
        );
        confirmed = stored;
    }
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_as_the_same_agent() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    let workload = Workload::join(&domain.endpoint_socket()).await?;
    let agents = domain.issuer_json(&["agent", "list"]).await?;
    for _ in 0..3 {
        domain.kill9(Service::Agent).await?;
        // No new token: it goes on with the identity in its folder.
        domain.restart(Service::Agent).await?;
        let after = domain.issuer_json(&["agent", "list"]).await?;
        assert_eq!(after["agents"][0]["id"], agents["agents"][0]["id"]);
        assert_eq!(after["agents"].as_array().map(Vec::len), Some(1));
    }
    // Watchers connect again by themselves.
    domain.create_entry("/after", &[]).await?;
    wait::until("the watcher sees an entry made after the crash", || async {
        let context = workload.source().x509_context()?;
        ensure!(context.svids().len() == 2, "{} SVIDs", context.svids().len());
        Ok(())
    })
    .await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_serves_from_its_folder_while_the_issuer_is_down() -> Result<()> {
    let mut domain = Domain::start("cloud.example").await?;
    domain.create_entry("/web", &[]).await?;
    let workload = Workload::join(&domain.endpoint_socket()).await?;
    domain.kill9(Service::Issuer).await?;
    // Callers that come now are served from the cache.
    let second = Workload::join(&domain.endpoint_socket()).await?;
    assert_eq!(second.source().svid()?.leaf(), workload.source().svid()?.leaf());
    domain.restart(Service::Issuer).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_goes_on_with_what_it_held() -> Result<()> {
    let mut federation = Federation::start().await?;
    let held = federation.cloud.gateway_json(&["bundle", "list"]).await?;
    federation.cloud.kill9(Service::Gateway).await?;
    federation.cloud.restart(Service::Gateway).await?;
    let after = federation.cloud.gateway_json(&["bundle", "list"]).await?;
    for member in ["trust_domain", "sequence_number"] {
        assert_eq!(held[0][member], after[0][member], "before: {held}, after: {after}");
    }
    federation.in_step().await?;
    // With the partner gone it still has its bundle, and gives it to an issuer that lost nothing either.
    federation.onprem.kill9(Service::Gateway).await?;
    federation.cloud.kill9(Service::Gateway).await?;
    federation.cloud.kill9(Service::Issuer).await?;
    federation.cloud.restart(Service::Issuer).await?;
    federation.cloud.restart(Service::Gateway).await?;
    let wanted = federation.onprem.authorities().await?;
    let kept = federation.cloud.federated_authorities("spiffe://onprem.example").await?;
    ensure!(kept.same_keys(&wanted), "kept {kept:?}, wanted {wanted:?}");
    federation.stop().await
}
