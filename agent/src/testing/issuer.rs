//! An issuer in this process, on the generated server traits, that can be told to misbehave.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use federation_specs::{
    bundle::BundleSet,
    convert,
    id::{SpiffeId, TrustDomain},
    proto::{
        server::{
            agent::{self, agent_server::AgentServer, attest_agent_request, attest_agent_response},
            bundle::{self, bundle_server::BundleServer},
            entry::{self, entry_server::EntryServer},
            svid::{self, batch_new_x509svid_response::Result as SigningResult, svid_server::SvidServer},
        },
        types::{self, permission_denied_details::Reason},
    },
    x509_svid::CertificateRequest,
};
use futures::stream::BoxStream;
use rustls_pki_types::CertificateDer;
use service_kit::{
    clock::{Clock, ManualClock},
    grpc::listen::{TcpPeer, TlsOptions, serve_tls},
    keys::{KeyType, PrivateKey},
    lifecycle::Shutdown,
    tls::{BundleCell, ClientAuth, PeerPolicy, SvidCell, X509Identity},
};
use time::Duration;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

use super::authority::{Authority, START};

const TRUST_DOMAIN: &str = "cloud.example";

/// Entries in one message of a synchronisation.
const PAGE: usize = 500;

/// One attested agent.
#[derive(Debug, Default, Clone)]
struct Agent {
    current: String,
    new: Option<String>,
    banned: bool,
}

/// What the issuer knows and how it behaves.
pub(crate) struct State {
    pub(crate) authority: Arc<Authority>,
    /// The own bundle as sent; `None` for that of the authority.
    pub(crate) own_bundle: Option<types::Bundle>,
    pub(crate) federated: HashMap<String, types::Bundle>,
    pub(crate) entries: BTreeMap<String, types::Entry>,
    pub(crate) tokens: HashSet<String>,
    pub(crate) agent_ttl: Duration,
    pub(crate) svid_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    /// Errors answered instead, by call; the number counts down, `usize::MAX` lasts.
    pub(crate) failures: HashMap<&'static str, (usize, Status)>,
    /// Entries whose signing fails.
    pub(crate) unsignable: HashSet<String>,
    /// Federated bundles whose fetch fails.
    pub(crate) unfetchable: HashSet<String>,
    /// Calls answered so far.
    pub(crate) calls: HashMap<&'static str, usize>,
    /// Sizes of the signing batches.
    pub(crate) batches: Vec<usize>,
    agents: HashMap<String, Agent>,
    clock: ManualClock,
}

/// A running issuer.
pub(crate) struct FakeIssuer {
    pub(crate) address: SocketAddr,
    pub(crate) clock: ManualClock,
    shared: Shared,
    shutdown: Shutdown,
    server: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

impl FakeIssuer {
    /// An issuer of `cloud.example` on a free port.
    pub(crate) async fn start() -> Self {
        Self::with_authority(Authority::new(TRUST_DOMAIN)).await
    }

    pub(crate) async fn with_authority(authority: Authority) -> Self {
        let clock = ManualClock::new(START);
        let state = State {
            authority: Arc::new(authority),
            own_bundle: None,
            federated: HashMap::new(),
            entries: BTreeMap::new(),
            tokens: HashSet::new(),
            agent_ttl: Duration::HOUR,
            svid_ttl: Duration::HOUR,
            jwt_ttl: Duration::minutes(5),
            failures: HashMap::new(),
            unsignable: HashSet::new(),
            unfetchable: HashSet::new(),
            calls: HashMap::new(),
            batches: Vec::new(),
            agents: HashMap::new(),
            clock: clock.clone(),
        };
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let shared = Shared(Arc::new(Mutex::new(state)));
        let mut issuer = Self { address, clock, shared, shutdown: Shutdown::new(), server: None };
        issuer.serve(TRUST_DOMAIN).await;
        issuer
    }

    /// Begins to answer on its address, as the issuer of `trust_domain`.
    pub(crate) async fn serve(&mut self, trust_domain: &str) {
        let authority = Arc::clone(&self.state().authority);
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = TrustDomain::parse(trust_domain).unwrap().server_id();
        let now = self.clock.now();
        let leaf = authority.sign(&id, key.public_key(), now - Duration::MINUTE, now + Duration::days(30));
        let identity = X509Identity::new(vec![CertificateDer::from(leaf)], &key).unwrap();
        let bundles = BundleSet::from_iter([Arc::new(authority.bundle())]);
        let client_auth = ClientAuth::Optional {
            bundles: Arc::new(BundleCell::new(bundles)),
            policy: PeerPolicy::MemberOf(TrustDomain::parse(TRUST_DOMAIN).unwrap()),
        };
        let clock = Arc::new(self.clock.clone()) as service_kit::clock::SharedClock;
        let tls = TlsOptions::new(Arc::new(SvidCell::holding(identity)), client_auth, &clock).unwrap();
        let routes = Routes::new(AgentServer::new(self.shared.clone()))
            .add_service(BundleServer::new(self.shared.clone()))
            .add_service(EntryServer::new(self.shared.clone()))
            .add_service(SvidServer::new(self.shared.clone()))
            .prepare();
        let listener = self.listener().await;
        self.shutdown = Shutdown::new();
        let shutdown = self.shutdown.clone();
        self.server = Some(tokio::spawn(async move {
            serve_tls(listener, tls, routes, clock, shutdown).await.unwrap();
        }));
    }

    /// The listener on its address, once the former one is gone.
    async fn listener(&self) -> TcpListener {
        for _ in 0..500 {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
        panic!("{} stays in use", self.address);
    }

    /// Stops answering; connections break.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.trigger();
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
    }

    /// The state, to look at and to change.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    pub(crate) fn calls(&self, call: &str) -> usize {
        self.state().calls.get(call).copied().unwrap_or_default()
    }

    pub(crate) fn token(&self, token: &str) {
        self.state().tokens.insert(token.into());
    }

    pub(crate) fn ban(&self) {
        self.state().agents.values_mut().for_each(|agent| agent.banned = true);
    }

    pub(crate) fn evict(&self) {
        self.state().agents.clear();
    }

    /// Answers `call` with this error the next `times` times.
    pub(crate) fn fail(&self, call: &'static str, times: usize, status: Status) {
        self.state().failures.insert(call, (times, status));
    }

    pub(crate) fn mend(&self, call: &str) {
        self.state().failures.remove(call);
    }
}

impl State {
    /// Adds or replaces an entry for `spiffe://cloud.example/<path>`; a replaced one gets the next revision.
    pub(crate) fn entry(&mut self, id: &str, path: &str, selectors: &[&str], change: impl FnOnce(&mut types::Entry)) {
        let selectors = selectors
            .iter()
            .map(|text| {
                let (kind, value) = text.split_once(':').unwrap();
                types::Selector { r#type: kind.into(), value: value.into() }
            })
            .collect();
        let revision_number = self.entries.get(id).map_or(0, |entry| entry.revision_number + 1);
        let mut entry = types::Entry {
            id: id.into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: format!("/{path}") }),
            selectors,
            revision_number,
            created_at: 1_000,
            ..Default::default()
        };
        change(&mut entry);
        self.entries.insert(id.into(), entry);
    }

    pub(crate) fn own_bundle(&self) -> types::Bundle {
        self.own_bundle.clone().unwrap_or_else(|| convert::bundle_to_proto(&self.authority.bundle()))
    }

    fn called(&mut self, call: &'static str) -> Result<(), Status> {
        *self.calls.entry(call).or_default() += 1;
        match self.failures.get_mut(call) {
            Some((0, _)) | None => Ok(()),
            Some((times, status)) => {
                *times = if *times == usize::MAX { usize::MAX } else { *times - 1 };
                Err(status.clone())
            }
        }
    }

    /// The agent behind a call, if it is one in good standing.
    fn agent<T>(&mut self, request: &Request<T>) -> Result<SpiffeId, Status> {
        let denied = |reason: Reason| {
            let message = "authorization denied for method /x";
            let details = convert::permission_denied_details(reason, message);
            Status::with_details(Code::PermissionDenied, message, details.into())
        };
        let peer = request.extensions().get::<TcpPeer>().expect("served over TLS");
        let Some(svid) = &peer.svid else { return Err(Status::permission_denied("authorization denied")) };
        if svid.not_after() < self.clock.now() {
            return Err(denied(Reason::AgentExpired));
        }
        let agent = self.agents.get_mut(&svid.id().to_string()).ok_or_else(|| denied(Reason::AgentNotAttested))?;
        let serial = svid.serial_decimal();
        if agent.banned {
            return Err(denied(Reason::AgentBanned));
        }
        if agent.new.as_deref() == Some(serial) {
            *agent = Agent { current: serial.into(), new: None, banned: false };
        }
        if agent.current == serial { Ok(svid.id().clone()) } else { Err(denied(Reason::AgentNotActive)) }
    }

    fn sign(&self, id: &SpiffeId, csr: &[u8], ttl: Duration) -> Result<types::X509svid, Status> {
        let request = CertificateRequest::from_der(csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = self.clock.now();
        let leaf = self.authority.sign(id, request.public_key(), now - Duration::seconds(10), now + ttl);
        let expires_at = (now + ttl).unix_timestamp();
        let id = Some(convert::spiffe_id_to_proto(id));
        Ok(types::X509svid { cert_chain: vec![leaf], id, expires_at, hint: String::new() })
    }

    fn attested(&mut self, id: &str, csr: &[u8], reattestable: bool) -> Result<attest_agent_response::Step, Status> {
        if self.agents.get(id).is_some_and(|agent| agent.banned) {
            return Err(Status::permission_denied("failed to attest: agent is banned"));
        }
        let svid = self.sign(&SpiffeId::parse(id).unwrap(), csr, self.agent_ttl)?;
        let serial = serial(&svid);
        self.agents.insert(id.into(), Agent { current: serial, new: None, banned: false });
        Ok(attest_agent_response::Step::Result(attest_agent_response::Result { svid: Some(svid), reattestable }))
    }
}

fn serial(svid: &types::X509svid) -> String {
    federation_specs::certificate::Certificate::from_der(&svid.cert_chain[0]).unwrap().serial_decimal().to_string()
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn attest(
        &self,
        mut requests: Streaming<agent::AttestAgentRequest>,
        answers: &Answers,
    ) -> Result<(), Status> {
        let Some(attest_agent_request::Step::Params(params)) = requests.message().await?.and_then(|first| first.step)
        else {
            return Err(Status::invalid_argument("malformed param: missing params"));
        };
        let data = params.data.unwrap();
        let csr = params.params.unwrap().csr;
        let step = match data.r#type.as_str() {
            "join_token" => {
                let token = String::from_utf8(data.payload).unwrap();
                let mut state = self.state();
                if !state.tokens.remove(&token) {
                    return Err(Status::invalid_argument(
                        "failed to attest: join token does not exist or has already been used",
                    ));
                }
                state.attested(&format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{token}"), &csr, false)?
            }
            "x509pop" => {
                let nonce = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
                let challenge = format!(r#"{{"rsa_signature":null,"ecdsa_signature":{{"nonce":"{nonce}"}}}}"#);
                let step = attest_agent_response::Step::Challenge(challenge.into_bytes());
                let _ = answers.send(Ok(agent::AttestAgentResponse { step: Some(step) })).await;
                let answer = requests.message().await?.and_then(|answer| answer.step);
                let Some(attest_agent_request::Step::ChallengeResponse(answer)) = answer else {
                    return Err(Status::invalid_argument("no answer"));
                };
                assert!(String::from_utf8(answer).unwrap().starts_with(r#"{"rsa_signature":null,"ecdsa_signature":{"#));
                self.state().attested(&format!("spiffe://{TRUST_DOMAIN}/spire/agent/x509pop/node"), &csr, true)?
            }
            other => {
                return Err(Status::failed_precondition(format!(
                    "error getting node attestor: could not find node attestor type \"{other}\""
                )));
            }
        };
        let _ = answers.send(Ok(agent::AttestAgentResponse { step: Some(step) })).await;
        Ok(())
    }

    async fn sync(
        &self,
        mut requests: Streaming<entry::SyncAuthorizedEntriesRequest>,
        answers: &mpsc::Sender<Result<entry::SyncAuthorizedEntriesResponse, Status>>,
    ) -> Result<(), Status> {
        let first = requests.message().await?.unwrap_or_default();
        assert!(first.ids.is_empty() && first.output_mask.is_some_and(|mask| mask.revision_number));
        let entries: Vec<types::Entry> = self.state().entries.values().cloned().collect();
        if entries.len() <= PAGE {
            let answer = entry::SyncAuthorizedEntriesResponse { entries, ..Default::default() };
            let _ = answers.send(Ok(answer)).await;
            return Ok(());
        }
        let pages: Vec<&[types::Entry]> = entries.chunks(PAGE).collect();
        for (at, page) in pages.iter().enumerate() {
            let entry_revisions = page
                .iter()
                .map(|entry| entry::EntryRevision {
                    id: entry.id.clone(),
                    revision_number: entry.revision_number,
                    created_at: entry.created_at,
                })
                .collect();
            let more = at + 1 < pages.len();
            let answer = entry::SyncAuthorizedEntriesResponse { entry_revisions, entries: vec![], more };
            let _ = answers.send(Ok(answer)).await;
        }
        while let Some(request) = requests.message().await? {
            *self.state().calls.entry("entries asked for").or_default() += request.ids.len();
            let found: Vec<types::Entry> =
                entries.iter().filter(|entry| request.ids.contains(&entry.id)).cloned().collect();
            let answer = entry::SyncAuthorizedEntriesResponse { entries: found, ..Default::default() };
            let _ = answers.send(Ok(answer)).await;
        }
        Ok(())
    }
}

type Answers = mpsc::Sender<Result<agent::AttestAgentResponse, Status>>;

/// A server trait of which only some calls are needed.
macro_rules! serve {
    (impl $service:path; refuse [$($name:ident($request:ty) -> $response:ty),* $(,)?] $($body:tt)*) => {
        #[tonic::async_trait]
        impl $service for Shared {
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not in this test"))
            })*
            $($body)*
        }
    };
}

serve! {
    impl agent::agent_server::Agent;
    refuse [
        count_agents(agent::CountAgentsRequest) -> agent::CountAgentsResponse,
        list_agents(agent::ListAgentsRequest) -> agent::ListAgentsResponse,
        get_agent(agent::GetAgentRequest) -> types::Agent,
        delete_agent(agent::DeleteAgentRequest) -> (),
        ban_agent(agent::BanAgentRequest) -> (),
        create_join_token(agent::CreateJoinTokenRequest) -> types::JoinToken,
    ]

    type AttestAgentStream = BoxStream<'static, Result<agent::AttestAgentResponse, Status>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        self.state().called("AttestAgent")?;
        let (answers, outgoing) = mpsc::channel(4);
        let shared = self.clone();
        tokio::spawn(async move {
            if let Err(status) = shared.attest(request.into_inner(), &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::RenewAgentRequest>,
    ) -> Result<Response<agent::RenewAgentResponse>, Status> {
        let mut state = self.state();
        state.called("RenewAgent")?;
        let id = state.agent(&request)?;
        let csr = request.into_inner().params.unwrap().csr;
        let svid = state.sign(&id, &csr, state.agent_ttl)?;
        let serial = serial(&svid);
        state.agents.get_mut(&id.to_string()).unwrap().new = Some(serial);
        Ok(Response::new(agent::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn post_status(
        &self,
        request: Request<agent::PostStatusRequest>,
    ) -> Result<Response<agent::PostStatusResponse>, Status> {
        let mut state = self.state();
        state.called("PostStatus")?;
        state.agent(&request)?;
        assert!(request.get_ref().agent_version.starts_with("entente-"));
        Ok(Response::new(agent::PostStatusResponse {}))
    }
}

serve! {
    impl bundle::bundle_server::Bundle;
    refuse [
        count_bundles(bundle::CountBundlesRequest) -> bundle::CountBundlesResponse,
        append_bundle(bundle::AppendBundleRequest) -> types::Bundle,
        publish_jwt_authority(bundle::PublishJwtAuthorityRequest) -> bundle::PublishJwtAuthorityResponse,
        publish_wit_authority(bundle::PublishWitAuthorityRequest) -> bundle::PublishWitAuthorityResponse,
        list_federated_bundles(bundle::ListFederatedBundlesRequest) -> bundle::ListFederatedBundlesResponse,
        batch_create_federated_bundle(bundle::BatchCreateFederatedBundleRequest)
            -> bundle::BatchCreateFederatedBundleResponse,
        batch_update_federated_bundle(bundle::BatchUpdateFederatedBundleRequest)
            -> bundle::BatchUpdateFederatedBundleResponse,
        batch_set_federated_bundle(bundle::BatchSetFederatedBundleRequest) -> bundle::BatchSetFederatedBundleResponse,
        batch_delete_federated_bundle(bundle::BatchDeleteFederatedBundleRequest)
            -> bundle::BatchDeleteFederatedBundleResponse,
    ]

    async fn get_bundle(&self, _: Request<bundle::GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        let mut state = self.state();
        state.called("GetBundle")?;
        Ok(Response::new(state.own_bundle()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mut state = self.state();
        state.called("GetFederatedBundle")?;
        state.agent(&request)?;
        let trust_domain = &request.get_ref().trust_domain;
        if state.unfetchable.contains(trust_domain) {
            return Err(Status::internal("broken"));
        }
        let bundle = state.federated.get(trust_domain).ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(bundle.clone()))
    }
}

serve! {
    impl entry::entry_server::Entry;
    refuse [
        count_entries(entry::CountEntriesRequest) -> entry::CountEntriesResponse,
        list_entries(entry::ListEntriesRequest) -> entry::ListEntriesResponse,
        get_entry(entry::GetEntryRequest) -> types::Entry,
        batch_create_entry(entry::BatchCreateEntryRequest) -> entry::BatchCreateEntryResponse,
        batch_update_entry(entry::BatchUpdateEntryRequest) -> entry::BatchUpdateEntryResponse,
        batch_delete_entry(entry::BatchDeleteEntryRequest) -> entry::BatchDeleteEntryResponse,
        get_authorized_entries(entry::GetAuthorizedEntriesRequest) -> entry::GetAuthorizedEntriesResponse,
    ]

    type SyncAuthorizedEntriesStream = BoxStream<'static, Result<entry::SyncAuthorizedEntriesResponse, Status>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        {
            let mut state = self.state();
            state.called("SyncAuthorizedEntries")?;
            state.agent(&request)?;
        }
        let (answers, outgoing) = mpsc::channel(4);
        let shared = self.clone();
        tokio::spawn(async move {
            if let Err(status) = shared.sync(request.into_inner(), &answers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

serve! {
    impl svid::svid_server::Svid;
    refuse [
        mint_x509svid(svid::MintX509svidRequest) -> svid::MintX509svidResponse,
        mint_jwtsvid(svid::MintJwtsvidRequest) -> svid::MintJwtsvidResponse,
        mint_witsvid(svid::MintWitsvidRequest) -> svid::MintWitsvidResponse,
        batch_new_witsvid(svid::BatchNewWitsvidRequest) -> svid::BatchNewWitsvidResponse,
        new_downstream_x509ca(svid::NewDownstreamX509caRequest) -> svid::NewDownstreamX509caResponse,
    ]

    async fn batch_new_x509svid(
        &self,
        request: Request<svid::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        let mut state = self.state();
        state.called("BatchNewX509SVID")?;
        state.agent(&request)?;
        let params = request.into_inner().params;
        state.batches.push(params.len());
        let results = params
            .into_iter()
            .map(|params| {
                let status = |code: Code, message: &str| Some(types::Status { code: code as i32, message: message.into() });
                let Some(entry) = state.entries.get(&params.entry_id) else {
                    let status = status(Code::NotFound, "entry not found or not authorized");
                    return SigningResult { status, svid: None };
                };
                if state.unsignable.contains(&params.entry_id) {
                    return SigningResult { status: status(Code::Internal, "failed to sign X509-SVID"), svid: None };
                }
                let id = convert::spiffe_id_from_proto(entry.spiffe_id.as_ref()).unwrap();
                let svid = state.sign(&id, &params.csr, state.svid_ttl).unwrap();
                SigningResult { status: status(Code::Ok, "OK"), svid: Some(svid) }
            })
            .collect();
        Ok(Response::new(svid::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::NewJwtsvidRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        let mut state = self.state();
        state.called("NewJWTSVID")?;
        state.agent(&request)?;
        let request = request.into_inner();
        let entry = state.entries.get(&request.entry_id);
        let entry = entry.ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let id = convert::spiffe_id_from_proto(entry.spiffe_id.as_ref()).unwrap();
        let now = state.clock.now();
        let svid = types::Jwtsvid {
            token: state.authority.jwt(&id, &request.audience, now, state.jwt_ttl),
            id: entry.spiffe_id.clone(),
            expires_at: (now + state.jwt_ttl).unix_timestamp(),
            issued_at: now.unix_timestamp(),
            hint: String::new(),
        };
        Ok(Response::new(svid::NewJwtsvidResponse { svid: Some(svid) }))
    }
}
