//! `entente agent …`: run the agent of a node and ask its Workload API.

mod api_fetch_jwt;
mod api_validate;
mod api_watch;
mod debug;
mod healthcheck;
mod logger;
mod run;
mod timeout;
mod validate;
mod x509_context;

pub(crate) mod api_fetch;

use clap::Subcommand;

use crate::failure::Failure;
use crate::{block_on, block_on_all_cores};

/// The commands of `entente agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the Workload API, as a workload does
    #[command(subcommand)]
    Api(Api),
    /// What the agent knows about itself
    #[command(subcommand)]
    Debug(debug::Command),
    /// Tell whether the agent is healthy
    Healthcheck(healthcheck::Arguments),
    /// The log level of the running agent
    #[command(subcommand)]
    Logger(logger::Command),
    /// Run the agent
    Run(Box<run::Arguments>),
    /// Check a configuration file
    Validate(Box<run::Arguments>),
}

/// The commands of `entente agent api`.
#[derive(Debug, Subcommand)]
pub(crate) enum Api {
    /// Fetch SVIDs: X509-SVIDs unless told otherwise
    Fetch(api_fetch::Arguments),
    /// Have SVIDs of others checked
    #[command(subcommand)]
    Validate(api_validate::Command),
    /// Print X509-SVIDs whenever they change
    Watch(api_watch::Arguments),
}

/// Runs a command to its end.
pub(crate) fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => block_on_all_cores(run::run(*arguments))?,
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Healthcheck(arguments) => block_on(healthcheck::run(&arguments))?,
        Command::Api(Api::Fetch(arguments)) => block_on(api_fetch::run(arguments))?,
        Command::Api(Api::Validate(command)) => block_on(api_validate::run(command))?,
        Command::Api(Api::Watch(arguments)) => block_on(api_watch::run(&arguments))?,
        Command::Debug(command) => block_on(debug::run(command))?.map_err(Failure::labelled),
        Command::Logger(command) => block_on(logger::run(command))?.map_err(Failure::labelled),
    }
}
