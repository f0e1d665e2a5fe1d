//! Bundles of other trust domains: listed, read, stored and removed by name.

use std::sync::Arc;

use federation_specs::{
    bundle::Bundle,
    convert,
    id::TrustDomain,
    proto::{
        server::bundle::{
            BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse, BatchDeleteFederatedBundleRequest,
            BatchDeleteFederatedBundleResponse, BatchSetFederatedBundleRequest, BatchSetFederatedBundleResponse,
            BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse, GetFederatedBundleRequest,
            ListFederatedBundlesRequest, ListFederatedBundlesResponse, batch_create_federated_bundle_response,
            batch_delete_federated_bundle_request::Mode, batch_delete_federated_bundle_response,
            batch_set_federated_bundle_response, batch_update_federated_bundle_response,
        },
        types,
    },
};
use tonic::Status;

use super::{Shared, bundle_masks, status};
use crate::store::{BundleSelection, DeleteMode, Page, StoreError};

const NOT_FOUND: &str = "bundle not found";

/// All federated bundles. The own one is left out after paging, so a page may be one short.
pub(super) async fn list(
    shared: &Shared,
    request: ListFederatedBundlesRequest,
) -> Result<ListFederatedBundlesResponse, Status> {
    let failure = |error: StoreError| status::from_store("failed to list bundles", "", &error);
    let page = Page::parse(request.page_size, &request.page_token).map_err(failure)?;
    let listed = shared.store.list_bundles(page).await.map_err(failure)?;
    let federated = listed.items.iter().filter(|bundle| *bundle.trust_domain() != shared.trust_domain);
    Ok(ListFederatedBundlesResponse {
        bundles: federated.map(|bundle| bundle_masks::to_proto(bundle, request.output_mask.as_ref())).collect(),
        next_page_token: listed.next_token,
    })
}

/// One federated bundle.
pub(super) fn get(shared: &Shared, request: &GetFederatedBundleRequest) -> Result<types::Bundle, Status> {
    let domain =
        foreign(shared, &request.trust_domain, "getting a federated bundle for the server's own trust domain")?;
    let bundles = shared.store.bundles();
    let bundle = bundles.get(&domain).ok_or_else(|| Status::not_found(NOT_FOUND))?;
    Ok(bundle_masks::to_proto(bundle, request.output_mask.as_ref()))
}

/// Stores bundles of domains that have none yet.
pub(super) async fn create(
    shared: &Shared,
    request: BatchCreateFederatedBundleRequest,
) -> BatchCreateFederatedBundleResponse {
    let mut results = Vec::with_capacity(request.bundle.len());
    for message in &request.bundle {
        let created = match read(shared, message, "creating a federated bundle for the server's own trust domain") {
            Ok(bundle) => shared.store.create_bundle(&bundle).await.map_err(|error| match error {
                StoreError::BundleExists => Status::already_exists("bundle already exists"),
                error => status::from_store("failed to create bundle", NOT_FOUND, &error),
            }),
            Err(refused) => Err(refused),
        };
        let (status, bundle) = outcome(created, request.output_mask.as_ref());
        results.push(batch_create_federated_bundle_response::Result { status, bundle });
    }
    BatchCreateFederatedBundleResponse { results }
}

/// Stores bundles, replacing what is stored.
pub(super) async fn set(shared: &Shared, request: BatchSetFederatedBundleRequest) -> BatchSetFederatedBundleResponse {
    let mut results = Vec::with_capacity(request.bundle.len());
    for message in &request.bundle {
        let stored = match read(shared, message, "setting a federated bundle for the server's own trust domain") {
            Ok(bundle) => {
                let stored = shared.store.set_bundle(&bundle).await;
                stored.map_err(|error| status::from_store("failed to set bundle", NOT_FOUND, &error))
            }
            Err(refused) => Err(refused),
        };
        let (status, bundle) = outcome(stored, request.output_mask.as_ref());
        results.push(batch_set_federated_bundle_response::Result { status, bundle });
    }
    BatchSetFederatedBundleResponse { results }
}

/// Replaces the parts of stored bundles that the input mask names (none: all).
pub(super) async fn update(
    shared: &Shared,
    request: BatchUpdateFederatedBundleRequest,
) -> BatchUpdateFederatedBundleResponse {
    let parts = request.input_mask.map_or(
        BundleSelection { x509_authorities: true, jwt_authorities: true, refresh_hint: true, sequence_number: true },
        |mask| BundleSelection {
            x509_authorities: mask.x509_authorities,
            jwt_authorities: mask.jwt_authorities,
            refresh_hint: mask.refresh_hint,
            sequence_number: mask.sequence_number,
        },
    );
    let mut results = Vec::with_capacity(request.bundle.len());
    for message in &request.bundle {
        let updated = match read(shared, message, "updating a federated bundle for the server's own trust domain") {
            Ok(bundle) => {
                let updated = shared.store.update_bundle(&bundle, parts).await;
                updated.map_err(|error| status::from_store("failed to update bundle", NOT_FOUND, &error))
            }
            Err(refused) => Err(refused),
        };
        let (status, bundle) = outcome(updated, request.output_mask.as_ref());
        results.push(batch_update_federated_bundle_response::Result { status, bundle });
    }
    BatchUpdateFederatedBundleResponse { results }
}

/// Removes bundles; the mode says what becomes of entries that federate with them.
pub(super) async fn delete(
    shared: &Shared,
    request: BatchDeleteFederatedBundleRequest,
) -> Result<BatchDeleteFederatedBundleResponse, Status> {
    let mode = match Mode::try_from(request.mode) {
        Ok(Mode::Restrict) => DeleteMode::Restrict,
        Ok(Mode::Delete) => DeleteMode::Delete,
        Ok(Mode::Dissociate) => DeleteMode::Dissociate,
        Err(_) => {
            let text = format!("unhandled delete mode \"{}\"", request.mode);
            return Err(status::invalid("failed to parse deletion mode", text));
        }
    };
    let mut results = Vec::with_capacity(request.trust_domains.len());
    for name in request.trust_domains {
        let deleted = match foreign(shared, &name, "removing the bundle for the server trust domain") {
            Ok(domain) => {
                let deleted = shared.store.delete_bundle(&domain, mode).await;
                deleted.map_err(|error| status::from_store("failed to delete federated bundle", NOT_FOUND, &error))
            }
            Err(refused) => Err(refused),
        };
        let status = deleted.map_or_else(|failure| status::item_failed(&failure), |()| status::item_ok());
        results.push(batch_delete_federated_bundle_response::Result { status: Some(status), trust_domain: name });
    }
    Ok(BatchDeleteFederatedBundleResponse { results })
}

/// A trust domain other than the issuer's own.
fn foreign(shared: &Shared, name: &str, own_refusal: &str) -> Result<TrustDomain, Status> {
    let domain = TrustDomain::from_name_or_id(name);
    let domain = domain.map_err(|error| status::invalid("trust domain argument is not valid", error))?;
    if domain == shared.trust_domain {
        return Err(Status::invalid_argument(format!("{own_refusal} is not allowed")));
    }
    Ok(domain)
}

fn read(shared: &Shared, message: &types::Bundle, own_refusal: &str) -> Result<Bundle, Status> {
    foreign(shared, &message.trust_domain, own_refusal)?;
    convert::bundle_from_client(message).map_err(|error| status::invalid("failed to convert bundle", error))
}

fn outcome(
    stored: Result<Arc<Bundle>, Status>,
    mask: Option<&types::BundleMask>,
) -> (Option<types::Status>, Option<types::Bundle>) {
    match stored {
        Ok(bundle) => (Some(status::item_ok()), Some(bundle_masks::to_proto(&bundle, mask))),
        Err(failure) => (Some(status::item_failed(&failure)), None),
    }
}
