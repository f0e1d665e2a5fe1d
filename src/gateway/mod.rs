//! `entente gateway …`: run the federation gateway and look at its partners through its local socket.

mod audit;
mod bundle;
mod client;
mod decision;
mod healthcheck;
mod run;
mod table;
mod validate;

pub(crate) mod relationship;

use clap::Subcommand;

use crate::failure::Failure;
use crate::{block_on, block_on_all_cores};

/// The commands of `entente gateway`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who changed what, when and why
    #[command(subcommand)]
    Audit(audit::Command),
    /// The bundles the gateway serves and holds
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Tell whether the gateway is healthy
    Healthcheck(healthcheck::Arguments),
    /// The federation relationships and how they are doing
    #[command(subcommand)]
    Relationship(relationship::Command),
    /// Run the gateway
    Run(run::Arguments),
    /// Check a configuration file
    Validate(run::Arguments),
}

/// Runs a command to its end.
pub(crate) fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => block_on_all_cores(run::run(arguments))?,
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Audit(command) => block_on(audit::run(command))?.map_err(Failure::labelled),
        Command::Bundle(command) => block_on(bundle::run(command))?.map_err(Failure::labelled),
        Command::Healthcheck(arguments) => block_on(healthcheck::run(&arguments))?.map_err(Failure::labelled),
        Command::Relationship(command) => block_on(relationship::run(command))?.map_err(Failure::labelled),
    }
}
