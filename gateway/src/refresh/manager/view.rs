//! How relationships are doing, for people, metrics and webhooks.

use std::{ops::Bound, sync::PoisonError};

use federation_specs::{id::TrustDomain, profile::EndpointProfile};
use time::OffsetDateTime;

use super::{Manager, Running};
use crate::{
    api::{self, BundleKind, BundleSummary, Health},
    partners::{HeldBundle, content_digest},
    refresh::{
        deliver::DeliveryProgress,
        limits::expired,
        relationship::{Bootstrap, Definition},
    },
    served::rendered::digest_hex,
    settings::Document,
    store::relationships::RefreshState,
};

/// How refreshing one partner goes.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// The partner.
    pub(crate) partner: TrustDomain,
    /// When it last answered with an acceptable bundle.
    pub(crate) last_success: Option<OffsetDateTime>,
    /// When it last served the bundle in force.
    pub(crate) confirmed_at: Option<OffsetDateTime>,
    /// When it is asked again.
    pub(crate) next_refresh: Option<OffsetDateTime>,
    /// How often it failed since the last success.
    pub(crate) failures: u32,
    /// Why.
    pub(crate) last_error: Option<String>,
}

impl Manager {
    /// How refreshing each partner goes.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        let progress = |(partner, running): (&TrustDomain, &Running)| {
            let status = running.status.lock().unwrap_or_else(PoisonError::into_inner);
            Progress {
                partner: partner.clone(),
                last_success: status.last_success,
                confirmed_at: status.confirmed_at,
                next_refresh: status.next_refresh,
                failures: status.consecutive_failures,
                last_error: status.last_error.clone(),
            }
        };
        self.state().running.iter().map(progress).collect()
    }

    /// How each delivery goes.
    pub(crate) fn delivery_progress(&self) -> Vec<DeliveryProgress> {
        self.inner.shared.deliveries.progress()
    }

    /// Receivers, and how many bundles the last delivery to them failed for.
    pub(crate) fn failing_deliveries(&self) -> Vec<(TrustDomain, u32)> {
        self.inner.shared.deliveries.failing()
    }

    /// Whether a bundle of the partner waits for an operator.
    pub(crate) fn waits(&self, partner: &TrustDomain) -> bool {
        self.decisions().waits(partner)
    }

    /// Relationships and how they are doing, by trust domain: at most `most`, beginning after the one named.
    pub fn list_after(&self, after: Option<&TrustDomain>, most: usize) -> Vec<api::Relationship> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let running: Vec<_> = self
            .state()
            .running
            .range::<TrustDomain, _>((begin, Bound::Unbounded))
            .take(most)
            .map(|(_, running)| (running.definition(), running.status()))
            .collect();
        running.iter().map(|(definition, status)| self.describe(definition, status)).collect()
    }

    /// One relationship and how it is doing.
    pub fn get(&self, partner: &TrustDomain) -> Option<api::Relationship> {
        let (definition, status) =
            self.state().running.get(partner).map(|running| (running.definition(), running.status()))?;
        Some(self.describe(&definition, &status))
    }

    fn describe(&self, definition: &Definition, status: &RefreshState) -> api::Relationship {
        let held = self.inner.shared.updater.partners().get(&definition.trust_domain);
        let control = self.decisions().control(&definition.trust_domain);
        let now = self.inner.shared.updater.clock().now();
        // What is wrong with the bundle in force although the partner answers.
        let worry = held.as_ref().and_then(|held| {
            let contested = || self.inner.shared.updater.partners().contested(&definition.trust_domain);
            expired(&held.bundle, now).or_else(contested)
        });
        let deliveries = definition.receivers.iter().map(|local| {
            let state = self.inner.shared.deliveries.state(local, &definition.trust_domain);
            api::Delivery {
                local_trust_domain: local.to_string(),
                delivered: held.as_ref().is_some_and(|held| state.digest.as_ref() == Some(&held.digest)),
                delivered_at: state.delivered_at,
                last_error: state.last_error,
                drift: state
                    .drift
                    .map(|drift| api::DeliveryDrift { since: drift.since, content_digest: drift.content_digest }),
            }
        });
        let (profile, endpoint_spiffe_id) = match &definition.profile {
            EndpointProfile::HttpsWeb => (api::Profile::HttpsWeb, None),
            EndpointProfile::HttpsSpiffe { endpoint_id } => (api::Profile::HttpsSpiffe, Some(endpoint_id.to_string())),
        };
        api::Relationship {
            trust_domain: definition.trust_domain.to_string(),
            local_trust_domains: definition.receivers.iter().map(ToString::to_string).collect(),
            url: definition.url.to_string(),
            failover_urls: definition.failover_urls.iter().map(ToString::to_string).collect(),
            url_in_use: status
                .etag_url
                .clone()
                .filter(|in_use| definition.failover_urls.iter().any(|url| url.to_string() == *in_use)),
            profile,
            ca: definition.ca.as_ref().map(|ca| match ca {
                Document::File(path) => api::Document::File(path.display().to_string()),
                Document::Inline(pem) => api::Document::Digest(digest_hex(pem.as_bytes())),
            }),
            bootstrap_bundle: definition.bootstrap.as_ref().filter(|_| endpoint_spiffe_id.is_some()).map(|bootstrap| {
                match bootstrap {
                    Bootstrap::File(path) => api::Document::File(path.display().to_string()),
                    Bootstrap::Bundle(bundle) => api::Document::Digest(content_digest(bundle)),
                }
            }),
            allow_addresses: definition.allow_addresses.iter().map(ToString::to_string).collect(),
            endpoint_spiffe_id,
            origin: definition.origin,
            managed: definition.managed.clone(),
            health: health(status, held.is_some(), control.expired_at.is_some(), worry.is_some()),
            mode: definition.policy.mode,
            emptied: definition.policy.emptied,
            drift: definition.policy.drift,
            maximum_age_seconds: definition.policy.maximum_age.map(|age| age.as_secs()),
            expired_at: control.expired_at,
            frozen: control.frozen.map(|frozen| api::Frozen { at: frozen.at, by: frozen.by, why: frozen.why }),
            waiting: control
                .offer
                .map(|offer| api::WaitingBundle::new(&offer, held.as_ref().map(|held| &*held.bundle))),
            last_error: status.last_error.clone().or(worry),
            last_attempt: status.last_attempt,
            last_success: status.last_success,
            bundle_age_seconds: held.as_ref().map(|held| {
                (now - confirmed_at(held, status.confirmed_at)).whole_seconds().try_into().unwrap_or_default()
            }),
            next_refresh_seconds: status
                .next_refresh
                .map(|next| (next - now).whole_seconds().try_into().unwrap_or_default()),
            first_expiry_seconds: held.as_ref().and_then(|held| {
                let ends = held.bundle.x509_authorities().iter().map(|authority| authority.not_after());
                Some((ends.min()? - now).whole_seconds())
            }),
            next_refresh: status.next_refresh,
            consecutive_failures: status.consecutive_failures,
            deliveries: deliveries.collect(),
            held: held.map(|held| summary(&held)),
            conflicts: definition.conflicts.iter().map(ToString::to_string).collect(),
            replica: self.leases().holder(&definition.trust_domain),
        }
    }
}

/// When the bundle in force was last known to be the partner's.
pub(crate) fn confirmed_at(held: &HeldBundle, last_confirmed: Option<OffsetDateTime>) -> OffsetDateTime {
    last_confirmed.map_or(held.accepted_at, |confirmed| confirmed.max(held.accepted_at))
}

fn health(status: &RefreshState, held: bool, expired: bool, worry: bool) -> Health {
    if expired {
        return Health::Expired;
    }
    match (&status.last_error, status.last_success, held) {
        (None, None, _) => Health::Pending,
        (None, Some(_), _) if worry => Health::Degraded,
        (None, Some(_), _) => Health::Healthy,
        (Some(_), _, true) => Health::Degraded,
        (Some(_), _, false) => Health::Failing,
    }
}

/// A partner's bundle without its keys.
pub fn summary(held: &HeldBundle) -> BundleSummary {
    BundleSummary::new(&held.bundle, BundleKind::Partner, &held.digest, held.accepted_at)
}
