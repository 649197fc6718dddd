//! The floor: what a copy from Kafka to Kafka costs, by ways of consuming, producing and committing; and how far above
//! it the whole engine stands.
//!
//! `MILLRACE_KAFKA=127.0.0.1:9092 cargo bench --bench floor -- b1 b2 --events 1000000 --repeat 3`;
//! `scripts/bench` also starts a Kafka. `MILLRACE_KAFKA=development` measures the development broker, in this process.
//!
//! Each run is a process of its own (clean memory and CPU figures); variants are interleaved and medians
//! reported, with the ratio to the plain copy by the C API (B1) of the same round. What the figures decided is
//! in `benches/README.md`.

mod copy;
mod events;
mod forwarded;
mod job;
mod latency;
mod measure;
mod outcome;
mod plan;
mod producer;
mod raw;
mod report;
mod results;
mod topics;
mod transactions;
mod worker;

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use job::Job;
use millrace::devbroker::{Broker, Settings};
use plan::{Kind, Planned};
use report::Figures;
use results::Results;
use topics::{InputHeaders, Topics};
use worker::WorkerJob;

const USAGE: &str = "usage: floor [SECTION]... [--events N] [--repeat N] [--only TEXT] [--results FOLDER]";
const LATENCY_EVENTS: u64 = 15_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "--child" => Job::parse(rest).and_then(|job| child(&job)),
        _ => parent(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run; prints its figures as one line.
fn child(job: &Job) -> Result<(), String> {
    let (spent, steps) = match job.variant.as_str() {
        "transactions" => transactions::run(job)?,
        _ => (copy::run(job)?, transactions::Steps::default()),
    };
    println!("{}", Figures::of(job, &spent, &steps).line());
    Ok(())
}

struct Options {
    sections: Vec<String>,
    events: u64,
    repeat: usize,
    only: String,
    results: Option<PathBuf>,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let (only, results) = (String::new(), None);
    let mut options = Options { sections: Vec::new(), events: 1_000_000, repeat: 3, only, results };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(USAGE.to_owned());
        match argument.as_str() {
            "--events" => options.events = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--repeat" => options.repeat = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--only" => options.only = value()?.clone(),
            "--results" => options.results = Some(PathBuf::from(value()?)),
            name if plan::SECTIONS.contains(&name) => options.sections.push(name.to_owned()),
            other => {
                return Err(format!("unknown argument `{other}`; {USAGE}; sections: {:?}", plan::SECTIONS));
            }
        }
    }
    if options.sections.is_empty() {
        options.sections = plan::SECTIONS.map(str::to_owned).to_vec();
    }
    Ok(options)
}

fn parent(arguments: &[String]) -> Result<(), String> {
    let options = options(arguments)?;
    let Ok(mut kafka) = std::env::var("MILLRACE_KAFKA") else {
        println!("skipped: MILLRACE_KAFKA (host:port of a Kafka broker) is not set");
        return Ok(());
    };
    // The broker lives in this process, the copies in their own.
    let broker = (kafka == "development").then(|| Broker::start(Settings::default())).transpose();
    let broker = broker.map_err(|error| format!("the development broker: {error}"))?;
    if let Some(broker) = &broker {
        kafka = broker.address().to_string();
    }
    let topics = Topics::connect(&kafka)?;
    for section in &options.sections {
        let mut runs = plan::section(section, &kafka).ok_or(USAGE)?;
        runs.retain(|run| run.label.contains(&options.only) || run.label == plan::YARDSTICK);
        let mut results = Results::begin(section, options.events);
        let mut figures = vec![Vec::new(); runs.len()];
        for round in 0..options.repeat {
            for (planned, figures) in runs.iter().zip(&mut figures) {
                let load = results::load_average();
                let figure = run(planned, &topics, options.events, &format!("{section}-{round}"))
                    .map_err(|e| format!("{}: {e}", planned.label))?;
                eprintln!("{} {}: {}", round + 1, planned.label, figure.line());
                results.add(round + 1, &planned.label, &figure, load);
                figures.push(figure);
            }
        }
        report::print(&runs, &figures);
        if let Some(deleted) = broker.as_ref().map(Broker::deleted_records) {
            println!("\nthe development broker deleted {deleted} records");
        }
        if let Some(folder) = &options.results {
            println!("\nwritten to {}", results.write(folder)?.display());
        }
    }
    Ok(())
}

fn run(planned: &Planned, topics: &Topics, events: u64, name: &str) -> Result<Figures, String> {
    let unique = format!("{name}-{}-{}", std::process::id(), measure::monotonic_ns());
    match &planned.kind {
        Kind::Copy(job) => run_copy(job, InputHeaders::None, topics, events, &unique),
        Kind::CopyForWorker(job) => run_copy(job, InputHeaders::CloudEvents, topics, events, &unique),
        Kind::Latency(job) => run_latency(job, topics, &unique),
        Kind::Worker(job) => run_worker(job, topics, events, &unique),
    }
}

fn run_copy(
    job: &Job,
    headers: InputHeaders,
    topics: &Topics,
    events: u64,
    unique: &str,
) -> Result<Figures, String> {
    let input = topics.input(job.partitions, events, headers)?;
    let job = Job { input, output: format!("floor-out-{unique}"), events, ..job.clone() };
    topics.create(&job.output, job.partitions)?;
    let figures = Copying::start(&job)?.figures()?;
    topics.verify(&job.output, job.partitions, job.events)?;
    topics.delete(&job.output)?;
    Ok(figures)
}

fn run_latency(job: &Job, topics: &Topics, unique: &str) -> Result<Figures, String> {
    let (input, output) = (format!("floor-steady-{unique}"), format!("floor-out-{unique}"));
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
    let partitions = Job::new("", "").partitions;
    let input = topics.input(partitions, events, InputHeaders::CloudEvents)?;
    let run = worker::Run::new(input, partitions, events, unique);
    let measured = worker::run(job, &run, topics)?;
    Ok(Figures::of_worker(events, &measured))
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
