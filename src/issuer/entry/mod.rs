//! `entente issuer entry …`: registration entries.

mod block;
mod count;
mod create;
mod data_file;
mod delete;
mod filter;
mod show;
mod update;

use crate::failure::Failure;

/// The commands of `entente issuer entry`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Count entries
    Count(count::Arguments),
    /// Create entries
    Create(create::Arguments),
    /// Delete entries
    Delete(delete::Arguments),
    /// List entries
    Show(show::Arguments),
    /// Replace entries, all fields of them
    Update(update::Arguments),
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Count(arguments) => count::run(&arguments).await,
        Command::Create(arguments) => create::run(&arguments).await,
        Command::Delete(arguments) => delete::run(&arguments).await,
        Command::Show(arguments) => show::run(&arguments).await,
        Command::Update(arguments) => update::run(&arguments).await,
    }
}
