//! The SPIFFE bundle map: several trust domains' bundles in one document (SPIFFE Trust Domain and Bundle §5),
//! `{"trust_domains": {"<name>": <bundle>, …}}`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use time::OffsetDateTime;

use super::{MAX_AGE_PER_HINT, Published, ServedDomain, ServedDomains, rendered::Rendered};
use crate::settings::BundleMapSettings;

/// What the document was made of: the digest of each domain's bundle.
type Parts = Vec<Option<Arc<Published>>>;

/// The document, rendered again by the first request after one of its bundles changed.
#[derive(Debug)]
pub(crate) struct BundleMap {
    domains: Vec<Arc<ServedDomain>>,
    rendered: ArcSwapOption<(Parts, Arc<Rendered>)>,
    rendering: Mutex<()>,
}

impl BundleMap {
    /// The map of the configured domains.
    pub(crate) fn new(settings: &BundleMapSettings, served: &ServedDomains) -> Self {
        let mut domains: Vec<_> =
            served.iter().filter(|domain| settings.trust_domains.contains(domain.name())).cloned().collect();
        domains.sort_by(|a, b| a.name().cmp(b.name()));
        Self { domains, rendered: ArcSwapOption::empty(), rendering: Mutex::new(()) }
    }

    /// The document as it is now; `None` while no bundle in it is known.
    pub(crate) fn document(&self) -> Option<Arc<Rendered>> {
        let parts = self.parts();
        if let Some(current) = self.current(&parts) {
            return Some(current);
        }
        let _one_at_a_time = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = self.current(&parts) {
            return Some(current);
        }
        let rendered = Arc::new(self.render(&parts)?);
        self.rendered.store(Some(Arc::new((parts, Arc::clone(&rendered)))));
        Some(rendered)
    }

    /// The age of the oldest bundle in it.
    pub(crate) fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        self.domains.iter().filter_map(|domain| domain.age(now)).max()
    }

    fn parts(&self) -> Parts {
        self.domains.iter().map(|domain| domain.current()).collect()
    }

    fn current(&self, parts: &Parts) -> Option<Arc<Rendered>> {
        let rendered = self.rendered.load();
        let (made_of, rendered) = rendered.as_deref()?;
        let digest = |part: &Option<Arc<Published>>| part.as_ref().map(|published| published.digest.clone());
        let same = made_of.len() == parts.len()
            && made_of.iter().zip(parts).all(|(a, b)| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.digest == b.digest,
                (a, b) => digest(a) == digest(b),
            });
        same.then(|| Arc::clone(rendered))
    }

    fn render(&self, parts: &Parts) -> Option<Rendered> {
        let mut text = Vec::from(&b"{\n\"trust_domains\": {"[..]);
        let mut changed_at = None;
        let mut max_age: Option<Duration> = None;
        for (domain, published) in self.domains.iter().zip(parts) {
            let Some(published) = published else { continue };
            // Names of trust domains need no escaping: lower case letters, digits, `.`, `-`, `_`.
            text.extend_from_slice(if changed_at.is_some() { b",\n\"" } else { b"\n\"" });
            text.extend_from_slice(domain.name().as_str().as_bytes());
            text.extend_from_slice(b"\": ");
            text.extend_from_slice(&published.document);
            changed_at = changed_at.max(Some(published.changed_at));
            let age = domain.settings().refresh_hint / MAX_AGE_PER_HINT;
            max_age = Some(max_age.map_or(age, |before| before.min(age)));
        }
        text.extend_from_slice(b"\n}\n}");
        // Another document has another date, also if two of its bundles changed within a second.
        let before = self.rendered.load().as_deref().map(|(_, before)| before.modified() + Duration::from_secs(1));
        Some(Rendered::json(text, changed_at.max(before)?, max_age?))
    }
}
