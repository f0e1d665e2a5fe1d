//! What the gateway shows of its state at each scrape: gauges of whatever it has when somebody asks. What it counts is
//! in [`crate::metrics`]. The names are documented in `docs/metrics.md`.

use std::{sync::Arc, time::Duration};

use federation_specs::bundle::Bundle;
use service_kit::{
    clock::SharedClock,
    metrics::{Gauges, Metrics},
};
use time::OffsetDateTime;

use crate::{
    partners::PartnerBundles,
    publish::PublisherStatuses,
    refresh::manager::Manager,
    replicas::leases::Leases,
    served::{ServedDomain, ServedDomains},
    webhook::Webhooks,
};

const CERTIFICATE_EXPIRY: &str = "entente_gateway_certificate_seconds_to_expiry";
const OWN_AGE: &str = "entente_gateway_own_bundle_age_seconds";
const OWN_HELD: &str = "entente_gateway_own_bundle_held";
const OWN_EXPIRY: &str = "entente_gateway_own_bundle_seconds_to_first_key_expiry";
const OWN_ROTATION: &str = "entente_gateway_own_bundle_seconds_to_last_key_expiry";
const PARTNER_AGE: &str = "entente_gateway_partner_bundle_age_seconds";
const PARTNER_EXPIRY: &str = "entente_gateway_partner_seconds_to_first_key_expiry";
const PARTNER_ROTATION: &str = "entente_gateway_partner_seconds_to_last_key_expiry";
const PARTNER_REFRESHED: &str = "entente_gateway_partner_seconds_since_refresh";
const PARTNER_FAILURES: &str = "entente_gateway_partner_consecutive_failures";
const PARTNER_NEXT: &str = "entente_gateway_partner_seconds_to_next_refresh";
const PARTNER_HELD: &str = "entente_gateway_partner_bundle_held";
const UNDELIVERED: &str = "entente_gateway_deliveries_failing";
const WEBHOOK_BACKLOG: &str = "entente_gateway_webhook_backlog";
const WEBHOOK_FAILURES: &str = "entente_gateway_webhook_consecutive_failures";
const LEASES: &str = "entente_gateway_leases_held";
const REPLICAS: &str = "entente_gateway_replicas";
const PUBLISHED: &str = "entente_gateway_publisher_seconds_since_success";
const PUBLISHER_FAILURES: &str = "entente_gateway_publisher_consecutive_failures";

/// Shows the state of served domains at each scrape.
pub(super) fn watch_served(metrics: &Metrics, served: Arc<ServedDomains>, clock: SharedClock) {
    describe(
        metrics,
        &[
            (OWN_AGE, "Time since every source of a served domain last confirmed what is served."),
            (OWN_HELD, "Sources of a served domain whose bundle is held back."),
            (OWN_EXPIRY, "Time until the first X.509 authority of a served bundle expires."),
            (
                OWN_ROTATION,
                "Time until the last X.509 authority of a served bundle expires; a newer one is due before.",
            ),
        ],
    );
    metrics.on_scrape(move |gauges| {
        let now = clock.now();
        for domain in served.iter() {
            own(gauges, domain, now);
        }
    });
}

/// Shows the state of partners and deliveries at each scrape.
pub(super) fn watch_partners(metrics: &Metrics, manager: Manager, partners: Arc<PartnerBundles>, clock: SharedClock) {
    describe(
        metrics,
        &[
            (PARTNER_AGE, "Time since the partner's bundle in force was accepted."),
            (PARTNER_EXPIRY, "Time until the first X.509 authority of a partner's bundle expires."),
            (
                PARTNER_ROTATION,
                "Time until the last X.509 authority of a partner's bundle expires; a newer one is due before.",
            ),
            (PARTNER_REFRESHED, "Time since the partner last answered with an acceptable bundle."),
            (PARTNER_NEXT, "Time until the partner is asked again."),
            (PARTNER_FAILURES, "Failed fetches since the last acceptable answer."),
            (PARTNER_HELD, "1 while a changed bundle of the partner waits for an operator."),
            (UNDELIVERED, "Partners' bundles whose last delivery failed, by receiving trust domain."),
        ],
    );
    metrics.on_scrape(move |gauges| {
        let now = clock.now();
        for progress in manager.progress() {
            let labels = [("trust_domain", progress.partner.as_str())];
            gauges.show(PARTNER_FAILURES, &labels, f64::from(progress.failures));
            gauges.show(PARTNER_HELD, &labels, f64::from(u8::from(manager.waits(&progress.partner))));
            if let Some(at) = progress.last_success {
                gauges.show(PARTNER_REFRESHED, &labels, seconds(now - at));
            }
            if let Some(at) = progress.next_refresh {
                gauges.show(PARTNER_NEXT, &labels, seconds(at - now));
            }
            if let Some(held) = partners.get(&progress.partner) {
                gauges.show(PARTNER_AGE, &labels, seconds(now - held.accepted_at));
                if let Some((first, last)) = expiries(&held.bundle) {
                    gauges.show(PARTNER_EXPIRY, &labels, seconds(first - now));
                    gauges.show(PARTNER_ROTATION, &labels, seconds(last - now));
                }
            }
        }
        for (local, failing) in manager.failing_deliveries() {
            gauges.show(UNDELIVERED, &[("local_trust_domain", local.as_str())], f64::from(failing));
        }
    });
}

/// Shows the state of publishers at each scrape.
pub(super) fn watch_publishers(metrics: &Metrics, publishers: PublisherStatuses, clock: SharedClock) {
    describe(
        metrics,
        &[
            (PUBLISHED, "Time since a place was last seen to hold the served bundle."),
            (PUBLISHER_FAILURES, "Failed attempts to publish since then."),
        ],
    );
    metrics.on_scrape(move |gauges| {
        let now = clock.now();
        for publisher in publishers.here() {
            let labels =
                [("trust_domain", publisher.trust_domain.as_str()), ("publisher", publisher.settings.name.as_str())];
            gauges.show(PUBLISHER_FAILURES, &labels, f64::from(publisher.state.consecutive_failures));
            if let Some(at) = publisher.state.last_success {
                gauges.show(PUBLISHED, &labels, seconds(now - at));
            }
        }
    });
}

/// Shows the state of webhooks at each scrape.
pub(super) fn watch_webhooks(metrics: &Metrics, webhooks: Webhooks) {
    describe(
        metrics,
        &[
            (WEBHOOK_BACKLOG, "Number of the newest message minus that of the last one a webhook is done with."),
            (WEBHOOK_FAILURES, "Failed attempts of a webhook since its last success."),
        ],
    );
    metrics.on_scrape(move |gauges| {
        for lane in webhooks.iter() {
            let labels = [("webhook", lane.settings().name.as_str())];
            let status = lane.status();
            gauges.show(WEBHOOK_FAILURES, &labels, f64::from(status.state.consecutive_failures));
            let behind = webhooks.head().saturating_sub(status.state.delivered_to).max(0);
            gauges.show(WEBHOOK_BACKLOG, &labels, f64::from(u32::try_from(behind).unwrap_or(u32::MAX)));
        }
    });
}

/// Shows how the work is divided at each scrape, where several gateways may share it.
pub(super) fn watch_leases(metrics: &Metrics, leases: Leases) {
    describe(
        metrics,
        &[
            (LEASES, "Parts of the work this gateway has, of 256."),
            (REPLICAS, "Gateways on the same database that are alive."),
        ],
    );
    metrics.on_scrape(move |gauges| {
        let Some((held, replicas)) = leases.counts() else { return };
        let gauge = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        gauges.show(LEASES, &[], gauge(held));
        gauges.show(REPLICAS, &[], gauge(replicas));
    });
}

/// Shows at each scrape when a listener's certificate ends. `certificate` is `web` or a SPIFFE ID.
pub(super) fn watch_certificate(
    metrics: &Metrics,
    listener: &'static str,
    certificate: &str,
    clock: SharedClock,
    not_after: impl Fn() -> Option<OffsetDateTime> + Send + Sync + 'static,
) {
    let certificate = certificate.to_owned();
    describe(metrics, &[(CERTIFICATE_EXPIRY, "Time until the certificate of a listener expires.")]);
    metrics.on_scrape(move |gauges| {
        if let Some(end) = not_after() {
            let labels = [("listener", listener), ("certificate", certificate.as_str())];
            gauges.show(CERTIFICATE_EXPIRY, &labels, seconds(end - clock.now()));
        }
    });
}

fn describe(metrics: &Metrics, gauges: &[(&'static str, &'static str)]) {
    for (name, text) in gauges {
        metrics.describe_gauge(name, text);
    }
}

fn own(gauges: &mut Gauges, domain: &ServedDomain, now: OffsetDateTime) {
    let labels = [("trust_domain", domain.name().as_str())];
    let held = u32::try_from(domain.sources().held()).unwrap_or(u32::MAX);
    gauges.show(OWN_HELD, &labels, f64::from(held));
    let Some(published) = domain.current() else { return };
    gauges.show(OWN_AGE, &labels, domain.age(now).unwrap_or(Duration::ZERO).as_secs_f64());
    if let Some((first, last)) = expiries(&published.bundle) {
        gauges.show(OWN_EXPIRY, &labels, seconds(first - now));
        gauges.show(OWN_ROTATION, &labels, seconds(last - now));
    }
}

/// When the first and the last X.509 authority expire.
fn expiries(bundle: &Bundle) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let ends = || bundle.x509_authorities().iter().map(|authority| authority.not_after());
    Some((ends().min()?, ends().max()?))
}

fn seconds(duration: time::Duration) -> f64 {
    duration.as_seconds_f64().round()
}
