//! What each listener counts: connections, answers 429, renewals of its certificate.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use service_kit::metrics::{Counter, Metrics};

use super::GatewayMetrics;

const CONNECTIONS: &str = "entente_gateway_connections_total";
const OPEN_CONNECTIONS: &str = "entente_gateway_connections";
const RATE_LIMITED: &str = "entente_gateway_rate_limited_total";
const RENEWAL_OK: &str = "entente_gateway_certificate_renewal_ok";
const RENEWALS: &str = "entente_gateway_certificate_renewals_total";

/// Says what the metrics below are.
pub(super) fn describe(metrics: &Metrics) {
    for (name, text) in [
        (CONNECTIONS, "Connections by listener and what became of them."),
        (RATE_LIMITED, "Requests answered 429 by listener."),
        (RENEWALS, "Renewals of a listener's certificate by result."),
    ] {
        metrics.describe_counter(name, text);
    }
    metrics.describe_gauge(OPEN_CONNECTIONS, "Connections open now by listener.");
    metrics.describe_gauge(RENEWAL_OK, "Whether the last renewal of a listener's certificate worked.");
}

impl GatewayMetrics {
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
