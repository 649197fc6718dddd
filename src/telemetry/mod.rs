//! Metrics and logs: names fixed in one file, set up in another, and the one place that names the `metrics` crate.
//!
//! Hot code counts in plain integers and reports a batch at a time: looking up a metric by its labels costs more than
//! a stage.

mod buckets;
pub mod logs;
pub mod names;

#[cfg(test)]
mod tests;

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::telemetry::buckets::{Combined, Histograms};
use crate::telemetry::names::{Kind, Metric};

/// Renders the metrics in Prometheus' text format.
#[derive(Clone)]
pub struct Metrics {
    others: PrometheusHandle,
    histograms: Histograms,
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[error("a recorder of metrics is installed already")]
pub struct Installed;

impl Metrics {
    /// Installs the process' recorder and describes every metric.
    ///
    /// # Errors
    /// When a recorder is installed already.
    pub fn install() -> Result<Self, Installed> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = Self { others: recorder.handle(), histograms: Histograms::default() };
        let combined = Combined { others: recorder, histograms: metrics.histograms.clone() };
        metrics::set_global_recorder(combined).map_err(|_| Installed)?;
        for metric in names::ALL {
            match metric.kind {
                Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
                Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
                Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
            }
        }
        gauge(names::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        Ok(metrics)
    }

    /// The text for one scrape.
    pub fn render(&self) -> String {
        self.others.run_upkeep();
        let mut text = self.others.render();
        let help = |name: &str| names::ALL.iter().find(|own| own.name == name).map(|own| own.help);
        self.histograms.render(&mut text, help);
        text
    }
}

fn labels(metric: Metric, values: &[&str]) -> Vec<metrics::Label> {
    debug_assert_eq!(metric.labels.len(), values.len(), "labels of {}", metric.name);
    metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| metrics::Label::new(*name, (*value).to_owned()))
        .collect()
}

/// Adds `count` to a counter; `values` are its labels' values in the order of [`names`].
pub fn count(metric: Metric, values: &[&str], count: u64) {
    metrics::counter!(metric.name, labels(metric, values)).increment(count);
}

/// Sets a gauge.
pub fn gauge(metric: Metric, values: &[&str], value: f64) {
    metrics::gauge!(metric.name, labels(metric, values)).set(value);
}

/// Records a duration.
pub fn duration(metric: Metric, values: &[&str], duration: Duration) {
    metrics::histogram!(metric.name, labels(metric, values)).record(duration.as_secs_f64());
}

/// A counter looked up once, for hot code.
#[derive(Clone)]
pub struct Counter(metrics::Counter);

/// Looks up a counter; later [`Counter::add`] costs one atomic addition.
pub fn counter(metric: Metric, values: &[&str]) -> Counter {
    Counter(metrics::counter!(metric.name, labels(metric, values)))
}

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.increment(count);
    }
}

/// A histogram looked up once, for hot code.
#[derive(Clone)]
pub struct Histogram(metrics::Histogram);

/// Looks up a histogram.
pub fn histogram(metric: Metric, values: &[&str]) -> Histogram {
    Histogram(metrics::histogram!(metric.name, labels(metric, values)))
}

impl Histogram {
    /// Records a duration.
    pub fn record(&self, duration: Duration) {
        self.0.record(duration.as_secs_f64());
    }
}
