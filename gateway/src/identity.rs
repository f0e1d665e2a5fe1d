//! X509-SVIDs from the Workload API, kept current: the gateway's own towards issuers on other machines, and those of its
//! endpoints.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use federation_specs::{
    bundle::{Bundle, BundleError, BundleSet, X509Authority},
    certificate::{CertificateError, split_der_certificates},
    id::{IdError, SpiffeId, TrustDomain},
    proto::workload::{
        X509svid, X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use rustls_pki_types::CertificateDer;
use service_kit::{
    BoxError,
    backoff::Backoff,
    clock::SharedClock,
    grpc::connect,
    keys::{KeyError, PrivateKey},
    lifecycle::Shutdown,
    tls::{BundleCell, SvidCell, TlsError, X509Identity},
};
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue};
use zeroize::Zeroizing;

use crate::issuer_client::MAX_MESSAGE_BYTES;

/// Metadata every Workload API call carries (SPIRE 1.15).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Waits after failures.
pub(crate) const FIRST_RETRY: Duration = Duration::from_secs(1);
pub(crate) const LAST_RETRY: Duration = Duration::from_secs(30);

/// Most X509-SVIDs looked at in one answer.
const MAX_SVIDS: usize = 1024;

/// Most SPIFFE IDs an error names.
const MAX_NAMED: usize = 10;

/// Why an answer of the Workload API cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum IdentityError {
    /// The call failed.
    #[error("{}", connect::explain(.0))]
    Call(#[source] Box<Status>),
    /// The stream ended.
    #[error("the Workload API ended the stream")]
    Ended,
    /// No identity at all.
    #[error("the agent has no X509-SVID for this gateway; create an entry that selects it")]
    None,
    /// Only other identities.
    #[error(
        "the agent has no X509-SVID `{wanted}` for this gateway, only {offered}; create an entry with that SPIFFE ID that selects it, or change endpoint_id"
    )]
    OnlyOthers {
        /// What was looked for.
        wanted: SpiffeId,
        /// What there is.
        offered: String,
    },
    /// Not a SPIFFE ID.
    #[error("the X509-SVID has no usable SPIFFE ID: {0}")]
    Id(#[from] IdError),
    /// The agent contradicts itself.
    #[error("the X509-SVID said to be `{said}` is `{given}`")]
    OtherId {
        /// What the agent said.
        said: SpiffeId,
        /// What the certificate says.
        given: SpiffeId,
    },
    /// Not certificates.
    #[error("the X509-SVID's chain cannot be read: {0}")]
    Chain(#[from] CertificateError),
    /// Not a private key this software can use.
    #[error("the X509-SVID's key cannot be used: {0}")]
    Key(#[from] KeyError),
    /// Key and certificate do not belong together.
    #[error("the X509-SVID cannot be used: {0}")]
    Identity(#[from] TlsError),
    /// Not a bundle.
    #[error("a bundle of the Workload API cannot be read: {0}")]
    Bundle(#[from] BundleError),
}

impl IdentityError {
    /// Whether nothing more comes on the stream. Otherwise the next message may be better.
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self, Self::Call(_) | Self::Ended | Self::None)
    }
}

/// An open stream of X509-SVIDs.
pub(crate) struct Updates(Streaming<X509svidResponse>);

/// An X509-SVID and the bundles that came with it, filled by [`WorkloadIdentity::follow`] or
/// [`WorkloadIdentity::update`].
#[derive(Debug)]
pub(crate) struct WorkloadIdentity {
    socket: PathBuf,
    /// Which of several X509-SVIDs; the first, which the agent considers the default, if `None`.
    wanted: Option<SpiffeId>,
    svid: Arc<SvidCell>,
    bundles: Arc<BundleCell>,
}

impl WorkloadIdentity {
    /// Empty, to be filled with the default X509-SVID of the Workload API on `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let bundles = Arc::new(BundleCell::new(BundleSet::new()));
        Self { socket, wanted: None, svid: Arc::new(SvidCell::new()), bundles }
    }

    /// Empty, to be filled with the X509-SVID `id`.
    pub(crate) fn choosing(socket: PathBuf, id: SpiffeId) -> Self {
        Self { wanted: Some(id), ..Self::new(socket) }
    }

    /// The Workload API's socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The current X509-SVID.
    pub(crate) fn svid(&self) -> Arc<SvidCell> {
        Arc::clone(&self.svid)
    }

    /// The current bundles.
    pub(crate) fn bundles(&self) -> Arc<BundleCell> {
        Arc::clone(&self.bundles)
    }

    /// Follows the Workload API until `shutdown`. What was received last stays in use while it is away.
    ///
    /// # Errors
    /// Never; the signature is that of a service task.
    pub(crate) async fn follow(self: Arc<Self>, clock: SharedClock, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        loop {
            let outcome = tokio::select! {
                outcome = self.stream(&mut retry) => outcome,
                () = shutdown.cancelled() => return Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!(socket = %self.socket.display(), %error, "identity of the gateway not updated");
            }
            tokio::select! {
                () = clock.sleep(retry.next()) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    async fn stream(&self, retry: &mut Backoff) -> Result<(), IdentityError> {
        let mut updates = self.open().await?;
        loop {
            self.update(&mut updates).await?;
            retry.reset();
        }
    }

    /// Opens the stream of X509-SVIDs.
    ///
    /// # Errors
    /// [`IdentityError::Call`], [`IdentityError::None`].
    pub(crate) async fn open(&self) -> Result<Updates, IdentityError> {
        let channel = connect::unix_channel(&self.socket);
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        Ok(Updates(client.fetch_x509svid(request).await.map_err(call)?.into_inner()))
    }

    /// Waits for the next message and takes up what is in it. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`IdentityError`]; what was held stays.
    pub(crate) async fn update(&self, updates: &mut Updates) -> Result<Arc<X509Identity>, IdentityError> {
        let answer = updates.0.message().await.map_err(call)?.ok_or(IdentityError::Ended)?;
        self.accept(answer)
    }

    fn choose(&self, svids: Vec<X509svid>) -> Result<X509svid, IdentityError> {
        let Some(wanted) = &self.wanted else { return svids.into_iter().next().ok_or(IdentityError::None) };
        let mut offered = Vec::new();
        for svid in svids.into_iter().take(MAX_SVIDS) {
            if svid.spiffe_id == wanted.as_str() {
                return Ok(svid);
            }
            // Its text is the agent's, not yet checked.
            let id =
                SpiffeId::parse(&svid.spiffe_id).map_or_else(|_| "no SPIFFE ID".to_owned(), |id| format!("`{id}`"));
            offered.push(id);
        }
        let more = offered.len().saturating_sub(MAX_NAMED);
        offered.truncate(MAX_NAMED);
        let mut names = offered.join(", ");
        match (names.is_empty(), more) {
            (true, _) => return Err(IdentityError::None),
            (false, 0) => {}
            (false, more) => names.push_str(&format!(" and {more} more")),
        }
        Err(IdentityError::OnlyOthers { wanted: wanted.clone(), offered: names })
    }

    fn accept(&self, answer: X509svidResponse) -> Result<Arc<X509Identity>, IdentityError> {
        let svid = self.choose(answer.svids)?;
        let id = SpiffeId::parse(&svid.spiffe_id)?;
        let chain = split_der_certificates(&svid.x509_svid)?.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKey::from_pkcs8(&Zeroizing::new(svid.x509_svid_key))?;
        let identity = Arc::new(X509Identity::new(chain, &key)?);
        if *identity.id() != id {
            return Err(IdentityError::OtherId { said: id, given: identity.id().clone() });
        }
        let mut bundles = BundleSet::new();
        bundles.insert(Arc::new(roots(id.trust_domain().clone(), &svid.bundle)?));
        for (name, bytes) in &answer.federated_bundles {
            bundles.insert(Arc::new(roots(TrustDomain::from_name_or_id(name)?, bytes)?));
        }
        self.bundles.set(Arc::new(bundles));
        self.svid.set(Arc::clone(&identity));
        tracing::debug!(%id, "X509-SVID of the Workload API taken up");
        Ok(identity)
    }
}

/// An agent without an identity for the caller ends the call with this status.
fn call(status: Status) -> IdentityError {
    match status.code() {
        Code::PermissionDenied => IdentityError::None,
        _ => IdentityError::Call(Box::new(status)),
    }
}

fn roots(trust_domain: TrustDomain, der: &[u8]) -> Result<Bundle, IdentityError> {
    let mut authorities = Vec::new();
    for certificate in split_der_certificates(der)? {
        authorities.push(X509Authority::from_der(&certificate)?);
    }
    Ok(Bundle::new(trust_domain).with_x509_authorities(authorities))
}
