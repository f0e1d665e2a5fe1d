//! A bundle in a file, SPIFFE JSON or PEM, looked at again and again.
//!
//! Size, time of change and inode tell whether it is another file, so that a rename over it and a Kubernetes ConfigMap
//! (a symbolic link that moves) are both noticed; then it is read whole.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use federation_specs::{
    bundle::{Bundle, BundleError},
    bundle_json::{self, BundleJsonError, MAX_BUNDLE_BYTES},
    id::TrustDomain,
};
use service_kit::{BoxError, clock::SharedClock};
use tokio::io::AsyncReadExt as _;

use super::BundleSource;
use crate::config::BundleFileFormat;

/// Why a file gives no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileSourceError {
    /// It cannot be read.
    #[error("bundle file {} cannot be read: {source}; correct the path or its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is too large.
    #[error("bundle file {} is larger than {MAX_BUNDLE_BYTES} bytes; name the right file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no SPIFFE bundle.
    #[error("bundle file {} is no SPIFFE bundle: {source}; correct it, or set format: pem", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BundleJsonError,
    },
    /// It holds no PEM certificates.
    #[error("bundle file {} holds no usable certificates: {source}; correct it, or set format: spiffe", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BundleError,
    },
}

/// What tells one file from its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: (i64, i64),
    modified: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

/// Watches a file by polling.
#[derive(Debug)]
pub struct FileSource {
    trust_domain: TrustDomain,
    path: PathBuf,
    format: BundleFileFormat,
    interval: Duration,
    clock: SharedClock,
    last: Option<(Stamp, Bundle)>,
    looked: bool,
}

impl FileSource {
    /// Looks at `path` every `interval`.
    pub fn new(
        trust_domain: TrustDomain,
        path: PathBuf,
        format: BundleFileFormat,
        interval: Duration,
        clock: SharedClock,
    ) -> Self {
        Self { trust_domain, path, format, interval, clock, last: None, looked: false }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Bundle, FileSourceError> {
        let path = self.path.clone();
        match self.format {
            BundleFileFormat::Spiffe => match bundle_json::parse(&self.trust_domain, bytes) {
                Ok(parsed) => {
                    for skipped in &parsed.skipped {
                        tracing::warn!(path = %path.display(), %skipped, "key of the bundle file passed over");
                    }
                    Ok(parsed.bundle)
                }
                Err(source) => Err(FileSourceError::Json { path, source }),
            },
            BundleFileFormat::Pem => Bundle::parse_pem_roots(self.trust_domain.clone(), bytes)
                .map_err(|source| FileSourceError::Pem { path, source }),
        }
    }
}

#[async_trait]
impl BundleSource for FileSource {
    fn describe(&self) -> String {
        format!("file {}", self.path.display())
    }

    async fn next(&mut self) -> Result<Bundle, BoxError> {
        if self.looked {
            self.looked = false;
            self.clock.sleep(self.interval).await;
        }
        let read = |source| FileSourceError::Read { path: self.path.clone(), source };
        let now = stamp(&self.path).await.map_err(read)?;
        if let Some((seen, bundle)) = &self.last
            && *seen == now
        {
            self.looked = true;
            return Ok(bundle.clone());
        }
        let mut bytes = Vec::new();
        let file = tokio::fs::File::open(&self.path).await.map_err(read)?;
        file.take(MAX_BUNDLE_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(read)?;
        if bytes.len() > MAX_BUNDLE_BYTES {
            return Err(FileSourceError::TooLarge { path: self.path.clone() }.into());
        }
        let bundle = self.parse(&bytes)?;
        // Taken before reading: a change in between is seen the next time.
        self.last = Some((now, bundle.clone()));
        self.looked = true;
        Ok(bundle)
    }
}

async fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = tokio::fs::metadata(path).await?;
    Ok(Stamp {
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.len(),
        inode: (metadata.dev(), metadata.ino()),
    })
}
