//! The bundles this gateway serves: one slot a trust domain, rendered once when the content changes, read without a
//! lock by every request.

pub(crate) mod bundle_map;
pub(crate) mod rendered;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use federation_specs::{
    bundle::{Bundle, BundleSet},
    bundle_json,
    id::TrustDomain,
    oidc::DiscoveryDocument,
};
use http::{HeaderValue, header};
use time::OffsetDateTime;
use tokio::sync::watch;

use self::rendered::{Rendered, digest_hex};
use crate::{
    settings::{LocalDomain, OidcSettings, SourceSettings},
    source::contributions::Contributions,
};

/// Caches may keep a document for this part of the refresh hint.
///
/// Consumers poll at a quarter of the hint, so that a cache in between at most doubles the time after which they see
/// a change, which still lies within the hint.
pub const MAX_AGE_PER_HINT: u32 = 4;

/// The own bundle of one trust domain as it is served now.
#[derive(Debug, Clone)]
pub struct Published {
    /// The bundle with the configured refresh hint. Taint marks, which the document does not show, are those of the
    /// source.
    pub bundle: Arc<Bundle>,
    /// The served document.
    pub document: bytes::Bytes,
    /// SHA-256 of the document, lowercase hex.
    pub digest: String,
    /// When this document was first served.
    pub changed_at: OffsetDateTime,
}

/// What requests read.
#[derive(Debug)]
struct Documents {
    bundle: Arc<Rendered>,
    /// `None` when the domain has no JWT keys.
    jwks: Option<Arc<Rendered>>,
}

/// One served trust domain.
#[derive(Debug)]
pub struct ServedDomain {
    settings: LocalDomain,
    documents: ArcSwapOption<Documents>,
    discovery: Option<Arc<Rendered>>,
    published: watch::Sender<Option<Arc<Published>>>,
    /// Held by who changes what is served.
    changes: tokio::sync::Mutex<()>,
    sources: Contributions,
    /// Unix seconds since when what is served was not confirmed by every source; [`CONFIRMED`] while it is.
    unconfirmed_since: AtomicI64,
    /// Digest of the document in the store.
    stored: watch::Sender<Option<String>>,
}

/// A bundle ready to be served.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// It.
    pub(crate) published: Arc<Published>,
    /// `None` where the document is the one served already.
    documents: Option<Arc<Documents>>,
}

/// Every source confirmed what is served.
const CONFIRMED: i64 = i64::MIN;

/// Why a bundle is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It is another domain's.
    #[error("the source of trust domain `{expected}` gave the bundle of `{given}`; check which issuer it points to")]
    WrongTrustDomain {
        /// The served domain.
        expected: TrustDomain,
        /// The bundle's.
        given: TrustDomain,
    },
    /// It has no keys, although one with keys is served.
    #[error(
        "the source of trust domain `{trust_domain}` gave a bundle without keys; the one before is served on, check \
         the issuer"
    )]
    Emptied {
        /// The served domain.
        trust_domain: TrustDomain,
    },
}

impl ServedDomain {
    /// A domain without a bundle yet. `now` dates its OIDC discovery document.
    pub fn new(settings: LocalDomain, now: OffsetDateTime) -> Self {
        let sources = Contributions::new(settings.name.clone(), settings.sources.iter().map(SourceSettings::key));
        let discovery = settings.oidc.as_ref().map(|oidc| Arc::new(discovery(oidc, now, settings.refresh_hint)));
        Self {
            settings,
            documents: ArcSwapOption::empty(),
            discovery,
            published: watch::Sender::new(None),
            changes: tokio::sync::Mutex::new(()),
            sources,
            unconfirmed_since: AtomicI64::new(CONFIRMED),
            stored: watch::Sender::new(None),
        }
    }

    /// What each of its sources gives.
    pub fn sources(&self) -> &Contributions {
        &self.sources
    }

    /// Takes note of which sources fail. To be called after each change of [`ServedDomain::sources`].
    pub(crate) fn note_sources(&self) {
        let since = self.sources.failing_since().map_or(CONFIRMED, OffsetDateTime::unix_timestamp);
        self.unconfirmed_since.store(since, Ordering::Relaxed);
    }

    /// How long ago every source last confirmed what is served; `None` while they do.
    pub fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        let since = self.unconfirmed_since.load(Ordering::Relaxed);
        let seconds = now.unix_timestamp().saturating_sub(since);
        (since != CONFIRMED).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }

    /// Whether the store holds the document with that digest.
    pub(crate) fn is_stored(&self, digest: &str) -> bool {
        self.stored.borrow().as_deref() == Some(digest)
    }

    /// The store holds the document with that digest.
    pub(crate) fn stored(&self, digest: &str) {
        self.stored.send_replace(Some(digest.to_owned()));
    }

    /// Another gateway stored something about the domain.
    pub(crate) fn stored_elsewhere(&self) {
        // Who follows the store looks again.
        self.stored.send_modify(|_| {});
    }

    /// Follows the digest of the document this gateway stored, and changes of others.
    pub(crate) fn subscribe_stored(&self) -> watch::Receiver<Option<String>> {
        self.stored.subscribe()
    }

    /// How the domain is configured.
    pub fn settings(&self) -> &LocalDomain {
        &self.settings
    }

    /// Its name.
    pub fn name(&self) -> &TrustDomain {
        &self.settings.name
    }

    /// The bundle served now.
    pub fn current(&self) -> Option<Arc<Published>> {
        self.published.borrow().clone()
    }

    /// Follows the bundle served.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    /// Serves `bundle`, with the configured refresh hint, from now on. `changed_at` is its date if it differs from what
    /// is served now. Answers whether it does. One caller at a time.
    ///
    /// # Errors
    /// When the bundle belongs to another domain, or lost all its keys; what was served stays.
    pub fn publish(&self, bundle: &Bundle, changed_at: OffsetDateTime) -> Result<bool, PublishError> {
        let prepared = self.prepare(bundle, changed_at, false)?;
        let changed = prepared.documents.is_some();
        self.put(prepared);
        Ok(changed)
    }

    /// Renders `bundle` as it would be served from `changed_at` on; [`ServedDomain::put`] serves it.
    ///
    /// # Errors
    /// When the bundle belongs to another domain, or lost all its keys and may not.
    pub(crate) fn prepare(
        &self,
        bundle: &Bundle,
        mut changed_at: OffsetDateTime,
        may_be_empty: bool,
    ) -> Result<Prepared, PublishError> {
        if bundle.trust_domain() != self.name() {
            return Err(PublishError::WrongTrustDomain {
                expected: self.name().clone(),
                given: bundle.trust_domain().clone(),
            });
        }
        let bundle = bundle.clone().with_refresh_hint(Some(self.settings.refresh_hint));
        let document = bundle_json::encode(&bundle);
        let digest = digest_hex(&document);
        if let Some(before) = self.current() {
            if bundle.is_empty() && !before.bundle.is_empty() && !may_be_empty {
                return Err(PublishError::Emptied { trust_domain: self.name().clone() });
            }
            if before.digest == digest {
                if taints(&before.bundle) == taints(&bundle) {
                    return Ok(Prepared { published: before, documents: None });
                }
                let published = Published { bundle: Arc::new(bundle), ..(*before).clone() };
                return Ok(Prepared { published: Arc::new(published), documents: None });
            }
            // Dates in headers know seconds: another document has another one, also where the clock was set back.
            changed_at = changed_at.max(before.changed_at + Duration::from_secs(1));
            if before.bundle.sequence() > bundle.sequence() {
                tracing::warn!(
                    trust_domain = %self.name(),
                    served = ?before.bundle.sequence(),
                    given = ?bundle.sequence(),
                    "the published sequence went back; partners that check sequences will refuse this bundle"
                );
            }
        }
        let max_age = self.settings.refresh_hint / MAX_AGE_PER_HINT;
        let jwks = self.settings.oidc.as_ref().and_then(|_| jwks(&bundle, changed_at, max_age, self.jwks_before()));
        let rendered = Rendered::json(document, changed_at, max_age);
        let published =
            Published { bundle: Arc::new(bundle), document: rendered.identity().body().clone(), digest, changed_at };
        let documents = Documents { bundle: Arc::new(rendered), jwks };
        Ok(Prepared { published: Arc::new(published), documents: Some(Arc::new(documents)) })
    }

    /// Serves what was prepared from now on.
    pub(crate) fn put(&self, prepared: Prepared) {
        let Prepared { published, documents } = prepared;
        if let Some(documents) = documents {
            self.documents.store(Some(documents));
        } else if self.current().is_some_and(|before| Arc::ptr_eq(&before, &published)) {
            return;
        }
        self.published.send_replace(Some(published));
    }

    /// Waits until nobody else changes what the sources give and what is served; kept for one change.
    pub(crate) async fn alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    fn jwks_before(&self) -> Option<Arc<Rendered>> {
        self.documents.load().as_ref().and_then(|documents| documents.jwks.clone())
    }
}

/// One document of a served domain, as a request asks for it.
#[derive(Debug, Clone)]
pub(crate) enum Document {
    /// There it is.
    Rendered(Arc<Rendered>),
    /// The domain's bundle is not known yet.
    NotYet,
    /// The domain has no JWT keys.
    NoJwtKeys,
}

impl ServedDomain {
    pub(crate) fn bundle_document(&self) -> Document {
        match &*self.documents.load() {
            Some(documents) => Document::Rendered(Arc::clone(&documents.bundle)),
            None => Document::NotYet,
        }
    }

    pub(crate) fn discovery_document(&self) -> Document {
        self.discovery.clone().map_or(Document::NotYet, Document::Rendered)
    }

    pub(crate) fn jwks_document(&self) -> Document {
        match &*self.documents.load() {
            Some(documents) => documents.jwks.clone().map_or(Document::NoJwtKeys, Document::Rendered),
            None => Document::NotYet,
        }
    }
}

fn taints(bundle: &Bundle) -> Vec<bool> {
    bundle.x509_authorities().iter().map(|authority| authority.tainted()).collect()
}

fn cors(rendered: Rendered) -> Rendered {
    rendered.with_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))
}

fn discovery(oidc: &OidcSettings, now: OffsetDateTime, refresh_hint: Duration) -> Rendered {
    let document = DiscoveryDocument::new(&oidc.issuer, &oidc.jwks_uri);
    cors(Rendered::json(document.to_json(), now, refresh_hint / MAX_AGE_PER_HINT))
}

/// The key set, dated `changed_at` unless it is the same as `before`: an X.509 rotation does not touch it.
fn jwks(
    bundle: &Bundle,
    changed_at: OffsetDateTime,
    max_age: Duration,
    before: Option<Arc<Rendered>>,
) -> Option<Arc<Rendered>> {
    if bundle.jwt_authorities().is_empty() {
        return None;
    }
    let body = bundle_json::encode_oidc_jwks(bundle);
    match before {
        Some(before) if before.identity().body() == &body => Some(before),
        _ => Some(Arc::new(cors(Rendered::json(body, changed_at, max_age)))),
    }
}

/// Every served domain, in the order of the configuration.
#[derive(Debug)]
pub struct ServedDomains {
    domains: Vec<Arc<ServedDomain>>,
    by_name: HashMap<TrustDomain, Arc<ServedDomain>>,
}

impl ServedDomains {
    /// The domains of the configuration.
    pub fn new(settings: &[LocalDomain], now: OffsetDateTime) -> Self {
        let domains: Vec<_> = settings.iter().map(|domain| Arc::new(ServedDomain::new(domain.clone(), now))).collect();
        let by_name = domains.iter().map(|domain| (domain.name().clone(), Arc::clone(domain))).collect();
        Self { domains, by_name }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ServedDomain>> {
        self.domains.iter()
    }

    /// The one of that name.
    pub fn get(&self, name: &TrustDomain) -> Option<&Arc<ServedDomain>> {
        self.by_name.get(name)
    }

    /// The bundle of one served domain.
    pub fn bundle(&self, name: &TrustDomain) -> Option<Arc<Bundle>> {
        Some(Arc::clone(&self.get(name)?.current()?.bundle))
    }

    /// The bundles of all served domains that have one.
    pub fn bundle_set(&self) -> BundleSet {
        let mut set = BundleSet::default();
        for published in self.domains.iter().filter_map(|domain| domain.current()) {
            set.insert(Arc::clone(&published.bundle));
        }
        set
    }
}

#[cfg(test)]
mod tests;
