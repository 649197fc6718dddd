//! The figures of a run, how a child hands them to its parent, and the table of medians.

use std::collections::BTreeMap;

use crate::job::Job;
use crate::measure::{self, CpuSpent};
use crate::plan::Planned;
use crate::transactions::Steps;
use crate::worker::Measured;

/// Named numbers; NaN stands for what a run does not have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn new(figures: &[(&str, f64)]) -> Figures {
        Figures(figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    }

    pub fn of(job: &Job, spent: &CpuSpent, steps: &Steps) -> Figures {
        let millions = job.events as f64 / 1e6;
        let transactions = steps.transactions as f64;
        let aborts = steps.aborts as f64;
        let ms = |time: std::time::Duration, count: f64| time.as_secs_f64() * 1e3 / count;
        Figures::new(&[
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
        ])
    }

    /// Figures of the engine, which keeps its transactions to itself. `bytes` is the size of an event, `groups` how many
    /// groups read each.
    pub fn of_worker(events: u64, bytes: usize, groups: usize, measured: &Measured) -> Figures {
        let Measured { spent, rss_mib, threads } = measured;
        let read = events as f64 * groups as f64;
        Figures::new(&[
            ("rate", read / spent.wall_s),
            ("cpu", spent.process_s / (read / 1e6)),
            ("cpu_librdkafka", spent.librdkafka_s / (read / 1e6)),
            ("cpu_gb", spent.process_s / (read * bytes as f64 / 1e9)),
            ("rss", *rss_mib),
            ("threads", *threads as f64),
        ])
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

    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }
}

/// How a figure is shown.
pub struct Column {
    pub name: &'static str,
    pub head: &'static str,
    pub scale: f64,
    pub digits: usize,
    /// Whether the ratio to the section's first run stands beside it.
    has_ratio: bool,
    pub is_plotted: bool,
}

const fn column(name: &'static str, head: &'static str, digits: usize) -> Column {
    Column { name, head, scale: 1.0, digits, has_ratio: false, is_plotted: false }
}

impl Column {
    const fn plotted(self) -> Column {
        Column { is_plotted: true, ..self }
    }

    const fn with_ratio(self) -> Column {
        Column { has_ratio: true, is_plotted: true, ..self }
    }

    /// Whether any run has it.
    pub fn is_known(&self, figures: &[Vec<Figures>]) -> bool {
        figures.iter().flatten().any(|figures| figures.get(self.name).is_finite())
    }
}

/// Every figure, in the order in which they are shown.
pub const COLUMNS: &[Column] = &[
    Column { scale: 1e-3, ..column("rate", "k/s", 0).with_ratio() },
    column("cpu", "CPU-s per million", 2).with_ratio(),
    column("cpu_librdkafka", "of it librdkafka", 2),
    column("cpu_gb", "CPU-s per GB", 2).plotted(),
    column("cpu_ingest", "CPU-s of ingest", 2),
    column("seconds", "first to last, s", 3).plotted(),
    column("in_flight", "most at one time", 0),
    column("p50", "p50 ms", 1).plotted(),
    column("p99", "p99 ms", 1).plotted(),
    column("sent_p50", "p50 from sending", 1),
    column("sent_p99", "p99 from sending", 1),
    column("ready_ms", "ready after ms", 0).plotted(),
    column("again_ms", "second start ms", 0).plotted(),
    column("rss", "RSS MiB", 0).plotted(),
    column("threads", "threads", 0),
    column("transactions", "transactions", 0),
    column("flush_ms", "flush ms", 1),
    column("offsets_ms", "offsets ms", 1),
    column("commit_ms", "commit ms", 1),
    column("abort_ms", "abort ms", 1),
    column("replay_ms", "replay ms", 1),
];

/// Prints the medians as a Markdown table; ratios are to the first run of the section, round by round.
pub fn print(runs: &[Planned], figures: &[Vec<Figures>]) {
    let Some(first) = figures.first() else { return };
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| column.is_known(figures)).collect();
    let mut heads = vec!["run"];
    for column in &columns {
        heads.push(column.head);
        if column.has_ratio {
            heads.push("to first");
        }
    }
    println!("\n| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (run, rounds) in runs.iter().zip(figures) {
        let mut cells = vec![run.label.clone()];
        for column in &columns {
            cells.push(number(
                median(rounds.iter().map(|f| f.get(column.name))) * column.scale,
                column.digits,
            ));
            if column.has_ratio {
                let ratios =
                    rounds.iter().zip(first).map(|(f, base)| f.get(column.name) / base.get(column.name));
                cells.push(number(median(ratios), 2));
            }
        }
        println!("| {} |", cells.join(" | "));
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    measure::quantile(&finite, 0.5)
}

pub fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}
