//! What the gateway counts and shows to Prometheus. The names are documented in `docs/metrics.md`.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use federation_specs::{bundle::Bundle, id::TrustDomain};
use http::StatusCode;
use service_kit::{
    clock::SharedClock,
    metrics::{Counter, Gauges, Metrics},
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

const REQUESTS: &str = "entente_gateway_requests_total";
const CONNECTIONS: &str = "entente_gateway_connections_total";
const OPEN_CONNECTIONS: &str = "entente_gateway_connections";
const RATE_LIMITED: &str = "entente_gateway_rate_limited_total";
const CERTIFICATE_EXPIRY: &str = "entente_gateway_certificate_seconds_to_expiry";
const RENEWAL_OK: &str = "entente_gateway_certificate_renewal_ok";
const RENEWALS: &str = "entente_gateway_certificate_renewals_total";
const OWN_AGE: &str = "entente_gateway_own_bundle_age_seconds";
const OWN_HELD: &str = "entente_gateway_own_bundle_held";
const OWN_EXPIRY: &str = "entente_gateway_own_bundle_seconds_to_first_key_expiry";
const PARTNER_AGE: &str = "entente_gateway_partner_bundle_age_seconds";
const PARTNER_EXPIRY: &str = "entente_gateway_partner_seconds_to_first_key_expiry";
const PARTNER_REFRESHED: &str = "entente_gateway_partner_seconds_since_refresh";
const PARTNER_FAILURES: &str = "entente_gateway_partner_consecutive_failures";
const PARTNER_NEXT: &str = "entente_gateway_partner_seconds_to_next_refresh";
const PARTNER_ROTATION: &str = "entente_gateway_partner_seconds_to_last_key_expiry";
const PARTNER_HELD: &str = "entente_gateway_partner_bundle_held";
const OWN_ROTATION: &str = "entente_gateway_own_bundle_seconds_to_last_key_expiry";
const UNDELIVERED: &str = "entente_gateway_deliveries_failing";
const WEBHOOKS: &str = "entente_gateway_webhook_deliveries_total";
const WEBHOOKS_DROPPED: &str = "entente_gateway_webhook_messages_dropped_total";
const WEBHOOK_BACKLOG: &str = "entente_gateway_webhook_backlog";
const WEBHOOK_FAILURES: &str = "entente_gateway_webhook_consecutive_failures";
const REFRESHES: &str = "entente_gateway_partner_refreshes_total";
const ROLLBACKS: &str = "entente_gateway_partner_rollback_attempts_total";
const LEASES: &str = "entente_gateway_leases_held";
const REPLICAS: &str = "entente_gateway_replicas";
const TAKEOVERS: &str = "entente_gateway_lease_takeovers_total";
const DELIVERIES: &str = "entente_gateway_deliveries_total";
const PUBLICATIONS: &str = "entente_gateway_publications_total";
const PUBLICATION_DRIFTS: &str = "entente_gateway_publication_drifts_total";
const PUBLISHED: &str = "entente_gateway_publisher_seconds_since_success";
const PUBLISHER_FAILURES: &str = "entente_gateway_publisher_consecutive_failures";

/// The gateway's metrics. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct GatewayMetrics {
    metrics: Metrics,
}

impl GatewayMetrics {
    /// Every metric described, none counted yet.
    pub fn new() -> Self {
        let metrics = Metrics::new();
        for (name, text) in [
            (REQUESTS, "Answered requests by trust domain, document and status."),
            (CONNECTIONS, "Connections by listener and what became of them."),
            (RATE_LIMITED, "Requests answered 429 by listener."),
            (RENEWALS, "Renewals of a listener's certificate by result."),
            (REFRESHES, "Fetches of partners' bundles by partner and result."),
            (ROLLBACKS, "Fetched bundles with a lower sequence number than before, by partner."),
            (TAKEOVERS, "Parts of the work taken over from gateways that died."),
            (DELIVERIES, "Deliveries of partners' bundles by receiving trust domain and result."),
            (PUBLICATIONS, "Looks at places bundles are published to, by publisher and result."),
            (PUBLICATION_DRIFTS, "Places found to hold something else than was published, by publisher."),
            (WEBHOOKS, "Attempts to deliver a message to a webhook by result."),
            (WEBHOOKS_DROPPED, "Messages given up, because they were too old or too many, by webhook."),
        ] {
            metrics.describe_counter(name, text);
        }
        for (name, text) in [
            (OPEN_CONNECTIONS, "Connections open now by listener."),
            (CERTIFICATE_EXPIRY, "Time until the certificate of a listener expires."),
            (RENEWAL_OK, "Whether the last renewal of a listener's certificate worked."),
            (OWN_AGE, "Time since every source of a served domain last confirmed what is served."),
            (OWN_HELD, "Sources of a served domain whose bundle is held back."),
            (OWN_EXPIRY, "Time until the first X.509 authority of a served bundle expires."),
            (
                OWN_ROTATION,
                "Time until the last X.509 authority of a served bundle expires; a newer one is due before.",
            ),
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
            (PUBLISHED, "Time since a place was last seen to hold the served bundle."),
            (PUBLISHER_FAILURES, "Failed attempts to publish since then."),
            (WEBHOOK_BACKLOG, "Number of the newest message minus that of the last one a webhook is done with."),
            (WEBHOOK_FAILURES, "Failed attempts of a webhook since its last success."),
            (LEASES, "Parts of the work this gateway has, of 256."),
            (REPLICAS, "Gateways on the same database that are alive."),
        ] {
            metrics.describe_gauge(name, text);
        }
        Self { metrics }
    }

    /// The registry, to be scraped.
    pub fn registry(&self) -> &Metrics {
        &self.metrics
    }

    /// Shows the state of served domains at each scrape.
    pub(crate) fn watch_served(&self, served: Arc<ServedDomains>, clock: SharedClock) {
        self.metrics.on_scrape(move |gauges| {
            let now = clock.now();
            for domain in served.iter() {
                own(gauges, domain, now);
            }
        });
    }

    /// Shows the state of partners and deliveries at each scrape.
    pub(crate) fn watch_partners(&self, manager: Manager, partners: Arc<PartnerBundles>, clock: SharedClock) {
        self.metrics.on_scrape(move |gauges| {
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
    pub(crate) fn watch_publishers(&self, publishers: PublisherStatuses, clock: SharedClock) {
        self.metrics.on_scrape(move |gauges| {
            let now = clock.now();
            for publisher in publishers.list() {
                let labels = [
                    ("trust_domain", publisher.trust_domain.as_str()),
                    ("publisher", publisher.settings.name.as_str()),
                ];
                gauges.show(PUBLISHER_FAILURES, &labels, f64::from(publisher.consecutive_failures));
                if let Some(at) = publisher.last_success {
                    gauges.show(PUBLISHED, &labels, seconds(now - at));
                }
            }
        });
    }

    /// Shows the state of webhooks at each scrape.
    pub(crate) fn watch_webhooks(&self, webhooks: Webhooks) {
        self.metrics.on_scrape(move |gauges| {
            for lane in webhooks.iter() {
                let labels = [("webhook", lane.settings().name.as_str())];
                let status = lane.status();
                gauges.show(WEBHOOK_FAILURES, &labels, f64::from(status.state.consecutive_failures));
                let behind = webhooks.head().saturating_sub(status.state.delivered_to).max(0);
                gauges.show(WEBHOOK_BACKLOG, &labels, f64::from(u32::try_from(behind).unwrap_or(u32::MAX)));
            }
        });
    }

    /// An attempt to deliver a message to a webhook was made.
    pub(crate) fn webhook_sent(&self, webhook: &str, ok: bool) {
        let result = if ok { "delivered" } else { "failed" };
        self.metrics.counter(WEBHOOKS, &[("webhook", webhook), ("result", result)]).increment(1);
    }

    /// Messages to a webhook were given up.
    pub(crate) fn webhook_dropped(&self, webhook: &str, count: u64) {
        self.metrics.counter(WEBHOOKS_DROPPED, &[("webhook", webhook)]).increment(count);
    }

    /// Shows how the work is divided at each scrape, where several gateways may share it.
    pub(crate) fn watch_leases(&self, leases: Leases) {
        self.metrics.on_scrape(move |gauges| {
            let Some((held, replicas)) = leases.counts() else { return };
            let gauge = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
            gauges.show(LEASES, &[], gauge(held));
            gauges.show(REPLICAS, &[], gauge(replicas));
        });
    }

    /// Work was taken over from gateways that died.
    pub(crate) fn taken_over(&self, parts: usize) {
        self.metrics.counter(TAKEOVERS, &[]).increment(u64::try_from(parts).unwrap_or(u64::MAX));
    }

    /// The counters of one listener, and its gauge of open connections.
    pub(crate) fn listener(&self, listener: &'static str) -> ListenerMetrics {
        let open = Arc::new(AtomicUsize::new(0));
        let shown = Arc::clone(&open);
        self.metrics.on_scrape(move |gauges| {
            let count = u32::try_from(shown.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
            gauges.show(OPEN_CONNECTIONS, &[("listener", listener)], f64::from(count));
        });
        let result = |result| self.metrics.counter(CONNECTIONS, &[("listener", listener), ("result", result)]);
        ListenerMetrics {
            open,
            served: result("served"),
            refused: result("too_many_of_client"),
            handshake_failed: result("handshake_failed"),
            proxy_refused: result("proxy_header_refused"),
            acme_validation: result("acme_validation"),
        }
    }

    /// Shows at each scrape when a listener's certificate ends. `certificate` is `web` or a SPIFFE ID.
    pub(crate) fn watch_certificate(
        &self,
        listener: &'static str,
        certificate: &str,
        clock: SharedClock,
        not_after: impl Fn() -> Option<OffsetDateTime> + Send + Sync + 'static,
    ) {
        let certificate = certificate.to_owned();
        self.metrics.on_scrape(move |gauges| {
            if let Some(end) = not_after() {
                let labels = [("listener", listener), ("certificate", certificate.as_str())];
                gauges.show(CERTIFICATE_EXPIRY, &labels, seconds(end - clock.now()));
            }
        });
    }

    /// Counts the renewals of a listener's certificate. `certificate` is `web` or a SPIFFE ID.
    pub(crate) fn renewals(&self, listener: &'static str, certificate: &str) -> RenewalMetrics {
        let result = |result| {
            let labels = [("listener", listener), ("certificate", certificate), ("result", result)];
            self.metrics.counter(RENEWALS, &labels)
        };
        let counted = RenewalMetrics { working: Arc::default(), ok: result("ok"), failed: result("failed") };
        let (working, certificate) = (Arc::clone(&counted.working), certificate.to_owned());
        self.metrics.on_scrape(move |gauges| {
            let labels = [("listener", listener), ("certificate", certificate.as_str())];
            match working.load(Ordering::Relaxed) {
                RENEWAL_NONE => {}
                last => gauges.show(RENEWAL_OK, &labels, if last == RENEWAL_DONE { 1.0 } else { 0.0 }),
            }
        });
        counted
    }

    /// The counter of requests of one listener that were answered 429.
    pub(crate) fn rate_limited(&self, listener: &'static str) -> Counter {
        self.metrics.counter(RATE_LIMITED, &[("listener", listener)])
    }

    /// The counters of requests for one document.
    pub(crate) fn requests(&self, trust_domain: &str, document: &'static str) -> RequestCounters {
        RequestCounters {
            metrics: self.metrics.clone(),
            trust_domain: trust_domain.to_owned(),
            document,
            counters: Default::default(),
        }
    }

    /// A partner was fetched: whether that brought an acceptable bundle.
    pub(crate) fn refreshed(&self, partner: &TrustDomain, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.metrics.counter(REFRESHES, &[("trust_domain", partner.as_str()), ("result", result)]).increment(1);
    }

    /// A partner's bundle went back.
    pub(crate) fn rollback(&self, partner: &TrustDomain) {
        self.metrics.counter(ROLLBACKS, &[("trust_domain", partner.as_str())]).increment(1);
    }

    /// A publisher looked at its place: `written`, `unchanged` or `failed`.
    pub(crate) fn published(&self, trust_domain: &TrustDomain, publisher: &str, result: &'static str) {
        let labels = [("trust_domain", trust_domain.as_str()), ("publisher", publisher), ("result", result)];
        self.metrics.counter(PUBLICATIONS, &labels).increment(1);
    }

    /// A place holds something else than was published.
    pub(crate) fn publication_drifted(&self, trust_domain: &TrustDomain, publisher: &str) {
        let labels = [("trust_domain", trust_domain.as_str()), ("publisher", publisher)];
        self.metrics.counter(PUBLICATION_DRIFTS, &labels).increment(1);
    }

    /// A bundle was given to the issuer of `local`, or could not be.
    pub(crate) fn delivered(&self, local: &TrustDomain, ok: bool) {
        let result = if ok { "delivered" } else { "failed" };
        self.metrics.counter(DELIVERIES, &[("local_trust_domain", local.as_str()), ("result", result)]).increment(1);
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

/// Counters of one listener.
#[derive(Debug, Clone)]
pub(crate) struct ListenerMetrics {
    open: Arc<AtomicUsize>,
    /// Handshake done.
    pub(crate) served: Counter,
    /// Closed at once, because the client has too many.
    pub(crate) refused: Counter,
    /// TLS failed or took too long.
    pub(crate) handshake_failed: Counter,
    /// No acceptable PROXY protocol header.
    pub(crate) proxy_refused: Counter,
    /// A certificate authority validated a name.
    pub(crate) acme_validation: Counter,
}

// What became of the last renewal.
const RENEWAL_NONE: u8 = 0;
const RENEWAL_DONE: u8 = 1;
const RENEWAL_FAILED: u8 = 2;

/// Renewals of one certificate.
#[derive(Debug, Clone)]
pub(crate) struct RenewalMetrics {
    working: Arc<AtomicU8>,
    ok: Counter,
    failed: Counter,
}

impl RenewalMetrics {
    /// It has been renewed.
    pub(crate) fn renewed(&self) {
        self.working.store(RENEWAL_DONE, Ordering::Relaxed);
        self.ok.increment(1);
    }

    /// It need not be renewed, and whoever renews it answers.
    pub(crate) fn working(&self) {
        self.working.store(RENEWAL_DONE, Ordering::Relaxed);
    }

    /// It could not be renewed, whatever is in use meanwhile.
    pub(crate) fn failed(&self) {
        self.working.store(RENEWAL_FAILED, Ordering::Relaxed);
        self.failed.increment(1);
    }
}

/// One open connection in the gauge, until dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<AtomicUsize>);

impl ListenerMetrics {
    /// One more is open.
    pub(crate) fn open(&self) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(&self.open))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Statuses of answers that are counted without looking anything up.
const STATUSES: [StatusCode; 8] = [
    StatusCode::OK,
    StatusCode::NOT_MODIFIED,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::NOT_IMPLEMENTED,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// Counters of the requests for one document, made when first needed: there may be thousands of documents.
#[derive(Debug)]
pub(crate) struct RequestCounters {
    metrics: Metrics,
    trust_domain: String,
    document: &'static str,
    counters: [OnceLock<Counter>; STATUSES.len()],
}

impl RequestCounters {
    /// One request was answered.
    pub(crate) fn count(&self, status: StatusCode) {
        let make = || {
            let labels = [
                ("trust_domain", self.trust_domain.as_str()),
                ("document", self.document),
                ("status", status.as_str()),
            ];
            self.metrics.counter(REQUESTS, &labels)
        };
        let kept = STATUSES.iter().position(|known| *known == status).and_then(|index| self.counters.get(index));
        match kept {
            Some(cell) => cell.get_or_init(make).increment(1),
            None => make().increment(1),
        }
    }
}
