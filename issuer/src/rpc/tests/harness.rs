//! An issuer of `cloud.example` in a temporary folder, and callers of every kind.

use std::{path::Path, sync::Arc};

use federation_specs::{
    bundle::{Bundle, BundleSet},
    convert,
    id::{SpiffeId, TrustDomain},
    proto::{
        server::{
            agent::{
                AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, agent_client::AgentClient,
                attest_agent_request, attest_agent_response,
            },
            bundle::{BatchSetFederatedBundleRequest, GetBundleRequest, bundle_client::BundleClient},
            entry::{BatchCreateEntryRequest, entry_client::EntryClient},
            svid::{MintX509svidRequest, svid_client::SvidClient},
        },
        types,
    },
};
use rustls_pki_types::CertificateDer;
use service_kit::{
    clock::{SharedClock, SystemClock},
    grpc::connect,
    keys::{KeyType, PrivateKey},
    lifecycle::Shutdown,
    telemetry::{LogHandle, LogLevel},
    tls::{self, BundleCell, PeerPolicy, SvidCell, X509Identity},
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

use crate::{Error, Issuer, config::Config};

/// A running issuer.
pub(super) struct TestIssuer {
    pub(super) folder: TempDir,
    address: String,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<Result<(), Error>>,
}

/// The configuration of a test, with `more` YAML lines.
pub(super) fn config(folder: &Path, more: &str) -> Config {
    let text = format!(
        "trust_domain: cloud.example\n\
         data_dir: {dir}/data\n\
         bind_address: 127.0.0.1\n\
         bind_port: 0\n\
         socket_path: {dir}/private/api.sock\n\
         {more}",
        dir = folder.display()
    );
    service_kit::config::from_str(&text, "issuer.yaml", "NONE", []).unwrap()
}

impl TestIssuer {
    pub(super) async fn start(more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more).await
    }

    pub(super) async fn start_in(folder: TempDir, more: &str) -> Self {
        service_kit::crypto::install();
        let shutdown = Shutdown::new();
        let config = config(folder.path(), more);
        let log = LogHandle::detached(LogLevel::Debug);
        let issuer = Issuer::start(config, log, SystemClock::shared(), shutdown.clone()).await.unwrap();
        assert!(issuer.readiness().is_ready(), "{:?}", issuer.readiness().snapshot());
        let address = issuer.address().to_string();
        let serving = tokio::spawn(issuer.serve());
        Self { folder, address, shutdown, serving }
    }

    /// Stops it and gives the folder back.
    pub(super) async fn stop(self) -> TempDir {
        self.shutdown.trigger();
        self.serving.await.unwrap().unwrap();
        self.folder
    }

    /// A caller on the Unix socket.
    pub(super) fn local(&self) -> Channel {
        connect::unix_channel(&self.folder.path().join("private/api.sock"))
    }

    /// A caller over TLS, with an SVID or without.
    pub(super) async fn remote(&self, svid: Option<&Svid>) -> Channel {
        let mut bundles = BundleSet::default();
        bundles.insert(Arc::new(self.bundle().await));
        let clock: SharedClock = SystemClock::shared();
        let svid = svid.map(|svid| Arc::new(SvidCell::holding(svid.identity())) as Arc<dyn tls::SvidSource>);
        let server = PeerPolicy::Exactly(domain().server_id());
        let config =
            tls::spiffe_client_config(Arc::new(BundleCell::new(bundles)), svid, server, clock, &[tls::ALPN_H2])
                .unwrap();
        connect::tls_channel(&self.address, config).unwrap()
    }

    /// The own bundle.
    pub(super) async fn bundle(&self) -> Bundle {
        let bundle = BundleClient::new(self.local()).get_bundle(GetBundleRequest::default()).await.unwrap();
        convert::bundle_from_proto(&bundle.into_inner()).unwrap()
    }

    /// An X509-SVID minted by the issuer.
    pub(super) async fn mint(&self, id: &str) -> Svid {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let id = SpiffeId::parse(id).unwrap();
        let csr = service_kit::csr::create(&key, service_kit::csr::CsrSubject::default(), Some(&id), &[]).unwrap();
        let minted = SvidClient::new(self.local()).mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await.unwrap();
        Svid { chain: minted.into_inner().svid.unwrap().cert_chain, key: Arc::new(key) }
    }

    /// Creates entries; every one must succeed.
    pub(super) async fn create(&self, entries: Vec<types::Entry>) -> Vec<types::Entry> {
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        let results = EntryClient::new(self.local()).batch_create_entry(request).await.unwrap().into_inner().results;
        let created = results.into_iter().map(|result| {
            assert_eq!(result.status.as_ref().map(|status| status.code), Some(0), "{result:?}");
            result.entry.unwrap()
        });
        created.collect()
    }

    /// Makes a join token of this value.
    pub(super) async fn token(&self, value: &str) {
        let request = CreateJoinTokenRequest { ttl: 600, token: value.into(), agent_id: None };
        AgentClient::new(self.local()).create_join_token(request).await.unwrap();
    }

    /// Attests with a join token of this value, made for it.
    pub(super) async fn agent(&self, token: &str) -> Svid {
        self.token(token).await;
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let svid = self.attest("join_token", token.as_bytes(), agent_csr(&key)).await.unwrap();
        Svid { chain: svid.cert_chain, key: Arc::new(key) }
    }

    /// One attestation without challenge, over TLS without certificate.
    pub(super) async fn attest(&self, kind: &str, payload: &[u8], csr: Vec<u8>) -> Result<types::X509svid, Status> {
        let request = attest_request(kind, payload, csr);
        let mut client = AgentClient::new(self.remote(None).await);
        let mut answers = client.attest_agent(tokio_stream::once(request)).await?.into_inner();
        let answer = answers.message().await?.unwrap();
        assert!(answers.message().await?.is_none(), "the stream ends after the result");
        match answer.step {
            Some(attest_agent_response::Step::Result(result)) => Ok(result.svid.unwrap()),
            other => panic!("expected a result, got {other:?}"),
        }
    }

    /// Stores a bundle of another trust domain.
    pub(super) async fn set_bundle(&self, bundle: &Bundle) {
        let request =
            BatchSetFederatedBundleRequest { bundle: vec![convert::bundle_to_proto(bundle)], output_mask: None };
        let set = BundleClient::new(self.local()).batch_set_federated_bundle(request).await.unwrap().into_inner();
        assert_eq!(set.results[0].status.as_ref().map(|status| status.code), Some(0), "{set:?}");
    }
}

/// A chain with its key.
#[derive(Clone)]
pub(super) struct Svid {
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) key: Arc<PrivateKey>,
}

impl Svid {
    pub(super) fn identity(&self) -> X509Identity {
        let chain = self.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        X509Identity::new(chain, &self.key).unwrap()
    }

    pub(super) fn id(&self) -> String {
        self.identity().id().to_string()
    }
}

pub(super) fn domain() -> TrustDomain {
    TrustDomain::parse("cloud.example").unwrap()
}

/// The CSR agents send: no names.
pub(super) fn agent_csr(key: &PrivateKey) -> Vec<u8> {
    service_kit::csr::create(key, service_kit::csr::CsrSubject::default(), None, &[]).unwrap()
}

pub(super) fn attest_request(kind: &str, payload: &[u8], csr: Vec<u8>) -> AttestAgentRequest {
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData { r#type: kind.into(), payload: payload.to_vec() }),
        params: Some(AgentX509svidParams { csr }),
    };
    AttestAgentRequest { step: Some(attest_agent_request::Step::Params(params)) }
}

pub(super) fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "cloud.example".into(), path: path.into() })
}

pub(super) fn id_of(text: &str) -> Option<types::Spiffeid> {
    Some(convert::spiffe_id_to_proto(&SpiffeId::parse(text).unwrap()))
}

pub(super) fn unix_selector(value: &str) -> types::Selector {
    types::Selector { r#type: "unix".into(), value: value.into() }
}

/// An entry of a workload served by `parent`.
pub(super) fn entry(entry_id: &str, parent: &str, path: &str) -> types::Entry {
    types::Entry {
        id: entry_id.into(),
        parent_id: id_of(parent),
        spiffe_id: id(path),
        selectors: vec![unix_selector("uid:1")],
        ..Default::default()
    }
}

/// Another trust domain's authority.
pub(super) struct ForeignDomain {
    pub(super) name: TrustDomain,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: Vec<u8>,
}

impl ForeignDomain {
    pub(super) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![rcgen::SanType::URI(format!("spiffe://{name}").try_into().unwrap())];
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { name: TrustDomain::parse(name).unwrap(), issuer: rcgen::Issuer::new(params, key), root }
    }

    pub(super) fn root(&self) -> &[u8] {
        &self.root
    }

    pub(super) fn bundle(&self) -> Bundle {
        let root = federation_specs::bundle::X509Authority::from_der(&self.root).unwrap();
        Bundle::new(self.name.clone()).with_x509_authorities([root])
    }

    /// An X509-SVID signed by this authority.
    pub(super) fn svid(&self, id: &str) -> Svid {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKey::from_pkcs8(key.serialized_der()).unwrap();
        Svid { chain: vec![leaf.der().to_vec()], key: Arc::new(private) }
    }
}
