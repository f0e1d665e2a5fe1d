//! `entente issuer logger get|set|reset`.

use federation_specs::proto::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use federation_specs::proto::types::{LogLevel, Logger};

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::notation::quote;
use crate::output::{self, OutputArguments};

const RESPONSE: &str = "spire.api.types.Logger";

/// The commands of `entente issuer logger`.
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
    socket: IssuerSocket,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The new level: panic, fatal, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let (logger, format) = match command {
        Command::Get(arguments) => {
            let api = arguments.socket.connect().await?;
            (connect::server_logger(&api).get_logger(GetLoggerRequest {}).await?, arguments.output.format)
        }
        Command::Set(arguments) => {
            let new_level = level(arguments.level.as_deref())?.into();
            let api = arguments.socket.connect().await?;
            let logger = connect::server_logger(&api).set_log_level(SetLogLevelRequest { new_level }).await?;
            (logger, arguments.output.format)
        }
        Command::Reset(arguments) => {
            let api = arguments.socket.connect().await?;
            (connect::server_logger(&api).reset_log_level(ResetLogLevelRequest {}).await?, arguments.output.format)
        }
    };
    print(format, &logger.into_inner())
}

/// Prints a logger; the agent's commands do the same.
pub(crate) fn print(format: output::Format, logger: &Logger) -> Result<(), Failure> {
    output::print(format, RESPONSE, logger, pretty)
}

/// The `-level` flag; the agent's commands take the same.
pub(crate) fn level(text: Option<&str>) -> Result<LogLevel, Failure> {
    let text = text.filter(|text| !text.is_empty()).ok_or_else(|| Failure::new("a value (-level) must be set"))?;
    match text.to_ascii_lowercase().as_str() {
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        "error" => Ok(LogLevel::Error),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err(Failure::new(format!("the value {} is not a valid setting", quote(text)))),
    }
}

fn pretty(logger: &Logger) -> String {
    let (current, launch) = (name(logger.current_level()), name(logger.launch_level()));
    format!("Logger Level : {current}\nLaunch Level : {launch}\n\n")
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Unspecified => "unspecified",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        for file in ["logger", "agent-logger"] {
            let transcripts = Transcripts::of(file);
            for pretty_command in transcripts.commands_without_json() {
                let json_command = format!("{pretty_command} -output json");
                let Some(json) = transcripts.find(&json_command) else { continue };
                let logger: Logger = transcripts.message(RESPONSE, &json_command);
                assert_eq!(output::json_line(RESPONSE, &logger).unwrap(), json.stdout);
                assert_eq!(pretty(&logger), transcripts.stdout(&pretty_command));
            }
        }
    }

    #[test]
    fn a_level_must_be_known() {
        let transcripts = Transcripts::of("logger");
        assert_eq!(
            format!("Error: {}\n", level(Some("nosuch")).unwrap_err().text()),
            transcripts.stderr("logger set -level nosuch")
        );
        assert_eq!(format!("Error: {}\n", level(None).unwrap_err().text()), transcripts.stderr("logger set"));
    }
}
