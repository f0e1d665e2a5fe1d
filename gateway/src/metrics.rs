//! What the gateway counts, for Prometheus: handed down to whoever has something to count. What it shows of its state
//! is gathered elsewhere, at each scrape. The names are documented in `docs/metrics.md`.

mod listener;

use std::sync::OnceLock;

use federation_specs::id::TrustDomain;
use http::StatusCode;
use service_kit::metrics::{Counter, Metrics};

pub(crate) use listener::{ListenerMetrics, RenewalMetrics};

const REQUESTS: &str = "entente_gateway_requests_total";
const WEBHOOKS: &str = "entente_gateway_webhook_deliveries_total";
const WEBHOOKS_DROPPED: &str = "entente_gateway_webhook_messages_dropped_total";
const REFRESHES: &str = "entente_gateway_partner_refreshes_total";
const ROLLBACKS: &str = "entente_gateway_partner_rollback_attempts_total";
const TAKEOVERS: &str = "entente_gateway_lease_takeovers_total";
const DELIVERIES: &str = "entente_gateway_deliveries_total";
const PUBLICATIONS: &str = "entente_gateway_publications_total";
const PUBLICATION_DRIFTS: &str = "entente_gateway_publication_drifts_total";

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
        listener::describe(&metrics);
        Self { metrics }
    }

    /// The registry, to be scraped.
    pub fn registry(&self) -> &Metrics {
        &self.metrics
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

    /// Work was taken over from gateways that died.
    pub(crate) fn taken_over(&self, parts: usize) {
        self.metrics.counter(TAKEOVERS, &[]).increment(u64::try_from(parts).unwrap_or(u64::MAX));
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
