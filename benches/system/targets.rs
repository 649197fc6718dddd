//! Which runs make up P0 to P9.

use crate::calls::CallsJob;
use crate::destination::Answers;
use crate::events::Shape;
use crate::ingest::{Endpoint, IngestJob};
use crate::job::Job;
use crate::path::PathJob;
use crate::peers::{self, Peer};
use crate::plan::{self, Kind, Planned, Servers};
use crate::project::{ProjectJob, Rows};
use crate::worker::{Scale, Work, WorkerJob};

/// Seconds of a run at a steady rate.
const STEADY_S: u64 = 15;
const STEADY_PER_S: u64 = crate::latency::EVENTS_PER_S;
/// The worker's default budget holds less than these.
const DEAD_SINK_EVENTS: u64 = 300_000;

/// The runs of one section; `None` when there is no such section.
pub fn section(name: &str, servers: &Servers, events: u64) -> Option<Vec<Planned>> {
    let kafka = &servers.kafka;
    Some(match name {
        "p0" => vec![yardstick(kafka), pass_through(kafka, FAILURES), pass_through(kafka, ALL)],
        "p1" => {
            vec![yardstick(kafka), at_least_once(kafka, FAILURES), whole(kafka), at_least_once(kafka, ALL)]
        }
        "p2" => vec![yardstick(kafka), at_least_once(kafka, ALL), exactly_once(kafka)],
        "p3" => calls(kafka),
        "p4" => ingest(kafka, events),
        "p5" => project(servers, events),
        "p6" => path(kafka),
        "p7" => vec![exactly_once(kafka), dead_sink(kafka)],
        "p8" => vec![planned(plan::START_UP, Kind::StartUp)],
        "p9-partitions" => [1, 12, 48]
            .map(|partitions| {
                scaled(kafka, format!("partitions {partitions}"), Scale { partitions, ..usual() })
            })
            .into(),
        "p9-pipelines" => [1, 10, 100].map(|pipelines| pipelines_of(kafka, pipelines)).into(),
        "p9-keys" => [10, 1_000, 10_000, 100_000]
            .map(|keys| shaped(kafka, format!("keys {keys}"), Shape { keys, ..Shape::default() }))
            .into(),
        "p9-bytes" => [200, 600, 2_000, 10_000, 100_000]
            .map(|bytes| shaped(kafka, format!("bytes {bytes}"), Shape { bytes, ..Shape::default() }))
            .into(),
        "p9-groups" => [1, 5, 20]
            .map(|groups| scaled(kafka, format!("groups {groups}"), Scale { groups, ..usual() }))
            .into(),
        _ => return None,
    })
}

fn planned(label: impl Into<String>, kind: Kind) -> Planned {
    Planned { label: label.into(), kind }
}

/// B1 on the events that the worker reads.
fn yardstick(kafka: &str) -> Planned {
    planned(plan::YARDSTICK, Kind::CopyForWorker(Job::new(kafka, "raw")))
}

fn worker(kafka: &str, work: Work, (delivery, results): (&'static str, &'static str), scale: Scale) -> Kind {
    Kind::Worker(WorkerJob { kafka: kafka.to_owned(), work, delivery, results, scale })
}

/// An execution result of each event, or of dead letters only.
const ALL: &str = "all";
const FAILURES: &str = "failures";

fn usual() -> Scale {
    Scale::default()
}

fn pass_through(kafka: &str, results: &'static str) -> Planned {
    let label = if results == ALL { plan::PASS_THROUGH } else { plan::PASS_THROUGH_BARE };
    planned(label, worker(kafka, Work::PassThrough, ("at_least_once", results), usual()))
}

fn at_least_once(kafka: &str, results: &'static str) -> Planned {
    let label = if results == ALL { plan::AT_LEAST_ONCE } else { plan::AT_LEAST_ONCE_BARE };
    planned(label, worker(kafka, Work::FilterMap, ("at_least_once", results), usual()))
}

fn whole(kafka: &str) -> Planned {
    planned(plan::WHOLE, worker(kafka, Work::FilterMapWhole, ("at_least_once", FAILURES), usual()))
}

fn exactly_once(kafka: &str) -> Planned {
    planned(plan::EXACTLY_ONCE, worker(kafka, Work::FilterMap, ("exactly_once", ALL), usual()))
}

/// The engine beside the plain copy, as the sections P0 to P2 have it, in one section.
pub fn workers(kafka: &str) -> Vec<Planned> {
    vec![
        yardstick(kafka),
        pass_through(kafka, FAILURES),
        at_least_once(kafka, FAILURES),
        whole(kafka),
        at_least_once(kafka, ALL),
        exactly_once(kafka),
    ]
}

/// What a peer does in a section that it takes part in.
pub fn of_peer(peer: &Peer, section: &str, kafka: &str) -> Option<Planned> {
    let is_meant = peer.sections.iter().any(|name| name == section);
    let work = match section {
        _ if !is_meant => return None,
        "p3" => peers::Work::Calls(narrow(kafka)),
        _ => peers::Work::Copies(WorkerJob {
            kafka: kafka.to_owned(),
            work: Work::FilterMap,
            delivery: "",
            results: ALL,
            scale: usual(),
        }),
    };
    Some(planned(&peer.label, Kind::Peer(peer.clone(), work)))
}

fn narrow(kafka: &str) -> CallsJob {
    CallsJob {
        kafka: kafka.to_owned(),
        answers: Answers::Soon,
        partitions: 1,
        events: 10_000,
        keys: 1_000,
        concurrency: 1_000,
    }
}

fn calls(kafka: &str) -> Vec<Planned> {
    let job = narrow(kafka);
    let wide = CallsJob {
        answers: Answers::Together(10_000),
        partitions: 6,
        events: 40_000,
        keys: 30_000,
        concurrency: 10_000,
        ..job.clone()
    };
    vec![planned(plan::CALLS, Kind::Calls(job)), planned(plan::WIDE, Kind::Calls(wide))]
}

fn dead_sink(kafka: &str) -> Planned {
    let job = CallsJob {
        kafka: kafka.to_owned(),
        answers: Answers::Never,
        partitions: 12,
        events: DEAD_SINK_EVENTS,
        keys: 10_000,
        concurrency: 256,
    };
    planned(plan::DEAD_SINK, Kind::Calls(job))
}

fn ingest(kafka: &str, events: u64) -> Vec<Planned> {
    let job = IngestJob {
        kafka: kafka.to_owned(),
        requests: events / 5,
        per_s: None,
        partitions: 12,
        endpoint: Endpoint::Bare,
    };
    let bare = planned("bare endpoint, 64 connections", Kind::Ingest(job.clone()));
    let job = IngestJob { endpoint: Endpoint::Millrace, ..job };
    let steady = IngestJob { requests: STEADY_S * STEADY_PER_S, per_s: Some(STEADY_PER_S), ..job.clone() };
    vec![bare, planned(plan::SATURATED, Kind::Ingest(job)), planned(plan::STEADY, Kind::Ingest(steady))]
}

fn project(servers: &Servers, events: u64) -> Vec<Planned> {
    let job = |rows| ProjectJob {
        kafka: servers.kafka.clone(),
        postgres: servers.postgres.clone(),
        rows,
        records: events / 2,
    };
    let run = |label: &str, rows| planned(label, Kind::Project(job(rows)));
    vec![
        run(plan::COPY_LOOP, Rows::Copied),
        run(plan::EXECUTIONS, Rows::Executions),
        run(plan::FACTS, Rows::Facts),
    ]
}

fn path(kafka: &str) -> Vec<Planned> {
    let job = |delivery| PathJob {
        kafka: kafka.to_owned(),
        delivery,
        requests: STEADY_S * STEADY_PER_S,
        partitions: 12,
    };
    let copy = Job { linger_ms: 0, ..Job::new(kafka, "raw") };
    let turns = Job {
        linger_ms: 0,
        commit_ms: 0,
        transactional: true,
        turns: 2,
        offsets_first: true,
        ..Job::new(kafka, "transactions")
    };
    vec![
        planned("raw copy", Kind::Latency(copy)),
        planned("raw copy in transactions", Kind::Latency(turns)),
        planned(plan::PATH_AT_LEAST_ONCE, Kind::Path(job("at_least_once"))),
        planned(plan::PATH_EXACTLY_ONCE, Kind::Path(job("exactly_once"))),
    ]
}

fn scaled(kafka: &str, label: String, scale: Scale) -> Planned {
    planned(label, worker(kafka, Work::FilterMap, ("exactly_once", ALL), scale))
}

fn shaped(kafka: &str, label: String, shape: Shape) -> Planned {
    scaled(kafka, label, Scale { shape, ..usual() })
}

/// As many types of events as pipelines, so that each event matches one.
fn pipelines_of(kafka: &str, pipelines: usize) -> Planned {
    let shape = Shape { types: pipelines, ..Shape::default() };
    scaled(kafka, format!("pipelines {pipelines}"), Scale { pipelines, shape, ..usual() })
}
