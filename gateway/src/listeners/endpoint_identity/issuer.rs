//! An X509-SVID minted at the issuer over its Server API: renewed at half of its life and whenever the issuer's
//! authorities change, kept on disk so that a restart does not need the issuer.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, id::SpiffeId, x509_svid};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use service_kit::{
    BoxError, atomic_file,
    backoff::Backoff,
    clock::SharedClock,
    csr::{self, CsrError, CsrSubject},
    keys::{KeyError, KeyType, PrivateKey},
    lifecycle::Shutdown,
    tls::{SvidCell, SvidSource as _, TlsError, X509Identity},
};
use time::format_description::well_known::Rfc3339;
use zeroize::{Zeroize as _, Zeroizing};

use super::EndpointIdentity;
use crate::{
    issuer_client::{IssuerClient, IssuerError},
    metrics::RenewalMetrics,
    readiness::Gathered,
    served::ServedDomain,
};

/// Folder of the stored X509-SVIDs inside the data folder.
pub(crate) const FOLDER: &str = "endpoint-svids";

/// Permission bits of a stored X509-SVID, which holds the private key.
const FILE_MODE: u32 = 0o600;

/// Largest stored X509-SVID that is read back.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Waits after failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The issuer is not asked more often than this, however short-lived what it signs is.
const SHORTEST_PAUSE: time::Duration = time::Duration::SECOND;

/// Why an endpoint has no new X509-SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MintError {
    /// The key could not be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// The request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Csr(#[from] CsrError),
    /// The issuer did not sign.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The certificate does not go with the key.
    #[error("the issuer's certificate cannot be used: {0}")]
    Identity(#[from] TlsError),
    /// The certificate is another one's.
    #[error("the issuer signed `{given}` instead of `{expected}`")]
    OtherId {
        /// What was asked for.
        expected: SpiffeId,
        /// What was signed.
        given: SpiffeId,
    },
}

/// One endpoint's X509-SVID over time.
pub(crate) struct Minted {
    id: SpiffeId,
    dns_names: Vec<String>,
    domain: Arc<ServedDomain>,
    client: IssuerClient,
    cell: Arc<SvidCell>,
    file: PathBuf,
    metrics: RenewalMetrics,
    clock: SharedClock,
}

/// What is kept on disk, so that a restart can serve while the issuer is away.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// DER certificates in base64, leaf first.
    chain: Vec<String>,
    /// PKCS#8 DER in base64.
    key: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Minted {
    /// Nothing yet. `domain` is the trust domain of `id`, whose issuer `client` is; `data_dir` keeps what is minted, under
    /// the name `stored_as`.
    pub(crate) fn new(
        id: SpiffeId,
        domain: Arc<ServedDomain>,
        stored_as: &str,
        client: IssuerClient,
        data_dir: &Path,
        metrics: RenewalMetrics,
        clock: SharedClock,
    ) -> Self {
        let file = data_dir.join(FOLDER).join(format!("{stored_as}.json"));
        Self { id, dns_names: Vec::new(), domain, client, cell: Arc::new(SvidCell::new()), file, metrics, clock }
    }

    /// With DNS names beside the SPIFFE ID.
    #[must_use]
    pub(crate) fn with_dns_names(self, dns_names: Vec<String>) -> Self {
        Self { dns_names, ..self }
    }

    /// Takes up the stored X509-SVID if it is still good.
    pub(crate) fn restore(&self) {
        match self.read() {
            Ok(Some(identity)) => {
                tracing::debug!(id = %self.id, "stored X509-SVID of the endpoint taken up");
                self.cell.set(Arc::new(identity));
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(id = %self.id, %error, "stored X509-SVID of the endpoint not used"),
        }
    }

    async fn mint(&self) -> Result<Arc<X509Identity>, MintError> {
        let key = PrivateKey::generate_async(KeyType::EcP256).await?;
        let csr = csr::create(&key, CsrSubject::default(), Some(&self.id), &self.dns_names)?;
        let chain = self.client.mint_x509_svid(csr).await?;
        let identity = Arc::new(X509Identity::new(chain, &key)?);
        if *identity.id() != self.id {
            return Err(MintError::OtherId { expected: self.id.clone(), given: identity.id().clone() });
        }
        self.cell.set(Arc::clone(&identity));
        if let Err(error) = self.write(&identity, &key) {
            tracing::warn!(path = %self.file.display(), %error, "X509-SVID of the endpoint not stored");
        }
        Ok(identity)
    }

    fn write(&self, identity: &X509Identity, key: &PrivateKey) -> Result<(), BoxError> {
        let stored = Stored {
            chain: identity.chain().iter().map(|certificate| STANDARD.encode(certificate)).collect(),
            key: STANDARD.encode(key.pkcs8_der().as_slice()),
        };
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = Zeroizing::new(serde_json::to_vec(&stored)?);
        Ok(atomic_file::write(&self.file, &text, FILE_MODE)?)
    }

    fn read(&self) -> Result<Option<X509Identity>, BoxError> {
        use std::io::Read as _;
        let file = match std::fs::File::open(&self.file) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = Zeroizing::new(Vec::new());
        file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let stored: Stored = serde_json::from_slice(&text)?;
        let mut chain = Vec::new();
        for certificate in &stored.chain {
            chain.push(CertificateDer::from(STANDARD.decode(certificate)?));
        }
        let key = PrivateKey::from_pkcs8(&Zeroizing::new(STANDARD.decode(&stored.key)?))?;
        let identity = X509Identity::new(chain, &key)?;
        let published = self.domain.current().ok_or("the domain's own bundle is not known")?;
        let bundles = [Arc::clone(&published.bundle)].into_iter().collect();
        x509_svid::verify_chain(identity.chain(), &bundles, self.clock.now())?;
        if *identity.id() != self.id {
            return Err(format!("it is for {}", identity.id()).into());
        }
        Ok(Some(identity))
    }
}

#[async_trait]
impl EndpointIdentity for Minted {
    fn id(&self) -> &SpiffeId {
        &self.id
    }

    fn cell(&self) -> Arc<SvidCell> {
        Arc::clone(&self.cell)
    }

    async fn run(self: Box<Self>, health: Gathered, shutdown: Shutdown) -> Result<(), BoxError> {
        let mut published = self.domain.subscribe();
        let mut retry = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut last_error = String::new();
        // A stored one is renewed as soon as the issuer answers: its authority may have been revoked meanwhile.
        let mut due = self.clock.now();
        let mut signed_under = None;
        if self.cell.current().is_some() {
            health.ready(self.id.as_str());
        }
        loop {
            let wait = (due - self.clock.now()).try_into().unwrap_or_default();
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                changed = published.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let authorities = published.borrow_and_update().as_ref().map(|now| authorities(&now.bundle));
                    if signed_under.is_none() || authorities == signed_under {
                        signed_under = authorities;
                        continue;
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            let minted = tokio::select! {
                minted = self.mint() => minted,
                () = shutdown.cancelled() => return Ok(()),
            };
            match minted {
                Ok(identity) => {
                    // Half of what is left: an issuer whose own certificate ends soon, or whose clock is late, signs
                    // what is old already, and is not to be asked without a pause.
                    let now = self.clock.now();
                    due = now + ((identity.not_after() - now) / 2_i32).max(SHORTEST_PAUSE);
                    signed_under = self.domain.current().map(|now| authorities(&now.bundle));
                    tracing::info!(id = %self.id, not_after = %identity.not_after(), "X509-SVID of the endpoint renewed");
                    self.metrics.renewed();
                    health.ready(self.id.as_str());
                    retry.reset();
                    last_error.clear();
                }
                Err(error) => {
                    let text = error.to_string();
                    self.metrics.failed();
                    if text != last_error {
                        tracing::warn!(id = %self.id, error = %text, "X509-SVID of the endpoint not renewed");
                    }
                    match self.cell.current().map(|identity| identity.not_after()) {
                        Some(end) if end > self.clock.now() => {
                            let end = end.format(&Rfc3339).unwrap_or_default();
                            let remark = format!("X509-SVID valid until {end} goes on: {text}");
                            health.ready_but(self.id.as_str(), Some(remark));
                        }
                        _ => health.not_ready(self.id.as_str(), &text),
                    }
                    last_error = text;
                    due = self.clock.now() + retry.next();
                }
            }
        }
    }
}

/// The X.509 authorities with their taint marks: whatever an X509-SVID's standing depends on.
fn authorities(bundle: &Bundle) -> Vec<(Vec<u8>, bool)> {
    let mut all: Vec<_> =
        bundle.x509_authorities().iter().map(|authority| (authority.der().to_vec(), authority.tainted())).collect();
    all.sort_unstable();
    all
}
