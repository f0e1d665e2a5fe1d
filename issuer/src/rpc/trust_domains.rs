//! `spire.api.server.trustdomain.v1.TrustDomain`: federation relationships.
//!
//! The issuer keeps relationships and the bundles of their domains; the gateway polls the endpoints. A refresh asked
//! for here is handed to the connected gateway.

use std::sync::Arc;

use federation_specs::{
    bundle::Bundle,
    convert,
    id::TrustDomain,
    proto::{
        server::trustdomain::{
            BatchCreateFederationRelationshipRequest, BatchCreateFederationRelationshipResponse,
            BatchDeleteFederationRelationshipRequest, BatchDeleteFederationRelationshipResponse,
            BatchUpdateFederationRelationshipRequest, BatchUpdateFederationRelationshipResponse,
            GetFederationRelationshipRequest, ListFederationRelationshipsRequest, ListFederationRelationshipsResponse,
            RefreshBundleRequest, batch_create_federation_relationship_response,
            batch_delete_federation_relationship_response, batch_update_federation_relationship_response,
            trust_domain_server,
        },
        types,
    },
};
use tonic::{Request, Response, Status};

use super::{Shared, relationship_conversion::to_proto, status};
use crate::store::{Page, Relationship, RelationshipUpdate, StoreError};

const CONVERSION: &str = "failed to convert federation relationship";
const NOT_FOUND: &str = "federation relationship not found";

/// Handlers of the TrustDomain service.
#[derive(Debug)]
pub(super) struct TrustDomainService {
    shared: Arc<Shared>,
}

impl TrustDomainService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn create(&self, message: &types::FederationRelationship) -> Result<Relationship, Status> {
        let (relationship, bundle) = self.read(message)?;
        let created = self.shared.store.create_relationship(&relationship, bundle.as_ref()).await;
        let context = "failed to create federation relationship";
        let created = created.map_err(|error| match error {
            StoreError::RelationshipExists => Status::already_exists(format!("{context}: {error}")),
            error => status::from_store(context, NOT_FOUND, &error),
        })?;
        tracing::info!(trust_domain = %created.trust_domain, url = %created.bundle_endpoint_url, "federation relationship created");
        Ok(created)
    }

    async fn update(
        &self,
        message: &types::FederationRelationship,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> Result<Relationship, Status> {
        let (relationship, bundle) = self.read(message)?;
        let wanted = |field: fn(&types::FederationRelationshipMask) -> bool| mask.is_none_or(field);
        let update = RelationshipUpdate {
            trust_domain: relationship.trust_domain,
            bundle_endpoint_url: wanted(|mask| mask.bundle_endpoint_url).then_some(relationship.bundle_endpoint_url),
            profile: wanted(|mask| mask.bundle_endpoint_profile).then_some(relationship.profile),
        };
        let bundle = bundle.filter(|_| wanted(|mask| mask.trust_domain_bundle));
        let updated = self.shared.store.update_relationship(&update, bundle.as_ref()).await;
        let updated = updated.map_err(|error| match error {
            StoreError::NotFound { .. } => {
                Status::not_found(format!("failed to update federation relationship: {error}"))
            }
            error => status::from_store("failed to update federation relationship", NOT_FOUND, &error),
        })?;
        tracing::info!(trust_domain = %updated.trust_domain, url = %updated.bundle_endpoint_url, "federation relationship updated");
        Ok(updated)
    }

    async fn delete(&self, name: &str) -> Result<(), Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("missing trust domain"));
        }
        let domain = trust_domain(name)?;
        let deleted = self.shared.store.delete_relationship(&domain).await;
        deleted.map_err(|error| status::from_store("failed to delete federation relationship", NOT_FOUND, &error))?;
        tracing::info!(trust_domain = %domain, "federation relationship deleted");
        Ok(())
    }

    fn read(&self, message: &types::FederationRelationship) -> Result<(Relationship, Option<Bundle>), Status> {
        let read = convert::relationship_from_proto(message).map_err(|error| status::invalid(CONVERSION, error))?;
        if read.trust_domain == self.shared.trust_domain {
            let text = "unable to create federation relationship for server trust domain";
            return Err(Status::invalid_argument(text));
        }
        let relationship =
            Relationship { trust_domain: read.trust_domain, bundle_endpoint_url: read.url, profile: read.profile };
        Ok((relationship, read.bundle))
    }

    fn answer(
        &self,
        outcome: Result<Relationship, Status>,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> (Option<types::Status>, Option<types::FederationRelationship>) {
        match outcome {
            Ok(stored) => (Some(status::item_ok()), Some(to_proto(&stored, &self.shared.store.bundles(), mask))),
            Err(failure) => (Some(status::item_failed(&failure)), None),
        }
    }
}

fn trust_domain(name: &str) -> Result<TrustDomain, Status> {
    TrustDomain::from_name_or_id(name).map_err(|error| status::invalid("failed to parse trust domain", error))
}

#[tonic::async_trait]
impl trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<ListFederationRelationshipsRequest>,
    ) -> Result<Response<ListFederationRelationshipsResponse>, Status> {
        let request = request.into_inner();
        let failure = |error: StoreError| status::from_store("failed to list federation relationships", "", &error);
        let page = Page::parse(request.page_size, &request.page_token).map_err(failure)?;
        let listed = self.shared.store.list_relationships(page).await.map_err(failure)?;
        let bundles = self.shared.store.bundles();
        let message = |relationship| to_proto(relationship, &bundles, request.output_mask.as_ref());
        Ok(Response::new(ListFederationRelationshipsResponse {
            federation_relationships: listed.items.iter().map(message).collect(),
            next_page_token: listed.next_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let request = request.into_inner();
        let domain = trust_domain(&request.trust_domain)?;
        let found = self.shared.store.get_relationship(&domain).await;
        let found = found.map_err(|error| status::from_store("failed to fetch federation relationship", "", &error))?;
        let found = found.ok_or_else(|| Status::not_found("federation relationship does not exist"))?;
        Ok(Response::new(to_proto(&found, &self.shared.store.bundles(), request.output_mask.as_ref())))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<BatchCreateFederationRelationshipResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for message in &request.federation_relationships {
            let (status, federation_relationship) =
                self.answer(self.create(message).await, request.output_mask.as_ref());
            results.push(batch_create_federation_relationship_response::Result { status, federation_relationship });
        }
        Ok(Response::new(BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<BatchUpdateFederationRelationshipResponse>, Status> {
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for message in &request.federation_relationships {
            let updated = self.update(message, request.input_mask.as_ref()).await;
            let (status, federation_relationship) = self.answer(updated, request.output_mask.as_ref());
            results.push(batch_update_federation_relationship_response::Result { status, federation_relationship });
        }
        Ok(Response::new(BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<BatchDeleteFederationRelationshipResponse>, Status> {
        let names = request.into_inner().trust_domains;
        let mut results = Vec::with_capacity(names.len());
        for trust_domain in names {
            let status = match self.delete(&trust_domain).await {
                Ok(()) => status::item_ok(),
                Err(failure) => status::item_failed(&failure),
            };
            let status = Some(status);
            results.push(batch_delete_federation_relationship_response::Result { status, trust_domain });
        }
        Ok(Response::new(BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(&self, request: Request<RefreshBundleRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().trust_domain;
        let domain = trust_domain(&name)?;
        let context = "failed to refresh bundle";
        let known = self.shared.store.get_relationship(&domain).await;
        let known = known.map_err(|error| status::from_store(context, "", &error))?;
        if known.is_none() {
            return Err(Status::not_found(format!("no relationship with trust domain \"{domain}\"")));
        }
        let refreshed = self.shared.refreshes.refresh(&domain, &self.shared.clock).await;
        refreshed.map_err(|error| Status::internal(format!("{context}: {error}")))?;
        Ok(Response::new(()))
    }
}
