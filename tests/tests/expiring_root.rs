//! A partner whose root expires while it goes on serving it: the list says so before and afterwards.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    documented::documented,
    domain::Domain,
    hostile::authority::Keys,
    observe::relationships,
    partner::{Behaviour, Partner},
    plan::Plan,
    wait,
};
use serde_json::Value;
use time::OffsetDateTime;

/// How long the roots that expire are good: long enough to be accepted, on a busy machine too.
const LIFE: Duration = Duration::from_secs(20);

/// Publishes one root that expires, with nothing beside it.
const EXPIRING: &str = "expiring.example";

/// Publishes another one beside it.
const ROTATING: &str = "rotating.example";

#[expect(clippy::disallowed_methods, reason = "certificates expire by the clock of the gateway's process")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn short_lived(trust_domain: &str) -> Result<Keys> {
    Keys::create_with(trust_domain, |root| {
        root.not_before = now() - Duration::from_secs(60);
        root.not_after = now() + LIFE;
    })
}

/// The rows of `relationship list` by trust domain, each by the column's name.
async fn rows(domain: &Domain, flags: &[&str]) -> Result<HashMap<String, HashMap<String, String>>> {
    let arguments: Vec<&str> = ["relationship", "list"].into_iter().chain(flags.iter().copied()).collect();
    let list = domain.gateway_cli(&arguments).await?.ok()?;
    let mut lines = list.lines().map(cells);
    let header = lines.next().context("an empty list")?;
    let rows = lines.map(|cells| header.iter().cloned().zip(cells).collect::<HashMap<_, _>>());
    Ok(rows.map(|row| (row.get("TRUST DOMAIN").cloned().unwrap_or_default(), row)).collect())
}

fn cells(line: &str) -> Vec<String> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_expires_is_told_before_and_afterwards() -> Result<()> {
    let plan = Plan::new("cloud.example")?;
    let web = plan.web().clone();
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    domain.start_gateway().await?;

    let (expiring, rotating) = (short_lived(EXPIRING)?, short_lived(ROTATING)?);
    let next = Keys::create(ROTATING)?;
    let mut both = rotating.bundle(1, 4);
    both["keys"].as_array_mut().context("no keys")?.push(next.root_jwk());
    let partners = [(EXPIRING, expiring.bundle(1, 4)), (ROTATING, both)];
    let mut endpoints = Vec::new();
    for (name, bundle) in partners {
        let endpoint = Partner::start(&web, Behaviour::Serve(bundle.to_string())).await?;
        let ca = web.ca.display().to_string();
        let flags =
            ["-trustDomain", name, "-bundleEndpointURL", &endpoint.url(), "-bundleEndpointProfile", "https_web"];
        let arguments: Vec<&str> = ["relationship", "create", "-caPath", &ca].into_iter().chain(flags).collect();
        domain.gateway_cli(&arguments).await?.ok()?;
        endpoints.push(endpoint);
    }

    // Before: nothing is wrong, and the list says how long that will be so.
    let healthy = |one: &Value| one["health"] == "healthy" && one["last_error"].is_null();
    wait::until("both bundles are held", || async {
        let now = relationships(&domain).await?;
        for name in [EXPIRING, ROTATING] {
            let one = now.get(name).with_context(|| format!("no {name}"))?;
            let left = one["first_expiry_seconds"].as_i64().unwrap_or_default();
            ensure!(healthy(one) && (1..=20).contains(&left), "{one:#}");
        }
        Ok(())
    })
    .await?;
    for (name, row) in rows(&domain, &[]).await? {
        let seconds = row["EXPIRES IN"].strip_suffix('s').and_then(|left| left.parse::<i64>().ok());
        ensure!(seconds.is_some_and(|left| left <= 20) && row["LAST ERROR"] == "-", "{name}: {row:?}");
    }

    // Afterwards: the partner answers as before, and nobody of it can be verified.
    let note = documented("every X.509 authority of the bundle held has expired, the last one at ")?;
    wait::until("the root has expired", || async {
        let now = relationships(&domain).await?;
        let one = &now[EXPIRING];
        ensure!(one["health"] == "degraded" && one["first_expiry_seconds"].as_i64() < Some(0), "{one:#}");
        ensure!(one["last_error"].as_str().is_some_and(|error| error.starts_with(note)), "{one:#}");
        Ok(())
    })
    .await?;
    let (asked, before) = (endpoints[0].requests(), relationships(&domain).await?);
    wait::until("the partner is asked again", || async {
        ensure!(endpoints[0].requests() > asked + 1, "not yet");
        let one = &relationships(&domain).await?[EXPIRING];
        ensure!(one["last_success"] != before[EXPIRING]["last_success"], "{one:#}");
        ensure!(one["consecutive_failures"] == 0 && one["health"] == "degraded", "{one:#}");
        Ok(())
    })
    .await?;
    let all = rows(&domain, &[]).await?;
    let (bad, good) = (&all[EXPIRING], &all[ROTATING]);
    ensure!(bad["HEALTH"] == "degraded" && bad["FAILURES"] == "0", "{bad:?}");
    ensure!(bad["EXPIRES IN"].starts_with('-') && bad["LAST ERROR"].starts_with(note), "{bad:?}");
    // With another root beside it an expired one is only shown.
    ensure!(good["HEALTH"] == "healthy" && good["LAST ERROR"] == "-", "{good:?}");
    ensure!(good["EXPIRES IN"].starts_with('-'), "{good:?}");
    let degraded: Vec<String> = rows(&domain, &["-health", "degraded"]).await?.into_keys().collect();
    assert_eq!(degraded, [EXPIRING]);
    let show = domain.gateway_cli(&["relationship", "show", EXPIRING]).await?.ok()?;
    ensure!(show.contains(&format!("Last error          : {note}")), "{show}");

    // The partner publishes its present root.
    endpoints[0].behave(Behaviour::Serve(Keys::create(EXPIRING)?.bundle(2, 4).to_string()));
    wait::until("all is well again", || async {
        let one = &relationships(&domain).await?[EXPIRING];
        ensure!(healthy(one) && one["held"]["sequence"] == 2, "{one:#}");
        Ok(())
    })
    .await?;
    domain.stop().await
}
