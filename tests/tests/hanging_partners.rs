//! Hundreds of partners that take connections and never answer, beside good ones: none of those is refreshed late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use entente_tests::{
    domain::Domain,
    hostile::{authority::WebAuthority, good::GoodPartners},
    observe::relationships,
    plan::Plan,
    wait,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

/// More than the gateway fetches from at the same time among partners that answered last time (512). With fewer there
/// would be a place for everybody, however long those that hang keep theirs.
const HANGING: usize = 600;

const GOOD: usize = 30;

/// How long the gateway waits for one that hangs; if these kept their places, the good ones would wait as long.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The most a good partner's bundle may be behind, which is refreshed every two seconds.
const FRESH_WITHIN: Duration = Duration::from_secs(10);

/// How long the good ones are watched.
const WATCH: Duration = Duration::from_secs(10);

/// Takes connections and answers none.
struct Hanging {
    port: u16,
    taken: Arc<AtomicUsize>,
}

impl Hanging {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.push(connection);
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self { port, taken })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partners_that_hang_do_not_keep_the_others_waiting() -> Result<()> {
    let mut plan = Plan::new("cloud.example")?;
    let web = WebAuthority::create(&plan.file("partners-ca.pem"))?;
    let good = GoodPartners::start(GOOD, &web).await?;
    for relationship in good.relationships(&web, &plan.file("."))? {
        plan.relationship(relationship);
    }
    let hanging = Hanging::start().await?;
    for index in 0..HANGING {
        plan.relationship(json!({
            "trust_domain": format!("hangs-{index}.example"),
            "url": format!("https://127.0.0.1:{}/{index}", hanging.port),
            "profile": "https_web",
        }));
    }
    let refresh = json!({
        "min_interval": "2s",
        "max_interval": "2s",
        "timeout": format!("{}s", TIMEOUT.as_secs()),
        "allow_addresses": ["127.0.0.1"],
    });
    let mut domain = Domain::from_plan(plan.gateway("refresh", refresh).gateway("log_level", json!("info")));
    domain.start_issuer().await?;
    domain.start_gateway().await?;
    wait::until("every good partner's bundle is held", || good.check_fresh(&domain, FRESH_WITHIN)).await?;

    let begin = Instant::now();
    let mut all_since = None;
    while all_since.is_none_or(|since: Instant| since.elapsed() < WATCH) {
        good.check_fresh(&domain, FRESH_WITHIN).await?;
        let taken = hanging.taken.load(Ordering::SeqCst);
        if taken >= HANGING {
            all_since.get_or_insert_with(Instant::now);
        }
        // All of them hang at the same time, on their first attempt.
        ensure!(begin.elapsed() < TIMEOUT / 2, "{taken} connections after {:?}", begin.elapsed());
        sleep(Duration::from_millis(500)).await;
    }
    let now = relationships(&domain).await?;
    let tried = now.iter().filter(|(name, one)| name.starts_with("hangs-") && one["health"] == "pending").count();
    ensure!(tried == HANGING, "{tried} of {HANGING} hang in their first attempt");

    // Nor do they keep the gateway from ending.
    domain.stop().await
}
