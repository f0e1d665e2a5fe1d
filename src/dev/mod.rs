//! `entente dev`: one trust domain for the user who runs it, up on loopback at once.

mod environment;

use std::path::PathBuf;

use anyhow::{Context, Result};
use federation_specs::id::TrustDomain;
use service_kit::clock::{Clock, SystemClock};

use crate::local::domain::{Domain, Options};
use crate::local::layout::Layout;
use crate::local::ports::Ports;
use crate::local::web_ca;

/// `entente dev`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The trust domain's name.
    #[arg(long = "trust-domain", alias = "trustDomain", default_value = "dev.example", value_name = "NAME")]
    trust_domain: String,
    /// Keep the data in this folder, and use it again next time. Without it everything is temporary.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the agent to the user.
    #[arg(long)]
    no_agent: bool,
    /// Leave the gateway to the user.
    #[arg(long)]
    no_gateway: bool,
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> Result<()> {
    let trust_domain = TrustDomain::parse(&args.trust_domain)
        .with_context(|| format!("--trust-domain {} cannot be a trust domain", args.trust_domain))?;
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("entente-").tempdir()?),
    };
    let folder = match (&args.dir, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => return Ok(()),
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let _lock = service_kit::data_dir::lock(&folder)?;
    let layout = Layout::new(&folder, trust_domain, Ports::remembered(&folder.join("ports.json"))?)?;
    web_ca::ensure(&layout, SystemClock.now())?;

    let mut domain = Domain::new(layout, Options::default())?;
    let interrupted = service_kit::lifecycle::Shutdown::on_signals()?;
    let outcome = tokio::select! {
        outcome = keep_up(&mut domain, &args) => outcome,
        () = interrupted.cancelled() => Ok(()),
    };
    domain.stop().await;
    outcome
}

async fn keep_up(domain: &mut Domain, args: &Args) -> Result<()> {
    domain.start_issuer().await?;
    if !args.no_agent {
        domain.start_agent().await?;
    }
    if !args.no_gateway {
        domain.start_gateway().await?;
    }
    environment::register_user(domain).await?;
    if !args.no_agent {
        environment::wait_for_user(domain).await?;
    }
    environment::write(domain)?;
    environment::print(domain, args.no_agent, args.no_gateway)?;
    loop {
        domain.check()?;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}
