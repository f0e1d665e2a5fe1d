//! What the agent trusts before it has attested: the bundle it saved, else the one its operator gives it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use federation_specs::{bundle::Bundle, bundle_json, id::TrustDomain};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use service_kit::{
    clock::SharedClock,
    fetch::{AddressGuard, FetchError, FetchLimits, FetchOutcome, Fetcher, Network, Proxy, ProxyError},
    tls::{ServerTrust, TlsError, WebRoots},
};
use time::OffsetDateTime;
use url::Url;

/// Largest bundle read from a file or URL, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;

/// How long fetching the bundle from a URL may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// Format of a trust bundle given by the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BundleFormat {
    /// PEM certificates.
    #[default]
    Pem,
    /// SPIFFE bundle JSON.
    Spiffe,
}

/// Where the first bundle comes from when none is saved.
#[derive(Debug, Clone)]
pub enum BootstrapSource {
    /// A file, read at each attempt.
    File(PathBuf, BundleFormat),
    /// An https URL verified by the system's roots, fetched at each attempt.
    Url(Url, BundleFormat),
    /// Nowhere: the first connection believes any server that claims the issuer's SPIFFE ID.
    Insecure,
}

/// What the connection for the attestation is verified with.
#[derive(Debug, Clone)]
pub enum BootstrapTrust {
    /// This bundle, from the named place.
    Bundle(Arc<Bundle>, String),
    /// Nothing.
    Insecure,
}

/// Why there is no bundle to start with.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file cannot be read.
    #[error("trust bundle {} cannot be read: {source}; write the issuer's bundle there (`entente issuer bundle show`)", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The URL cannot be fetched.
    #[error("trust bundle cannot be fetched: {0}")]
    Fetch(#[from] FetchError),
    /// The proxy named by the environment cannot be used.
    #[error("trust bundle cannot be fetched: HTTPS_PROXY or NO_PROXY is wrong: {0}")]
    Proxy(#[from] ProxyError),
    /// The system's roots cannot be used.
    #[error("trust bundle cannot be fetched: {0}")]
    Tls(#[from] TlsError),
    /// The content is no bundle.
    #[error(
        "trust bundle {place} is not usable: {reason}; give the issuer's bundle in the format named by trust_bundle_format (`entente issuer bundle show`)"
    )]
    Content {
        /// File or URL.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// Every certificate starts later than this machine's clock.
    #[error(
        "the system clock ({now}) is before the start of the trust bundle from {place} ({not_before}); set the clock of this machine"
    )]
    ClockBehind {
        /// This machine's time.
        now: OffsetDateTime,
        /// Where the bundle is from.
        place: String,
        /// Start of the earliest certificate.
        not_before: OffsetDateTime,
    },
    /// Every certificate has ended.
    #[error("the trust bundle from {place} ended at {not_after} (the system clock says {now}); {remedy}")]
    Expired {
        /// This machine's time.
        now: OffsetDateTime,
        /// Where the bundle is from.
        place: String,
        /// End of the latest certificate.
        not_after: OffsetDateTime,
        /// What to do about it.
        remedy: String,
    },
}

impl BootstrapError {
    /// Whether trying again later can help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Fetch(_))
    }
}

/// The trust for an attestation: `saved`, the bundle from an earlier run, if there is one, else what `source` gives.
///
/// # Errors
/// [`BootstrapError`].
pub async fn trust(
    source: &BootstrapSource,
    saved: Option<(Bundle, String)>,
    trust_domain: &TrustDomain,
    clock: &SharedClock,
) -> Result<BootstrapTrust, BootstrapError> {
    let (bundle, place, remedy) = match (saved, source) {
        (Some((bundle, place)), _) => {
            let remedy = format!("move {place} away to start from the configured trust bundle");
            (bundle, place, remedy)
        }
        (None, BootstrapSource::Insecure) => {
            tracing::warn!("insecure bootstrap: the first connection to the issuer is not verified");
            return Ok(BootstrapTrust::Insecure);
        }
        (None, BootstrapSource::File(path, format)) => {
            let bytes = read(path.clone()).await?;
            let place = path.display().to_string();
            (parse(&bytes, *format, trust_domain, &place)?, place, "give the issuer's present bundle".to_string())
        }
        (None, BootstrapSource::Url(url, format)) => {
            let bytes = fetch(url, clock).await?;
            let place = url.to_string();
            (
                parse(&bytes, *format, trust_domain, &place)?,
                place,
                "publish the issuer's present bundle there".to_string(),
            )
        }
    };
    check_validity(&bundle, &place, remedy, clock.now())?;
    Ok(BootstrapTrust::Bundle(Arc::new(bundle), place))
}

fn check_validity(bundle: &Bundle, place: &str, remedy: String, now: OffsetDateTime) -> Result<(), BootstrapError> {
    let authorities = bundle.x509_authorities();
    if authorities.iter().any(|authority| authority.not_before() <= now && now <= authority.not_after()) {
        return Ok(());
    }
    let place = place.to_string();
    let (Some(first), Some(last)) = (
        authorities.iter().map(|authority| authority.not_before()).min(),
        authorities.iter().map(|authority| authority.not_after()).max(),
    ) else {
        return Err(BootstrapError::Content { place, reason: "it has no X.509 authority".into() });
    };
    if now < first {
        Err(BootstrapError::ClockBehind { now, place, not_before: first })
    } else {
        Err(BootstrapError::Expired { now, place, not_after: last, remedy })
    }
}

async fn read(path: PathBuf) -> Result<Vec<u8>, BootstrapError> {
    use tokio::io::AsyncReadExt;
    let file_error = |source| BootstrapError::File { path: path.clone(), source };
    let file = tokio::fs::File::open(&path).await.map_err(file_error)?;
    let mut bytes = Vec::new();
    file.take(MAX_BUNDLE_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(file_error)?;
    if bytes.len() > MAX_BUNDLE_BYTES {
        let reason = format!("it is larger than {MAX_BUNDLE_BYTES} bytes");
        return Err(BootstrapError::Content { place: path.display().to_string(), reason });
    }
    Ok(bytes)
}

async fn fetch(url: &Url, clock: &SharedClock) -> Result<Vec<u8>, BootstrapError> {
    let limits = FetchLimits { deadline: FETCH_DEADLINE, max_body_bytes: MAX_BUNDLE_BYTES };
    let trust = ServerTrust::web(&WebRoots::System, Arc::clone(clock))?;
    let network = Network::new(&[], Proxy::from_environment()?, Arc::clone(clock));
    // The URL is the operator's own, so it may lead anywhere.
    let fetcher = Fetcher::new(network, trust, AddressGuard::open())?;
    match fetcher.get(url, None, limits).await? {
        FetchOutcome::Body { bytes, .. } => Ok(bytes),
        FetchOutcome::NotModified => {
            Err(BootstrapError::Content { place: url.to_string(), reason: "the server sent no document".into() })
        }
    }
}

fn parse(
    bytes: &[u8],
    format: BundleFormat,
    trust_domain: &TrustDomain,
    place: &str,
) -> Result<Bundle, BootstrapError> {
    let content = |reason: String| BootstrapError::Content { place: place.to_string(), reason };
    match format {
        BundleFormat::Pem => {
            Bundle::parse_pem_roots(trust_domain.clone(), bytes).map_err(|error| content(error.to_string()))
        }
        BundleFormat::Spiffe => {
            let parsed = bundle_json::parse(trust_domain, bytes).map_err(|error| content(error.to_string()))?;
            Ok(parsed.bundle)
        }
    }
}

#[cfg(test)]
mod tests {
    use service_kit::clock::ManualClock;
    use time::Duration;

    use super::*;
    use crate::{
        saved,
        testing::authority::{Authority, START},
    };

    struct Setup {
        folder: tempfile::TempDir,
        authority: Authority,
        manual: ManualClock,
        clock: SharedClock,
    }

    fn setup() -> Setup {
        let manual = ManualClock::new(START);
        Setup {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new("cloud.example"),
            clock: Arc::new(manual.clone()),
            manual,
        }
    }

    impl Setup {
        fn file(&self, content: &[u8], format: BundleFormat) -> BootstrapSource {
            let path = self.folder.path().join("bundle");
            std::fs::write(&path, content).unwrap();
            BootstrapSource::File(path, format)
        }

        async fn trust(
            &self,
            source: &BootstrapSource,
            saved: Option<Bundle>,
        ) -> Result<BootstrapTrust, BootstrapError> {
            let saved = saved.map(|bundle| (bundle, "agent-data.json".to_string()));
            trust(source, saved, &TrustDomain::parse("cloud.example").unwrap(), &self.clock).await
        }
    }

    fn roots(trust: BootstrapTrust) -> usize {
        match trust {
            BootstrapTrust::Bundle(bundle, _) => bundle.x509_authorities().len(),
            BootstrapTrust::Insecure => 0,
        }
    }

    #[tokio::test]
    async fn files_in_both_formats() {
        let setup = setup();
        let source = setup.file(saved::pem(&setup.authority.certificate_der()).as_bytes(), BundleFormat::Pem);
        assert_eq!(roots(setup.trust(&source, None).await.unwrap()), 1);
        let source = setup.file(&bundle_json::encode(&setup.authority.bundle()), BundleFormat::Spiffe);
        assert_eq!(roots(setup.trust(&source, None).await.unwrap()), 1);
    }

    #[tokio::test]
    async fn the_saved_bundle_goes_before_everything() {
        let setup = setup();
        let source = BootstrapSource::File("/nowhere/bundle.pem".into(), BundleFormat::Pem);
        let error = setup.trust(&source, None).await.unwrap_err().to_string();
        assert!(error.starts_with("trust bundle /nowhere/bundle.pem cannot be read"), "{error}");
        assert_eq!(roots(setup.trust(&source, Some(setup.authority.bundle())).await.unwrap()), 1);
        let insecure = BootstrapSource::Insecure;
        assert_eq!(roots(setup.trust(&insecure, Some(setup.authority.bundle())).await.unwrap()), 1);
        assert!(matches!(setup.trust(&insecure, None).await.unwrap(), BootstrapTrust::Insecure));
    }

    #[tokio::test]
    async fn bad_content_names_the_file_and_the_remedy() {
        let setup = setup();
        for (content, format) in [
            ("", BundleFormat::Pem),
            ("{}", BundleFormat::Pem),
            ("{}", BundleFormat::Spiffe),
            (r#"{"keys":[]}"#, BundleFormat::Spiffe),
        ] {
            let source = setup.file(content.as_bytes(), format);
            let error = setup.trust(&source, None).await.unwrap_err().to_string();
            assert!(error.contains("is not usable") || error.contains("no X.509 authority"), "{error}");
            assert!(error.contains("entente issuer bundle show"), "{error}");
        }
        let source = setup.file(&vec![b'x'; MAX_BUNDLE_BYTES + 1], BundleFormat::Pem);
        assert!(setup.trust(&source, None).await.unwrap_err().to_string().contains("is larger than"));
    }

    #[tokio::test]
    async fn clocks_outside_the_bundle() {
        let setup = setup();
        let source = setup.file(saved::pem(&setup.authority.certificate_der()).as_bytes(), BundleFormat::Pem);
        setup.manual.set(setup.clock.now() - Duration::days(400));
        let error = setup.trust(&source, None).await.unwrap_err().to_string();
        assert!(error.starts_with("the system clock (") && error.contains("is before the start of"), "{error}");
        setup.manual.set(setup.clock.now() + Duration::days(800));
        let error = setup.trust(&source, None).await.unwrap_err().to_string();
        assert!(error.contains("ended at") && error.ends_with("give the issuer's present bundle"), "{error}");
    }
}
