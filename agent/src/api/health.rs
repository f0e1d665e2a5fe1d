//! grpc.health.v1.Health: whether the Workload API can serve.

use federation_specs::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::Context;

/// The health service.
#[derive(Debug)]
pub(super) struct Health {
    context: Context,
}

impl Health {
    pub(super) fn new(context: Context) -> Self {
        Self { context }
    }

    /// Whether a caller would be answered: the agent is in step with its issuer and can tell processes apart, which is
    /// tried on its own.
    async fn is_serving(&self) -> bool {
        let Ok(pid) = i32::try_from(std::process::id()) else { return false };
        self.context.cache.is_synced()
            && !self.context.shutdown.is_triggered()
            && self.context.attestors.attest(pid).await.is_ok()
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.get_ref().service.is_empty() {
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let status = if self.is_serving().await { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn list(&self, _request: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("method List not implemented"))
    }

    async fn watch(&self, _request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}
