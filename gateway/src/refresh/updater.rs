//! One fetch of a partner's bundle: verify the endpoint, read within the limits, parse, compare, store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use federation_specs::{
    bundle::Bundle,
    bundle_json::{self, BundleJsonError, ParsedBundle},
    profile::{EndpointProfile, EndpointUrl},
};
use service_kit::{
    clock::SharedClock,
    fetch::{FetchError, FetchLimits, FetchOutcome},
    tls::WebRoots,
};
use tokio_util::sync::CancellationToken;

use super::{
    clients::{Client, ClientError, Clients, Verification},
    decision_error::DecisionError,
    decisions::{
        Decisions,
        fetched::{Fetched, Outcome},
    },
    failover::{Failover, share},
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

/// Why a refresh changed nothing. The bundle held before stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Nothing to verify the endpoint with.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// There is no client, for example of an unusable `ca_file`.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The fetch failed.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The document is no SPIFFE bundle.
    #[error("the endpoint's answer is not an acceptable SPIFFE bundle: {0}; the partner has to correct it")]
    Document(#[from] BundleJsonError),
    /// Nobody could be verified with the bundle.
    #[error("{0}")]
    Unusable(#[from] Unusable),
    /// None of several URLs gives a bundle.
    #[error("none of the {count} URLs of the bundle gives one: {reasons}")]
    NoUrl {
        /// How many there are.
        count: usize,
        /// What went wrong with each.
        reasons: String,
    },
    /// The bundle is refused or held back.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The relationship was removed, or the gateway stops.
    #[error("given up, because the relationship was removed or the gateway stops")]
    Cancelled,
}

/// How long a relationship stays what it is.
pub struct Life<'a> {
    /// Ends with it.
    pub cancelled: &'a CancellationToken,
    /// Whether it is still defined as it was when the refresh began.
    pub as_defined: &'a (dyn Fn() -> bool + Send + Sync),
}

/// What a successful refresh found.
#[derive(Debug, Clone)]
pub struct Update {
    /// Whether a new bundle is in force.
    pub changed: bool,
    /// Whether the partner serves what is in force, or the same keys.
    pub confirmed: bool,
    /// The refresh hint of the bundle in force.
    pub refresh_hint: Option<Duration>,
}

/// What one relationship keeps from fetch to fetch.
#[derive(Debug, Default)]
pub struct Endpoint {
    client: Client,
    failover: Failover,
}

impl Endpoint {
    /// Says when the next fetch comes.
    pub fn rest(&self, next: Duration) {
        self.client.rest(next);
    }
}

/// What one URL gave.
#[derive(Debug)]
enum Given {
    /// What is held already.
    NotModified,
    /// A bundle that can be used.
    Document { bytes: Bytes, etag: Option<String>, parsed: Box<ParsedBundle> },
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
    clients: Arc<Clients>,
}

impl Updater {
    /// An updater that fetches with `clients` and has `decisions` decide what is put in force in `partners`.
    pub fn new(
        limits: RefreshLimits,
        clients: Arc<Clients>,
        clock: SharedClock,
        store: Store,
        partners: Arc<PartnerBundles>,
        served: Arc<ServedDomains>,
        decisions: Decisions,
    ) -> Self {
        Self { limits, clock, store, partners, served, decisions, clients }
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
        options: &RefreshRequest,
        by: &Actor,
        endpoint: &mut Endpoint,
        state: &mut RefreshState,
        life: &Life<'_>,
    ) -> Result<Update, UpdateError> {
        let partner = &definition.trust_domain;
        let trust = self.trust(definition, state).await?;
        let held = self.partners.get(partner);
        let conditional = !options.accepts_more() && trust.bootstrap().is_none();
        let known = conditional && self.stands_for_something(definition, held.as_deref(), state);
        let etag = state.etag.as_deref().zip(state.etag_url.as_deref()).filter(|_| known);

        let verification = trust.verification();
        let given = tokio::select! {
            given = self.ask(definition, &verification, etag, endpoint) => given?,
            () = life.cancelled.cancelled() => return Err(UpdateError::Cancelled),
        };
        let (url, bytes, etag, parsed) = match given {
            (_, Given::NotModified) => {
                let confirmed = held.as_ref().is_some_and(|held| state.etag_digest.as_ref() == Some(&held.digest));
                let refresh_hint = held.and_then(|held| held.bundle.refresh_hint());
                return Ok(Update { changed: false, confirmed, refresh_hint });
            }
            (url, Given::Document { bytes, etag, parsed }) => (url.to_string(), bytes, etag, parsed),
        };
        for skipped in &parsed.skipped {
            tracing::debug!(trust_domain = %partner, %skipped, "key of a partner's bundle passed over");
        }
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
            as_defined: life.as_defined,
        };
        let outcome = self.decisions.fetched(fetched).await?;
        let changed = matches!(outcome, Outcome::Accepted(_));
        let confirmed = matches!(outcome, Outcome::Accepted(_) | Outcome::Unchanged(_));
        match outcome {
            Outcome::Accepted(_) => *state = accepted,
            Outcome::Unchanged(digest) => *state = RefreshState { etag_digest: Some(digest), ..accepted },
            // Until it is accepted, a bootstrap bundle that led to it is still needed.
            Outcome::Offered(digest) => {
                (state.etag, state.etag_url, state.etag_digest) = (etag, Some(url), Some(digest));
            }
            Outcome::Kept => state.etag = None,
        }
        Ok(Update { changed, confirmed, refresh_hint })
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

    /// Asks the URLs of a relationship one after the other until one gives a bundle that can be used. `etag` is an entity
    /// tag and the URL that gave it.
    async fn ask<'a>(
        &self,
        definition: &'a Definition,
        verification: &Verification,
        etag: Option<(&str, &str)>,
        endpoint: &mut Endpoint,
    ) -> Result<(&'a EndpointUrl, Given), UpdateError> {
        let urls: Vec<&EndpointUrl> = definition.urls().collect();
        let begin = self.clock.now();
        let order = endpoint.failover.order(urls.len(), begin);
        let mut reasons: Vec<String> = Vec::new();
        for (asked, &index) in order.iter().enumerate() {
            let Some(&url) = urls.get(index) else { continue };
            let now = self.clock.now();
            if index == 0 {
                endpoint.failover.tried_first(now);
            }
            let spent = if asked == 0 { Duration::ZERO } else { (now - begin).try_into().unwrap_or_default() };
            let deadline = share(self.limits.timeout.saturating_sub(spent), order.len() - asked);
            let etag = etag.and_then(|(etag, from)| (url.to_string() == from).then_some(etag));
            let client = &mut endpoint.client;
            match self.ask_one(definition, verification, url, etag, deadline, client).await {
                Ok(given) => {
                    endpoint.failover.worked(index);
                    if let Some(reason) = reasons.first() {
                        tracing::debug!(trust_domain = %definition.trust_domain, %url, %reason, "asked another URL");
                    }
                    return Ok((url, given));
                }
                Err(error) if urls.len() == 1 => return Err(error),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(UpdateError::NoUrl { count: urls.len(), reasons: reasons.join("; ") })
    }

    async fn ask_one(
        &self,
        definition: &Definition,
        verification: &Verification,
        url: &EndpointUrl,
        etag: Option<&str>,
        deadline: Duration,
        client: &mut Client,
    ) -> Result<Given, UpdateError> {
        let limits = FetchLimits { deadline, max_body_bytes: self.limits.max_body_bytes };
        let fetcher = self.clients.client(client, verification, &definition.allow_addresses)?;
        match fetcher.get(url.url(), etag, limits).await? {
            FetchOutcome::NotModified => Ok(Given::NotModified),
            FetchOutcome::Body { bytes, etag, .. } => {
                let parsed = bundle_json::parse(&definition.trust_domain, &bytes)?;
                usable::check(&parsed)?;
                Ok(Given::Document { bytes: bytes.into(), etag, parsed: Box::new(parsed) })
            }
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
    fn verification(&self) -> Verification {
        match self {
            Self::Web(roots) => Verification::Web(roots.clone()),
            Self::Spiffe(endpoint_id, trust) => Verification::Spiffe(endpoint_id.clone(), Arc::clone(&trust.bundle)),
        }
    }

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
