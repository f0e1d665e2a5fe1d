//! `entente demo`: two trust domains federate and their workloads talk, shown step by step.

mod impostor;
mod observer;
mod oidc;
mod report;
mod rotation;
mod steps;
pub(crate) mod workload;
mod world;

use anyhow::Result;

use crate::demo::report::Report;
use crate::demo::world::World;

/// Number of steps the demo shows.
const STEPS: usize = 8;

/// `entente demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End after the last step instead of staying up until Ctrl-C.
    #[arg(long)]
    once: bool,
}

/// Runs the demo. Every process and file it made is gone when it returns.
pub(crate) async fn run(args: Args) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("entente-").tempdir()?;
    let mut world = World::new(folder.path())?;
    let interrupted = service_kit::lifecycle::Shutdown::on_signals()?;
    let outcome = tokio::select! {
        outcome = show(&mut world) => outcome,
        () = interrupted.cancelled() => {
            world.stop().await;
            return Ok(());
        }
    };
    if let Err(error) = outcome {
        anstream::eprintln!("\n{}", world.log_tails());
        world.stop().await;
        return Err(error);
    }
    if !args.once {
        world.print_what_to_try();
        tokio::select! {
            () = interrupted.cancelled() => {}
            error = world.watch() => {
                world.stop().await;
                return Err(error);
            }
        }
    }
    world.stop().await;
    Ok(())
}

async fn show(world: &mut World) -> Result<()> {
    let mut report = Report::new("Two trust domains, cloud.example and onprem.example, federate", STEPS);
    report.step("issuers sign, agents attested with join tokens", steps::start(world)).await?;
    report.step("entries tell workloads apart by unix selectors", steps::register(world)).await?;
    report.step("gateways hold each other's bundle", steps::federate(world)).await?;
    report.step("workloads talk HTTP over mTLS, each checking the other's SPIFFE ID", steps::talk(world)).await?;
    report.step("strangers and impostors are refused in the handshake", steps::refuse(world)).await?;
    let token = report.step("a JWT-SVID of one domain is validated in the other", steps::validate_jwt(world)).await?;
    report.step("OIDC: the token is verified from the published documents", oidc::verify(world, &token)).await?;
    report.step("authorities rotate while calls go on", rotation::rotate(world)).await?;
    report.finish();
    Ok(())
}
