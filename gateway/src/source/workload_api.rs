//! The bundle as a Workload API gives it: X.509 authorities and JWT keys on two streams.
//!
//! The Workload API names no sequence number, so that a rollback cannot be noticed here; an emptied bundle is.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use federation_specs::{
    bundle::{Bundle, BundleError, JwtAuthority, X509Authority},
    bundle_json::MAX_BUNDLE_BYTES,
    certificate::{CertificateError, split_der_certificates},
    id::TrustDomain,
    proto::workload::{
        JwtBundlesRequest, JwtBundlesResponse, X509BundlesRequest, X509BundlesResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    public_key::{PublicKey, PublicKeyError},
};
use serde_json::{Map, Value};
use service_kit::{BoxError, clock::SharedClock, grpc::connect};
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue};

use super::BundleSource;
use crate::issuer_client::MAX_MESSAGE_BYTES;

/// Metadata every Workload API call carries (SPIRE 1.15).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Most keys taken from one JWT bundle.
const MAX_KEYS: usize = federation_specs::bundle_json::MAX_KEYS;

/// How long a Workload API may take to connect and to send what it has. After that it is silent until something changes.
pub const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a Workload API gives no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiSourceError {
    /// The call failed.
    #[error("Workload API {}: {}; check that the agent runs and has an entry for this gateway", socket.display(), connect::explain(status))]
    Call {
        /// The socket.
        socket: PathBuf,
        /// The status.
        status: Box<Status>,
    },
    /// It took the calls and said nothing.
    #[error("Workload API {} sent no bundle within {}s; check that the agent works", socket.display(), FIRST_MESSAGE_TIMEOUT.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
    },
    /// A stream ended.
    #[error("Workload API {} ended the stream", socket.display())]
    Ended {
        /// The socket.
        socket: PathBuf,
    },
    /// No bundle of the domain.
    #[error("Workload API {} has no bundle of `{trust_domain}`; check which trust domain its agent belongs to", socket.display())]
    Missing {
        /// The socket.
        socket: PathBuf,
        /// The domain.
        trust_domain: TrustDomain,
    },
    /// Not certificates.
    #[error("the Workload API's X.509 bundle cannot be read: {0}")]
    Certificates(#[from] CertificateError),
    /// Not authorities.
    #[error("the Workload API's bundle cannot be used: {0}")]
    Bundle(#[from] BundleError),
    /// Not a key set.
    #[error("the Workload API's JWT bundle is no JWK Set: {0}")]
    KeySet(String),
    /// A key that cannot be read.
    #[error("a key of the Workload API's JWT bundle cannot be read: {0}")]
    Key(#[from] PublicKeyError),
}

/// The open streams and what they last said.
struct Streams {
    x509: Streaming<X509BundlesResponse>,
    /// `None` where the Workload API has no JWT-SVIDs.
    jwt: Option<Streaming<JwtBundlesResponse>>,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: Vec<JwtAuthority>,
}

/// Follows the bundle streams of one socket.
pub struct WorkloadApiSource {
    trust_domain: TrustDomain,
    socket: PathBuf,
    clock: SharedClock,
    streams: Option<Streams>,
}

impl WorkloadApiSource {
    /// Follows the bundle of `trust_domain` on `socket`.
    pub fn new(trust_domain: TrustDomain, socket: PathBuf, clock: SharedClock) -> Self {
        Self { trust_domain, socket, clock, streams: None }
    }

    fn call(&self, status: Status) -> WorkloadApiSourceError {
        WorkloadApiSourceError::Call { socket: self.socket.clone(), status: Box::new(status) }
    }

    fn missing(&self) -> WorkloadApiSourceError {
        WorkloadApiSourceError::Missing { socket: self.socket.clone(), trust_domain: self.trust_domain.clone() }
    }

    fn ended(&self) -> WorkloadApiSourceError {
        WorkloadApiSourceError::Ended { socket: self.socket.clone() }
    }

    /// Opens both streams and waits for the first message of each.
    async fn open(&self) -> Result<Streams, WorkloadApiSourceError> {
        let channel = connect::unix_channel(&self.socket);
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let opened = client.fetch_x509_bundles(request(X509BundlesRequest {})).await;
        let mut x509 = opened.map_err(|status| self.call(status))?.into_inner();
        let first = x509.message().await.map_err(|status| self.call(status))?.ok_or_else(|| self.ended())?;
        let x509_authorities = self.x509(&first)?;
        let (jwt, jwt_authorities) = match self.open_jwt(&mut client).await {
            Ok((stream, authorities)) => (Some(stream), authorities),
            Err(WorkloadApiSourceError::Call { status, .. }) if status.code() == Code::Unimplemented => {
                tracing::info!(socket = %self.socket.display(), "the Workload API has no JWT bundles");
                (None, Vec::new())
            }
            Err(error) => return Err(error),
        };
        Ok(Streams { x509, jwt, x509_authorities, jwt_authorities })
    }

    async fn open_jwt(
        &self,
        client: &mut SpiffeWorkloadApiClient<tonic::transport::Channel>,
    ) -> Result<(Streaming<JwtBundlesResponse>, Vec<JwtAuthority>), WorkloadApiSourceError> {
        let opened = client.fetch_jwt_bundles(request(JwtBundlesRequest {})).await;
        let mut stream = opened.map_err(|status| self.call(status))?.into_inner();
        let first = stream.message().await.map_err(|status| self.call(status))?.ok_or_else(|| self.ended())?;
        let authorities = self.jwt(&first)?;
        Ok((stream, authorities))
    }

    fn x509(&self, answer: &X509BundlesResponse) -> Result<Vec<X509Authority>, WorkloadApiSourceError> {
        let bytes = answer.bundles.get(&self.trust_domain.id_string()).ok_or_else(|| self.missing())?;
        let mut authorities = Vec::new();
        for certificate in split_der_certificates(bytes)? {
            authorities.push(X509Authority::from_der(&certificate)?);
        }
        Ok(authorities)
    }

    fn jwt(&self, answer: &JwtBundlesResponse) -> Result<Vec<JwtAuthority>, WorkloadApiSourceError> {
        match answer.bundles.get(&self.trust_domain.id_string()) {
            Some(bytes) => key_set(bytes),
            None => Err(self.missing()),
        }
    }

    async fn change(&self, streams: &mut Streams) -> Result<(), WorkloadApiSourceError> {
        let Streams { x509, jwt, x509_authorities, jwt_authorities } = streams;
        let jwt = async {
            match jwt {
                Some(stream) => stream.message().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = x509.message() => {
                let message = message.map_err(|status| self.call(status))?.ok_or_else(|| self.ended())?;
                *x509_authorities = self.x509(&message)?;
            }
            message = jwt => {
                let message = message.map_err(|status| self.call(status))?.ok_or_else(|| self.ended())?;
                *jwt_authorities = self.jwt(&message)?;
            }
        }
        Ok(())
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

/// The keys of a "standard JWKS": unlike in a SPIFFE bundle they carry no `use`.
fn key_set(bytes: &[u8]) -> Result<Vec<JwtAuthority>, WorkloadApiSourceError> {
    let bad = |reason: &str| WorkloadApiSourceError::KeySet(reason.to_owned());
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(bad("it is too long"));
    }
    let document: Map<String, Value> = serde_json::from_slice(bytes).map_err(|cause| bad(&cause.to_string()))?;
    let keys = document.get("keys").and_then(Value::as_array).ok_or_else(|| bad("it has no array `keys`"))?;
    if keys.len() > MAX_KEYS {
        return Err(bad("it has too many keys"));
    }
    let mut authorities = Vec::new();
    for key in keys {
        let members = key.as_object().ok_or_else(|| bad("a key is no object"))?;
        let key_id = members.get("kid").and_then(Value::as_str).unwrap_or_default();
        match PublicKey::from_jwk(members) {
            Ok(key) => authorities.push(JwtAuthority::new(key_id, key, None, false)?),
            Err(error) if error.is_unsupported() => tracing::warn!(%error, "key of a JWT bundle passed over"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(authorities)
}

#[async_trait]
impl BundleSource for WorkloadApiSource {
    fn describe(&self) -> String {
        format!("workload_api {}", self.socket.display())
    }

    fn is_stream(&self) -> bool {
        true
    }

    async fn next(&mut self) -> Result<Bundle, BoxError> {
        let streams = match self.streams.take() {
            Some(mut streams) => {
                self.change(&mut streams).await?;
                streams
            }
            None => tokio::select! {
                opened = self.open() => opened?,
                () = self.clock.sleep(FIRST_MESSAGE_TIMEOUT) => {
                    return Err(WorkloadApiSourceError::Silent { socket: self.socket.clone() }.into());
                }
            },
        };
        let bundle = Bundle::new(self.trust_domain.clone())
            .with_x509_authorities(streams.x509_authorities.clone())
            .with_jwt_authorities(streams.jwt_authorities.clone());
        self.streams = Some(streams);
        Ok(bundle)
    }
}
