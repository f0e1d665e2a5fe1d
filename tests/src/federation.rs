//! Two trust domains that federate.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{domain::Domain, plan::Plan, wait};

/// `cloud.example` and `onprem.example`: cloud fetches onprem's bundle over `https_spiffe`, onprem fetches cloud's over
/// `https_web` with the CA configured for that relationship.
#[derive(Debug)]
pub struct Federation {
    /// `cloud.example`.
    pub cloud: Domain,
    /// `onprem.example`.
    pub onprem: Domain,
}

impl Federation {
    /// Starts both with the ordinary configuration and waits until each issuer holds the other's bundle.
    pub async fn start() -> Result<Self> {
        Self::start_with(Plan::new("cloud.example")?, Plan::new("onprem.example")?).await
    }

    /// The same from plans of one's own.
    pub async fn start_with(mut cloud: Plan, mut onprem: Plan) -> Result<Self> {
        cloud.relationship(json!({
            "trust_domain": onprem.name,
            "url": onprem.bundle_url_spiffe(),
            "profile": "https_spiffe",
            "endpoint_spiffe_id": onprem.endpoint_id(),
            "bootstrap_bundle_file": onprem.file("bundle.json"),
        }));
        onprem.relationship(json!({
            "trust_domain": cloud.name,
            "url": cloud.bundle_url_web(),
            "profile": "https_web",
            "ca_file": cloud.web_ca(),
        }));
        let mut federation = Self { cloud: Domain::from_plan(cloud), onprem: Domain::from_plan(onprem) };
        // Both bundles must lie there before a gateway reads the bootstrap file.
        federation.cloud.start_issuer().await?;
        federation.onprem.start_issuer().await?;
        for domain in [&mut federation.cloud, &mut federation.onprem] {
            domain.start_agent().await?;
            domain.start_gateway().await?;
        }
        federation.in_step().await?;
        Ok(federation)
    }

    /// Waits until each issuer holds exactly the authorities the other has now.
    pub async fn in_step(&self) -> Result<()> {
        follows(&self.cloud, &self.onprem).await?;
        follows(&self.onprem, &self.cloud).await
    }

    /// Entries `/web` on both sides that federate with each other.
    pub async fn create_entries(&self) -> Result<()> {
        self.cloud.create_entry("/web", &["-federatesWith", &self.onprem.id("")]).await?;
        self.onprem.create_entry("/web", &["-federatesWith", &self.cloud.id("")]).await?;
        Ok(())
    }

    /// Stops everything politely.
    pub async fn stop(self) -> Result<()> {
        self.cloud.stop().await?;
        self.onprem.stop().await
    }
}

/// Waits until `follower`'s issuer holds exactly the authorities `leader` has now.
pub async fn follows(follower: &Domain, leader: &Domain) -> Result<()> {
    let what = format!("{} holds the bundle of {}", follower.name(), leader.name());
    wait::until(&what, || async {
        let wanted = leader.authorities().await?;
        let held = follower.federated_authorities(&leader.id("")).await?;
        ensure!(held.same_keys(&wanted), "held: {held:?}, wanted: {wanted:?}");
        Ok(())
    })
    .await
}
