//! What the gateway asks of a local trust domain's issuer, through the SPIRE Server API: an Entente issuer or a SPIRE
//! server alike.

mod watch;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use federation_specs::{
    bundle::Bundle,
    convert::{ConvertError, bundle_from_proto, bundle_to_proto},
    id::TrustDomain,
    proto::{
        entente::federation::{
            ReportRefreshRequest, WatchRelationshipsRequest, federation_work_client::FederationWorkClient,
        },
        server::{
            bundle::{
                BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest,
                GetFederatedBundleRequest, ListFederatedBundlesRequest,
                batch_delete_federated_bundle_request::Mode as DeleteMode, bundle_client::BundleClient,
            },
            svid::{MintX509svidRequest, svid_client::SvidClient},
            trustdomain::{ListFederationRelationshipsRequest, trust_domain_client::TrustDomainClient},
        },
        types::FederationRelationship,
    },
};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use service_kit::{
    clock::SharedClock,
    grpc::connect::{self, ConnectError},
};
use tonic::{Code, Status, transport::Channel};

pub use watch::{RelationshipWatch, WatchUpdate};

use crate::partners::content_digest;

/// Longest time one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest message accepted from an issuer: a page of relationships or bundles, each with a bundle of the largest size
/// a person would still call one.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Relationships asked for at once.
const PAGE_SIZE: i32 = 500;

/// Most pages of one list. A server may give fewer items a page than asked for, but not pages without end.
const MAX_PAGES: usize = 2000;

/// Most relationships taken from one issuer.
pub const MAX_RELATIONSHIPS: usize = 100_000;

/// Most certificates in a minted chain.
const MAX_CHAIN: usize = 16;

/// Why an issuer did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// It did not answer in time.
    #[error("issuer of `{trust_domain}` ({address}) did not answer {call} within {}s", CALL_TIMEOUT.as_secs())]
    Timeout {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Where it was looked for.
        address: String,
        /// The call.
        call: &'static str,
    },
    /// It answered with an error, or not at all.
    #[error("issuer of `{trust_domain}` ({address}) refused {call}: {code:?}: {message}{}", remedy(*code))]
    Refused {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Where it was looked for.
        address: String,
        /// The call.
        call: &'static str,
        /// gRPC status code.
        code: Code,
        /// gRPC status message.
        message: String,
    },
    /// It answered with something that cannot be used.
    #[error("issuer of `{trust_domain}` ({address}) answered {call} with {problem}")]
    BadAnswer {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Where it was looked for.
        address: String,
        /// The call.
        call: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

fn remedy(code: Code) -> &'static str {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => "; the gateway needs the local socket or an admin identity",
        _ => "",
    }
}

impl IssuerError {
    /// Whether the issuer does not know the call, as a SPIRE server does not know Entente's services.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Refused { code: Code::Unimplemented, .. })
    }

    /// Whether it did not answer, so that any other call would fail as well.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Refused { code: Code::Unavailable, .. })
    }
}

/// A connection to one issuer, made when first used and again after it broke. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IssuerClient {
    trust_domain: TrustDomain,
    address: Arc<str>,
    channel: Channel,
    clock: SharedClock,
}

impl IssuerClient {
    /// Over the issuer's Unix socket.
    pub fn over_socket(trust_domain: TrustDomain, path: &Path, clock: SharedClock) -> Self {
        let address = path.display().to_string().into();
        Self { trust_domain, address, channel: connect::unix_channel(path), clock }
    }

    /// Over TCP, with a TLS configuration that expects the issuer's identity and presents the gateway's.
    ///
    /// # Errors
    /// When `address` is no `host:port`.
    pub fn over_tls(
        trust_domain: TrustDomain,
        address: &str,
        tls: Arc<ClientConfig>,
        clock: SharedClock,
    ) -> Result<Self, ConnectError> {
        Ok(Self { trust_domain, address: address.into(), channel: connect::tls_channel(address, tls)?, clock })
    }

    /// The trust domain whose issuer this is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where the issuer is looked for.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The domain's own bundle.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn own_bundle(&self) -> Result<Bundle, IssuerError> {
        let call = "GetBundle";
        let mut client = self.bundles();
        let answer = self.call(call, client.get_bundle(GetBundleRequest { output_mask: None })).await?;
        bundle_from_proto(&answer).map_err(|cause| self.unusable(call, &cause))
    }

    /// The partner's bundle the issuer holds, `None` if it holds none.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn federated_bundle(&self, partner: &TrustDomain) -> Result<Option<Bundle>, IssuerError> {
        let call = "GetFederatedBundle";
        let request = GetFederatedBundleRequest { trust_domain: partner.as_str().to_owned(), output_mask: None };
        let mut client = self.bundles();
        match self.call(call, client.get_federated_bundle(request)).await {
            Ok(answer) => bundle_from_proto(&answer).map(Some).map_err(|cause| self.unusable(call, &cause)),
            Err(IssuerError::Refused { code: Code::NotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a partner's bundle to the issuer, which replaces what it held.
    ///
    /// # Errors
    /// [`IssuerError`], also when the issuer refuses this one bundle.
    pub async fn set_federated_bundle(&self, bundle: &Bundle) -> Result<(), IssuerError> {
        let call = "BatchSetFederatedBundle";
        let request =
            BatchSetFederatedBundleRequest { bundle: vec![bundle_to_proto(bundle)], output_mask: Some(no_bundle()) };
        let mut client = self.bundles();
        let answer = self.call(call, client.batch_set_federated_bundle(request)).await?;
        match answer.results.as_slice() {
            [result] => match &result.status {
                Some(status) if status.code == Code::Ok as i32 => Ok(()),
                Some(status) => Err(self.refused(call, &Status::new(Code::from(status.code), &status.message))),
                None => Err(self.bad(call, "a result without a status")),
            },
            results => Err(self.bad(call, format!("{} results for one bundle", results.len()))),
        }
    }

    /// Takes a partner's bundle from the issuer. Entries that federate with the partner stay and lose the association.
    ///
    /// # Errors
    /// [`IssuerError`]; a bundle the issuer does not hold is none.
    pub async fn delete_federated_bundle(&self, partner: &TrustDomain) -> Result<(), IssuerError> {
        let call = "BatchDeleteFederatedBundle";
        let request = BatchDeleteFederatedBundleRequest {
            trust_domains: vec![partner.as_str().to_owned()],
            mode: DeleteMode::Dissociate.into(),
        };
        let mut client = self.bundles();
        let answer = self.call(call, client.batch_delete_federated_bundle(request)).await?;
        match answer.results.as_slice() {
            [result] => match &result.status {
                Some(status) if [Code::Ok as i32, Code::NotFound as i32].contains(&status.code) => Ok(()),
                Some(status) => Err(self.refused(call, &Status::new(Code::from(status.code), &status.message))),
                None => Err(self.bad(call, "a result without a status")),
            },
            results => Err(self.bad(call, format!("{} results for one bundle", results.len()))),
        }
    }

    /// Content digests of every partner's bundle the issuer holds; a bundle that cannot be read has an empty one.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn federated_digests(&self) -> Result<HashMap<TrustDomain, String>, IssuerError> {
        let call = "ListFederatedBundles";
        let mut client = self.bundles();
        let mut all = HashMap::new();
        let mut page_token = String::new();
        let mut pages = 0;
        loop {
            let request = ListFederatedBundlesRequest {
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token: std::mem::take(&mut page_token),
            };
            let answer = self.call(call, client.list_federated_bundles(request)).await?;
            for message in &answer.bundles {
                if let Ok(name) = TrustDomain::from_name_or_id(&message.trust_domain) {
                    let digest = bundle_from_proto(message).map(|bundle| content_digest(&bundle)).unwrap_or_default();
                    all.insert(name, digest);
                }
            }
            if all.len() > MAX_RELATIONSHIPS {
                return Err(self.bad(call, format!("more than {MAX_RELATIONSHIPS} bundles")));
            }
            // A SPIRE server leaves its own bundle out after it cut the page, which may then be empty.
            if answer.next_page_token.is_empty() {
                return Ok(all);
            }
            pages += 1;
            if pages > MAX_PAGES {
                return Err(self.bad(call, format!("more than {MAX_PAGES} pages")));
            }
            page_token = answer.next_page_token;
        }
    }

    /// Has the issuer sign an X509-SVID for the request's SPIFFE ID. Answers the chain, leaf first.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn mint_x509_svid(&self, csr: Vec<u8>) -> Result<Vec<CertificateDer<'static>>, IssuerError> {
        let call = "MintX509SVID";
        let mut client = SvidClient::new(self.channel.clone());
        let answer = self.call(call, client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 })).await?;
        let chain = answer.svid.unwrap_or_default().cert_chain;
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(self.bad(call, format!("a chain of {} certificates", chain.len())));
        }
        Ok(chain.into_iter().map(CertificateDer::from).collect())
    }

    /// Follows the relationships created at the issuer.
    ///
    /// # Errors
    /// [`IssuerError`]; [`IssuerError::is_unimplemented`] from a SPIRE server.
    pub async fn watch_relationships(&self) -> Result<RelationshipWatch, IssuerError> {
        let mut client = self.work();
        let stream = self.call("WatchRelationships", client.watch_relationships(WatchRelationshipsRequest {})).await?;
        Ok(RelationshipWatch::new(self.clone(), stream))
    }

    /// Every relationship created at the issuer.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn list_relationships(&self) -> Result<Vec<FederationRelationship>, IssuerError> {
        let call = "ListFederationRelationships";
        let mut client = TrustDomainClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut all = Vec::new();
        let mut page_token = String::new();
        let mut pages = 0;
        loop {
            let request = ListFederationRelationshipsRequest {
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token: std::mem::take(&mut page_token),
            };
            let answer = self.call(call, client.list_federation_relationships(request)).await?;
            all.extend(answer.federation_relationships);
            if all.len() > MAX_RELATIONSHIPS {
                return Err(self.bad(call, format!("more than {MAX_RELATIONSHIPS} relationships")));
            }
            if answer.next_page_token.is_empty() {
                return Ok(all);
            }
            pages += 1;
            if pages > MAX_PAGES {
                return Err(self.bad(call, format!("more than {MAX_PAGES} pages")));
            }
            page_token = answer.next_page_token;
        }
    }

    /// Answers a refresh request of the watch.
    ///
    /// # Errors
    /// [`IssuerError`].
    pub async fn report_refresh(
        &self,
        trust_domain: &str,
        request_id: &str,
        outcome: Result<(), String>,
    ) -> Result<(), IssuerError> {
        let request = ReportRefreshRequest {
            trust_domain: trust_domain.to_owned(),
            request_id: request_id.to_owned(),
            ok: outcome.is_ok(),
            error: outcome.err().unwrap_or_default(),
        };
        let mut client = self.work();
        self.call("ReportRefresh", client.report_refresh(request)).await?;
        Ok(())
    }

    fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn work(&self) -> FederationWorkClient<Channel> {
        FederationWorkClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn call<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, IssuerError> {
        tokio::select! {
            answer = future => match answer {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) => Err(self.refused(call, &status)),
            },
            () = self.clock.sleep(CALL_TIMEOUT) => Err(IssuerError::Timeout {
                trust_domain: self.trust_domain.clone(),
                address: self.address.to_string(),
                call,
            }),
        }
    }

    fn refused(&self, call: &'static str, status: &Status) -> IssuerError {
        IssuerError::Refused {
            trust_domain: self.trust_domain.clone(),
            address: self.address.to_string(),
            call,
            code: status.code(),
            message: connect::explain(status),
        }
    }

    fn bad(&self, call: &'static str, problem: impl Into<String>) -> IssuerError {
        IssuerError::BadAnswer {
            trust_domain: self.trust_domain.clone(),
            address: self.address.to_string(),
            call,
            problem: problem.into(),
        }
    }

    fn unusable(&self, call: &'static str, cause: &ConvertError) -> IssuerError {
        self.bad(call, format!("an unusable bundle: {cause}"))
    }
}

/// An output mask that leaves everything out, so that the answer to a write is small.
fn no_bundle() -> federation_specs::proto::types::BundleMask {
    federation_specs::proto::types::BundleMask::default()
}
