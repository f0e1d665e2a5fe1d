//! `spire.api.server.logger.v1.Logger`: the log level, on the Unix socket.

use federation_specs::proto::{
    server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server},
    types,
};
use service_kit::{
    grpc::logger::{levels, requested_level},
    telemetry::LogHandle,
};
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
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<types::Logger>, Status> {
        Ok(Response::new(levels(&self.log)))
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        self.log.set_level(requested_level(request.into_inner().new_level)?);
        Ok(Response::new(levels(&self.log)))
    }

    async fn reset_log_level(&self, _: Request<ResetLogLevelRequest>) -> Result<Response<types::Logger>, Status> {
        self.log.set_level(self.log.launch());
        Ok(Response::new(levels(&self.log)))
    }
}
