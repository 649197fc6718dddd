//! Carries out one run of any kind.

use std::process::{Child, Command, Stdio};

use crate::events::Shape;
use crate::job::Job;
use crate::measure;
use crate::plan::{Kind, Planned, Servers};
use crate::report::Figures;
use crate::topics::{InputHeaders, Topics};
use crate::worker::WorkerJob;
use crate::{calls, ingest, latency, path, peers, project, startup, worker};

const LATENCY_EVENTS: u64 = 15_000;

pub fn run(
    planned: &Planned,
    servers: &Servers,
    topics: &Topics,
    events: u64,
    name: &str,
) -> Result<Figures, String> {
    let unique = format!("{name}-{}-{}", std::process::id(), measure::monotonic_ns() / 1_000_000);
    match &planned.kind {
        Kind::Copy(job) => run_copy(job, InputHeaders::None, topics, events, &unique),
        Kind::CopyForWorker(job) => run_copy(job, InputHeaders::CloudEvents, topics, events, &unique),
        Kind::Latency(job) => run_latency(job, topics, &unique),
        Kind::Worker(job) => run_worker(job, topics, events, &unique),
        Kind::Calls(job) => calls::run(job, topics, &unique),
        Kind::Ingest(job) => ingest::run(job, topics, &unique),
        Kind::Project(job) => project::run(job, topics, &unique),
        Kind::Path(job) => path::run(job, topics, &unique),
        Kind::Peer(peer, work) => peers::run(peer, work, topics, events, &unique),
        Kind::StartUp => startup::run(&servers.kafka, topics, &unique),
    }
}

fn run_copy(
    job: &Job,
    headers: InputHeaders,
    topics: &Topics,
    events: u64,
    unique: &str,
) -> Result<Figures, String> {
    let input = topics.input(job.partitions, events, Shape::default(), headers)?;
    let job = Job { input, output: format!("bench-out-{unique}"), events, ..job.clone() };
    topics.create(&job.output, job.partitions)?;
    let figures = Copying::start(&job)?.figures()?;
    topics.verify(&job.output, job.partitions, job.events)?;
    topics.delete(&job.output)?;
    Ok(figures)
}

fn run_latency(job: &Job, topics: &Topics, unique: &str) -> Result<Figures, String> {
    let (input, output) = (format!("bench-steady-{unique}"), format!("bench-out-{unique}"));
    let job = Job { input, output, events: LATENCY_EVENTS, ..job.clone() };
    topics.create(&job.input, job.partitions)?;
    topics.create(&job.output, job.partitions)?;
    let copying = Copying::start(&job)?;
    let latencies = latency::measure(&job)?;
    let mut figures = copying.figures()?;
    figures.set_latency(&latencies);
    topics.verify(&job.output, job.partitions, job.events)?;
    topics.delete(&job.output)?;
    topics.delete(&job.input)?;
    Ok(figures)
}

fn run_worker(job: &WorkerJob, topics: &Topics, events: u64, unique: &str) -> Result<Figures, String> {
    let worker::Scale { shape, partitions, groups, .. } = job.scale;
    let events = job.scale.events(events);
    let input = topics.input(partitions, events, shape, InputHeaders::CloudEvents)?;
    let run = worker::Run::new(&job.scale, input, events, unique);
    let measured = worker::run(job, &run, topics)?;
    Ok(Figures::of_worker(events, shape.bytes, groups, &measured))
}

/// A child process that copies.
struct Copying(Child);

impl Copying {
    fn start(job: &Job) -> Result<Copying, String> {
        let this = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(this);
        command.arg("--child").args(job.arguments()).stdout(Stdio::piped());
        command.spawn().map(Copying).map_err(|e| e.to_string())
    }

    fn figures(self) -> Result<Figures, String> {
        let copied = self.0.wait_with_output().map_err(|e| e.to_string())?;
        if !copied.status.success() {
            return Err(format!("the copy ended with {}", copied.status));
        }
        Figures::parse(&String::from_utf8_lossy(&copied.stdout))
    }
}
