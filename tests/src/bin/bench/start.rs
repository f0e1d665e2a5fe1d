//! Starting with thousands of relationships, and doing nothing with two trust domains.

use std::time::Duration;

use anyhow::Result;

use super::{
    gateway::Setup,
    machine::Processors,
    process,
    refresh::Scene,
    report::{Goal, Report},
};

/// Promised: seconds until a bundle is served, with 10,000 relationships.
const MOST_SECONDS: f64 = 3.0;

/// Promised: megabytes of a gateway with two trust domains.
const MOST_MEGABYTES: f64 = 20.0;

/// How often it is started; the median counts.
const STARTS: usize = 3;

/// How long an idle gateway is left alone.
const IDLE: Duration = Duration::from_secs(10);

/// Starts the gateway of `scene` again from what it stored.
pub(crate) async fn run(scene: Scene, report: &mut Report) -> Result<()> {
    const PART: &str = "start";
    let Scene { farm, setup, gateway, count, .. } = scene;
    let stopped = gateway.stop().await?;
    report.add(PART, format!("orderly end with {count} relationships"), stopped.as_secs_f64(), "s", Goal::None);
    let (mut serving, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let asked = farm.answers();
        let gateway = setup.start().await?;
        serving.push(gateway.serving.as_secs_f64());
        ready.push(gateway.ready.as_secs_f64());
        super::note(&format!("{PART}: {} refreshes while starting", farm.answers() - asked));
        gateway.stop().await?;
    }
    let middle = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(STARTS / 2).copied().unwrap_or_default()
    };
    let serving = middle(&mut serving);
    report.add(PART, format!("{count} relationships, serving after"), serving, "s", Goal::Below(MOST_SECONDS));
    report.add(PART, format!("{count} relationships, ready after"), middle(&mut ready), "s", Goal::None);
    setup.stop().await
}

/// Memory of a gateway that serves two trust domains and has nothing to do.
pub(crate) async fn idle(processors: &Processors, report: &mut Report) -> Result<()> {
    const PART: &str = "idle";
    let setup = Setup::new(&["one.example", "two.example"], processors)?;
    let gateway = setup.start().await?;
    tokio::time::sleep(IDLE).await;
    let memory = process::memory(gateway.pid()?)?;
    report.add(PART, "memory", process::megabytes(memory.resident), "MB", Goal::Below(MOST_MEGABYTES));
    report.add(PART, "of it not the program's file", process::megabytes(memory.anonymous), "MB", Goal::None);
    gateway.stop().await?;
    Ok(())
}
