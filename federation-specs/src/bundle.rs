//! Trust bundles: the authorities of one trust domain, always held together
//! with its name (SPIFFE Trust Domain and Bundle section 3).

mod authority;
mod pem;

use std::sync::Arc;
use std::time::Duration;

pub use authority::{JwtAuthority, MAX_KEY_ID_BYTES, X509Authority};
pub use pem::MAX_PEM_BYTES;
use rpds::RedBlackTreeMapSync;

use crate::certificate::CertificateError;
use crate::id::TrustDomain;
use crate::public_key::PublicKeyError;

/// How long to wait between fetches of a bundle that says nothing about it
/// (SPIFFE Federation section 4.1).
pub const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(5 * 60);

/// Why something is not an authority or not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// An X.509 authority that is not exactly one certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key that cannot be an authority.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// A JWT authority without key ID.
    #[error("missing key ID")]
    MissingKeyId,
    /// A key ID of more than [`MAX_KEY_ID_BYTES`].
    #[error("key ID is longer than {MAX_KEY_ID_BYTES} bytes")]
    KeyIdTooLong,
    /// A PEM file without any certificate.
    #[error("no PEM certificate found; a block `-----BEGIN CERTIFICATE-----` is expected")]
    NoCertificate,
    /// A PEM file that cannot be read.
    #[error("PEM is malformed: {0}")]
    Pem(String),
    /// A PEM file of more than [`MAX_PEM_BYTES`].
    #[error("PEM is longer than {MAX_PEM_BYTES} bytes")]
    PemTooLong,
}

/// The authorities of one trust domain. No two X.509 authorities have the same
/// certificate and no two keys of a kind the same key ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    trust_domain: TrustDomain,
    x509_authorities: Vec<X509Authority>,
    jwt_authorities: Vec<JwtAuthority>,
    wit_authorities: Vec<JwtAuthority>,
    refresh_hint: Option<Duration>,
    sequence: Option<u64>,
}

impl Bundle {
    /// A bundle without authorities.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            wit_authorities: Vec::new(),
            refresh_hint: None,
            sequence: None,
        }
    }

    /// Replaces the X.509 authorities, keeping their order (oldest first by
    /// convention) and the first of those with the same certificate.
    #[must_use]
    pub fn with_x509_authorities(mut self, authorities: impl IntoIterator<Item = X509Authority>) -> Self {
        self.x509_authorities.clear();
        for authority in authorities {
            if !self.x509_authorities.iter().any(|held| held.der() == authority.der()) {
                self.x509_authorities.push(authority);
            }
        }
        self
    }

    /// Replaces the JWT authorities, keeping their order; of those with the
    /// same key ID the last one counts.
    #[must_use]
    pub fn with_jwt_authorities(mut self, authorities: impl IntoIterator<Item = JwtAuthority>) -> Self {
        self.jwt_authorities = unique_keys(authorities);
        self
    }

    /// Replaces the WIT authorities as [`Bundle::with_jwt_authorities`] does.
    #[must_use]
    pub fn with_wit_authorities(mut self, authorities: impl IntoIterator<Item = JwtAuthority>) -> Self {
        self.wit_authorities = unique_keys(authorities);
        self
    }

    /// Sets the refresh hint; whole seconds count, and zero is the same as none.
    #[must_use]
    pub fn with_refresh_hint(mut self, hint: Option<Duration>) -> Self {
        self.refresh_hint = hint.map(|hint| Duration::from_secs(hint.as_secs())).filter(|hint| !hint.is_zero());
        self
    }

    /// Sets the sequence number; zero is the same as none.
    #[must_use]
    pub fn with_sequence(mut self, sequence: Option<u64>) -> Self {
        self.sequence = sequence.filter(|sequence| *sequence != 0);
        self
    }

    /// The trust domain the authorities speak for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// X.509 authorities, oldest first.
    pub fn x509_authorities(&self) -> &[X509Authority] {
        &self.x509_authorities
    }

    /// Keys that sign JWT-SVIDs.
    pub fn jwt_authorities(&self) -> &[JwtAuthority] {
        &self.jwt_authorities
    }

    /// Keys that sign WIT-SVIDs.
    pub fn wit_authorities(&self) -> &[JwtAuthority] {
        &self.wit_authorities
    }

    /// How often the publisher wants to be asked; `None` when it says nothing,
    /// and then [`DEFAULT_REFRESH_HINT`] holds.
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }

    /// The publisher's sequence number, greater with each change; `None` when
    /// it gives none.
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Whether the bundle holds no authority of any kind.
    pub fn is_empty(&self) -> bool {
        self.x509_authorities.is_empty() && self.jwt_authorities.is_empty() && self.wit_authorities.is_empty()
    }

    /// The JWT authority with that key ID.
    pub fn find_jwt(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities.iter().find(|authority| authority.key_id() == key_id)
    }

    /// The certificates of the X.509 authorities one after the other, the form
    /// of the Workload API.
    pub fn x509_roots_der(&self) -> Vec<u8> {
        self.x509_authorities.iter().flat_map(|authority| authority.der()).copied().collect()
    }

    /// Whether both hold the same authorities, taint marks included and order
    /// apart, for the same trust domain with the same refresh hint. Sequence
    /// numbers and expiry times of keys are not compared.
    pub fn same_content(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.refresh_hint == other.refresh_hint
            && same_certificates(&self.x509_authorities, &other.x509_authorities)
            && same_keys(&self.jwt_authorities, &other.jwt_authorities)
            && same_keys(&self.wit_authorities, &other.wit_authorities)
    }
}

fn unique_keys(authorities: impl IntoIterator<Item = JwtAuthority>) -> Vec<JwtAuthority> {
    let mut kept: Vec<JwtAuthority> = Vec::new();
    for authority in authorities {
        match kept.iter_mut().find(|held| held.key_id() == authority.key_id()) {
            Some(held) => *held = authority,
            None => kept.push(authority),
        }
    }
    kept
}

fn same_certificates(these: &[X509Authority], those: &[X509Authority]) -> bool {
    let key = |authority: &X509Authority| (authority.der().to_vec(), authority.tainted());
    same_set(these, those, key)
}

fn same_keys(these: &[JwtAuthority], those: &[JwtAuthority]) -> bool {
    let key = |authority: &JwtAuthority| {
        (authority.key_id().to_owned(), authority.public_key().spki_der().to_vec(), authority.tainted())
    };
    same_set(these, those, key)
}

fn same_set<T, K: Ord>(these: &[T], those: &[T], key: impl Fn(&T) -> K) -> bool {
    let sorted = |items: &[T]| {
        let mut keys: Vec<K> = items.iter().map(&key).collect();
        keys.sort_unstable();
        keys
    };
    these.len() == those.len() && sorted(these) == sorted(those)
}

/// Bundles by trust domain. A bundle is only ever found under its own name.
/// Versions share what they have in common: a clone costs nothing, and a
/// change costs its own size however many bundles there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleSet {
    bundles: RedBlackTreeMapSync<TrustDomain, Arc<Bundle>>,
}

impl BundleSet {
    /// A set without bundles.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle of exactly that trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.bundles.get(trust_domain)
    }

    /// Holds `bundle` under its own name, giving back the one it replaces.
    pub fn insert(&mut self, bundle: Arc<Bundle>) -> Option<Arc<Bundle>> {
        let replaced = self.bundles.get(bundle.trust_domain()).cloned();
        self.bundles.insert_mut(bundle.trust_domain().clone(), bundle);
        replaced
    }

    /// Takes the bundle of that trust domain out.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        let removed = self.bundles.get(trust_domain).cloned()?;
        self.bundles.remove_mut(trust_domain);
        Some(removed)
    }

    /// Every bundle, by trust domain name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.bundles.values()
    }

    /// How many bundles are held.
    pub fn len(&self) -> usize {
        self.bundles.size()
    }

    /// Whether no bundle is held.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }
}

impl FromIterator<Arc<Bundle>> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Arc<Bundle>>>(bundles: I) -> Self {
        let mut set = Self::new();
        for bundle in bundles {
            set.insert(bundle);
        }
        set
    }
}

#[cfg(test)]
mod tests;
