//! The figures of every single run in a JSON file, so that runs on other days and machines can be held against them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::goals::Judged;
use crate::report::Figures;

pub struct Results {
    section: String,
    events: u64,
    begun: chrono::DateTime<chrono::Utc>,
    runs: Vec<Value>,
}

impl Results {
    pub fn begin(section: &str, events: u64) -> Results {
        Results { section: section.to_owned(), events, begun: chrono::Utc::now(), runs: Vec::new() }
    }

    /// Notes one run. `load` is the load average before it: how much else the machine had to do.
    pub fn add(&mut self, round: usize, label: &str, figures: &Figures, load: Option<f64>) {
        self.runs.push(json!({
            "round": round, "run": label, "load_before": load, "figures": figures.finite(),
        }));
    }

    /// Writes `<section>-<time>.json` and the plot beside it; units are those of the table, rates in a second.
    pub fn write(&self, folder: &Path, judged: &[Judged], plot: &str) -> Result<PathBuf, String> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let goal = |judged: &Judged| json!({"line": judged.line(), "value": judged.value, "reached": judged.is_reached()});
        let results = json!({
            "section": self.section,
            "begun": self.begun.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            "version": env!("CARGO_PKG_VERSION"),
            "librdkafka": rdkafka::util::get_rdkafka_version().1,
            "cores": cores,
            "events": self.events,
            "runs": self.runs,
            "goals": judged.iter().map(goal).collect::<Vec<_>>(),
        });
        let name = format!("{}-{}", self.section, self.begun.format("%Y%m%dT%H%M%SZ"));
        let path = folder.join(&name).with_extension("json");
        let text = format!("{results:#}\n");
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| fs::write(folder.join(&name).with_extension("svg"), plot));
        written.map_err(|e| e.to_string())?;
        Ok(path)
    }
}

/// Processes that ran or waited to run, on average over the last minute.
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
