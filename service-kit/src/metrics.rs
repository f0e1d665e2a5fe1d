//! Metrics in Prometheus's text format, for one service: counters and gauges by name and labels, and hooks that bring
//! gauges up to date when somebody scrapes. Nothing is global, so that two services in one process (tests) do not mix.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;

pub use metrics::{Counter, Gauge, Unit};

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A gauge nobody set for this long belongs to something that is gone, such as a removed relationship.
const GAUGE_LIFE: Duration = Duration::from_secs(15 * 60);

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

type Hook = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The metrics of one service. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    hooks: Mutex<Vec<Hook>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No metric yet.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_LIFE)).build_recorder();
        let handle = recorder.handle();
        Self { inner: Arc::new(Inner { recorder, handle, hooks: Mutex::default() }) }
    }

    /// Says what a counter counts. Its name ends in `_total`.
    pub fn describe_counter(&self, name: &'static str, text: &'static str) {
        self.inner.recorder.describe_counter(KeyName::from_const_str(name), None, text.into());
    }

    /// Says what a gauge shows, in which unit.
    pub fn describe_gauge(&self, name: &'static str, unit: Option<Unit>, text: &'static str) {
        self.inner.recorder.describe_gauge(KeyName::from_const_str(name), unit, text.into());
    }

    /// The counter of that name and these labels, made when first asked for. Keep it where it is used often.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.inner.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// The gauge of that name and these labels, made when first asked for. Gauges are set by the hooks of
    /// [`Metrics::on_scrape`]: one that nobody sets any more is left out after a quarter of an hour.
    pub fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.inner.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// Calls `hook` before each scrape. It must not block.
    pub fn on_scrape(&self, hook: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Every metric as text.
    pub fn render(&self) -> String {
        let hooks = self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        for hook in hooks.iter() {
            hook(self);
        }
        self.inner.handle.render()
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_hooks_are_rendered() {
        let metrics = Metrics::new();
        metrics.describe_counter("demo_requests_total", "Requests.");
        metrics.describe_gauge("demo_age_seconds", Some(Unit::Seconds), "Age.");
        metrics.counter("demo_requests_total", &[("result", "o\"k")]).increment(2);
        metrics.counter("demo_requests_total", &[("result", "o\"k")]).increment(1);
        metrics.on_scrape(|metrics| metrics.gauge("demo_age_seconds", &[]).set(1.5));
        let text = metrics.render();
        assert!(text.contains("# TYPE demo_requests_total counter\n"), "{text}");
        assert!(text.contains("demo_requests_total{result=\"o\\\"k\"} 3\n"), "{text}");
        assert!(text.contains("# HELP demo_age_seconds Age.\n"), "{text}");
        assert!(text.contains("demo_age_seconds 1.5\n"), "{text}");
        assert!(!Metrics::new().render().contains("demo"), "nothing is global");
    }
}
