//! `spire.api.server.logger.v1.Logger`: the log level, on the Unix socket.

use federation_specs::proto::{
    server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server},
    types,
};
use service_kit::telemetry::{LogHandle, LogLevel};
use tonic::{Request, Response, Status};

/// Handlers of the Logger service.
#[derive(Debug)]
pub(super) struct LoggerService {
    log: LogHandle,
}

impl LoggerService {
    pub(super) fn new(log: LogHandle) -> Self {
        Self { log }
    }

    fn answer(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: to_proto(self.log.current()) as i32,
            launch_level: to_proto(self.log.launch()) as i32,
        })
    }
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

/// Levels above `error` do not exist here; they become `error`.
fn from_proto(number: i32) -> Result<LogLevel, Status> {
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

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        Ok(self.answer())
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        self.log.set_level(from_proto(request.into_inner().new_level)?);
        Ok(self.answer())
    }

    async fn reset_log_level(&self, _: Request<ResetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        self.log.set_level(self.log.launch());
        Ok(self.answer())
    }
}
