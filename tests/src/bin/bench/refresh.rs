//! Thousands of relationships refreshed against a farm of partners on this machine.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use entente_tests::cli;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    farm::{Behaviour, Farm},
    gateway::{Running, Setup},
    machine::Processors,
    note, process,
    report::{Goal, Report},
};

const PART: &str = "refresh";

/// Where Linux distributions keep the system's certificate authorities.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Promised: memory in megabytes and lag in seconds, with 10,000 relationships.
const MOST_MEGABYTES: f64 = 200.0;
const MOST_LAG: f64 = 1.0;

/// The gateway asks this many times within one refresh hint.
const POLLS_PER_HINT: u64 = 4;

/// How long it may take until every bundle was fetched once.
const FILL_PATIENCE: Duration = Duration::from_secs(900);

/// Rest between filling and measuring.
const REST: Duration = Duration::from_secs(3);

/// How many there are and what they do.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Relationships.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) relationships: usize,
    /// Seconds between two refreshes of one relationship; their bundles ask for that.
    #[arg(long, default_value_t = 60)]
    interval: u64,
    /// Seconds of the measurement; long enough for every relationship to be refreshed once unless given.
    #[arg(long)]
    seconds: Option<u64>,
    /// Share of refreshes that find a new bundle.
    #[arg(long, default_value_t = 0.01)]
    changing: f64,
    /// Share of partners that take connections and never answer.
    #[arg(long, default_value_t = 0.01)]
    hanging: f64,
}

/// A farm, and a gateway that fetched every bundle once.
pub(crate) struct Scene {
    pub(crate) farm: Farm,
    pub(crate) setup: Setup,
    pub(crate) gateway: Running,
    /// Relationships.
    pub(crate) count: usize,
    /// How long it took to fetch, accept and deliver all of them.
    filled: Duration,
}

impl Scene {
    /// Starts everything and waits until every bundle was accepted and delivered.
    pub(crate) async fn prepare(options: &Options, processors: &Processors) -> Result<Self> {
        ensure!(options.interval > 0, "--interval must be at least 1");
        for share in [options.changing, options.hanging] {
            ensure!((0.0..=1.0).contains(&share), "shares lie between 0 and 1");
        }
        let mut setup = Setup::new(&["bench.example"], processors)?;
        setup.start_issuer().await?;
        note(&format!("making {} partners", options.relationships));
        let behaviour = Behaviour {
            refresh_hint: options.interval * POLLS_PER_HINT,
            changing: options.changing,
            hanging: options.hanging,
        };
        let ca_file = setup.file("partners-ca.pem");
        let farm = Farm::start(options.relationships, behaviour, &ca_file).await?;
        setup.set("relationships", farm.relationships(&setup.file("bootstrap"))?.into());
        setup.set("refresh", json!({ "min_interval": "1s", "timeout": "30s", "allow_addresses": ["127.0.0.0/8"] }));
        // Warnings about partners that hang are wanted, a line for each delivery is not.
        setup.set("log_level", json!("warn"));
        // The system's authorities and the farm's: what a gateway with partners on the web works with.
        let mut authorities = std::fs::read(&ca_file)?;
        if let Some(system) = SYSTEM_AUTHORITIES.iter().find_map(|path| std::fs::read(path).ok()) {
            authorities.extend(system);
        }
        let authorities_file = setup.file("authorities.pem");
        std::fs::write(&authorities_file, authorities)?;
        setup.environment("SSL_CERT_FILE", authorities_file);
        note("starting the gateway, which fetches every bundle");
        let begin = Instant::now();
        let gateway = setup.start().await?;
        let mut scene = Self { farm, setup, gateway, count: options.relationships, filled: Duration::ZERO };
        scene.fill(begin).await?;
        Ok(scene)
    }

    async fn fill(&mut self, begin: Instant) -> Result<()> {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ensure!(begin.elapsed() < FILL_PATIENCE, "not every bundle was fetched within {FILL_PATIENCE:?}");
            if self.farm.asked() < self.farm.answering() {
                continue;
            }
            let list = self.list().await?;
            let delivered = |one: &&Value| one["deliveries"][0]["delivered"] == true && one["last_error"].is_null();
            let held = list.iter().filter(delivered).count();
            if held >= self.farm.answering() {
                break;
            }
        }
        self.filled = begin.elapsed();
        Ok(())
    }

    /// Every relationship as the gateway shows it.
    async fn list(&self) -> Result<Vec<Value>> {
        let socket = self.setup.socket().display().to_string();
        let arguments = ["gateway", "relationship", "list", "-socketPath", &socket, "-output", "json"];
        let mut answer = cli::entente(&arguments).await?.json()?;
        match answer["relationships"].take() {
            Value::Array(list) => Ok(list),
            _ => anyhow::bail!("the gateway lists no relationships"),
        }
    }

    /// Measures refreshing.
    pub(crate) async fn measure(self, options: &Options, report: &mut Report) -> Result<Self> {
        let pid = self.gateway.pid()?;
        report.add(
            PART,
            format!("{} bundles fetched, accepted and delivered", self.count),
            self.filled.as_secs_f64(),
            "s",
            Goal::None,
        );
        tokio::time::sleep(REST).await;
        self.farm.change();
        let due = self.due().await?;
        let since = now();
        // Every one is due within its interval and a tenth.
        let seconds = options.seconds.unwrap_or(options.interval * 11 / 10 + 5);
        note(&format!("{PART}: measuring for {seconds} s"));
        let (answers, connections, changes) = (self.farm.answers(), self.farm.connections(), self.farm.changes());
        let (begin, used) = (Instant::now(), process::processor_time(pid)?);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let used = process::processor_time(pid)?.saturating_sub(used).as_secs_f64();
        let elapsed = begin.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = |now: u64, before: u64| (now - before) as f64;
        let refreshes = count(self.farm.answers(), answers);
        ensure!(refreshes > 0.0, "nothing was refreshed; measure for longer than the interval");
        let memory = process::memory(pid)?;
        let lag = self.lags(&due, since);
        report.add(PART, "refreshes a second", refreshes / elapsed, "/s", Goal::None);
        report.add(PART, "processor time of 1,000 refreshes", used / refreshes * 1000.0, "s", Goal::None);
        let fresh = count(self.farm.connections(), connections);
        report.add(PART, "connections of 1,000 refreshes", fresh / refreshes * 1000.0, "", Goal::None);
        let new = count(self.farm.changes(), changes);
        report.add(PART, "new bundles of 1,000 refreshes", new / refreshes * 1000.0, "", Goal::None);
        report.add(PART, "memory", process::megabytes(memory.resident), "MB", Goal::Below(MOST_MEGABYTES));
        report.add(PART, "most memory since the start", process::megabytes(memory.peak), "MB", Goal::None);
        report.add(PART, "worst lag beyond schedule", lag.worst, "s", Goal::Below(MOST_LAG));
        report.add(PART, "lag of 99 of 100", lag.most, "s", Goal::None);
        report.add(PART, "median lag", lag.median, "s", Goal::None);
        report.add(PART, "relationships seen refreshed", lag.count, "", Goal::None);
        let scrape = Instant::now();
        let length = self.setup.metrics().await?.len();
        report.add(PART, "one scrape of the metrics", scrape.elapsed().as_secs_f64(), "s", Goal::None);
        let list = Instant::now();
        let listed = self.list().await?.len();
        report.add(PART, "one `relationship list`", list.elapsed().as_secs_f64(), "s", Goal::None);
        report.note(format!(
            "{PART}: {listed} relationships listed, half with each profile, every {} s; {:.1} % of refreshes find a new bundle, \
             {:.1} % of partners hang; {length} bytes of metrics.",
            options.interval,
            options.changing * 100.0,
            options.hanging * 100.0,
        ));
        Ok(self)
    }

    /// When each relationship is due next, as the gateway says.
    async fn due(&self) -> Result<HashMap<String, SystemTime>> {
        let mut due = HashMap::new();
        for one in self.list().await? {
            let (Some(name), Some(next)) = (one["trust_domain"].as_str(), one["next_refresh"].as_str()) else {
                continue;
            };
            due.insert(name.to_owned(), parse_time(next).with_context(|| format!("`{next}` is no time"))?);
        }
        Ok(due)
    }

    /// How much later than due each was asked first after `since`.
    fn lags(&self, due: &HashMap<String, SystemTime>, since: SystemTime) -> Lags {
        let asked = self.farm.first_asked_after(since);
        let mut lags: Vec<f64> = due
            .iter()
            .filter(|(_, due)| **due >= since)
            .filter_map(|(name, due)| Some(asked.get(name)?.duration_since(*due).unwrap_or_default().as_secs_f64()))
            .collect();
        lags.sort_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = lags.len() as f64;
        let at = |index: usize| lags.get(index).copied().unwrap_or_default();
        Lags {
            worst: at(lags.len().saturating_sub(1)),
            most: at(lags.len() * 99 / 100),
            median: at(lags.len() / 2),
            count,
        }
    }

    /// Ends everything.
    pub(crate) async fn stop(self) -> Result<()> {
        self.gateway.stop().await?;
        self.setup.stop().await
    }
}

struct Lags {
    worst: f64,
    most: f64,
    median: f64,
    count: f64,
}

/// An RFC 3339 time, as the gateway writes them.
fn parse_time(text: &str) -> Option<SystemTime> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    Some(time.into())
}

#[expect(clippy::disallowed_methods, reason = "compared with the times the gateway shows")]
fn now() -> SystemTime {
    SystemTime::now()
}
