//! Another bundle endpoint of the same trust domain, over `https_web` or `https_spiffe`, asked as partners are: within
//! the limits of `refresh`, conditionally, at a quarter of the bundle's refresh hint.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use federation_specs::{
    bundle::Bundle,
    bundle_json::{self, BundleJsonError, MAX_BUNDLE_BYTES},
    id::{SpiffeId, TrustDomain},
    profile::{EndpointProfile, EndpointUrl},
};
use ipnet::IpNet;
use service_kit::{
    BoxError,
    clock::SharedClock,
    fetch::{FetchLimits, FetchOutcome},
    tls::WebRoots,
};
use tokio::io::AsyncReadExt as _;

use super::BundleSource;
use crate::{
    partners::PartnerBundles,
    refresh::{
        clients::{Client, Clients, Verification},
        schedule::Schedule,
        trust::MAX_CA_FILE_BYTES,
    },
    served::ServedDomains,
    settings::RefreshLimits,
};

/// Why a URL gives no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlSourceError {
    /// A configured file cannot be read.
    #[error("{what} {} cannot be read: {source}; correct the path or its permissions", path.display())]
    File {
        /// `ca_file` or `bootstrap_bundle_file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The document, or the bootstrap bundle, is none.
    #[error("{what} is no SPIFFE bundle: {source}")]
    Document {
        /// `the endpoint's answer` or `bootstrap_bundle_file`.
        what: &'static str,
        /// The cause.
        source: BundleJsonError,
    },
    /// Nothing to verify the endpoint with.
    #[error("there is no bundle of `{}` to verify `{endpoint_id}` with; set bootstrap_bundle_file", endpoint_id.trust_domain())]
    NoBundle {
        /// The endpoint.
        endpoint_id: SpiffeId,
    },
}

/// What a URL source is made of.
#[derive(Debug, Clone)]
pub struct UrlEndpoint {
    /// Whose bundle it gives.
    pub trust_domain: TrustDomain,
    /// Where.
    pub url: EndpointUrl,
    /// How it proves who it is.
    pub profile: EndpointProfile,
    /// PEM authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// First bundle of the endpoint's trust domain.
    pub bootstrap_bundle_file: Option<PathBuf>,
    /// Networks that are not public and may be asked.
    pub allow_addresses: Vec<IpNet>,
}

/// Polls a bundle endpoint.
#[derive(Debug)]
pub struct UrlSource {
    endpoint: UrlEndpoint,
    limits: RefreshLimits,
    clients: Arc<Clients>,
    client: Client,
    served: Arc<ServedDomains>,
    partners: Arc<PartnerBundles>,
    clock: SharedClock,
    last: Option<(Bundle, Option<String>)>,
    wait: Option<Duration>,
}

impl UrlSource {
    /// Polls `endpoint` with one of `clients` within `limits`. `served` and `partners` hold what an `https_spiffe` endpoint is verified with.
    pub fn new(
        endpoint: UrlEndpoint,
        limits: RefreshLimits,
        clients: Arc<Clients>,
        served: Arc<ServedDomains>,
        partners: Arc<PartnerBundles>,
        clock: SharedClock,
    ) -> Self {
        Self { endpoint, limits, clients, client: Client::default(), served, partners, clock, last: None, wait: None }
    }

    async fn verification(&self) -> Result<Verification, BoxError> {
        match &self.endpoint.profile {
            EndpointProfile::HttpsWeb => {
                let roots = match &self.endpoint.ca_file {
                    None => WebRoots::System,
                    Some(path) => WebRoots::Pem(read("ca_file", path, MAX_CA_FILE_BYTES).await?),
                };
                Ok(Verification::Web(roots))
            }
            EndpointProfile::HttpsSpiffe { endpoint_id } => {
                Ok(Verification::Spiffe(endpoint_id.clone(), self.endpoint_bundle(endpoint_id).await?))
            }
        }
    }

    /// The latest bundle with keys known of the endpoint's own trust domain, at first that of the file. What the endpoint
    /// gave last is among them, unless it withdrew all its keys: then it must still be able to take that back.
    async fn endpoint_bundle(&self, endpoint_id: &SpiffeId) -> Result<Arc<Bundle>, UrlSourceError> {
        let trust_domain = endpoint_id.trust_domain();
        let mine = self.last.as_ref().map(|(bundle, _)| bundle).filter(|bundle| bundle.trust_domain() == trust_domain);
        let held = self.partners.trusted(trust_domain).map(|held| Arc::clone(&held.bundle));
        let known = [mine.cloned().map(Arc::new), self.served.bundle(trust_domain), held];
        if let Some(known) = known.into_iter().flatten().find(|bundle| !bundle.x509_authorities().is_empty()) {
            return Ok(known);
        }
        let Some(path) = &self.endpoint.bootstrap_bundle_file else {
            return Err(UrlSourceError::NoBundle { endpoint_id: endpoint_id.clone() });
        };
        let bytes = read("bootstrap_bundle_file", path, MAX_BUNDLE_BYTES).await?;
        let parsed = bundle_json::parse(trust_domain, &bytes)
            .map_err(|source| UrlSourceError::Document { what: "bootstrap_bundle_file", source })?;
        Ok(Arc::new(parsed.bundle))
    }
}

#[async_trait]
impl BundleSource for UrlSource {
    fn describe(&self) -> String {
        format!("url {}", self.endpoint.url)
    }

    async fn next(&mut self) -> Result<Bundle, BoxError> {
        if let Some(wait) = self.wait.take() {
            self.clock.sleep(wait).await;
        }
        let limits = FetchLimits { deadline: self.limits.timeout, max_body_bytes: self.limits.max_body_bytes };
        let verification = self.verification().await?;
        let fetcher = self.clients.client(&mut self.client, &verification, &self.endpoint.allow_addresses)?;
        let etag = self.last.as_ref().and_then(|(_, etag)| etag.as_deref());
        let bundle = match (fetcher.get(self.endpoint.url.url(), etag, limits).await?, &self.last) {
            (FetchOutcome::Body { bytes, etag, .. }, _) => {
                let parsed = bundle_json::parse(&self.endpoint.trust_domain, &bytes)
                    .map_err(|source| UrlSourceError::Document { what: "the endpoint's answer", source })?;
                self.last = Some((parsed.bundle.clone(), etag));
                parsed.bundle
            }
            (FetchOutcome::NotModified, Some((bundle, _))) => bundle.clone(),
            // Only an answer to a condition, and there was none.
            (FetchOutcome::NotModified, None) => return Err("the endpoint answered 304 without being asked".into()),
        };
        let hint = bundle.refresh_hint();
        let wait = Schedule::new(self.limits, hint).after_success(hint);
        self.client.rest(wait);
        self.wait = Some(wait);
        Ok(bundle)
    }
}

async fn read(what: &'static str, path: &PathBuf, limit: usize) -> Result<Vec<u8>, UrlSourceError> {
    let read = async {
        let mut bytes = Vec::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.len() > limit {
            return Err(std::io::Error::other(format!("it is larger than {limit} bytes")));
        }
        Ok(bytes)
    };
    read.await.map_err(|source| UrlSourceError::File { what, path: path.clone(), source })
}
