//! The gateway's own identity towards issuers on other machines: an X509-SVID from the Workload API, kept current.

use std::{path::PathBuf, sync::Arc, time::Duration};

use federation_specs::{
    bundle::{Bundle, BundleError, BundleSet, X509Authority},
    certificate::{CertificateError, split_der_certificates},
    id::{IdError, SpiffeId, TrustDomain},
    proto::workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
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
use tonic::{Request, Status, metadata::MetadataValue};

/// Metadata every Workload API call carries (SPIRE 1.15).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

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
    #[error("the Workload API gave no X509-SVID; create an entry for this gateway")]
    None,
    /// Not a SPIFFE ID.
    #[error("the X509-SVID has no usable SPIFFE ID: {0}")]
    Id(#[from] IdError),
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

/// An X509-SVID and the bundles that came with it, filled by [`WorkloadIdentity::follow`].
#[derive(Debug)]
pub(crate) struct WorkloadIdentity {
    socket: PathBuf,
    svid: Arc<SvidCell>,
    bundles: Arc<BundleCell>,
}

impl WorkloadIdentity {
    /// Empty, to be filled from the Workload API on `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, svid: Arc::new(SvidCell::new()), bundles: Arc::new(BundleCell::new(BundleSet::new())) }
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
        let call = |status: Status| IdentityError::Call(Box::new(status));
        let mut client = SpiffeWorkloadApiClient::new(connect::unix_channel(&self.socket));
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        let mut stream = client.fetch_x509svid(request).await.map_err(call)?.into_inner();
        while let Some(answer) = stream.message().await.map_err(call)? {
            self.accept(answer)?;
            retry.reset();
        }
        Err(IdentityError::Ended)
    }

    fn accept(&self, answer: X509svidResponse) -> Result<(), IdentityError> {
        let svid = answer.svids.into_iter().next().ok_or(IdentityError::None)?;
        let id = SpiffeId::parse(&svid.spiffe_id)?;
        let chain = split_der_certificates(&svid.x509_svid)?.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKey::from_pkcs8(&svid.x509_svid_key)?;
        let identity = X509Identity::new(chain, &key)?;
        let mut bundles = BundleSet::new();
        bundles.insert(Arc::new(roots(id.trust_domain().clone(), &svid.bundle)?));
        for (name, bytes) in &answer.federated_bundles {
            bundles.insert(Arc::new(roots(TrustDomain::from_name_or_id(name)?, bytes)?));
        }
        self.bundles.set(Arc::new(bundles));
        self.svid.set(Arc::new(identity));
        tracing::debug!(%id, "identity of the gateway updated");
        Ok(())
    }
}

fn roots(trust_domain: TrustDomain, der: &[u8]) -> Result<Bundle, IdentityError> {
    let mut authorities = Vec::new();
    for certificate in split_der_certificates(der)? {
        authorities.push(X509Authority::from_der(&certificate)?);
    }
    Ok(Bundle::new(trust_domain).with_x509_authorities(authorities))
}
