//! What the Logger services of issuer and agent (`spire.api.server.logger.v1`, `spire.api.agent.logger.v1`) have in
//! common: the levels of the running log as messages.

use federation_specs::proto::types;
use tonic::Status;

use crate::telemetry::{LogHandle, LogLevel};

/// The level of the log now, and the one it was started with.
pub fn levels(log: &LogHandle) -> types::Logger {
    types::Logger { current_level: to_proto(log.current()).into(), launch_level: to_proto(log.launch()).into() }
}

fn to_proto(level: LogLevel) -> types::LogLevel {
    match level {
        LogLevel::Error => types::LogLevel::Error,
        LogLevel::Warn => types::LogLevel::Warn,
        LogLevel::Info => types::LogLevel::Info,
        LogLevel::Debug => types::LogLevel::Debug,
        LogLevel::Trace => types::LogLevel::Trace,
    }
}

/// The level a request names. Levels above `error` do not exist here; they become `error`.
///
/// # Errors
/// `INVALID_ARGUMENT` when it names none.
pub fn requested_level(number: i32) -> Result<LogLevel, Status> {
    match types::LogLevel::try_from(number) {
        Ok(types::LogLevel::Unspecified) => {
            Err(Status::invalid_argument("newLevel value cannot be LogLevel_UNSPECIFIED"))
        }
        Ok(types::LogLevel::Panic | types::LogLevel::Fatal | types::LogLevel::Error) => Ok(LogLevel::Error),
        Ok(types::LogLevel::Warn) => Ok(LogLevel::Warn),
        Ok(types::LogLevel::Info) => Ok(LogLevel::Info),
        Ok(types::LogLevel::Debug) => Ok(LogLevel::Debug),
        Ok(types::LogLevel::Trace) => Ok(LogLevel::Trace),
        Err(_) => Err(Status::invalid_argument("unsupported log level")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_named_by_its_number() {
        for (asked, level) in [
            (types::LogLevel::Panic, LogLevel::Error),
            (types::LogLevel::Fatal, LogLevel::Error),
            (types::LogLevel::Error, LogLevel::Error),
            (types::LogLevel::Warn, LogLevel::Warn),
            (types::LogLevel::Info, LogLevel::Info),
            (types::LogLevel::Debug, LogLevel::Debug),
            (types::LogLevel::Trace, LogLevel::Trace),
        ] {
            assert_eq!(requested_level(asked.into()).unwrap(), level);
        }
        for none in [types::LogLevel::Unspecified.into(), 99] {
            assert_eq!(requested_level(none).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
        let log = LogHandle::detached(LogLevel::Warn);
        log.set_level(LogLevel::Debug);
        let levels = levels(&log);
        assert_eq!(levels.current_level(), types::LogLevel::Debug);
        assert_eq!(levels.launch_level(), types::LogLevel::Warn);
    }
}
