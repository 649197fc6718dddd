//! Histograms that count at once. The exporter's own keep every single value, with its time, until the next scrape: 24 bytes
//! an event, without end where nobody scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{LabelSet, PrometheusRecorder, formatting};

/// Bounds of all histograms, in seconds: 0.5 ms to 300 s, which the alert rules look at.
pub const BOUNDS_SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 300.0,
];

/// The values of one histogram, counted.
#[derive(Debug)]
struct Buckets {
    /// One for each bound, and one for what is above all of them. Not cumulative.
    counts: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BOUNDS_SECONDS.len() + 1], sum_ns: AtomicU64::new(0) }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        let at = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_SECONDS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
    }
}

/// All histograms of the process, by name and labels.
#[derive(Clone, Default, Debug)]
pub struct Histograms(Arc<Mutex<BTreeMap<Key, Arc<Buckets>>>>);

impl Histograms {
    fn of(&self, key: &Key) -> Arc<Buckets> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(key) {
            return Arc::clone(known);
        }
        Arc::clone(all.entry(key.clone()).or_default())
    }

    /// Appends them in Prometheus' text format; `help` is what a name says.
    pub fn render(&self, text: &mut String, help: impl Fn(&str) -> Option<&'static str>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = "";
        for (key, buckets) in all.iter() {
            let name = key.name();
            if name != last {
                if let Some(help) = help(name) {
                    formatting::write_help_line(text, name, None, None, help);
                }
                formatting::write_type_line(text, name, None, None, "histogram");
                last = name;
            }
            write(text, key, buckets);
        }
    }
}

fn write(text: &mut String, key: &Key, buckets: &Buckets) {
    let labels = LabelSet::from_key_and_global(key, &Default::default());
    let mut line = |suffix: &'static str, bound: Option<(&'static str, String)>, value: String| {
        formatting::write_metric_line(text, key.name(), Some(suffix), &labels, bound, value, None);
    };
    let mut count = 0;
    for (at, in_bucket) in buckets.counts.iter().enumerate() {
        count += in_bucket.load(Ordering::Relaxed);
        let bound = BOUNDS_SECONDS.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        line("bucket", Some(("le", bound)), count.to_string());
    }
    let sum_seconds = buckets.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
    line("sum", None, sum_seconds.to_string());
    line("count", None, count.to_string());
    text.push('\n');
}

/// Counters and gauges as Prometheus' exporter keeps them, histograms as above.
pub struct Combined {
    /// Counters and gauges.
    pub others: PrometheusRecorder,
    /// Histograms.
    pub histograms: Histograms,
}

impl Recorder for Combined {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_counter(name, unit, description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.others.describe_gauge(name, unit, description);
    }

    /// What they say is in [`crate::telemetry::names`].
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.others.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.others.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.of(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_their_bounds() {
        let histograms = Histograms::default();
        let key = Key::from_parts("millrace_x_seconds", vec![metrics::Label::new("pipeline", "a\"b")]);
        for seconds in [0.0, 0.0005, 0.0006, 1_000.0] {
            histograms.of(&key).record(seconds);
        }
        histograms.of(&Key::from_name("millrace_y_seconds"));
        let mut text = String::new();
        histograms.render(&mut text, |name| (name == "millrace_x_seconds").then_some("what it says"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[0], "# HELP millrace_x_seconds what it says");
        assert_eq!(lines[1], "# TYPE millrace_x_seconds histogram");
        assert_eq!(lines[2], "millrace_x_seconds_bucket{pipeline=\"a\\\"b\",le=\"0.0005\"} 2");
        assert_eq!(lines[3], "millrace_x_seconds_bucket{pipeline=\"a\\\"b\",le=\"0.001\"} 3");
        assert_eq!(lines[19], "millrace_x_seconds_bucket{pipeline=\"a\\\"b\",le=\"+Inf\"} 4");
        assert_eq!(lines[20], "millrace_x_seconds_sum{pipeline=\"a\\\"b\"} 1000.0011");
        assert_eq!(lines[21], "millrace_x_seconds_count{pipeline=\"a\\\"b\"} 4");
        assert_eq!(lines[22], "# TYPE millrace_y_seconds histogram");
        assert_eq!(lines.len(), 23 + 20);
    }
}
