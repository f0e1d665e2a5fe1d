//! `entente`: federates SPIFFE trust domains. One binary holds every role: the gateway, the issuer, the agent and
//! the commands that talk to them.

mod agent;
mod arguments;
mod config_command;
mod configuration;
mod connect;
mod demo;
mod dev;
mod failure;
mod gateway;
mod identifiers;
mod input;
mod issuer;
mod local;
mod notation;
mod output;
mod pem;
mod standard_error;
#[cfg(test)]
mod transcripts;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Thousands of fetches come and go between what stays. The C library's allocator keeps the memory of the most there
/// ever were; this one gives it back within seconds. `.cargo/config.toml` sets how it works.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Federates SPIFFE trust domains: gateway, issuer and agent.
#[derive(Debug, Parser)]
#[command(
    name = "entente",
    version,
    disable_help_flag = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    after_help = "Every flag is taken with one dash or two, in the spelling shown or in kebab-case \
                  (-spiffeID, --spiffe-id).\nAsk any command for its own help with -h."
)]
struct Entente {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The authority of a trust domain: run it and manage it (SPIRE's `spire-server`)
    #[command(subcommand)]
    Issuer(Box<issuer::Command>),
    /// The agent of a node: run it and ask its Workload API (SPIRE's `spire-agent`)
    #[command(subcommand)]
    Agent(Box<agent::Command>),
    /// The federation gateway: run it and look at its partners
    #[command(subcommand)]
    Gateway(Box<gateway::Command>),
    /// Configuration files: the schema of each service's
    #[command(subcommand)]
    Config(config_command::Command),
    /// Show two trust domains federating, from nothing, on this machine
    Demo(Box<demo::Args>),
    /// Keep one trust domain up on this machine for development
    Dev(Box<dev::Args>),
    /// A workload of the demo
    #[command(name = "demo-workload", hide = true)]
    DemoWorkload(Box<demo::workload::Args>),
}

fn main() -> ExitCode {
    local::process::end_with_parent();
    let entente: Entente = match arguments::from_environment() {
        Ok(entente) => entente,
        Err(stop) => return stop.report(),
    };
    // rustls and jsonwebtoken each need their provider chosen once, before anything signs or connects.
    service_kit::crypto::install();
    match run(entente.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Issuer(command) => issuer::dispatch(*command),
        Command::Agent(command) => agent::dispatch(*command),
        Command::Gateway(command) => gateway::dispatch(*command),
        Command::Config(command) => config_command::run(&command),
        Command::Demo(arguments) => block_on_all_cores(demo::run(*arguments))?.map_err(|error| Failure::chain(&*error)),
        Command::Dev(arguments) => block_on_all_cores(dev::run(*arguments))?.map_err(|error| Failure::chain(&*error)),
        Command::DemoWorkload(arguments) => {
            block_on_all_cores(demo::workload::run(*arguments))?.map_err(|error| Failure::chain(&*error))
        }
    }
}

/// How long the end of a program waits for what cannot be cancelled: a name lookup or a file on a disk that hangs.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Runs a command that makes a few calls and ends.
fn block_on<F: Future>(work: F) -> Result<F::Output, Failure> {
    run_to_end(tokio::runtime::Builder::new_current_thread(), work)
}

/// Runs a service.
fn block_on_all_cores<F: Future>(work: F) -> Result<F::Output, Failure> {
    run_to_end(tokio::runtime::Builder::new_multi_thread(), work)
}

fn run_to_end<F: Future>(mut builder: tokio::runtime::Builder, work: F) -> Result<F::Output, Failure> {
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WAIT);
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the thread that hangs, and a stopwatch for it, are what is tested")]
    fn what_hangs_in_a_thread_does_not_hold_up_the_end() {
        let begin = Instant::now();
        let hang = async {
            tokio::task::spawn_blocking(|| thread::sleep(Duration::from_secs(3600)));
        };
        block_on(hang).unwrap();
        let hang = async {
            tokio::task::spawn_blocking(|| thread::sleep(Duration::from_secs(3600)));
        };
        block_on_all_cores(hang).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}
