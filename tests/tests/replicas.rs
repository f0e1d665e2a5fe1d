//! Two gateway processes on one PostgreSQL database: each partner is polled by one of them, and when one is killed the
//! other takes over within seconds. What is stored stays whole.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    binary, cli,
    domain::{Domain, Service, get},
    hostile::authority::Keys,
    partner::{Behaviour, Partner},
    plan::Plan,
    ports,
    process::Process,
    wait,
};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use service_kit::test_postgres::TestDatabase;
use tokio::{process::Command, time::Instant};

/// Partners, enough that both gateways have some.
const PARTNERS: usize = 10;

/// Seconds of the bundles' refresh hint; partners are asked four times as often.
const HINT: u64 = 8;

/// Lease of a gateway that died, and time to notice. Each partner is then asked within its interval.
const TAKEOVER: Duration = Duration::from_secs(10 + 5);

/// One gateway process.
struct Replica {
    name: String,
    socket: PathBuf,
    health: u16,
    process: Process,
}

impl Replica {
    fn start(name: &str, domain: &Domain, database: &TestDatabase) -> Result<Self> {
        let config = domain.write_config(Service::Gateway)?;
        let mut config: Value = serde_json::from_slice(&fs::read(config)?)?;
        let password_file = domain.file("db-password");
        fs::write(&password_file, database.password())?;
        let (socket, health) = (domain.file(&format!("{name}.sock")), ports::free()?);
        config["data_dir"] = json!(domain.file(name));
        config["socket_path"] = json!(socket);
        config["health"]["bind_port"] = json!(health);
        config["listeners"]["https_web"]["bind_port"] = json!(ports::free()?);
        config["listeners"]["https_spiffe"]["bind_port"] = json!(ports::free()?);
        config["datastore"] = json!({
            "postgres": {"url": database.url(), "password_file": password_file, "replica_name": name},
        });
        let path = domain.file(&format!("{name}.yaml"));
        fs::write(&path, config.to_string())?;
        let mut command = Command::new(binary::entente()?);
        command.args(["gateway", "run", "-config"]).arg(path);
        let process = Process::start(name, command, &domain.file(&format!("{name}.log")))?;
        Ok(Self { name: name.to_owned(), socket, health, process })
    }

    async fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let socket = self.socket.display().to_string();
        let arguments = [&["gateway"], arguments, &["-socketPath", &socket, "-output", "json"]].concat();
        cli::entente(&arguments).await?.json()
    }

    async fn relationships(&self) -> Result<Vec<Value>> {
        let list = self.cli(&["relationship", "list"]).await?;
        Ok(list["relationships"].as_array().context("no list")?.clone())
    }

    /// How many relationships it works on, as it says itself.
    async fn share(&self) -> Result<usize> {
        let mine = self.relationships().await?.into_iter().filter(|one| one["replica"] == self.name.as_str());
        Ok(mine.count())
    }

    async fn metric(&self, name: &str) -> Result<String> {
        let (_, text) = get(&format!("http://127.0.0.1:{}/metrics", self.health)).await?;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).with_context(|| text.clone())?;
        Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
    }

    async fn audit_is_whole(&self) -> Result<()> {
        let report = self.cli(&["audit", "verify"]).await?;
        ensure!(report["ok"] == true, "{report}");
        Ok(())
    }
}

/// Two gateways that have divided the work between them.
struct Scene {
    database: TestDatabase,
    partners: Vec<(Keys, Partner)>,
    domain: Domain,
    one: Replica,
    two: Replica,
}

impl Scene {
    async fn start() -> Result<Self> {
        let database = TestDatabase::create();
        let mut plan = Plan::new("cloud.example")?;
        let mut partners = Vec::new();
        for number in 0..PARTNERS {
            let keys = Keys::create(&format!("p{number}.example"))?;
            let partner = Partner::start(plan.web(), Behaviour::Serve(keys.bundle(1, HINT).to_string())).await?;
            plan.relationship(json!({
                "trust_domain": keys.trust_domain(), "url": partner.url(), "profile": "https_web",
                "ca_file": plan.web_ca(),
            }));
            partners.push((keys, partner));
        }
        let mut domain = Domain::from_plan(plan);
        domain.start_issuer().await?;
        let one = Replica::start("one", &domain, &database)?;
        let two = Replica::start("two", &domain, &database)?;

        wait::until("both gateways have their share and know that everything is fetched", || async {
            for replica in [&one, &two] {
                let all = replica.relationships().await?;
                ensure!(all.len() == PARTNERS, "{} of {PARTNERS}", all.len());
                let unwell =
                    all.iter().find(|it| it["health"] != "healthy" || it["deliveries"][0]["delivered"] != true);
                ensure!(unwell.is_none(), "{}: {unwell:?}", replica.name);
            }
            divided(&one, &two).await
        })
        .await?;
        Ok(Self { database, partners, domain, one, two })
    }

    /// Every partner has another bundle from now on.
    fn rotate(&self, sequence: u64) {
        for (keys, partner) in &self.partners {
            partner.behave(Behaviour::Serve(keys.bundle(sequence, HINT).to_string()));
        }
    }
}

async fn divided(one: &Replica, two: &Replica) -> Result<()> {
    let (first, second) = (one.share().await?, two.share().await?);
    ensure!(first > 0 && second > 0 && first + second == PARTNERS, "{first} and {second}");
    Ok(())
}

/// Every partner's bundle of that sequence is in force.
async fn in_force(replica: &Replica, sequence: u64) -> Result<()> {
    let all = replica.relationships().await?;
    let other = all.iter().find(|one| one["held"]["sequence"] != sequence);
    ensure!(other.is_none(), "{other:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_is_replaced_by_the_other() -> Result<()> {
    let Scene { database, partners, domain, mut one, mut two } = Scene::start().await?;

    // Each partner once an interval, not once by each gateway.
    let before: Vec<usize> = partners.iter().map(|(_, partner)| partner.requests()).collect();
    let intervals = 3;
    tokio::time::sleep(Duration::from_secs(HINT / 4 * intervals)).await;
    for ((keys, partner), before) in partners.iter().zip(before) {
        let asked = partner.requests() - before;
        ensure!((1..=5).contains(&asked), "{} was asked {asked} times in {intervals} intervals", keys.trust_domain());
    }

    // The one that dies has no last word.
    let others = two.share().await?;
    one.process.kill9().await?;
    for (keys, partner) in &partners {
        partner.behave(Behaviour::Serve(keys.bundle(2, HINT).to_string()));
    }
    wait::until_within("the other gateway has fetched everything", TAKEOVER + Duration::from_secs(HINT), || async {
        let all = two.relationships().await?;
        let old = all.iter().find(|one| one["held"]["sequence"] != 2 || one["replica"] != "two");
        ensure!(old.is_none(), "{old:?}");
        Ok(())
    })
    .await?;
    let taken = two.metric("entente_gateway_lease_takeovers_total").await?.parse::<f64>()?;
    ensure!(taken > 0.0 && others < PARTNERS, "{taken} parts were taken over");
    ensure!(two.metric("entente_gateway_leases_held").await? == "256", "it has not everything");

    // It comes back, gets its share, and finds what happened meanwhile; the issuers have the new bundles.
    one = Replica::start("one", &domain, &database)?;
    wait::until("the work is divided again", || async {
        let (first, second) = (one.share().await?, two.share().await?);
        ensure!(first > 0 && second > 0 && first + second == PARTNERS, "{first} and {second}");
        Ok(())
    })
    .await?;
    for one in one.relationships().await? {
        ensure!(one["held"]["sequence"] == 2, "{one}");
    }
    for (keys, _) in &partners {
        wait::until("the issuer has the bundle", || async {
            domain.federated_authorities(&format!("spiffe://{}", keys.trust_domain())).await
        })
        .await?;
    }
    one.audit_is_whole().await?;
    two.audit_is_whole().await?;

    // An orderly end hands over at once.
    one.process.stop().await?;
    let stopped = Instant::now();
    wait::until("the other has everything", || async {
        let share = two.share().await?;
        ensure!(share == PARTNERS, "{share}");
        Ok(())
    })
    .await?;
    ensure!(stopped.elapsed() < Duration::from_secs(5), "handed over after {:?}", stopped.elapsed());
    two.process.stop().await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_gateway_has_no_say_when_it_goes_on() -> Result<()> {
    let mut scene = Scene::start().await?;
    let suspended = scene.one.process.pid()?;
    for round in 0..2_u64 {
        let (missed, next) = (2 + 2 * round, 3 + 2 * round);
        kill_process(suspended, Signal::STOP)?;
        scene.rotate(missed);
        wait::until_within("the other gateway has fetched everything", TAKEOVER + Duration::from_secs(HINT), || {
            in_force(&scene.two, missed)
        })
        .await?;
        // What comes now is for whoever has the leases.
        scene.rotate(next);
        kill_process(suspended, Signal::CONT)?;
        for replica in [&scene.one, &scene.two] {
            wait::until("both know the newest bundle", || in_force(replica, next)).await?;
        }
        wait::until("the work is divided again", || divided(&scene.one, &scene.two)).await?;
    }
    for (keys, _) in &scene.partners {
        let subject = keys.trust_domain().to_string();
        let log = scene.one.cli(&["audit", "list", "-subject", &subject]).await?;
        let records = log["records"].as_array().context("no records")?;
        let taken: Vec<&Value> = records
            .iter()
            .map(|entry| &entry["record"])
            .filter(|record| record["what"] == "bundle.accepted")
            .map(|record| &record["after"]["sequence"])
            .collect();
        ensure!(taken == [1, 2, 3, 4, 5], "{subject}: each bundle is accepted once, in order, not {taken:?}");
    }
    scene.one.audit_is_whole().await?;
    scene.one.process.stop().await?;
    scene.two.process.stop().await?;
    scene.domain.stop().await
}
