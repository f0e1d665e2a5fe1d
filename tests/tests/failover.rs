//! A partner with two URLs: the second is asked while the first gives no bundle, and the first again afterwards.

use anyhow::{Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    hostile::authority::Keys,
    partner::{Behaviour, Partner},
    plan::Plan,
    wait,
};
use serde_json::{Value, json};

const PARTNER: &str = "partner.example";

/// Refresh hint of the bundles, in seconds: the gateway asks every second.
const HINT: u64 = 4;

/// A gateway and the two endpoints of its one partner.
struct Scene {
    domain: Domain,
    keys: Keys,
    first: Partner,
    second: Partner,
}

impl Scene {
    async fn start() -> Result<Self> {
        let mut plan = Plan::new("cloud.example")?;
        let keys = Keys::create(PARTNER)?;
        let one = Behaviour::Serve(keys.rotated_bundle(1, HINT).to_string());
        let first = Partner::start(plan.web(), one.clone()).await?;
        let second = Partner::start(plan.web(), one).await?;
        plan.relationship(json!({
            "trust_domain": PARTNER,
            "url": first.url(),
            "failover_urls": [second.url()],
            "profile": "https_web",
            "ca_file": plan.web_ca(),
        }));
        let refresh = json!({"min_interval": "1s", "timeout": "4s", "allow_addresses": ["127.0.0.1"]});
        let mut domain = Domain::from_plan(plan.gateway("refresh", refresh));
        domain.start_issuer().await?;
        domain.start_gateway().await?;
        Ok(Self { domain, keys, first, second })
    }

    fn serve(&self, partner: &Partner, sequence: u64) {
        partner.behave(Behaviour::Serve(self.keys.rotated_bundle(sequence, HINT).to_string()));
    }

    async fn shown(&self) -> Result<Value> {
        self.domain.gateway_json(&["relationship", "show", PARTNER]).await
    }

    /// Waits until this bundle is in force and delivered, from `second` or else from the first one.
    async fn holds(&self, sequence: u64, from_second: bool) -> Result<()> {
        let in_use = if from_second { json!(self.second.url()) } else { Value::Null };
        wait::until(&format!("sequence {sequence} is held, from the second URL: {from_second}"), || async {
            let shown = self.shown().await?;
            ensure!(shown["held"]["sequence"] == sequence && shown["url_in_use"] == in_use, "{shown:#}");
            ensure!(shown["health"] == "healthy" && shown["consecutive_failures"] == 0, "{shown:#}");
            ensure!(shown["last_error"].is_null(), "{shown:#}");
            ensure!(shown["deliveries"][0]["delivered"] == true, "{shown:#}");
            Ok(())
        })
        .await
    }

    /// Waits until `partner` was asked `more` times again.
    async fn asked(&self, partner: &Partner, more: usize) -> Result<()> {
        let before = partner.requests();
        wait::until(&format!("{} is asked {more} times", partner.url()), || async {
            ensure!(partner.requests() >= before + more, "{} times", partner.requests() - before);
            Ok(())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_url_is_asked_while_the_first_gives_no_bundle_and_the_first_again_afterwards() -> Result<()> {
    let mut scene = Scene::start().await?;
    scene.holds(1, false).await?;
    scene.asked(&scene.first, 2).await?;
    ensure!(scene.second.requests() == 0, "the second URL is asked although the first gives a bundle");

    // The first hangs: the relationship stays well, and follows what the second serves.
    scene.first.behave(Behaviour::Silence);
    scene.serve(&scene.second, 2);
    scene.holds(2, true).await?;
    let show = scene.domain.gateway_cli(&["relationship", "show", PARTNER]).await?.ok()?;
    ensure!(show.contains(&format!("Failover URL        : {} (in use)\n", scene.second.url())), "{show}");

    // It answers again. What works is asked for a while yet, and not the first on each refresh.
    scene.serve(&scene.first, 3);
    scene.serve(&scene.second, 3);
    scene.holds(3, true).await?;
    let before = scene.first.requests();
    scene.asked(&scene.second, 3).await?;
    ensure!(scene.first.requests() == before, "the first URL is asked again at once");

    // As soon as the second fails, the same refresh asks the first.
    scene.serve(&scene.first, 4);
    scene.second.behave(Behaviour::Status(503, String::new()));
    scene.holds(4, false).await?;

    // None answers: the bundle stays, and the error names both.
    scene.first.behave(Behaviour::Cut);
    wait::until("the relationship is degraded", || async {
        let shown = scene.shown().await?;
        ensure!(shown["health"] == "degraded" && shown["held"]["sequence"] == 4, "{shown:#}");
        let error = shown["last_error"].as_str().unwrap_or_default();
        ensure!(error.starts_with("none of the 2 URLs of the bundle gives one: "), "{error}");
        ensure!(error.contains(&scene.first.url()) && error.contains("answered 503"), "{error}");
        Ok(())
    })
    .await?;

    // Only the second comes back. A gateway that starts anew begins with the first, which is back by then.
    scene.serve(&scene.second, 5);
    scene.holds(5, true).await?;
    scene.domain.stop_service(Service::Gateway).await?;
    scene.serve(&scene.first, 6);
    scene.serve(&scene.second, 6);
    let before = scene.second.requests();
    scene.domain.start_gateway().await?;
    scene.holds(6, false).await?;
    ensure!(scene.second.requests() == before, "the second URL is asked after the start");
    scene.domain.stop().await
}
