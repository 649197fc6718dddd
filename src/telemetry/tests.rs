//! What ships beside the binary names only metrics and labels that exist.

use std::collections::BTreeSet;
use std::path::Path;

use crate::telemetry::names::{ALL, Kind};

/// Every word of `text` that looks like one of our metrics. Groups of rules and dashboards have names of other shapes.
fn mentioned(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("millrace_"))
        .collect()
}

fn shipped(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn rules_and_dashboards_name_metrics_that_exist() {
    let mut known = BTreeSet::new();
    for metric in ALL {
        known.insert(metric.name.to_owned());
        if metric.kind == Kind::Histogram {
            known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)));
        }
    }
    for path in ["deploy/prometheus/rules.yml", "deploy/grafana/dashboards/operations.json"] {
        let text = shipped(path);
        let words = mentioned(&text);
        assert!(words.len() > 5, "{path} names metrics");
        let unknown: Vec<&&str> = words.iter().filter(|word| !known.contains(**word)).collect();
        assert!(unknown.is_empty(), "{path} names what src/telemetry/names.rs does not: {unknown:?}");
    }
}

#[test]
fn names_follow_prometheus_conventions() {
    let mut seen = BTreeSet::new();
    for metric in ALL {
        assert!(seen.insert(metric.name), "{} stands twice", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        if metric.kind == Kind::Histogram {
            assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
        }
    }
}
