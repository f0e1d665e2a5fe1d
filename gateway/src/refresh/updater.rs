//! One fetch of a partner's bundle: verify the endpoint, read within the limits, parse, compare, store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use federation_specs::{
    bundle::Bundle,
    bundle_json::{self, BundleJsonError},
    profile::EndpointProfile,
};
use rustls::ClientConfig;
use service_kit::{
    clock::SharedClock,
    fetch::{FetchError, FetchLimits, FetchOutcome, Fetcher},
    tls::{BundleCell, PeerPolicy, TlsError, WebRoots, spiffe_client_config, web_client_config},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    decision_error::DecisionError,
    decisions::{Decisions, Fetched, Outcome},
    policy::Mode,
    relationship::Definition,
    trust::{self, BootstrapRecord, EndpointTrust, TrustError},
    usable::{self, Unusable},
};
use crate::{
    api::RefreshRequest,
    audit::Actor,
    partners::{HeldBundle, PartnerBundles},
    served::{ServedDomains, rendered::digest_hex},
    settings::RefreshLimits,
    store::{Store, relationships::RefreshState},
};

/// How long the system's certificate authorities are kept before they are read again.
const SYSTEM_ROOTS_KEPT: Duration = Duration::from_secs(60 * 60);

/// Why a refresh changed nothing. The bundle held before stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Nothing to verify the endpoint with.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The TLS configuration cannot be made, for example of an unusable `ca_file`.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] TlsError),
    /// The fetch failed.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The document is no SPIFFE bundle.
    #[error("the endpoint's answer is not an acceptable SPIFFE bundle: {0}; the partner has to correct it")]
    Document(#[from] BundleJsonError),
    /// Nobody could be verified with the bundle.
    #[error("{0}")]
    Unusable(#[from] Unusable),
    /// The bundle is refused or held back.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The relationship was removed, or the gateway stops.
    #[error("given up, because the relationship was removed or the gateway stops")]
    Cancelled,
}

/// What a successful refresh found.
#[derive(Debug, Clone)]
pub struct Update {
    /// Whether a new bundle is in force.
    pub changed: bool,
    /// The refresh hint of the bundle in force.
    pub refresh_hint: Option<Duration>,
}

/// Fetches and accepts partner bundles. Shared by every relationship's task.
#[derive(Debug)]
pub struct Updater {
    limits: RefreshLimits,
    clock: SharedClock,
    store: Store,
    partners: Arc<PartnerBundles>,
    served: Arc<ServedDomains>,
    decisions: Decisions,
    system_tls: Mutex<Option<(OffsetDateTime, Arc<ClientConfig>)>>,
}

impl Updater {
    /// An updater that has `decisions` decide what is put in force in `partners`.
    pub fn new(
        limits: RefreshLimits,
        clock: SharedClock,
        store: Store,
        partners: Arc<PartnerBundles>,
        served: Arc<ServedDomains>,
        decisions: Decisions,
    ) -> Self {
        Self { limits, clock, store, partners, served, decisions, system_tls: Mutex::new(None) }
    }

    /// The limits of fetching.
    pub fn limits(&self) -> &RefreshLimits {
        &self.limits
    }

    /// The clock.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// The store accepted bundles go to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The bundles in force.
    pub fn partners(&self) -> &PartnerBundles {
        &self.partners
    }

    /// What operators decided, and what becomes of fetched bundles.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Fetches once. `state` is the relationship's; the entity tag and the bootstrap digest in it are brought up to
    /// date, and it is stored together with an accepted bundle.
    ///
    /// # Errors
    /// [`UpdateError`]; the bundle held stays in force.
    pub async fn update(
        &self,
        definition: &Definition,
        options: RefreshRequest,
        by: &Actor,
        state: &mut RefreshState,
        cancelled: &CancellationToken,
    ) -> Result<Update, UpdateError> {
        let partner = &definition.trust_domain;
        let trust = self.trust(definition, state).await?;
        let held = self.partners.get(partner);
        let url = definition.url.to_string();
        let conditional = options == RefreshRequest::default() && trust.bootstrap().is_none();
        let known = conditional && self.stands_for_something(definition, held.as_deref(), state);
        let etag = state.etag.as_deref().filter(|_| known && state.etag_url.as_deref() == Some(&url));

        let (bytes, etag) = match self.fetch(definition, &trust, etag, cancelled).await? {
            FetchOutcome::NotModified => {
                let refresh_hint = held.and_then(|held| held.bundle.refresh_hint());
                return Ok(Update { changed: false, refresh_hint });
            }
            FetchOutcome::Body { bytes, etag, .. } => (Bytes::from(bytes), etag),
        };

        let parsed = bundle_json::parse(partner, &bytes)?;
        for skipped in &parsed.skipped {
            tracing::debug!(trust_domain = %partner, %skipped, "key of a partner's bundle passed over");
        }
        usable::check(&parsed)?;
        let refresh_hint = parsed.bundle.refresh_hint();
        let mut accepted = RefreshState {
            etag: etag.clone(),
            etag_url: Some(url.clone()),
            etag_digest: Some(digest_hex(&bytes)),
            ..state.clone()
        };
        trust.remember(&mut accepted);
        // Trust set up again by hand starts a new count.
        let new_start = trust.bootstrap().is_some_and(|bundle| bundle.trust_domain() == partner);
        let fetched = Fetched {
            bundle: parsed.bundle,
            document: &bytes,
            source_url: &url,
            policy: definition.policy,
            options,
            by,
            new_start,
            state: &accepted,
        };
        let outcome = self.decisions.fetched(fetched).await?;
        let changed = matches!(outcome, Outcome::Accepted(_));
        match outcome {
            Outcome::Accepted(_) => *state = accepted,
            Outcome::Unchanged(digest) => *state = RefreshState { etag_digest: Some(digest), ..accepted },
            // Until it is accepted, a bootstrap bundle that led to it is still needed.
            Outcome::Offered(digest) => {
                (state.etag, state.etag_url, state.etag_digest) = (etag, Some(url), Some(digest));
            }
            Outcome::Kept => state.etag = None,
        }
        Ok(Update { changed, refresh_hint })
    }

    /// Whether "not modified since that entity tag" says all there is to say: the tag stands for the bundle in force,
    /// or for one that would be offered again.
    fn stands_for_something(&self, definition: &Definition, held: Option<&HeldBundle>, state: &RefreshState) -> bool {
        let Some(digest) = &state.etag_digest else { return false };
        if held.is_some_and(|held| held.digest == *digest) {
            return true;
        }
        let offer = self.decisions.control(&definition.trust_domain).offer;
        definition.policy.mode != Mode::Auto && offer.is_some_and(|offer| offer.digest == *digest)
    }

    async fn trust(&self, definition: &Definition, state: &RefreshState) -> Result<Trust, UpdateError> {
        match &definition.profile {
            EndpointProfile::HttpsWeb => Ok(Trust::Web(trust::web_roots(definition).await?)),
            EndpointProfile::HttpsSpiffe { endpoint_id } => {
                let record = async |digest: &str| BootstrapRecord {
                    last: state.bootstrap_digest.clone(),
                    accepted_before: self.store.knows_content(endpoint_id.trust_domain(), digest).await.unwrap_or(true),
                };
                let trust =
                    trust::endpoint_trust(definition, endpoint_id, &self.partners, &self.served, record).await?;
                Ok(Trust::Spiffe(endpoint_id.clone(), trust))
            }
        }
    }

    /// TLS with the system's authorities, which are many and change seldom: read once an hour.
    fn system_tls(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let now = self.clock.now();
        let mut cached = self.system_tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read_at, tls)) = &*cached
            && (*read_at..*read_at + SYSTEM_ROOTS_KEPT).contains(&now)
        {
            return Ok(Arc::clone(tls));
        }
        let tls = web_client_config(&WebRoots::System, Arc::clone(&self.clock), &[])?;
        *cached = Some((now, Arc::clone(&tls)));
        Ok(tls)
    }

    async fn fetch(
        &self,
        definition: &Definition,
        trust: &Trust,
        etag: Option<&str>,
        cancelled: &CancellationToken,
    ) -> Result<FetchOutcome, UpdateError> {
        let tls = match trust {
            Trust::Web(WebRoots::System) => self.system_tls()?,
            Trust::Web(roots) => web_client_config(roots, Arc::clone(&self.clock), &[])?,
            Trust::Spiffe(endpoint_id, trust) => spiffe_client_config(
                Arc::new(BundleCell::new(trust.bundles.clone())),
                None,
                PeerPolicy::Exactly(endpoint_id.clone()),
                Arc::clone(&self.clock),
                &[],
            )?,
        };
        let limits = FetchLimits { deadline: self.limits.timeout, max_body_bytes: self.limits.max_body_bytes };
        let fetcher = Fetcher::new(&tls, limits, Arc::clone(&self.clock))?;
        tokio::select! {
            outcome = fetcher.get(definition.url.url(), etag) => Ok(outcome?),
            () = cancelled.cancelled() => Err(UpdateError::Cancelled),
        }
    }
}

/// What one fetch trusts.
#[derive(Debug)]
enum Trust {
    Web(WebRoots),
    Spiffe(federation_specs::id::SpiffeId, EndpointTrust),
}

impl Trust {
    fn bootstrap(&self) -> Option<&Arc<Bundle>> {
        match self {
            Self::Web(_) => None,
            Self::Spiffe(_, trust) => trust.bootstrap.as_ref(),
        }
    }

    /// A bootstrap bundle that was there during a success is old news from now on.
    fn remember(&self, state: &mut RefreshState) {
        if let Self::Spiffe(_, trust) = self {
            state.bootstrap_digest = trust.bootstrap_digest.clone().or_else(|| state.bootstrap_digest.take());
        }
    }
}
