//! `entente agent logger get|set|reset`.

use federation_specs::proto::agent::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};

use crate::connect::{self, AgentAdminSocket};
use crate::failure::Failure;
use crate::issuer::logger::{level, print};
use crate::output::OutputArguments;

/// The commands of `entente agent logger`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The level now and at launch
    Get(Plain),
    /// Change the level until the next start
    Set(Set),
    /// Go back to the level of the launch
    Reset(Plain),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    socket: AgentAdminSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    socket: AgentAdminSocket,
    /// The new level: panic, fatal, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let (logger, format) = match command {
        Command::Get(arguments) => {
            let api = arguments.socket.connect().await?;
            (connect::agent_logger(&api).get_logger(GetLoggerRequest {}).await?, arguments.output.format)
        }
        Command::Set(arguments) => {
            let new_level = level(arguments.level.as_deref())?.into();
            let api = arguments.socket.connect().await?;
            let logger = connect::agent_logger(&api).set_log_level(SetLogLevelRequest { new_level }).await?;
            (logger, arguments.output.format)
        }
        Command::Reset(arguments) => {
            let api = arguments.socket.connect().await?;
            (connect::agent_logger(&api).reset_log_level(ResetLogLevelRequest {}).await?, arguments.output.format)
        }
    };
    print(format, &logger.into_inner())
}
