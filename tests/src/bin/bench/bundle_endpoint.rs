//! Bundle requests over TLS: how many a second, how many in a second of a processor, how long each takes.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    gateway::Setup,
    load::{self, Mode, Target},
    machine::Processors,
    nginx::Nginx,
    note, process,
    report::{Goal, Report},
};

const PART: &str = "bundle-endpoint";

/// What the gateway is promised to reach of nginx's answers in a second of a processor.
const LEAST_RATIO: f64 = 0.8;

const WARM_UP: Duration = Duration::from_secs(1);

const MODES: [Mode; 3] = [Mode::KeepAlive, Mode::Handshake, Mode::Resumption];

/// What is asked, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The bundle endpoint to measure, ours or anybody's that agrees to it; without it a gateway is started here, and
    /// nginx with the same document and certificate.
    #[arg(long)]
    url: Option<String>,
    /// Process ids of the server at `--url`, if it runs on this machine, for its processor time.
    #[arg(long, requires = "url", value_delimiter = ',')]
    pid: Vec<i32>,
    /// Clients at the same time.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each server is measured; they take turns, and the best of each counts, because whatever else the
    /// machine does can only make one worse.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { url: None, pid: Vec::new(), clients: 32, seconds: 5, rounds: 3 }
    }
}

/// One server.
struct Server {
    name: &'static str,
    target: Target,
    pids: Vec<i32>,
}

/// The best round of one server.
#[derive(Debug, Default, Clone)]
struct Best {
    /// Answers in a second.
    rate: f64,
    /// Answers in a second of the server's processor time.
    per_processor: Option<f64>,
    median: f64,
    p99: f64,
    resumed: f64,
}

/// Measures.
pub(crate) async fn run(options: &Options, processors: &Processors, report: &mut Report) -> Result<()> {
    ensure!(options.clients > 0 && options.seconds > 0 && options.rounds > 0, "nothing to measure");
    if let Some(url) = &options.url {
        let server = Server { name: "server", target: Target::resolve(url).await?, pids: options.pid.clone() };
        let bytes = server.target.fetch().await?.len();
        report.note(format!("{PART}: {url}, {bytes} bytes, {} clients.", options.clients));
        for mode in MODES {
            let best = rounds(std::slice::from_ref(&server), mode, options).await?;
            best.iter().for_each(|best| show(server.name, mode, best, report));
        }
        return Ok(());
    }
    let setup = Setup::new(&["bench.example"], processors)?;
    let gateway = setup.start().await?;
    let target = Target::resolve(&setup.bundle_url()).await?;
    let document = target.fetch().await?;
    let nginx = Nginx::start(&setup.file("nginx"), setup.web(), &document, processors).await?;
    let other = Target::resolve(&nginx.url()).await?;
    ensure!(other.fetch().await? == document, "nginx serves something else");
    report.note(format!("{PART}: {} bytes, {} clients, TLS 1.3.", document.len(), options.clients));
    let servers = [
        Server { name: "gateway", target, pids: vec![gateway.pid()?] },
        Server { name: "nginx", target: other, pids: nginx.workers()? },
    ];
    for mode in MODES {
        let best = rounds(&servers, mode, options).await?;
        for (server, best) in servers.iter().zip(&best) {
            show(server.name, mode, best, report);
        }
        if let [ours, theirs] = best.as_slice()
            && let (Some(ours), Some(theirs)) = (ours.per_processor, theirs.per_processor)
        {
            report.add(
                PART,
                format!("{}: gateway / nginx", mode.word()),
                ours / theirs,
                "x",
                Goal::AtLeast(LEAST_RATIO),
            );
        }
    }
    nginx.stop().await?;
    gateway.stop().await?;
    Ok(())
}

fn show(name: &str, mode: Mode, best: &Best, report: &mut Report) {
    let what = |what: &str| format!("{}: {name}, {what}", mode.word());
    report.add(PART, what("answers a second"), best.rate, "/s", Goal::None);
    if let Some(rate) = best.per_processor {
        report.add(PART, what("answers a second of processor time"), rate, "/s", Goal::None);
    }
    report.add(PART, what("median"), best.median, "ms", Goal::None);
    report.add(PART, what("99 of 100 within"), best.p99, "ms", Goal::None);
    if mode == Mode::Resumption {
        report.add(PART, what("sessions resumed"), best.resumed * 100.0, "%", Goal::None);
    }
}

/// Every server in turn, as often as asked: the best of each.
async fn rounds(servers: &[Server], mode: Mode, options: &Options) -> Result<Vec<Best>> {
    let mut best = vec![Best::default(); servers.len()];
    for round in 1..=options.rounds {
        for (server, best) in servers.iter().zip(&mut best) {
            note(&format!("{PART}: {}, {}, round {round} of {}", server.name, mode.word(), options.rounds));
            let now = measure(server, mode, options).await?;
            let better = match (now.per_processor, best.per_processor) {
                (Some(now), Some(before)) => now > before,
                _ => now.rate > best.rate,
            };
            if better {
                *best = now;
            }
        }
    }
    Ok(best)
}

async fn measure(server: &Server, mode: Mode, options: &Options) -> Result<Best> {
    let mut marks = Vec::new();
    let time = Duration::from_secs(options.seconds);
    let mark = || {
        marks.push(process::processor_times(&server.pids)?);
        Ok(())
    };
    let seen = load::run(&server.target, mode, options.clients, WARM_UP, time, mark).await?;
    let share = u64::try_from(seen.latencies.len())?.max(1);
    ensure!(
        seen.failures * 100 <= share,
        "{} of {share} requests failed, the first one: {}",
        seen.failures,
        seen.first_failure.unwrap_or_default()
    );
    let used = match marks.as_slice() {
        [begin, end] => end.saturating_sub(*begin).as_secs_f64(),
        _ => 0.0,
    };
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (answers, resumed) = (seen.answers as f64, seen.resumed as f64);
    Ok(Best {
        rate: answers / seen.elapsed.as_secs_f64(),
        per_processor: (used > 0.0).then(|| answers / used),
        median: seen.percentile(0.5),
        p99: seen.percentile(0.99),
        resumed: (resumed / answers).min(1.0),
    })
}
