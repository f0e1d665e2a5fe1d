//! `entente issuer …`: run the authority of a trust domain and manage it through its local socket.

mod agent;
pub(crate) mod bundle;
pub(crate) mod debug;
mod entry;
mod federation;
mod healthcheck;
mod jwt;
mod local_authority;
pub(crate) mod logger;
mod run;
mod token;
mod upstream_authority;
mod validate;
mod x509;

use clap::Subcommand;

use crate::failure::Failure;
use crate::{block_on, block_on_all_cores};

/// The commands of `entente issuer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Attested agents: count, list, show, ban, evict, purge
    #[command(subcommand)]
    Agent(agent::Command),
    /// Bundles, the issuer's own and federated ones
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// What the issuer knows about itself
    #[command(subcommand)]
    Debug(debug::Command),
    /// Registration entries: create, show, update, delete, count
    #[command(subcommand)]
    Entry(entry::Command),
    /// Federation relationships with other trust domains
    #[command(subcommand)]
    Federation(federation::Command),
    /// Tell whether the issuer is healthy
    Healthcheck(healthcheck::Arguments),
    /// Mint JWT-SVIDs
    #[command(subcommand)]
    Jwt(jwt::Command),
    /// The issuer's own signing authorities and their rotation
    #[command(subcommand, name = "localauthority")]
    LocalAuthority(local_authority::Command),
    /// The log level of the running issuer
    #[command(subcommand)]
    Logger(logger::Command),
    /// Run the issuer
    Run(run::Arguments),
    /// Join tokens for new agents
    #[command(subcommand)]
    Token(token::Command),
    /// The authority above the issuer's
    #[command(subcommand, name = "upstreamauthority")]
    UpstreamAuthority(upstream_authority::Command),
    /// Check a configuration file
    Validate(run::Arguments),
    /// Mint X509-SVIDs
    #[command(subcommand)]
    X509(x509::Command),
}

/// Runs a command to its end.
pub(crate) fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(arguments) => block_on_all_cores(run::run(arguments))?,
        Command::Validate(arguments) => validate::run(&arguments),
        other => block_on(call(other))?.map_err(Failure::labelled),
    }
}

async fn call(command: Command) -> Result<(), Failure> {
    match command {
        Command::Agent(command) => agent::run(command).await,
        Command::Bundle(command) => bundle::run(command).await,
        Command::Debug(command) => debug::run(command).await,
        Command::Entry(command) => entry::run(command).await,
        Command::Federation(command) => federation::run(command).await,
        Command::Healthcheck(arguments) => healthcheck::run(&arguments).await,
        Command::Jwt(command) => jwt::run(command).await,
        Command::LocalAuthority(command) => local_authority::run(command).await,
        Command::Logger(command) => logger::run(command).await,
        Command::Token(command) => token::run(command).await,
        Command::UpstreamAuthority(command) => upstream_authority::run(command).await,
        Command::X509(command) => x509::run(command).await,
        // Dispatched before.
        Command::Run(_) | Command::Validate(_) => Ok(()),
    }
}
