//! `entente gateway …`: run the federation gateway and look at its partners through its local socket.

mod address;
mod apply;
mod audit;
mod bundle;
mod client;
mod difference;
mod health;
mod healthcheck;
mod identity;
mod openapi;
mod pages;
mod publisher;
mod resources;
mod run;
mod source;
mod table;
mod validate;
mod webhook;

pub(crate) mod relationship;

use clap::Subcommand;

use crate::failure::Failure;
use crate::{block_on, block_on_all_cores};

/// The commands of `entente gateway`.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub(crate) enum Command {
    /// Make the relationships of a set those of files: what is new is added, what differs is changed, all or nothing
    Apply(apply::Arguments),
    /// Who changed what, when and why
    #[command(subcommand)]
    Audit(audit::Command),
    /// The bundles the gateway serves and holds
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// How every part of the gateway is
    Health(health::Arguments),
    /// Tell whether the gateway is healthy
    Healthcheck(healthcheck::Arguments),
    /// Print the description (OpenAPI 3.1) of the admin API
    #[command(name = "openapi")]
    OpenApi,
    /// The further places own bundles are published to
    #[command(subcommand)]
    Publisher(publisher::Command),
    /// The federation relationships and how they are doing
    #[command(subcommand)]
    Relationship(relationship::Command),
    /// Run the gateway
    Run(run::Arguments),
    /// Where the bundles of served trust domains come from
    #[command(subcommand)]
    Source(source::Command),
    /// Check a configuration file
    Validate(run::Arguments),
    /// Who is told about events, and trying it
    #[command(subcommand)]
    Webhook(webhook::Command),
}

/// Runs a command to its end.
pub(crate) fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => block_on_all_cores(run::run(arguments))?,
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Apply(arguments) => block_on(apply::run(&arguments))?.map_err(Failure::labelled),
        Command::OpenApi => openapi::run(),
        Command::Audit(command) => block_on(audit::run(command))?.map_err(Failure::labelled),
        Command::Bundle(command) => block_on(bundle::run(command))?.map_err(Failure::labelled),
        Command::Health(arguments) => block_on(health::run(&arguments))?.map_err(Failure::labelled),
        Command::Healthcheck(arguments) => block_on(healthcheck::run(&arguments))?.map_err(Failure::labelled),
        Command::Publisher(command) => block_on(publisher::run(command))?.map_err(Failure::labelled),
        Command::Source(command) => block_on(source::run(command))?.map_err(Failure::labelled),
        Command::Webhook(command) => block_on(webhook::run(command))?.map_err(Failure::labelled),
        Command::Relationship(command) => block_on(relationship::run(command))?.map_err(Failure::labelled),
    }
}
