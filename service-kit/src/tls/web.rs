//! TLS with the web's certificates: servers with certificate files that may be replaced while they run, clients with
//! the system's or given roots.

use std::{
    fmt,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};
use rustls_platform_verifier::BuilderVerifierExt;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::{
    TlsError, client, server,
    web_roots::{WebRoots, root_store},
};
use crate::{clock::SharedClock, crypto};

/// Largest certificate or key file read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// How often, at most, the files are looked at for a change.
const CHECK_INTERVAL: Duration = Duration::SECOND;

/// rustls's view of our clock.
#[derive(Debug)]
pub(super) struct ClockTime(pub(super) SharedClock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// A client configuration for web servers: host names are verified against the given roots.
///
/// # Errors
/// [`TlsError::Roots`] when the PEM holds no usable CA certificate, [`TlsError::Config`] when the system has no roots.
pub fn web_client_config(roots: &WebRoots, clock: SharedClock, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(crypto::provider(), Arc::new(ClockTime(clock)))
        .with_safe_default_protocol_versions()?;
    let config = match roots {
        WebRoots::System => builder.with_platform_verifier()?.with_no_client_auth(),
        WebRoots::Pem(pem) => builder.with_root_certificates(root_store(pem)?).with_no_client_auth(),
    };
    Ok(Arc::new(client::finish(config, alpn)))
}

/// A server configuration that presents the certificate of two PEM files, never asks for client authentication, and
/// follows changes of the files. The returned handle tells when the certificate ends.
///
/// # Errors
/// [`TlsError::File`], [`TlsError::Pem`] or [`TlsError::KeyMismatch`] when the files are not usable at the start.
pub fn web_server_config(
    certificate_path: &Path,
    key_path: &Path,
    clock: SharedClock,
    alpn: &[&[u8]],
) -> Result<(Arc<ServerConfig>, Arc<WebCertificate>), TlsError> {
    let certificate = Arc::new(WebCertificate::open(certificate_path, key_path, clock)?);
    let resolver = Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>;
    Ok((resolver_server_config(resolver, alpn)?, certificate))
}

/// A server configuration that presents what `resolver` gives at each handshake and never asks for client
/// authentication.
///
/// # Errors
/// [`TlsError::Config`] when rustls refuses the provider, which is a defect.
pub fn resolver_server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(crypto::provider()).with_safe_default_protocol_versions()?;
    let config = builder.with_no_client_auth().with_cert_resolver(resolver);
    Ok(Arc::new(server::finish(config, alpn)))
}

/// A certificate in two PEM files, read again when they change. While what is on disk is not usable, the last good
/// certificate stays in use and the log says why.
pub struct WebCertificate {
    certificate_path: PathBuf,
    key_path: PathBuf,
    clock: SharedClock,
    current: ArcSwap<CertifiedKey>,
    watch: Mutex<Watch>,
}

/// What was last seen of the files.
struct Watch {
    next_check: OffsetDateTime,
    seen: Option<[Stamp; 2]>,
}

/// Enough of a file's metadata to notice a replacement.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebCertificate").field("certificate_path", &self.certificate_path).finish_non_exhaustive()
    }
}

impl WebCertificate {
    fn open(certificate_path: &Path, key_path: &Path, clock: SharedClock) -> Result<Self, TlsError> {
        let seen = stamps(certificate_path, key_path);
        let current = ArcSwap::from_pointee(read(certificate_path, key_path)?);
        let watch = Mutex::new(Watch { next_check: clock.now() + CHECK_INTERVAL, seen });
        Ok(Self { certificate_path: certificate_path.into(), key_path: key_path.into(), clock, current, watch })
    }

    /// End of the validity of the certificate in use.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let current = self.current.load();
        let (_, leaf) = X509Certificate::from_der(current.cert.first()?).ok()?;
        Some(leaf.validity().not_after.to_datetime())
    }

    /// Reads the files again if they changed, at most once in [`CHECK_INTERVAL`].
    fn refresh(&self) {
        let now = self.clock.now();
        // Whoever comes while another is reading uses the certificate there is.
        let mut watch = match self.watch.try_lock() {
            Ok(watch) => watch,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        if now < watch.next_check {
            return;
        }
        watch.next_check = now + CHECK_INTERVAL;
        let seen = stamps(&self.certificate_path, &self.key_path);
        if seen == watch.seen {
            return;
        }
        match read(&self.certificate_path, &self.key_path) {
            Ok(certified) => {
                self.current.store(Arc::new(certified));
                tracing::info!(path = %self.certificate_path.display(), "web certificate replaced");
            }
            Err(error) => {
                tracing::warn!(%error, "web certificate on disk is not usable; the last good one stays in use");
            }
        }
        watch.seen = seen;
    }
}

impl ResolvesServerCert for WebCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.refresh();
        Some(self.current.load_full())
    }
}

fn stamps(certificate_path: &Path, key_path: &Path) -> Option<[Stamp; 2]> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp { modified: metadata.modified().ok()?, length: metadata.len(), inode: metadata.ino() })
    };
    Some([stamp(certificate_path)?, stamp(key_path)?])
}

fn read(certificate_path: &Path, key_path: &Path) -> Result<CertifiedKey, TlsError> {
    let bytes = read_file("certificate file", certificate_path)?;
    let pem = |reason: String| TlsError::Pem { what: "certificate file", path: certificate_path.into(), reason };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| pem(error.to_string()))?;
    if chain.is_empty() {
        return Err(pem("no certificate found".into()));
    }
    let bytes = read_file("key file", key_path)?;
    let pem = |reason: String| TlsError::Pem { what: "key file", path: key_path.into(), reason };
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| pem(error.to_string()))?;
    let key = crypto::provider().key_provider.load_private_key(key).map_err(|error| pem(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
        Err(error) => {
            Err(TlsError::Pem { what: "certificate file", path: certificate_path.into(), reason: error.to_string() })
        }
    }
}

fn read_file(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let error = |source| TlsError::File { what, path: path.into(), source: Arc::new(source) };
    let file = File::open(path).map_err(error)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(TlsError::Pem { what, path: path.into(), reason: format!("larger than {MAX_PEM_BYTES} bytes") });
    }
    Ok(bytes)
}
