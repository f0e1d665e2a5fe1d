//! `grpc.health.v1.Health` on the Unix socket.

use std::sync::Arc;

use federation_specs::proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::Shared;

/// Handlers of the Health service.
#[derive(Debug)]
pub(super) struct HealthService {
    shared: Arc<Shared>,
}

impl HealthService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The issuer serves when it has a bundle and its datastore answers.
    async fn serving(&self) -> bool {
        if self.shared.store.own_bundle().is_none() {
            return false;
        }
        match self.shared.database.ping().await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the datastore does not answer");
                false
            }
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(Status::invalid_argument("per-service health is not supported"));
        }
        let status = if self.serving().await { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status as i32 }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("method List not implemented"))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("method Watch not implemented"))
    }
}
