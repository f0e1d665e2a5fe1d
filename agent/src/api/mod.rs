//! What the agent serves on its Unix sockets: the Workload API with health and reflection for every process of the node,
//! and, if configured, administration for its operator.

pub mod admin;
mod gate;
mod health;
mod jwt_bundles;
mod jwt_svids;
mod stream;
mod validate_jwt;
mod x509_bundles;
mod x509_svids;

use std::{collections::BTreeSet, sync::Arc};

use federation_specs::proto::{
    self,
    health::health_server::HealthServer,
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use futures::stream::BoxStream;
use service_kit::{clock::SharedClock, grpc::listen::UnixPeer, lifecycle::Shutdown};
use tonic::{Request, Response, Status, service::Routes};

use crate::{
    cache::{Cache, jwt::JwtCache, view::View},
    issuer::IssuerClient,
    peer,
    workload::{SelectorSet, WorkloadAttestors},
};

pub use gate::{Gate, Known};

/// Permission bits of the Workload API socket and of its folder: every process may connect.
pub const SOCKET_MODE: u32 = 0o777;
/// See [`SOCKET_MODE`].
pub const SOCKET_DIR_MODE: u32 = 0o755;

/// Permission bits of the administration socket and of its folder.
pub const ADMIN_SOCKET_MODE: u32 = 0o770;
/// See [`ADMIN_SOCKET_MODE`].
pub const ADMIN_SOCKET_DIR_MODE: u32 = 0o750;

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Entries, X509-SVIDs and bundles.
    pub cache: Arc<Cache>,
    /// JWT-SVIDs.
    pub tokens: JwtCache,
    /// Who signs tokens.
    pub issuer: Arc<IssuerClient>,
    /// How callers are told apart.
    pub attestors: WorkloadAttestors,
    /// Callers without an identity get the own bundle.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims shown of tokens of other trust domains.
    pub allowed_foreign_jwt_claims: Arc<BTreeSet<String>>,
    /// Time.
    pub clock: SharedClock,
    /// Ends the streams.
    pub shutdown: Shutdown,
}

impl Context {
    /// The selectors of the caller.
    async fn caller<T>(&self, request: &Request<T>) -> Result<Arc<SelectorSet>, Status> {
        let failed = || Status::unavailable("workload attestation failed");
        let Some(peer) = request.extensions().get::<UnixPeer>() else {
            tracing::error!("a request without a peer; the Workload API must be served on a Unix socket");
            return Err(failed());
        };
        peer::attest(peer, &self.attestors).await.map_err(|error| {
            tracing::warn!(pid = peer.pid, uid = peer.uid, %error, "workload attestation failed");
            failed()
        })
    }

    /// Waits for the first synchronisation, so that nobody is turned away only because the agent has just started.
    async fn synced(&self) -> Result<(), Status> {
        tokio::select! {
            () = self.cache.synced() => Ok(()),
            () = self.shutdown.cancelled() => Err(shutting_down()),
        }
    }

    /// What a caller with these selectors sees.
    async fn view(&self, selectors: &SelectorSet) -> Result<View, Status> {
        self.synced().await?;
        Ok(self.cache.view(selectors))
    }
}

fn shutting_down() -> Status {
    Status::unavailable("agent is shutting down")
}

fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

/// The Workload API (SPIRE 1.15).
#[derive(Debug, Clone)]
pub struct WorkloadApi {
    context: Context,
}

/// Messages of a streaming call.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        x509_svids::fetch(&self.context, &request).await.map(Response::new)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        x509_bundles::fetch(&self.context, &request).await.map(Response::new)
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        jwt_svids::fetch(&self.context, &request).await.map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        jwt_bundles::fetch(&self.context, &request).await.map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        validate_jwt::validate(&self.context, &request).await.map(Response::new)
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("fetching WIT-SVIDs is not implemented"))
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("fetching WIT bundles is not implemented"))
    }
}

/// The services of the Workload API socket.
///
/// # Errors
/// [`tonic_reflection::server::Error`] if the descriptors compiled into the program are damaged.
pub fn public(context: &Context) -> Result<Gate<Routes>, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .with_service_name("SpiffeWorkloadAPI")
            .with_service_name("grpc.health.v1.Health")
    };
    let routes = Routes::new(SpiffeWorkloadApiServer::new(WorkloadApi { context: context.clone() }))
        .add_service(HealthServer::new(health::Health::new(context.clone())))
        .add_service(reflection().with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?)
        .add_service(reflection().with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?)
        .prepare();
    Ok(Gate::new(routes, gate::PUBLIC))
}
