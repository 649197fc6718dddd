//! The figures of a run, how a child hands them to its parent, and the table of medians.

use std::collections::BTreeMap;

use crate::job::Job;
use crate::measure::{self, CpuSpent};
use crate::plan::Planned;
use crate::transactions::Steps;
use crate::worker::Measured;

/// Named numbers; NaN stands for what a run does not have.
#[derive(Clone, Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn of(job: &Job, spent: &CpuSpent, steps: &Steps) -> Figures {
        let millions = job.events as f64 / 1e6;
        let transactions = steps.transactions as f64;
        let aborts = steps.aborts as f64;
        let ms = |time: std::time::Duration, count: f64| time.as_secs_f64() * 1e3 / count;
        let figures = [
            ("rate", job.events as f64 / spent.wall_s),
            ("cpu", spent.process_s / millions),
            ("cpu_librdkafka", spent.librdkafka_s / millions),
            ("rss", measure::rss_peak_mib()),
            ("transactions", transactions),
            ("flush_ms", ms(steps.flush, transactions)),
            ("offsets_ms", ms(steps.offsets, transactions)),
            ("commit_ms", ms(steps.commit, transactions)),
            ("aborts", aborts),
            ("abort_ms", ms(steps.abort, aborts)),
            ("replay_ms", ms(steps.replay, aborts)),
        ];
        Figures(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Figures of the engine, which keeps its transactions to itself.
    pub fn of_worker(events: u64, measured: &Measured) -> Figures {
        let Measured { spent, rss_mib } = measured;
        let millions = events as f64 / 1e6;
        let figures = [
            ("rate", events as f64 / spent.wall_s),
            ("cpu", spent.process_s / millions),
            ("cpu_librdkafka", spent.librdkafka_s / millions),
            ("rss", *rss_mib),
        ];
        Figures(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Those that are numbers, by name.
    pub fn finite(&self) -> BTreeMap<&str, f64> {
        self.0.iter().filter(|(_, v)| v.is_finite()).map(|(name, v)| (name.as_str(), *v)).collect()
    }

    pub fn line(&self) -> String {
        let shown = self.finite().into_iter().map(|(name, value)| format!("{name}={value:.3}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    pub fn parse(line: &str) -> Result<Figures, String> {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        let figures: Option<_> = line.split_whitespace().map(pair).collect();
        figures.map(Figures).ok_or(format!("not a line of figures: `{line}`"))
    }

    pub fn set_latency(&mut self, latencies_ms: &[f64]) {
        self.0.insert("p50".to_owned(), measure::quantile(latencies_ms, 0.5));
        self.0.insert("p99".to_owned(), measure::quantile(latencies_ms, 0.99));
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// Prints the medians as a Markdown table; ratios are to the first run of the section, round by round.
pub fn print(runs: &[Planned], figures: &[Vec<Figures>]) {
    let heads = [
        "run",
        "k events/s",
        "to first",
        "CPU-s per million",
        "of it librdkafka",
        "to first",
        "RSS MiB",
        "transactions",
        "flush / offsets / commit ms",
        "p50 / p99 ms",
        "abort / replay ms",
    ];
    println!("\n| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    let Some(first) = figures.first() else { return };
    for (run, rounds) in runs.iter().zip(figures) {
        let median = |name: &str| median(rounds.iter().map(|f| f.get(name)));
        let ratio =
            |name: &str| self::median(rounds.iter().zip(first).map(|(f, base)| f.get(name) / base.get(name)));
        let cells = [
            run.label.clone(),
            number(median("rate") / 1e3, 0),
            number(ratio("rate"), 2),
            number(median("cpu"), 2),
            number(median("cpu_librdkafka"), 2),
            number(ratio("cpu"), 2),
            number(median("rss"), 0),
            number(median("transactions"), 0),
            ["flush_ms", "offsets_ms", "commit_ms"].map(|name| number(median(name), 1)).join(" / "),
            ["p50", "p99"].map(|name| number(median(name), 1)).join(" / "),
            ["abort_ms", "replay_ms"].map(|name| number(median(name), 1)).join(" / "),
        ];
        println!("| {} |", cells.join(" | "));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    measure::quantile(&finite, 0.5)
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}
