//! Which runs make up the sections; here B1 to B4, in `targets.rs` P0 to P9.

use crate::calls::CallsJob;
use crate::ingest::IngestJob;
use crate::job::Job;
use crate::path::PathJob;
use crate::peers::{self, Peer};
use crate::project::ProjectJob;
use crate::targets;
use crate::worker::WorkerJob;

/// Where the runs find their servers.
pub struct Servers {
    pub kafka: String,
    /// URL of a role that may create databases; empty when there is none.
    pub postgres: String,
}

/// What a run is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A copy at the highest rate.
    Copy(Job),
    /// The same of the events that the worker reads, with headers.
    CopyForWorker(Job),
    /// A copy at a steady rate, of which the latency is measured.
    Latency(Job),
    /// The engine.
    Worker(WorkerJob),
    /// The engine with a stage that calls.
    Calls(CallsJob),
    /// The webhook endpoint.
    Ingest(IngestJob),
    /// The projector.
    Project(ProjectJob),
    /// From webhook to execution result.
    Path(PathJob),
    /// From the start to ready.
    StartUp,
    /// Another processor.
    Peer(Peer, peers::Work),
}

pub struct Planned {
    pub label: String,
    pub kind: Kind,
}

/// The runs of one section; `None` when there is no such section. `events` scales the work.
pub fn section(name: &str, servers: &Servers, events: u64) -> Option<Vec<Planned>> {
    let kafka = &servers.kafka;
    Some(match name {
        "b1" => b1(kafka),
        "b2" => b2(kafka),
        "b3" => b3(kafka, 12),
        "b3-1" => b3(kafka, 1),
        "b3-48" => b3(kafka, 48),
        "b3-latency" => b3_latency(kafka),
        "b3-abort" => b3_abort(kafka),
        "b4" => b4(kafka),
        "worker" => targets::workers(kafka),
        _ => return targets::section(name, servers, events),
    })
}

/// Ways of copying, and the engine.
pub const FLOOR: [&str; 9] = ["b1", "b2", "b3", "b3-1", "b3-48", "b3-latency", "b3-abort", "b4", "worker"];

/// What is to be reached.
pub const TARGETS: [&str; 14] = [
    "p0",
    "p1",
    "p2",
    "p3",
    "p4",
    "p5",
    "p6",
    "p7",
    "p8",
    "p9-partitions",
    "p9-pipelines",
    "p9-keys",
    "p9-bytes",
    "p9-groups",
];

/// The sections that a word of the command line names: itself, `p9` all whose names begin so, `all` P0 to P9.
pub fn named(word: &str) -> Vec<&'static str> {
    let word = word.to_lowercase();
    let all = FLOOR.into_iter().chain(TARGETS);
    match &*word {
        "all" => TARGETS.into(),
        "p9" => all.filter(|name| name.starts_with("p9-")).collect(),
        word => all.filter(|name| *name == word).collect(),
    }
}

// Labels of runs that goals name.
pub const PASS_THROUGH: &str = "pass-through, at least once";
pub const PASS_THROUGH_BARE: &str = "pass-through, at least once, results: failures";
pub const AT_LEAST_ONCE: &str = "filter and map, at least once";
pub const AT_LEAST_ONCE_BARE: &str = "filter and map, at least once, results: failures";
pub const WHOLE: &str = "filter and map of the whole value, at least once, results: failures";
pub const EXACTLY_ONCE: &str = "filter and map, exactly once";
pub const CALLS: &str = "10,000 calls of one partition";
pub const WIDE: &str = "10,000 calls in flight of six partitions";
pub const SATURATED: &str = "webhooks, 64 connections";
pub const STEADY: &str = "webhooks, 1,000/s";
pub const COPY_LOOP: &str = "one COPY loop, execution rows";
pub const EXECUTIONS: &str = "projector, execution rows";
pub const FACTS: &str = "projector, KPI facts";
pub const PATH_EXACTLY_ONCE: &str = "webhook to result, exactly once";
pub const PATH_AT_LEAST_ONCE: &str = "webhook to result, at least once";
pub const DEAD_SINK: &str = "a destination that never answers";
pub const START_UP: &str = "worker, start to ready";

fn planned(label: impl Into<String>, job: Job) -> Planned {
    Planned { label: label.into(), kind: Kind::Copy(job) }
}

/// Label of the yardstick of every section.
pub const YARDSTICK: &str = "B1 raw";

/// The plain copy by the C API.
fn raw(kafka: &str) -> Planned {
    planned(YARDSTICK, Job::new(kafka, "raw"))
}

fn transactional(kafka: &str) -> Job {
    Job { transactional: true, ..Job::new(kafka, "transactions") }
}

fn b1(kafka: &str) -> Vec<Planned> {
    let with_reports = |reports: &str| Job { reports: reports.to_owned(), ..Job::new(kafka, "raw") };
    vec![
        raw(kafka),
        planned("B1 raw, produce_batch", Job::new(kafka, "raw-batch")),
        planned("B1 raw, report events for all", with_reports("events")),
        planned("B1 raw, report callback", with_reports("callback")),
        planned("B1 transactional, 100 ms", transactional(kafka)),
    ]
}

fn b2(kafka: &str) -> Vec<Planned> {
    let variants = [
        "poll-send",
        "poll-send-dr",
        "detach-std-1",
        "detach-std-256",
        "detach-tokio-1",
        "detach-tokio-256",
        "arena-send",
        "arena-produce",
        "arena-batch",
        "forwarded-send",
        "arena-channel",
        "arena-produceva",
        "arena-produceva-1-header",
        "arena-produceva-2-headers",
        "arena-produceva-5-headers",
        "arena-send-5-headers",
    ];
    let runs = variants.map(|variant| planned(format!("B2 {variant}"), Job::new(kafka, variant)));
    std::iter::once(raw(kafka)).chain(runs).collect()
}

/// Commit times in ms (0: when the poll comes back short) and the most records of a transaction.
const COMMITS: [(u64, u64); 9] = [
    (0, 500),
    (0, 2_000),
    (0, 5_000),
    (0, 20_000),
    (50, 20_000),
    (100, 20_000),
    (500, 20_000),
    (100, 1_000_000),
    (1_000, 1_000_000),
];

fn commit_label(commit_ms: u64, records_max: u64) -> String {
    let when = if commit_ms == 0 { "short poll".to_owned() } else { format!("{commit_ms} ms") };
    format!("{when}, at most {records_max}")
}

fn b3(kafka: &str, partitions: i32) -> Vec<Planned> {
    let yardstick = planned(YARDSTICK, Job { partitions, ..Job::new(kafka, "raw") });
    let runs = COMMITS.map(|(commit_ms, records_max)| {
        let label = format!("B3 {} in {partitions} partitions", commit_label(commit_ms, records_max));
        let batch = 4096.min(records_max as usize);
        planned(label, Job { partitions, commit_ms, records_max, batch, ..transactional(kafka) })
    });
    std::iter::once(yardstick).chain(runs).collect()
}

fn b3_latency(kafka: &str) -> Vec<Planned> {
    let base = Job { linger_ms: 0, commit_ms: 0, ..transactional(kafka) };
    let plain = Job { linger_ms: 0, ..Job::new(kafka, "raw") };
    let mut runs = vec![("at-least-once copy, linger 0", plain)];
    for (label, commit_ms) in [("each 10 ms", 10), ("each 100 ms", 100)] {
        runs.push((label, Job { commit_ms, ..base.clone() }));
    }
    let callback = Job { reports: "callback".to_owned(), ..base.clone() };
    let all_events = Job { reports: "events".to_owned(), ..base.clone() };
    let offsets_first = Job { offsets_first: true, ..base.clone() };
    runs.extend([
        ("short poll, report callback", callback.clone()),
        ("short poll, report events for all", all_events),
        ("short poll, error events", base.clone()),
        ("short poll, error events, offsets first", offsets_first.clone()),
        ("short poll, two turns, report callback", Job { turns: 2, ..callback }),
        ("short poll, two turns, error events", Job { turns: 2, ..base.clone() }),
        ("short poll, two turns, offsets first", Job { turns: 2, ..offsets_first.clone() }),
        ("short poll, three turns, offsets first", Job { turns: 3, ..offsets_first.clone() }),
        (
            "short poll, two turns, offsets first, 1 partition",
            Job { turns: 2, partitions: 1, ..offsets_first },
        ),
    ]);
    runs.into_iter()
        .map(|(label, job)| Planned { label: format!("B3 {label}"), kind: Kind::Latency(job) })
        .collect()
}

fn b3_abort(kafka: &str) -> Vec<Planned> {
    let base = Job { commit_ms: 100, ..transactional(kafka) };
    let aborting = |abort_every| Job { abort_every, ..base.clone() };
    vec![
        planned("B3 100 ms, no abort", base.clone()),
        planned("B3 100 ms, every 10th aborted", aborting(10)),
        planned("B3 100 ms, every 3rd aborted", aborting(3)),
    ]
}

fn b4(kafka: &str) -> Vec<Planned> {
    let mut runs = vec![raw(kafka)];
    for (commit_ms, records_max) in [(0, 20_000), (100, 1_000_000)] {
        for (lanes, turns) in [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)] {
            let label = format!("B4 {lanes} lanes of {turns}, {}", commit_label(commit_ms, records_max));
            runs.push(planned(label, Job { lanes, turns, commit_ms, records_max, ..transactional(kafka) }));
        }
    }
    runs
}
