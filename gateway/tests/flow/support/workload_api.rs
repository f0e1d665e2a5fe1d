//! A Workload API that gives one X509-SVID, or bundles that change, to whoever asks.

use std::path::Path;

use federation_specs::{
    bundle::Bundle,
    bundle_json,
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
        X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use service_kit::{clock::SystemClock, grpc, lifecycle::Shutdown};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status, service::Routes};

type Messages<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct OneIdentity(watch::Receiver<Vec<X509svid>>, Option<watch::Receiver<Option<Bundle>>>);

/// Serves the bundle of `changes` on `socket` until the test ends. While there is none the streams fail.
pub fn serve_bundles(socket: &Path, changes: watch::Receiver<Option<Bundle>>) {
    serve_all(socket, OneIdentity(watch::channel(Vec::new()).1, Some(changes)));
}

fn serve_all(socket: &Path, api: OneIdentity) {
    let routes = Routes::new(SpiffeWorkloadApiServer::new(api));
    let socket = grpc::unix_socket::bind_unix(socket, 0o700, 0o600).unwrap();
    tokio::spawn(grpc::listen::serve_unix(socket, routes, SystemClock::shared(), Shutdown::new()));
}

impl OneIdentity {
    fn bundles<T: Send + 'static>(
        &self,
        metadata: &tonic::metadata::MetadataMap,
        convert: impl Fn(&Bundle) -> T + Send + 'static,
    ) -> Result<Response<Messages<T>>, Status> {
        if metadata.get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let Some(changes) = self.1.clone() else { return unimplemented() };
        let messages = WatchStream::new(changes).map(move |bundle| match bundle {
            Some(bundle) => Ok(convert(&bundle)),
            None => Err(Status::unavailable("the agent lost its server")),
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Serves on `socket` until the test ends.
pub fn serve(socket: &Path, svid: X509svid) {
    serve_changing(socket, watch::channel(vec![svid]).1);
}

/// The same with X509-SVIDs that change.
pub fn serve_changing(socket: &Path, svids: watch::Receiver<Vec<X509svid>>) {
    serve_all(socket, OneIdentity(svids, None));
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of the test"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for OneIdentity {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let answer = |svids| Ok(X509svidResponse { svids, ..X509svidResponse::default() });
        let messages = WatchStream::new(self.0.clone()).map(answer).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.bundles(request.metadata(), |bundle| X509BundlesResponse {
            bundles: [(bundle.trust_domain().id_string(), bundle.x509_roots_der())].into(),
            ..X509BundlesResponse::default()
        })
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        unimplemented()
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.bundles(request.metadata(), |bundle| JwtBundlesResponse {
            bundles: [(bundle.trust_domain().id_string(), bundle_json::encode_jwks(bundle))].into(),
        })
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        unimplemented()
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        unimplemented()
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        unimplemented()
    }
}
