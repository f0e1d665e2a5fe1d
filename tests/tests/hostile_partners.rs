//! One gateway, every partner of the hostile table at once, and good partners beside them: each bad one shows its own
//! error and keeps the bundle accepted before, no good one notices, and the gateway stays small and ends when told to.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use entente_tests::{
    binary::repository,
    domain::{Domain, Service},
    hostile::{
        authority::WebAuthority,
        connection::Connection,
        dns::Dns,
        good::GoodPartners,
        rows::ROWS,
        server::HostilePartner,
        table::{Misbehaviour, Outcome, matches},
    },
    observe::relationships,
    plan::Plan,
    wait,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// Good partners beside the bad ones.
const GOOD_PARTNERS: usize = 100;

/// The gateway's floor, which is the interval of the good partners.
const INTERVAL: Duration = Duration::from_secs(2);

/// The most a good partner's bundle may be behind: four intervals.
const FRESH_WITHIN: Duration = Duration::from_secs(8);

/// How long the good partners are watched while the bad ones misbehave.
const WATCH: Duration = Duration::from_secs(12);

/// How long it may take until each bad one was seen with its own error.
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// The most memory the gateway may take, in kibibytes: twice of what a debug build takes.
const MOST_MEMORY: u64 = 128 * 1024;

/// The most files and connections it may have open: one connection for each partner, and some.
const MOST_FILES: usize = ROWS.len() + GOOD_PARTNERS + 100;

/// How long it may take to end.
const MOST_SHUTDOWN: Duration = Duration::from_secs(3);

fn has_address(partner: &HostilePartner) -> bool {
    partner.row.misbehaviour != Misbehaviour::Connection(Connection::HasNoAddress)
}

/// Waits until every partner that can be reached was fetched: the digests of what is held.
async fn everything_accepted(
    domain: &Domain,
    hostile: &[HostilePartner],
    good: &GoodPartners,
) -> Result<HashMap<String, Value>> {
    wait::until("every bundle was accepted", || async {
        let now = relationships(domain).await?;
        let mut names: Vec<String> =
            hostile.iter().filter(|item| has_address(item)).map(|item| item.row.trust_domain()).collect();
        names.extend(good.trust_domains().map(str::to_owned));
        for name in &names {
            let relationship = now.get(name).with_context(|| format!("no relationship {name}"))?;
            ensure!(relationship["health"] == "healthy", "{relationship:#}");
            ensure!(relationship["deliveries"][0]["delivered"] == true, "{relationship:#}");
        }
        Ok(now.into_iter().map(|(name, relationship)| (name, relationship["held"]["digest"].clone())).collect())
    })
    .await
}

/// Fails if what a partner does has had more effect than it may: a refused bundle in place of the one held, or none of
/// an accepted one.
fn only_its_own(hostile: &[HostilePartner], held: &HashMap<String, Value>, now: &HashMap<String, Value>) -> Result<()> {
    for partner in hostile {
        let name = partner.row.trust_domain();
        let relationship = now.get(&name).with_context(|| format!("no relationship {name}"))?;
        let same = held.get(&name) == Some(&relationship["held"]["digest"]);
        ensure!(same || partner.row.outcome == Outcome::Accepted, "{:?}: {relationship:#}", partner.row);
    }
    Ok(())
}

/// Whether a relationship shows what the table says.
fn as_expected(partner: &HostilePartner, held: &HashMap<String, Value>, relationship: &Value) -> bool {
    match (partner.row.outcome, relationship["last_error"].as_str()) {
        (Outcome::Refused(pattern), Some(error)) => {
            let health = if has_address(partner) { "degraded" } else { "failing" };
            relationship["health"] == health && matches(pattern, partner.url(), error)
        }
        (Outcome::Accepted, None) => {
            let same = held.get(&partner.row.trust_domain()) == Some(&relationship["held"]["digest"]);
            !same && relationship["health"] == "healthy" && relationship["deliveries"][0]["delivered"] == true
        }
        _ => false,
    }
}

/// Resident memory of the gateway in kibibytes, and how many files it has open.
fn resources(domain: &Domain) -> Result<(u64, usize)> {
    let process = format!("/proc/{}", domain.pid(Service::Gateway)?.as_raw_nonzero());
    let status = fs::read_to_string(format!("{process}/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let memory = memory.trim().trim_end_matches(" kB").parse()?;
    Ok((memory, fs::read_dir(format!("{process}/fd"))?.count()))
}

/// What the issuer holds of the partners the gateway has to refuse.
async fn delivered(domain: &Domain, hostile: &[HostilePartner]) -> Result<HashMap<String, Value>> {
    let list = domain.issuer_json(&["bundle", "list"]).await?;
    let bundles = list["bundles"].as_array().context("no bundles")?;
    let refused: Vec<String> = hostile
        .iter()
        .filter(|partner| partner.row.outcome != Outcome::Accepted)
        .map(|partner| partner.row.trust_domain())
        .collect();
    let by_name = bundles.iter().map(|bundle| {
        let name = bundle["trust_domain"].as_str().unwrap_or_default();
        (name.trim_start_matches("spiffe://").to_owned(), bundle.clone())
    });
    Ok(by_name.filter(|(name, _)| refused.contains(name)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn none_touches_the_gateway_or_another_partner() -> Result<()> {
    let mut plan = Plan::new("cloud.example")?;
    let web = WebAuthority::create(&plan.file("partners-ca.pem"))?;
    let good = GoodPartners::start(GOOD_PARTNERS, &web).await?;
    for relationship in good.relationships(&web, &plan.file("."))? {
        plan.relationship(relationship);
    }
    let dns = Arc::new(Dns::start().await?);
    let mut hostile = Vec::new();
    for row in ROWS {
        let partner = HostilePartner::start(row, &web, good.first_keys()?, &dns).await?;
        plan.relationship(partner.relationship(&web, &plan.file("."))?);
        hostile.push(partner);
    }
    let refresh = json!({
        "min_interval": format!("{}s", INTERVAL.as_secs()),
        "max_interval": "4s",
        "timeout": "3s",
        "max_body_bytes": 1 << 20,
        "allow_addresses": ["127.0.0.1"],
        "nameservers": [dns.address()],
    });
    let mut domain = Domain::from_plan(plan.gateway("refresh", refresh).gateway("log_level", json!("info")));
    domain.start_issuer().await?;
    domain.start_gateway().await?;
    let held = everything_accepted(&domain, &hostile, &good).await?;
    let at_issuer = delivered(&domain, &hostile).await?;
    ensure!(at_issuer.len() > ROWS.len() / 2, "the issuer holds {} bundles", at_issuer.len());

    // From here on, every one of them at once.
    hostile.iter().for_each(HostilePartner::misbehave);
    let begin = Instant::now();
    let mut missing: Vec<&HostilePartner> = hostile.iter().collect();
    while !missing.is_empty() || begin.elapsed() < WATCH {
        let now = good.check_fresh(&domain, FRESH_WITHIN).await?;
        only_its_own(&hostile, &held, &now)?;
        // A busy machine may turn another error into a timeout for once.
        missing.retain(|partner| !as_expected(partner, &held, &now[&partner.row.trust_domain()]));
        if begin.elapsed() > MOST_PATIENCE {
            let shown = missing.iter().map(|item| {
                let error = now[&item.row.trust_domain()]["last_error"].to_string().replace(item.url(), "<url>");
                format!("{:?} shows {error}", item.row)
            });
            bail!("{} of {}:\n{}", missing.len(), hostile.len(), shown.collect::<Vec<_>>().join("\n"));
        }
        let (memory, files) = resources(&domain)?;
        ensure!(memory < MOST_MEMORY, "the gateway takes {memory} KiB");
        ensure!(files < MOST_FILES, "the gateway has {files} files open");
        sleep(Duration::from_millis(500)).await;
    }
    ensure!(delivered(&domain, &hostile).await? == at_issuer, "a refused bundle reached the issuer");

    for partner in &hostile {
        ensure!(partner.trapped() == 0, "{:?}: {} forbidden connections", partner.row, partner.trapped());
    }

    // It ends at once although many of them hang, and begins again among them with everything it held.
    let elapsed = domain.stop_service(Service::Gateway).await?;
    ensure!(elapsed < MOST_SHUTDOWN, "the gateway took {elapsed:?} to end");
    domain.start_gateway().await?;
    let stopped = good.sequence();
    wait::until_within("the good ones go on", FRESH_WITHIN, || async {
        let now = good.check_fresh(&domain, FRESH_WITHIN).await?;
        let oldest = good.trust_domains().filter_map(|name| now[name]["held"]["sequence"].as_u64()).min();
        ensure!(oldest > Some(stopped), "{oldest:?} is not after {stopped}");
        only_its_own(&hostile, &held, &now)
    })
    .await?;
    domain.stop().await
}

#[test]
fn every_error_is_explained() -> Result<()> {
    let document = fs::read_to_string(repository().join("docs/partner-errors.md"))?;
    for row in ROWS {
        if let Outcome::Refused(pattern) = row.outcome {
            ensure!(document.contains(&format!("`{pattern}`")), "{row:?} is not in docs/partner-errors.md");
        }
    }
    Ok(())
}

#[test]
fn the_table_is_large_and_says_nothing_twice() {
    let mut names: Vec<String> = ROWS.iter().map(|row| row.trust_domain()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
    assert!(names.len() >= 40);
    assert!(matches("<url> a … b … c", "https://x", "https://x a 1 b 2 b c"));
    assert!(!matches("<url> a …; b", "https://x", "https://x a 1; c"));
    assert!(!matches("a", "", "ab"));
}
