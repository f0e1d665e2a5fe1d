//! Sources of the own X509-SVID and of the trust bundles, read at each handshake.

use std::{fmt, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use federation_specs::{bundle::BundleSet, id::SpiffeId, x509_svid};
use rustls::{
    pki_types::CertificateDer,
    sign::{CertifiedKey, SigningKey},
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::keys::PrivateKey;

/// An X509-SVID with its private key, ready to be presented.
#[derive(Clone)]
pub struct X509Identity {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl fmt::Debug for X509Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Identity").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl X509Identity {
    /// An identity of the chain (leaf first) and a key of this process.
    ///
    /// # Errors
    /// [`TlsError`] when the leaf is no X509-SVID or the key is not the leaf's.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, TlsError> {
        let signer = key.tls_signing_key().map_err(|error| TlsError::Key { reason: error.to_string() })?;
        Self::with_signer(chain, signer)
    }

    /// An identity of the chain (leaf first) and a signer, such as a key manager's.
    ///
    /// # Errors
    /// As [`X509Identity::new`].
    pub fn with_signer(chain: Vec<CertificateDer<'static>>, signer: Arc<dyn SigningKey>) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or(TlsError::EmptyChain)?;
        let id = x509_svid::leaf_spiffe_id(leaf)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| TlsError::KeyMismatch)?;
        if signer.public_key().is_some_and(|key| key.as_ref() != parsed.public_key().raw) {
            return Err(TlsError::KeyMismatch);
        }
        let not_before = parsed.validity().not_before.to_datetime();
        let not_after = parsed.validity().not_after.to_datetime();
        Ok(Self { id, certified: Arc::new(CertifiedKey::new(chain, signer)), not_before, not_after })
    }

    /// The SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

/// Where the own X509-SVID comes from. Read at each handshake; must not block.
pub trait SvidSource: Send + Sync {
    /// The identity to present now; `None` while there is none.
    fn current(&self) -> Option<Arc<X509Identity>>;
}

/// Where the trust bundles come from. Read at each handshake; must not block.
pub trait BundleSource: Send + Sync {
    /// The bundles to verify with now.
    fn bundles(&self) -> Arc<BundleSet>;
}

/// A place for the current X509-SVID that its owner replaces.
#[derive(Debug, Default)]
pub struct SvidCell {
    current: ArcSwapOption<X509Identity>,
}

impl SvidCell {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holding `identity`.
    pub fn holding(identity: X509Identity) -> Self {
        Self { current: ArcSwapOption::from_pointee(identity) }
    }

    /// Replaces the identity; handshakes from now on present it.
    pub fn set(&self, identity: Arc<X509Identity>) {
        self.current.store(Some(identity));
    }

    /// Takes the identity away.
    pub fn clear(&self) {
        self.current.store(None);
    }
}

impl SvidSource for SvidCell {
    fn current(&self) -> Option<Arc<X509Identity>> {
        self.current.load_full()
    }
}

/// A place for the current trust bundles that its owner replaces.
#[derive(Debug)]
pub struct BundleCell {
    current: ArcSwap<BundleSet>,
}

impl BundleCell {
    /// Holding `bundles`.
    pub fn new(bundles: BundleSet) -> Self {
        Self { current: ArcSwap::from_pointee(bundles) }
    }

    /// Replaces the bundles; handshakes from now on verify with them.
    pub fn set(&self, bundles: Arc<BundleSet>) {
        self.current.store(bundles);
    }
}

impl BundleSource for BundleCell {
    fn bundles(&self) -> Arc<BundleSet> {
        self.current.load_full()
    }
}
