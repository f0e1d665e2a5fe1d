//! `kill -9` of the gateway in a loop, at random moments, while every partner rotates its keys each second: what it
//! accepted stays accepted, nothing it holds is older afterwards, and the audit log stays whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    hostile::{
        authority::WebAuthority,
        good::{GoodPartners, TICK},
    },
    plan::Plan,
    wait,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const ROUNDS: u64 = 15;

const PARTNERS: usize = 16;

/// Between a gateway that is ready and its end: from nothing to two ticks of the partners.
const LONGEST_LIFE: Duration = Duration::from_millis(2200);

/// Bundles of each partner, by sequence number.
type Sequences = BTreeMap<String, BTreeSet<u64>>;

/// A small generator (SplitMix64), so that a seed repeats a run's moments.
struct Moments(u64);

impl Moments {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let millis = u64::try_from(LONGEST_LIFE.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis((mixed ^ (mixed >> 31)) % millis)
    }
}

/// The sequence number of each partner's bundle in force, as the gateway says.
async fn in_force(domain: &Domain) -> Result<BTreeMap<String, u64>> {
    let list = domain.gateway_json(&["relationship", "list"]).await?;
    let list = list["relationships"].as_array().context("no relationships")?;
    let sequence = |item: &Value| {
        Some((item["trust_domain"].as_str()?.to_owned(), item["held"]["sequence"].as_u64().unwrap_or_default()))
    };
    Ok(list.iter().filter_map(sequence).collect())
}

/// The sequence number of each partner's bundle at the issuer: it is the ID of the JWT authority.
async fn at_issuer(domain: &Domain) -> Result<BTreeMap<String, u64>> {
    let list = domain.issuer_json(&["bundle", "list"]).await?;
    let bundles = list["bundles"].as_array().context("no bundles")?;
    let sequence = |bundle: &Value| {
        let name = bundle["trust_domain"].as_str()?.trim_start_matches("spiffe://").to_owned();
        Some((name, bundle["jwt_authorities"][0]["key_id"].as_str()?.parse().ok()?))
    };
    Ok(bundles.iter().filter_map(sequence).collect())
}

/// Everything the gateway says it accepted of a partner.
async fn history(domain: &Domain, partner: &str) -> Result<BTreeSet<u64>> {
    let history = domain.gateway_json(&["bundle", "history", partner]).await?;
    let bundles = history["bundles"].as_array().context("no history")?;
    Ok(bundles.iter().filter_map(|bundle| bundle["sequence"].as_u64()).collect())
}

/// Adds what was seen in force or delivered; both were accepted.
fn remember(accepted: &mut Sequences, seen: BTreeMap<String, u64>) {
    for (partner, sequence) in seen.into_iter().filter(|(_, sequence)| *sequence > 0) {
        accepted.entry(partner).or_default().insert(sequence);
    }
}

/// Watches until the gateway is gone.
async fn watch(domain: &Domain, accepted: &mut Sequences) {
    while let Ok(seen) = in_force(domain).await {
        remember(accepted, seen);
    }
}

/// Fails unless everything accepted before is in the history, and nothing older than its newest is in force.
async fn nothing_is_lost(domain: &Domain, accepted: &Sequences) -> Result<()> {
    let now = in_force(domain).await?;
    ensure!(now.len() == PARTNERS, "{} relationships", now.len());
    for (partner, sequences) in accepted {
        let newest = sequences.last().copied().unwrap_or_default();
        ensure!(now[partner] >= newest, "{partner}: {newest} was accepted, {} is in force", now[partner]);
        let history = history(domain, partner).await?;
        let lost: Vec<_> = sequences.difference(&history).collect();
        ensure!(lost.is_empty(), "{partner}: accepted and lost: {lost:?}; the history has {history:?}");
        ensure!(history.last() == Some(&now[partner]), "{partner}: {history:?}, in force {}", now[partner]);
    }
    Ok(())
}

/// The hash at the head of the audit log, which must be whole and go on from `before`.
async fn audit_head(domain: &Domain, before: Option<&str>) -> Result<String> {
    let mut arguments = vec!["audit", "verify"];
    arguments.extend(before.into_iter().flat_map(|head| ["-head", head]));
    let report = domain.gateway_json(&arguments).await?;
    ensure!(report["ok"] == true, "{report:#}");
    Ok(report["head"].as_str().context("no head")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_however_often_the_gateway_is_killed() -> Result<()> {
    let seed = match std::env::var("ENTENTE_SEED") {
        Ok(text) => text.parse().context("ENTENTE_SEED is no number")?,
        Err(_) => u64::from(std::process::id()),
    };
    eprintln!("ENTENTE_SEED={seed} repeats the moments of this run");
    let mut moments = Moments(seed);
    let mut plan = Plan::new("cloud.example")?;
    let web = WebAuthority::create(&plan.file("partners-ca.pem"))?;
    let partners = GoodPartners::start_rotating(PARTNERS, &web).await?;
    for relationship in partners.relationships(&web, &plan.file("."))? {
        plan.relationship(relationship);
    }
    let refresh = json!({
        "min_interval": "1s", "max_interval": "1s", "timeout": "3s", "allow_addresses": ["127.0.0.0/8"],
    });
    let mut domain = Domain::from_plan(plan.gateway("refresh", refresh).gateway("log_level", json!("info")));
    domain.start_issuer().await?;
    domain.start_gateway().await?;

    let (mut accepted, mut head) = (Sequences::new(), None);
    let begin = Instant::now();
    for round in 1..=ROUNDS {
        let life = moments.next();
        let pid = domain.pid(Service::Gateway)?;
        let kill = async {
            sleep(life).await;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        };
        let (killed, ()) = tokio::join!(kill, watch(&domain, &mut accepted));
        killed?;
        domain.kill9(Service::Gateway).await.context("it is killed already")?;
        // Delivered is accepted, even if nobody saw it in force.
        remember(&mut accepted, at_issuer(&domain).await?);

        // With all partners away it can only have what it stored.
        partners.away(true);
        domain.restart(Service::Gateway).await?;
        let context = || format!("round {round}, killed after {life:?}, seed {seed}");
        nothing_is_lost(&domain, &accepted).await.with_context(context)?;
        head = Some(audit_head(&domain, head.as_deref()).await.with_context(context)?);
        partners.away(false);
    }
    let count: usize = accepted.values().map(BTreeSet::len).sum();
    eprintln!("{ROUNDS} rounds in {:?}; {count} bundles were seen accepted", begin.elapsed());
    ensure!(count > PARTNERS * 4, "only {count} bundles were seen, so little was tested");

    // It goes on as if nothing had happened.
    let from = partners.sequence();
    wait::until_within("every partner's bundle is fresh at the issuer", 20 * TICK, || async {
        let delivered = at_issuer(&domain).await?;
        let behind = delivered.iter().find(|(_, sequence)| **sequence < from);
        ensure!(delivered.len() == PARTNERS && behind.is_none(), "{behind:?} is behind {from}");
        Ok(())
    })
    .await?;
    audit_head(&domain, head.as_deref()).await?;
    domain.stop().await
}
