//! A SPIRE server as the gateway meets it on its socket: the rules of SPIRE 1.15, and the very words that a running one
//! answered (`issuer/testdata`).

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use federation_specs::{
    certificate::split_der_certificates,
    id::TrustDomain,
    proto::{
        server::{
            bundle::{self as api, batch_delete_federated_bundle_request::Mode, bundle_server::BundleServer},
            svid::{self, svid_server::SvidServer},
            trustdomain::{self as relationships, trust_domain_server::TrustDomainServer},
        },
        types::{self, FederationRelationship, Status as ItemStatus, X509svid},
    },
};
use service_kit::{clock::SystemClock, grpc, lifecycle::Shutdown};
use time::Duration;
use tonic::{Code, Request, Response, Status, service::Routes};

use super::authority::Authority;

const RECORDED: &str = include_str!("../../../../issuer/testdata/spire_server_api.tsv");

/// Who calls, as the recording names it.
pub const LOCAL_CALLER: &str = "local";

/// What the server has stored.
pub struct State {
    pub authority: Authority,
    /// Messages as they are stored, also where they break every other reader.
    pub own: types::Bundle,
    /// In the order they came.
    pub federated: Vec<types::Bundle>,
    pub relationships: Vec<FederationRelationship>,
    /// Who the gateway is to the server.
    pub caller: &'static str,
    /// The server never ends a list.
    pub endless: bool,
    /// Largest page, whatever was asked for.
    pub largest_page: usize,
    /// `BatchSetFederatedBundle` calls.
    pub sets: usize,
}

#[derive(Clone)]
pub struct SpireServer(Arc<Mutex<State>>);

impl SpireServer {
    /// Serves on `socket` until the test ends.
    pub fn start(authority: Authority, own: types::Bundle, socket: &Path) -> Self {
        let state = State {
            authority,
            own,
            federated: Vec::new(),
            relationships: Vec::new(),
            caller: LOCAL_CALLER,
            endless: false,
            largest_page: usize::MAX,
            sets: 0,
        };
        let server = Self(Arc::new(Mutex::new(state)));
        let routes = Routes::new(BundleServer::new(server.clone()))
            .add_service(SvidServer::new(server.clone()))
            .add_service(TrustDomainServer::new(server.clone()));
        let socket = grpc::unix_socket::bind_unix(socket, 0o700, 0o600).unwrap();
        tokio::spawn(grpc::listen::serve_unix(socket, routes, SystemClock::shared(), Shutdown::new()));
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn federated(&self, name: &str) -> Option<types::Bundle> {
        self.state().federated.iter().find(|bundle| bundle.trust_domain == name).cloned()
    }

    /// Whether the caller may; else what the recorded server said to it.
    fn authorize(&self, rpc: &str) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.state();
        let (code, message, _) = recorded(rpc, state.caller, "-");
        if code == Code::PermissionDenied { Err(Status::new(code, message)) } else { Ok(state) }
    }
}

/// Code, message and item statuses of one recorded call.
pub fn recorded(rpc: &str, caller: &str, name: &str) -> (Code, String, Vec<ItemStatus>) {
    let row = RECORDED.lines().map(|line| line.split('\t').collect::<Vec<_>>()).find(|row| {
        row[0].rsplit_once("spire.api.server.").is_some_and(|(_, method)| method == rpc)
            && row[1] == caller
            && row[2] == name
    });
    let row = row.unwrap_or_else(|| panic!("{rpc} was not recorded for {caller} with {name}"));
    let code = match row[4] {
        "OK" => Code::Ok,
        "InvalidArgument" => Code::InvalidArgument,
        "NotFound" => Code::NotFound,
        "PermissionDenied" => Code::PermissionDenied,
        "Internal" => Code::Internal,
        other => panic!("code {other}"),
    };
    let items = row[7].split(" | ").filter(|item| !item.is_empty()).map(|item| {
        let (code, message) = item.split_once(':').unwrap();
        ItemStatus { code: code.parse().unwrap(), message: message.to_owned() }
    });
    (code, row[5].to_owned(), items.collect())
}

/// The status of the only item of one recorded call.
fn item(rpc: &str, name: &str) -> Option<ItemStatus> {
    recorded(rpc, LOCAL_CALLER, name).2.first().cloned()
}

fn failed(rpc: &str, name: &str) -> Status {
    let (code, message, _) = recorded(rpc, LOCAL_CALLER, name);
    Status::new(code, message)
}

/// The rows of one page and the token of the next: the position of its last row, given whenever the page is full.
fn page<T: Clone>(all: &[T], size: i32, token: &str, state: &State, rpc: &str) -> Result<(Vec<T>, String), Status> {
    let after = match token {
        "" => 0,
        token => token.parse::<usize>().map_err(|_| failed(rpc, "bad page token"))?,
    };
    let size = match usize::try_from(size).unwrap_or(0) {
        0 => return Ok((all.to_vec(), String::new())),
        size => size.min(state.largest_page),
    };
    let rows: Vec<T> = all.iter().skip(after).take(size).cloned().collect();
    let full = rows.len() == size || state.endless;
    let next = if full { (after + rows.len()).to_string() } else { String::new() };
    Ok((rows, next))
}

type Answer<T> = Result<Response<T>, Status>;

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("the gateway does not call this"))
}

const BUNDLE: &str = "bundle.v1.Bundle";

#[tonic::async_trait]
impl api::bundle_server::Bundle for SpireServer {
    async fn get_bundle(&self, _: Request<api::GetBundleRequest>) -> Answer<types::Bundle> {
        Ok(Response::new(self.authorize(&format!("{BUNDLE}/GetBundle"))?.own.clone()))
    }

    async fn get_federated_bundle(&self, request: Request<api::GetFederatedBundleRequest>) -> Answer<types::Bundle> {
        let rpc = format!("{BUNDLE}/GetFederatedBundle");
        let state = self.authorize(&rpc)?;
        let name = request.into_inner().trust_domain;
        if name == state.own.trust_domain {
            return Err(failed(&rpc, "own td"));
        }
        let bundle = state.federated.iter().find(|bundle| bundle.trust_domain == name).cloned();
        bundle.map(Response::new).ok_or_else(|| failed(&rpc, "unknown"))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<api::BatchSetFederatedBundleRequest>,
    ) -> Answer<api::BatchSetFederatedBundleResponse> {
        let rpc = format!("{BUNDLE}/BatchSetFederatedBundle");
        let mut state = self.authorize(&rpc)?;
        state.sets += 1;
        let mut results = Vec::new();
        for mut bundle in request.into_inner().bundle {
            let malformed = |authority: &types::X509Certificate| split_der_certificates(&authority.asn1).is_err();
            let name = match TrustDomain::from_name_or_id(&bundle.trust_domain) {
                Err(_) => "bad td",
                Ok(_) if bundle.trust_domain == state.own.trust_domain => "own td",
                Ok(_) if bundle.x509_authorities.iter().any(malformed) => "bad x509",
                Ok(_) => "third",
            };
            let status = item(&rpc, name);
            if status.as_ref().is_some_and(|status| status.code == 0) {
                // Neither taint marks nor WIT keys are taken.
                bundle.wit_authorities.clear();
                bundle.x509_authorities.iter_mut().for_each(|authority| authority.tainted = false);
                match state.federated.iter_mut().find(|held| held.trust_domain == bundle.trust_domain) {
                    Some(held) => *held = bundle,
                    None => state.federated.push(bundle),
                }
            }
            results.push(api::batch_set_federated_bundle_response::Result { status, bundle: None });
        }
        Ok(Response::new(api::BatchSetFederatedBundleResponse { results }))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<api::ListFederatedBundlesRequest>,
    ) -> Answer<api::ListFederatedBundlesResponse> {
        let rpc = format!("{BUNDLE}/ListFederatedBundles");
        let state = self.authorize(&rpc)?;
        let request = request.into_inner();
        let all: Vec<_> = std::iter::once(state.own.clone()).chain(state.federated.iter().cloned()).collect();
        let (mut bundles, next_page_token) = page(&all, request.page_size, &request.page_token, &state, &rpc)?;
        // Taken out of the page, which may be empty then.
        bundles.retain(|bundle| bundle.trust_domain != state.own.trust_domain);
        Ok(Response::new(api::ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<api::BatchDeleteFederatedBundleRequest>,
    ) -> Answer<api::BatchDeleteFederatedBundleResponse> {
        let rpc = format!("{BUNDLE}/BatchDeleteFederatedBundle");
        let mut state = self.authorize(&rpc)?;
        let request = request.into_inner();
        assert_eq!(request.mode(), Mode::Dissociate, "entries are never deleted along, nor do they stop the removal");
        // Of "", "bad td", the own one, one that is not there, and one that is.
        let said = recorded(&rpc, LOCAL_CALLER, "RESTRICT mixed").2;
        let results = request.trust_domains.into_iter().map(|trust_domain| {
            let held = state.federated.len();
            state.federated.retain(|bundle| bundle.trust_domain != trust_domain);
            let index = match TrustDomain::from_name_or_id(&trust_domain) {
                Err(_) => 1,
                Ok(_) if trust_domain == state.own.trust_domain => 2,
                Ok(_) if state.federated.len() == held => 3,
                Ok(_) => 4,
            };
            api::batch_delete_federated_bundle_response::Result { status: Some(said[index].clone()), trust_domain }
        });
        let results = results.collect();
        Ok(Response::new(api::BatchDeleteFederatedBundleResponse { results }))
    }

    async fn count_bundles(&self, _: Request<api::CountBundlesRequest>) -> Answer<api::CountBundlesResponse> {
        unused()
    }

    async fn append_bundle(&self, _: Request<api::AppendBundleRequest>) -> Answer<types::Bundle> {
        unused()
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<api::PublishJwtAuthorityRequest>,
    ) -> Answer<api::PublishJwtAuthorityResponse> {
        unused()
    }

    async fn publish_wit_authority(
        &self,
        _: Request<api::PublishWitAuthorityRequest>,
    ) -> Answer<api::PublishWitAuthorityResponse> {
        unused()
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<api::BatchCreateFederatedBundleRequest>,
    ) -> Answer<api::BatchCreateFederatedBundleResponse> {
        unused()
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<api::BatchUpdateFederatedBundleRequest>,
    ) -> Answer<api::BatchUpdateFederatedBundleResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl relationships::trust_domain_server::TrustDomain for SpireServer {
    async fn list_federation_relationships(
        &self,
        request: Request<relationships::ListFederationRelationshipsRequest>,
    ) -> Answer<relationships::ListFederationRelationshipsResponse> {
        let rpc = "trustdomain.v1.TrustDomain/ListFederationRelationships";
        let state = self.authorize(rpc)?;
        let request = request.into_inner();
        let (federation_relationships, next_page_token) =
            page(&state.relationships, request.page_size, &request.page_token, &state, rpc)?;
        Ok(Response::new(relationships::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        _: Request<relationships::GetFederationRelationshipRequest>,
    ) -> Answer<FederationRelationship> {
        unused()
    }

    async fn batch_create_federation_relationship(
        &self,
        _: Request<relationships::BatchCreateFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchCreateFederationRelationshipResponse> {
        unused()
    }

    async fn batch_update_federation_relationship(
        &self,
        _: Request<relationships::BatchUpdateFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchUpdateFederationRelationshipResponse> {
        unused()
    }

    async fn batch_delete_federation_relationship(
        &self,
        _: Request<relationships::BatchDeleteFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchDeleteFederationRelationshipResponse> {
        unused()
    }

    async fn refresh_bundle(&self, _: Request<relationships::RefreshBundleRequest>) -> Answer<()> {
        unused()
    }
}

#[tonic::async_trait]
impl svid::svid_server::Svid for SpireServer {
    async fn mint_x509svid(&self, request: Request<svid::MintX509svidRequest>) -> Answer<svid::MintX509svidResponse> {
        let state = self.authorize("svid.v1.SVID/MintX509SVID")?;
        let leaf = state.authority.sign(&request.into_inner().csr, Duration::HOUR);
        let svid = X509svid { cert_chain: vec![leaf], ..X509svid::default() };
        Ok(Response::new(svid::MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(&self, _: Request<svid::MintJwtsvidRequest>) -> Answer<svid::MintJwtsvidResponse> {
        unused()
    }

    async fn mint_witsvid(&self, _: Request<svid::MintWitsvidRequest>) -> Answer<svid::MintWitsvidResponse> {
        unused()
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<svid::BatchNewX509svidRequest>,
    ) -> Answer<svid::BatchNewX509svidResponse> {
        unused()
    }

    async fn new_jwtsvid(&self, _: Request<svid::NewJwtsvidRequest>) -> Answer<svid::NewJwtsvidResponse> {
        unused()
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<svid::BatchNewWitsvidRequest>,
    ) -> Answer<svid::BatchNewWitsvidResponse> {
        unused()
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<svid::NewDownstreamX509caRequest>,
    ) -> Answer<svid::NewDownstreamX509caResponse> {
        unused()
    }
}
