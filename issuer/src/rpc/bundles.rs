//! `spire.api.server.bundle.v1.Bundle`: the own bundle. Federated ones have a file of their own.

use std::sync::Arc;

use federation_specs::{
    bundle::{JwtAuthority, X509Authority},
    convert::{self, KeyAuthorityError},
    proto::{
        server::bundle::{
            AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
            BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse, BatchSetFederatedBundleRequest,
            BatchSetFederatedBundleResponse, BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse,
            CountBundlesRequest, CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest,
            ListFederatedBundlesRequest, ListFederatedBundlesResponse, PublishJwtAuthorityRequest,
            PublishJwtAuthorityResponse, PublishWitAuthorityRequest, PublishWitAuthorityResponse, bundle_server,
        },
        types,
    },
};
use tonic::{Request, Response, Status};

use super::{Shared, bundle_masks, caller::Caller, federated_bundles, status};

/// Handlers of the Bundle service.
#[derive(Debug)]
pub(super) struct BundleService {
    shared: Arc<Shared>,
}

impl BundleService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn append(&self, request: AppendBundleRequest) -> Result<types::Bundle, Status> {
        if request.x509_authorities.is_empty() && request.jwt_authorities.is_empty() {
            return Err(Status::invalid_argument("no authorities to append"));
        }
        let jwt: Result<Vec<JwtAuthority>, _> = request.jwt_authorities.iter().map(untainted).collect();
        let jwt = jwt.map_err(|error| status::invalid("failed to convert JWT authority", error))?;
        let x509: Result<Vec<X509Authority>, _> =
            request.x509_authorities.iter().map(convert::x509_authority_from_proto).collect();
        let x509 = x509.map_err(|error| status::invalid("failed to convert X.509 authority", error))?;
        let appended = self.shared.store.append_to_own_bundle(&x509, &jwt).await;
        let bundle = appended.map_err(|error| status::from_store("failed to append to bundle", "", &error))?;
        Ok(bundle_masks::to_proto(&bundle, request.output_mask.as_ref()))
    }
}

/// A JWT authority as a caller hands it in: never tainted.
fn untainted(message: &types::JwtKey) -> Result<JwtAuthority, KeyAuthorityError> {
    Ok(convert::jwt_authority_from_proto(message)?.with_tainted(false))
}

#[tonic::async_trait]
impl bundle_server::Bundle for BundleService {
    async fn count_bundles(&self, _: Request<CountBundlesRequest>) -> Result<Response<CountBundlesResponse>, Status> {
        let count = self.shared.store.count_bundles();
        Ok(Response::new(CountBundlesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        let bundle = self.shared.store.own_bundle().ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(bundle_masks::to_proto(&bundle, request.into_inner().output_mask.as_ref())))
    }

    async fn append_bundle(&self, request: Request<AppendBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        self.append(request.into_inner()).await.map(Response::new)
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let context = "rejecting request due to key publishing rate limiting";
        status::limited(Some(&self.shared.limits.publish), &caller, 1, context).await?;
        let authority = request.into_inner().jwt_authority;
        let authority = authority.ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
        let authority = untainted(&authority).map_err(|error| status::invalid("invalid JWT authority", error))?;
        let published = self.shared.ca.publish_jwt_authority(authority).await;
        let bundle = published.map_err(|error| status::internal("failed to publish JWT key", &error))?;
        let jwt_authorities = convert::bundle_to_proto(&bundle).jwt_authorities;
        Ok(Response::new(PublishJwtAuthorityResponse { jwt_authorities }))
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        federated_bundles::list(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        federated_bundles::get(&self.shared, &request.into_inner()).map(Response::new)
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        Ok(Response::new(federated_bundles::create(&self.shared, request.into_inner()).await))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        Ok(Response::new(federated_bundles::update(&self.shared, request.into_inner()).await))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        Ok(Response::new(federated_bundles::set(&self.shared, request.into_inner()).await))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        federated_bundles::delete(&self.shared, request.into_inner()).await.map(Response::new)
    }
}
