//! Metrics in Prometheus's text format, for one service: counters by name and labels, and gauges that are looked at when
//! somebody scrapes. Nothing is global, so that two services in one process (tests) do not mix.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use metrics::Counter;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

type Hook = Box<dyn Fn(&mut Gauges) + Send + Sync>;

/// The metrics of one service. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    gauges: Mutex<BTreeMap<&'static str, &'static str>>,
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

/// The gauges of one scrape, as text by name. They are not kept: what is gone is not shown any more, and ten thousand
/// of them cost no more than writing their lines.
#[derive(Debug, Default)]
pub struct Gauges {
    lines: BTreeMap<&'static str, String>,
}

impl Gauges {
    /// Shows a gauge.
    pub fn show(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let lines = self.lines.entry(name).or_default();
        lines.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            lines.push(if index == 0 { '{' } else { ',' });
            lines.push_str(label);
            lines.push_str("=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => lines.push_str("\\\\"),
                    '"' => lines.push_str("\\\""),
                    '\n' => lines.push_str("\\n"),
                    plain => lines.push(plain),
                }
            }
            lines.push('"');
        }
        if !labels.is_empty() {
            lines.push('}');
        }
        // Writing to a string does not fail.
        let _ = writeln!(lines, " {value}");
    }
}

impl Metrics {
    /// No metric yet.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Self { inner: Arc::new(Inner { recorder, handle, gauges: Mutex::default(), hooks: Mutex::default() }) }
    }

    /// Says what a counter counts. Its name ends in `_total`.
    pub fn describe_counter(&self, name: &'static str, text: &'static str) {
        self.inner.recorder.describe_counter(KeyName::from_const_str(name), None, text.into());
    }

    /// Says what a gauge shows, in one line. Its name ends in its unit.
    pub fn describe_gauge(&self, name: &'static str, text: &'static str) {
        self.gauges().insert(name, text);
    }

    /// The counter of that name and these labels, made when first asked for. Keep it where it is used often.
    pub fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.inner.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// Calls `hook` at each scrape, to show gauges. It must not block.
    pub fn on_scrape(&self, hook: impl Fn(&mut Gauges) + Send + Sync + 'static) {
        self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Every metric as text. One scrape at a time: others wait.
    pub fn render(&self) -> String {
        let mut gauges = Gauges::default();
        {
            let hooks = self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner);
            for hook in hooks.iter() {
                hook(&mut gauges);
            }
        }
        let mut text = self.inner.handle.render();
        let described = self.gauges();
        for (name, lines) in &gauges.lines {
            if let Some(help) = described.get(name) {
                let _ = writeln!(text, "# HELP {name} {help}");
            }
            let _ = writeln!(text, "# TYPE {name} gauge");
            text.push_str(lines);
            text.push('\n');
        }
        text
    }

    fn gauges(&self) -> MutexGuard<'_, BTreeMap<&'static str, &'static str>> {
        self.inner.gauges.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn counters_and_gauges_are_rendered() {
        let metrics = Metrics::new();
        metrics.describe_counter("demo_requests_total", "Requests.");
        metrics.describe_gauge("demo_age_seconds", "Age.");
        metrics.counter("demo_requests_total", &[("result", "o\"k")]).increment(2);
        metrics.counter("demo_requests_total", &[("result", "o\"k")]).increment(1);
        metrics.on_scrape(|gauges| {
            gauges.show("demo_age_seconds", &[], 1.5);
            gauges.show("demo_open", &[("a", "b\\\"\n"), ("c", "d")], -3.0);
        });
        let text = metrics.render();
        assert!(text.contains("# TYPE demo_requests_total counter\n"), "{text}");
        assert!(text.contains("demo_requests_total{result=\"o\\\"k\"} 3\n"), "{text}");
        assert!(text.contains("# HELP demo_age_seconds Age.\n# TYPE demo_age_seconds gauge\n"), "{text}");
        assert!(text.contains("\ndemo_age_seconds 1.5\n"), "{text}");
        assert!(text.contains("\ndemo_open{a=\"b\\\\\\\"\\n\",c=\"d\"} -3\n"), "{text}");
        assert!(!Metrics::new().render().contains("demo"), "nothing is global");
    }

    #[test]
    fn what_is_gone_is_not_shown_and_many_gauges_are_cheap() {
        let metrics = Metrics::new();
        let shown = Arc::new(Mutex::new(10_000));
        let count = Arc::clone(&shown);
        metrics.on_scrape(move |gauges| {
            for number in 0..*count.lock().unwrap() {
                gauges.show("demo_age_seconds", &[("trust_domain", &format!("p{number}.example"))], 1.0);
            }
        });
        assert_eq!(metrics.render().matches("p9999.example").count(), 1);
        *shown.lock().unwrap() = 1;
        let text = metrics.render();
        assert!(text.contains("p0.example") && !text.contains("p1.example"), "{text}");
    }
}
