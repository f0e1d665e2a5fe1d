//! A fake issuer on a Unix socket: the calls of the SPIRE Server API and of `FederationWork` the gateway makes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use federation_specs::{
    bundle::Bundle,
    convert::{bundle_from_proto, bundle_to_proto},
    proto::{
        entente::federation::{
            RefreshRequest as RefreshCall, ReportRefreshRequest, ReportRefreshResponse, WatchRelationshipsRequest,
            WatchRelationshipsResponse,
            federation_work_server::{FederationWork, FederationWorkServer},
        },
        server::{
            bundle::{self as api, bundle_server::BundleServer},
            svid::{self, svid_server::SvidServer},
            trustdomain::{self as relationships, trust_domain_server::TrustDomainServer},
        },
        types::{self, FederationRelationship, Status as ItemStatus, X509svid},
    },
};
use service_kit::{clock::SystemClock, grpc, lifecycle::Shutdown};
use time::Duration;
use tokio::{sync::watch, task::JoinHandle};
use tokio_stream::{Stream, wrappers::WatchStream};
use tonic::{Request, Response, Status, service::Routes};

use super::{authority::Authority, td};

/// What the issuer knows and was told.
pub struct State {
    pub authority: Authority,
    pub own: Bundle,
    /// Partners' bundles as they were set, the latest by trust domain.
    pub federated: BTreeMap<String, Bundle>,
    /// Number of `BatchSetFederatedBundle` calls.
    pub sets: usize,
    /// Number of signed X509-SVIDs.
    pub minted: usize,
    /// Life of signed X509-SVIDs.
    pub svid_life: Duration,
    /// Refuse to give the own bundle.
    pub refuse_reads: bool,
    /// Refuse deliveries.
    pub refuse_sets: bool,
    /// Take deliveries, and have the answers lost.
    pub lose_answers: bool,
    /// How long it takes to give a partner's bundle.
    pub slow_reads: std::time::Duration,
    /// Behave as a SPIRE server, which has no `FederationWork`.
    pub without_work: bool,
    pub relationships: Vec<FederationRelationship>,
    pub reports: Vec<ReportRefreshRequest>,
}

/// A fake issuer that can be stopped and started again.
pub struct FakeIssuer {
    shared: Shared,
    socket: PathBuf,
    running: Option<(Shutdown, JoinHandle<()>)>,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    watch: watch::Sender<Work>,
}

/// What a gateway is to know.
#[derive(Clone, Default)]
struct Work {
    relationships: Vec<FederationRelationship>,
    refresh_requests: Vec<RefreshCall>,
}

impl FakeIssuer {
    pub async fn start(trust_domain: &str, socket: PathBuf) -> Self {
        let authority = Authority::new(&td(trust_domain));
        let state = State {
            own: authority.bundle(1),
            authority,
            federated: BTreeMap::new(),
            sets: 0,
            minted: 0,
            svid_life: Duration::HOUR,
            refuse_reads: false,
            refuse_sets: false,
            lose_answers: false,
            slow_reads: std::time::Duration::ZERO,
            without_work: false,
            relationships: Vec::new(),
            reports: Vec::new(),
        };
        let watch = watch::Sender::new(Work::default());
        let mut issuer = Self { shared: Shared { state: Arc::new(Mutex::new(state)), watch }, socket, running: None };
        issuer.resume();
        issuer
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Creates, changes or removes relationships and asks for refreshes.
    pub fn relate(&self, relationships: Vec<FederationRelationship>, refresh: &[(&str, &str)]) {
        self.state().relationships.clone_from(&relationships);
        let refresh_requests = refresh
            .iter()
            .map(|(trust_domain, id)| RefreshCall {
                trust_domain: (*trust_domain).to_owned(),
                request_id: (*id).to_owned(),
            })
            .collect();
        self.shared.watch.send_replace(Work { relationships, refresh_requests });
    }

    pub async fn stop(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.trigger();
            // A watch stream stays open; it is cut.
            self.shared.watch.send_modify(|message| message.refresh_requests.clear());
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), task).await;
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Everything it serves.
    pub fn routes(&self) -> Routes {
        Routes::new(BundleServer::new(self.shared.clone()))
            .add_service(SvidServer::new(self.shared.clone()))
            .add_service(TrustDomainServer::new(self.shared.clone()))
            .add_service(FederationWorkServer::new(self.shared.clone()))
    }

    pub fn resume(&mut self) {
        let routes = self.routes();
        let socket = grpc::unix_socket::bind_unix(&self.socket, 0o700, 0o600).unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let _ = grpc::listen::serve_unix(socket, routes, SystemClock::shared(), stop).await;
        });
        self.running = Some((shutdown, task));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unimplemented<T>() -> Answer<T> {
    Err(Status::unimplemented("not part of the test"))
}

#[tonic::async_trait]
impl api::bundle_server::Bundle for Shared {
    async fn get_bundle(&self, _: Request<api::GetBundleRequest>) -> Answer<types::Bundle> {
        if self.state().refuse_reads {
            return Err(Status::unavailable("the datastore is away"));
        }
        Ok(Response::new(bundle_to_proto(&self.state().own)))
    }

    async fn get_federated_bundle(&self, request: Request<api::GetFederatedBundleRequest>) -> Answer<types::Bundle> {
        let name = request.into_inner().trust_domain;
        let slow = self.state().slow_reads;
        tokio::time::sleep(slow).await;
        match self.state().federated.get(&name) {
            Some(bundle) => Ok(Response::new(bundle_to_proto(bundle))),
            None => Err(Status::not_found("bundle not found")),
        }
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<api::BatchSetFederatedBundleRequest>,
    ) -> Answer<api::BatchSetFederatedBundleResponse> {
        let mut state = self.state();
        state.sets += 1;
        let bundles = request.into_inner().bundle;
        let results = bundles.iter().map(|message| {
            let bundle = bundle_from_proto(message).unwrap();
            let (code, text) = if state.refuse_sets { (9, "the test refuses") } else { (0, "OK") };
            if code == 0 {
                state.federated.insert(bundle.trust_domain().to_string(), bundle);
            }
            api::batch_set_federated_bundle_response::Result {
                status: Some(ItemStatus { code, message: text.to_owned() }),
                bundle: None,
            }
        });
        let results = results.collect();
        if state.lose_answers {
            return Err(Status::unavailable("the connection broke"));
        }
        Ok(Response::new(api::BatchSetFederatedBundleResponse { results }))
    }

    async fn count_bundles(&self, _: Request<api::CountBundlesRequest>) -> Answer<api::CountBundlesResponse> {
        unimplemented()
    }

    async fn append_bundle(&self, _: Request<api::AppendBundleRequest>) -> Answer<types::Bundle> {
        unimplemented()
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<api::PublishJwtAuthorityRequest>,
    ) -> Answer<api::PublishJwtAuthorityResponse> {
        unimplemented()
    }

    async fn publish_wit_authority(
        &self,
        _: Request<api::PublishWitAuthorityRequest>,
    ) -> Answer<api::PublishWitAuthorityResponse> {
        unimplemented()
    }

    async fn list_federated_bundles(
        &self,
        request: Request<api::ListFederatedBundlesRequest>,
    ) -> Answer<api::ListFederatedBundlesResponse> {
        // Pages of one, so that the pages are followed.
        let state = self.state();
        let after = request.into_inner().page_token;
        let next = state.federated.iter().find(|(name, _)| **name > after);
        let next_page_token = next.map(|(name, _)| name.clone()).unwrap_or_default();
        let bundles = next.map(|(_, bundle)| bundle_to_proto(bundle)).into_iter().collect();
        Ok(Response::new(api::ListFederatedBundlesResponse { bundles, next_page_token }))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<api::BatchCreateFederatedBundleRequest>,
    ) -> Answer<api::BatchCreateFederatedBundleResponse> {
        unimplemented()
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<api::BatchUpdateFederatedBundleRequest>,
    ) -> Answer<api::BatchUpdateFederatedBundleResponse> {
        unimplemented()
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<api::BatchDeleteFederatedBundleRequest>,
    ) -> Answer<api::BatchDeleteFederatedBundleResponse> {
        let request = request.into_inner();
        assert_eq!(request.mode(), api::batch_delete_federated_bundle_request::Mode::Dissociate);
        let mut state = self.state();
        let results = request.trust_domains.into_iter().map(|trust_domain| {
            let code = if state.federated.remove(&trust_domain).is_some() { 0 } else { 5 };
            let status = Some(ItemStatus { code, message: String::new() });
            api::batch_delete_federated_bundle_response::Result { status, trust_domain }
        });
        let results = results.collect();
        Ok(Response::new(api::BatchDeleteFederatedBundleResponse { results }))
    }
}

#[tonic::async_trait]
impl svid::svid_server::Svid for Shared {
    async fn mint_x509svid(&self, request: Request<svid::MintX509svidRequest>) -> Answer<svid::MintX509svidResponse> {
        let mut state = self.state();
        state.minted += 1;
        let leaf = state.authority.sign(&request.into_inner().csr, state.svid_life);
        let svid = X509svid { cert_chain: vec![leaf], ..X509svid::default() };
        Ok(Response::new(svid::MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(&self, _: Request<svid::MintJwtsvidRequest>) -> Answer<svid::MintJwtsvidResponse> {
        unimplemented()
    }

    async fn mint_witsvid(&self, _: Request<svid::MintWitsvidRequest>) -> Answer<svid::MintWitsvidResponse> {
        unimplemented()
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<svid::BatchNewX509svidRequest>,
    ) -> Answer<svid::BatchNewX509svidResponse> {
        unimplemented()
    }

    async fn new_jwtsvid(&self, _: Request<svid::NewJwtsvidRequest>) -> Answer<svid::NewJwtsvidResponse> {
        unimplemented()
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<svid::BatchNewWitsvidRequest>,
    ) -> Answer<svid::BatchNewWitsvidResponse> {
        unimplemented()
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<svid::NewDownstreamX509caRequest>,
    ) -> Answer<svid::NewDownstreamX509caResponse> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl relationships::trust_domain_server::TrustDomain for Shared {
    async fn list_federation_relationships(
        &self,
        _: Request<relationships::ListFederationRelationshipsRequest>,
    ) -> Answer<relationships::ListFederationRelationshipsResponse> {
        let federation_relationships = self.state().relationships.clone();
        Ok(Response::new(relationships::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token: String::new(),
        }))
    }

    async fn get_federation_relationship(
        &self,
        _: Request<relationships::GetFederationRelationshipRequest>,
    ) -> Answer<FederationRelationship> {
        unimplemented()
    }

    async fn batch_create_federation_relationship(
        &self,
        _: Request<relationships::BatchCreateFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchCreateFederationRelationshipResponse> {
        unimplemented()
    }

    async fn batch_update_federation_relationship(
        &self,
        _: Request<relationships::BatchUpdateFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchUpdateFederationRelationshipResponse> {
        unimplemented()
    }

    async fn batch_delete_federation_relationship(
        &self,
        _: Request<relationships::BatchDeleteFederationRelationshipRequest>,
    ) -> Answer<relationships::BatchDeleteFederationRelationshipResponse> {
        unimplemented()
    }

    async fn refresh_bundle(&self, _: Request<relationships::RefreshBundleRequest>) -> Answer<()> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl FederationWork for Shared {
    type WatchRelationshipsStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<WatchRelationshipsResponse, Status>> + Send>>;

    async fn watch_relationships(
        &self,
        _: Request<WatchRelationshipsRequest>,
    ) -> Answer<Self::WatchRelationshipsStream> {
        use tokio_stream::StreamExt as _;
        if self.state().without_work {
            return Err(Status::unimplemented("unknown service entente.federation.v1.FederationWork"));
        }
        let mut told = Told::default();
        let work = WatchStream::new(self.watch.subscribe());
        let messages = work.map(move |work| tokio_stream::iter(told.messages(work).into_iter().map(Ok)));
        Ok(Response::new(Box::pin(futures::StreamExt::flatten(messages))))
    }

    async fn report_refresh(&self, request: Request<ReportRefreshRequest>) -> Answer<ReportRefreshResponse> {
        self.state().reports.push(request.into_inner());
        Ok(Response::new(ReportRefreshResponse {}))
    }
}

/// What one gateway was told, as an issuer remembers it.
#[derive(Default)]
struct Told {
    relationships: Option<BTreeMap<String, FederationRelationship>>,
    number: u64,
}

impl Told {
    /// What differs now, one relationship a message, so that the pages are put together.
    fn messages(&mut self, work: Work) -> Vec<WatchRelationshipsResponse> {
        let snapshot = self.relationships.is_none();
        let mut before = self.relationships.take().unwrap_or_default();
        let mut messages = Vec::new();
        let mut now = BTreeMap::new();
        for relationship in work.relationships {
            let name = relationship.trust_domain.clone();
            if before.remove(&name).as_ref() != Some(&relationship) {
                let relationships = vec![relationship.clone()];
                messages.push(WatchRelationshipsResponse { relationships, ..Default::default() });
            }
            now.insert(name, relationship);
        }
        messages.push(WatchRelationshipsResponse {
            removed: before.into_keys().collect(),
            refresh_requests: work.refresh_requests,
            end_of_snapshot: snapshot,
            ..Default::default()
        });
        self.relationships = Some(now);
        for message in &mut messages {
            self.number += 1;
            message.number = self.number;
        }
        messages
    }
}
