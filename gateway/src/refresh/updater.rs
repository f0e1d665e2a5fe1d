//! One fetch of a partner's bundle: verify the endpoint, read within the limits, parse, compare, store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use federation_specs::{
    bundle::Bundle,
    bundle_change::{self, BundleChange, Comparison},
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
    relationship::Definition,
    trust::{self, BootstrapRecord, EndpointTrust, TrustError},
};
use crate::{
    api::RefreshRequest,
    partners::{HeldBundle, PartnerBundles, content_digest},
    served::{ServedDomains, rendered::digest_hex},
    settings::RefreshLimits,
    store::{Acceptance, Store, StoreError, relationships::RefreshState},
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
    /// The sequence went back.
    #[error(
        "the partner's bundle went back from sequence {held} to {fetched}; refused as a rollback, the bundle held stays \
         in force. If the partner was rebuilt, refresh once with accept_rollback"
    )]
    Rollback {
        /// Sequence of the bundle held.
        held: u64,
        /// Sequence of the bundle fetched.
        fetched: u64,
    },
    /// All keys are gone.
    #[error(
        "the partner's bundle has no keys any more, which revokes all trust in it; held back, the bundle held stays in \
         force. If this is intended, refresh once with accept_emptied or remove the relationship"
    )]
    Emptied,
    /// The relationship was removed, or the gateway stops.
    #[error("given up, because the relationship was removed or the gateway stops")]
    Cancelled,
    /// The store failed.
    #[error("the accepted bundle could not be stored: {0}")]
    Store(#[from] StoreError),
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
    system_tls: Mutex<Option<(OffsetDateTime, Arc<ClientConfig>)>>,
}

impl Updater {
    /// An updater that stores in `store` and puts accepted bundles in force in `partners`.
    pub fn new(
        limits: RefreshLimits,
        clock: SharedClock,
        store: Store,
        partners: Arc<PartnerBundles>,
        served: Arc<ServedDomains>,
    ) -> Self {
        Self { limits, clock, store, partners, served, system_tls: Mutex::new(None) }
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

    /// Fetches once. `state` is the relationship's; the entity tag, the highest sequence and the bootstrap digest in
    /// it are brought up to date, and it is stored together with an accepted bundle.
    ///
    /// # Errors
    /// [`UpdateError`]; the bundle held stays in force.
    pub async fn update(
        &self,
        definition: &Definition,
        options: RefreshRequest,
        state: &mut RefreshState,
        cancelled: &CancellationToken,
    ) -> Result<Update, UpdateError> {
        let trust = self.trust(definition, state).await?;
        let held = self.partners.get(&definition.trust_domain);
        let url = definition.url.to_string();
        let conditional = held.is_some() && options == RefreshRequest::default() && trust.bootstrap().is_none();
        let etag = state.etag.as_deref().filter(|_| conditional && state.etag_url.as_deref() == Some(&url));

        let (bytes, etag) = match self.fetch(definition, &trust, etag, cancelled).await? {
            FetchOutcome::NotModified => {
                trust.remember(state);
                let refresh_hint = held.and_then(|held| held.bundle.refresh_hint());
                return Ok(Update { changed: false, refresh_hint });
            }
            FetchOutcome::Body { bytes, etag, .. } => (bytes, etag),
        };

        let parsed = bundle_json::parse(&definition.trust_domain, &bytes)?;
        for skipped in &parsed.skipped {
            tracing::debug!(trust_domain = %definition.trust_domain, %skipped, "key of a partner's bundle passed over");
        }
        let bundle = parsed.bundle;
        let refresh_hint = bundle.refresh_hint();
        let change = self.judge(definition, held.as_deref(), &bundle, options, &trust, state)?;
        state.highest_sequence = bundle.sequence().or(state.highest_sequence);
        state.etag = etag;
        state.etag_url = Some(url.clone());
        trust.remember(state);
        let Some(change) = change else {
            return Ok(Update { changed: false, refresh_hint });
        };

        let accepted = HeldBundle {
            digest: digest_hex(&bytes),
            content_digest: content_digest(&bundle),
            accepted_at: self.clock.now(),
            bundle: Arc::new(bundle),
        };
        let acceptance = Acceptance { held: &accepted, document: &bytes, source_url: &url, change: &change };
        self.store.accept(acceptance, state).await?;
        tracing::info!(
            trust_domain = %definition.trust_domain,
            sequence = ?accepted.bundle.sequence(),
            x509_authorities = accepted.bundle.x509_authorities().len(),
            jwt_authorities = accepted.bundle.jwt_authorities().len(),
            "partner bundle accepted"
        );
        self.partners.set(accepted);
        Ok(Update { changed: true, refresh_hint })
    }

    /// What changed, `None` for nothing; refuses rollbacks and emptied bundles unless the operator accepts them.
    fn judge(
        &self,
        definition: &Definition,
        held: Option<&HeldBundle>,
        fetched: &Bundle,
        options: RefreshRequest,
        trust: &Trust,
        state: &RefreshState,
    ) -> Result<Option<BundleChange>, UpdateError> {
        let Some(held) = held else {
            return Ok(Some(bundle_change::difference(None, fetched)));
        };
        // A bundle without a sequence must not make room for an older one later.
        let before = (*held.bundle).clone().with_sequence(state.highest_sequence.max(held.bundle.sequence()));
        // Trust set up again by hand starts a new count.
        let new_start = trust.bootstrap().is_some_and(|bundle| *bundle.trust_domain() == definition.trust_domain);
        match bundle_change::compare(Some(&before), fetched) {
            Comparison::Rollback { held, fetched } if !(options.accept_rollback || new_start) => {
                return Err(UpdateError::Rollback { held, fetched });
            }
            Comparison::Rollback { .. } if fetched.is_empty() && !options.accept_emptied => {
                return Err(UpdateError::Emptied);
            }
            Comparison::Emptied if !options.accept_emptied => return Err(UpdateError::Emptied),
            Comparison::Unchanged => return Ok(None),
            Comparison::Rollback { .. } | Comparison::Emptied | Comparison::Changed(_) => {}
        }
        if held.bundle.same_content(fetched) && held.bundle.sequence() == fetched.sequence() {
            return Ok(None);
        }
        Ok(Some(bundle_change::difference(Some(&held.bundle), fetched)))
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
