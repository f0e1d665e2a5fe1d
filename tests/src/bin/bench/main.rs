//! `bench`: measures a gateway and says whether it keeps what `docs/benchmarks.md` promises.
//!
//! Run it with `make bench`, or one part of it:
//! `cargo run --profile dist -p entente-tests --bin bench -- bundle-endpoint --url https://partner.example/bundle`.

mod bundle_endpoint;
mod farm;
mod gateway;
mod load;
mod machine;
mod nginx;
mod process;
mod refresh;
mod report;
mod start;

use std::{io::Write as _, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use report::Report;

/// Measures bundle endpoints, refreshing, starting and memory.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Bench {
    #[command(subcommand)]
    part: Part,
    /// A table for people or JSON for machines.
    #[arg(long, global = true, default_value = "table")]
    output: Output,
    /// Ends with 1 when a goal is missed.
    #[arg(long, global = true)]
    check: bool,
    #[command(flatten)]
    pinning: Pinning,
}

/// Which processors work for whom, so that the load does not take time from what is measured.
#[derive(Debug, Clone, Args)]
struct Pinning {
    /// Processors of the servers measured, as `taskset -c` takes them; all but the last one unless given.
    #[arg(long, global = true)]
    server_cpus: Option<String>,
    /// Leave everybody on every processor.
    #[arg(long, global = true)]
    no_pinning: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Bundle requests over TLS, next to nginx or against any URL
    BundleEndpoint(bundle_endpoint::Options),
    /// Thousands of relationships against a farm of partners
    Refresh(refresh::Options),
    /// Time from start to serving with thousands of relationships
    Start(refresh::Options),
    /// Memory of a gateway with two trust domains
    Idle,
    /// Everything, one after the other
    All(refresh::Options),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Says what goes on to whoever watches; results go to standard output alone.
fn note(text: &str) {
    // Nobody may be watching.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn main() -> Result<ExitCode> {
    let bench = Bench::parse();
    entente_tests::install_crypto();
    let processors = machine::Processors::divide(&bench.pinning)?;
    // Threads made from here on inherit the processors of the load.
    processors.take_mine()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(run(bench.part, &processors))?;
    let text = match bench.output {
        Output::Table => report.table(),
        Output::Json => report.json()?,
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if bench.check && report.missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn run(part: Part, processors: &machine::Processors) -> Result<Report> {
    let mut report = Report::new(machine::describe(processors));
    match part {
        Part::BundleEndpoint(options) => bundle_endpoint::run(&options, processors, &mut report).await?,
        Part::Refresh(options) => {
            let scene = refresh::Scene::prepare(&options, processors).await?;
            scene.measure(&options, &mut report).await?.stop().await?;
        }
        Part::Start(options) => {
            let scene = refresh::Scene::prepare(&options, processors).await?;
            start::run(scene, &mut report).await?;
        }
        Part::Idle => start::idle(processors, &mut report).await?,
        Part::All(options) => {
            bundle_endpoint::run(&bundle_endpoint::Options::default(), processors, &mut report).await?;
            let scene = refresh::Scene::prepare(&options, processors).await?;
            let scene = scene.measure(&options, &mut report).await?;
            start::run(scene, &mut report).await?;
            start::idle(processors, &mut report).await?;
        }
    }
    Ok(report)
}
