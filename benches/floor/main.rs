//! The floor: what a copy from Kafka to Kafka costs, by ways of consuming, producing and committing.
//!
//! `MILLRACE_KAFKA=127.0.0.1:9092 cargo bench --bench floor -- b1 b2 --events 1000000 --repeat 3`
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
mod plan;
mod producer;
mod raw;
mod report;
mod topics;
mod transactions;

use std::process::{Command, ExitCode, Stdio};

use job::Job;
use plan::Planned;
use report::Figures;
use topics::Topics;

const USAGE: &str = "usage: floor [SECTION]... [--events N] [--repeat N] [--only TEXT]";
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
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options { sections: Vec::new(), events: 1_000_000, repeat: 3, only: String::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(USAGE.to_owned());
        match argument.as_str() {
            "--events" => options.events = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--repeat" => options.repeat = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--only" => options.only = value()?.clone(),
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
    let Ok(kafka) = std::env::var("MILLRACE_KAFKA") else {
        println!("skipped: MILLRACE_KAFKA (host:port of a Kafka broker) is not set");
        return Ok(());
    };
    let topics = Topics::connect(&kafka)?;
    for section in &options.sections {
        let mut runs = plan::section(section, &kafka).ok_or(USAGE)?;
        runs.retain(|run| run.label.contains(&options.only) || run.label == "B1 raw");
        let mut figures = vec![Vec::new(); runs.len()];
        for round in 0..options.repeat {
            for (planned, figures) in runs.iter().zip(&mut figures) {
                let figure = run(planned, &topics, options.events, &format!("{section}-{round}"))
                    .map_err(|e| format!("{}: {e}", planned.label))?;
                eprintln!("{} {}: {}", round + 1, planned.label, figure.line());
                figures.push(figure);
            }
        }
        report::print(&runs, &figures);
    }
    Ok(())
}

fn run(planned: &Planned, topics: &Topics, events: u64, name: &str) -> Result<Figures, String> {
    let mut job = planned.job.clone();
    let unique = format!("{name}-{}-{}", std::process::id(), measure::monotonic_ns());
    job.output = format!("floor-out-{unique}");
    if planned.latency {
        job.events = LATENCY_EVENTS;
        job.input = format!("floor-steady-{unique}");
        topics.create(&job.input, job.partitions)?;
    } else {
        job.events = events;
        job.input = topics.input(job.partitions, events)?;
    }
    topics.create(&job.output, job.partitions)?;
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let copying = Command::new(this)
        .arg("--child")
        .args(job.arguments())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let latencies = if planned.latency { latency::measure(&job)? } else { Vec::new() };
    let copied = copying.wait_with_output().map_err(|e| e.to_string())?;
    if !copied.status.success() {
        return Err(format!("the copy ended with {}", copied.status));
    }
    let mut figures = Figures::parse(&String::from_utf8_lossy(&copied.stdout))?;
    figures.set_latency(&latencies);
    topics.verify(&job.output, job.partitions, job.events)?;
    topics.delete(&job.output)?;
    if planned.latency {
        topics.delete(&job.input)?;
    }
    Ok(figures)
}
