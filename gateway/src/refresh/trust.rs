//! What a fetch trusts: certificate authorities for `https_web`, bundles for `https_spiffe`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use federation_specs::{
    bundle::Bundle,
    bundle_json::{self, BundleJsonError, MAX_BUNDLE_BYTES},
    id::{SpiffeId, TrustDomain},
};
use service_kit::tls::WebRoots;
use tokio::io::AsyncReadExt as _;

use super::relationship::{Bootstrap, Definition};
use crate::{
    partners::{PartnerBundles, content_digest},
    served::ServedDomains,
    settings::Document,
};

/// Largest PEM file of certificate authorities.
pub const MAX_CA_FILE_BYTES: usize = 1024 * 1024;

/// Why there is nothing to verify an endpoint with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
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
    /// A configured file is too large.
    #[error("{what} {} is larger than {limit} bytes; give the right file", path.display())]
    TooLarge {
        /// `ca_file` or `bootstrap_bundle_file`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The bootstrap bundle is none.
    #[error("bootstrap_bundle_file {} is no SPIFFE bundle: {source}; ask the partner for a new one", path.display())]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BundleJsonError,
    },
    /// No bundle of the endpoint's trust domain.
    #[error(
        "can't perform SPIFFE Authentication: local copy of bundle not found: there is no bundle of `{trust_domain}` to \
         verify `{endpoint_id}` with; set bootstrap_bundle_file, or give the issuer the partner's bundle \
         (bundle set -id spiffe://{trust_domain})"
    )]
    NoBundle {
        /// The endpoint.
        endpoint_id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The bundle in force has withdrawn every authority, and those of the bootstrap bundle with them.
    #[error(
        "the bundle of `{trust_domain}` in force has no X.509 authority to verify `{endpoint_id}` with, and the bootstrap \
         bundle is older than that; ask the partner for its present bundle and set it as bootstrap_bundle_file"
    )]
    Withdrawn {
        /// The endpoint.
        endpoint_id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
}

/// Authorities for `https_web`: those of the relationship, from its file at each fetch, or the system's.
///
/// # Errors
/// When the file cannot be read.
pub async fn web_roots(definition: &Definition) -> Result<WebRoots, TrustError> {
    match &definition.ca {
        None => Ok(WebRoots::System),
        Some(Document::Inline(pem)) => Ok(WebRoots::Pem(pem.as_bytes().to_vec())),
        Some(Document::File(path)) => Ok(WebRoots::Pem(read("ca_file", path, MAX_CA_FILE_BYTES).await?)),
    }
}

/// What an `https_spiffe` endpoint is verified with.
#[derive(Debug, Clone)]
pub struct EndpointTrust {
    /// That of the endpoint ID's trust domain.
    pub bundle: Arc<Bundle>,
    /// The bootstrap bundle, when it is `bundle` rather than one held already.
    pub bootstrap: Option<Arc<Bundle>>,
    /// Digest of the relationship's bootstrap bundle, to be remembered after a success.
    pub bootstrap_digest: Option<String>,
}

/// What is known about bootstrap bundles used before.
#[derive(Debug, Clone, Default)]
pub struct BootstrapRecord {
    /// Digest of the bootstrap bundle at the last success.
    pub last: Option<String>,
    /// Whether the partner's accepted bundles include the present bootstrap bundle.
    pub accepted_before: bool,
}

/// The bundle of the endpoint's own trust domain: the latest one held, else the one served here, else the bootstrap
/// bundle.
///
/// A bootstrap bundle that an operator changed after the last success, to one never accepted before, comes first: that
/// is how trust is set up again with a partner that lost its keys. One that was accepted before does not bring back
/// authorities that were withdrawn since.
///
/// # Errors
/// When there is none, or the bootstrap file is needed and cannot be used.
pub async fn endpoint_trust(
    definition: &Definition,
    endpoint_id: &SpiffeId,
    partners: &PartnerBundles,
    served: &ServedDomains,
    record: impl AsyncFnOnce(&str) -> BootstrapRecord,
) -> Result<EndpointTrust, TrustError> {
    let trust_domain = endpoint_id.trust_domain();
    let held = partners.trusted(trust_domain).map(|held| Arc::clone(&held.bundle));
    let withdrawn = held.as_ref().is_some_and(|bundle| bundle.x509_authorities().is_empty());
    let known = held.filter(|_| !withdrawn).or_else(|| served.bundle(trust_domain));
    let bootstrap = match bootstrap_bundle(definition, trust_domain).await {
        Ok(bootstrap) => bootstrap,
        // A file nobody needs any more may be gone.
        Err(error) if known.is_some() => {
            tracing::debug!(trust_domain = %definition.trust_domain, %error, "bootstrap bundle not read");
            None
        }
        Err(error) => return Err(error),
    };
    let bootstrap_digest = bootstrap.as_ref().map(|bundle| content_digest(bundle));
    let is_news = match &bootstrap_digest {
        Some(digest) if known.is_some() || withdrawn => {
            let record = record(digest).await;
            !record.accepted_before && record.last.as_ref() != Some(digest)
        }
        Some(_) => true,
        None => false,
    };
    let (bundle, used) = match (known, bootstrap.filter(|_| is_news)) {
        (_, Some(bootstrap)) => (Arc::clone(&bootstrap), Some(bootstrap)),
        (Some(known), None) => (known, None),
        (None, None) if withdrawn => {
            let (endpoint_id, trust_domain) = (endpoint_id.clone(), trust_domain.clone());
            return Err(TrustError::Withdrawn { endpoint_id, trust_domain });
        }
        (None, None) => {
            return Err(TrustError::NoBundle { endpoint_id: endpoint_id.clone(), trust_domain: trust_domain.clone() });
        }
    };
    Ok(EndpointTrust { bundle, bootstrap: used, bootstrap_digest })
}

/// The relationship's bootstrap bundle, if it has one for that trust domain.
async fn bootstrap_bundle(
    definition: &Definition,
    trust_domain: &TrustDomain,
) -> Result<Option<Arc<Bundle>>, TrustError> {
    match &definition.bootstrap {
        None => Ok(None),
        Some(Bootstrap::Bundle(bundle)) => {
            let usable = bundle.trust_domain() == trust_domain && !bundle.x509_authorities().is_empty();
            Ok(usable.then(|| Arc::clone(bundle)))
        }
        Some(Bootstrap::File(path)) => {
            let bytes = read("bootstrap_bundle_file", path, MAX_BUNDLE_BYTES).await?;
            let parsed = bundle_json::parse(trust_domain, &bytes)
                .map_err(|source| TrustError::Bootstrap { path: path.clone(), source })?;
            Ok(Some(Arc::new(parsed.bundle)))
        }
    }
}

async fn read(what: &'static str, path: &Path, limit: usize) -> Result<Vec<u8>, TrustError> {
    let read = async {
        let file = tokio::fs::File::open(path).await?;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    let bytes = read.await.map_err(|source| TrustError::File { what, path: path.to_owned(), source })?;
    if bytes.len() > limit {
        return Err(TrustError::TooLarge { what, path: path.to_owned(), limit });
    }
    Ok(bytes)
}
