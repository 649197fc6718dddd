//! The system on real servers: what P0 to P9 are to reach, and the floor below them: what a copy from Kafka to Kafka
//! costs, by ways of consuming, producing and committing.
//!
//! `MILLRACE_KAFKA=127.0.0.1:9092 cargo bench --bench system -- p1 b2 --events 1000000 --repeat 3`;
//! `scripts/bench` also starts the servers. `MILLRACE_KAFKA=development` measures the development broker, in this process.
//!
//! Each run is a process of its own (clean memory and CPU figures); variants are interleaved and medians
//! reported, with the ratio to the section's first run of the same round. What the figures decided is
//! in `benches/README.md`.

mod bare;
mod calls;
mod copy;
mod destination;
mod events;
mod forwarded;
mod goals;
mod http;
mod ingest;
mod job;
mod latency;
mod measure;
mod outcome;
mod path;
mod peers;
mod plan;
mod plot;
mod producer;
mod program;
mod project;
mod raw;
mod report;
mod results;
mod runs;
mod startup;
mod targets;
mod topics;
mod transactions;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use job::Job;
use millrace::devbroker::{Broker, Settings};
use peers::Peer;
use plan::Servers;
use report::Figures;
use results::Results;
use topics::Topics;

const USAGE: &str = "usage: system [SECTION]... [--events N] [--repeat N] [--only TEXT] [--results FOLDER] \
    [--program PATH] [--peer NAME]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "--child" => Job::parse(rest).and_then(|job| child(&job)),
        _ => parent(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("system: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run; prints its figures as one line.
fn child(job: &Job) -> Result<(), String> {
    let (spent, steps) = match job.variant.as_str() {
        "bare" => return bare::serve(job),
        "transactions" => transactions::run(job)?,
        _ => (copy::run(job)?, transactions::Steps::default()),
    };
    println!("{}", Figures::of(job, &spent, &steps).line());
    Ok(())
}

struct Options {
    sections: Vec<&'static str>,
    events: u64,
    repeat: usize,
    only: String,
    results: Option<PathBuf>,
    peers: Vec<Peer>,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let (only, results) = (String::new(), None);
    let mut options =
        Options { sections: Vec::new(), events: 1_000_000, repeat: 3, only, results, peers: Vec::new() };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(USAGE.to_owned());
        match argument.as_str() {
            "--events" => options.events = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--repeat" => options.repeat = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--only" => options.only = value()?.clone(),
            "--results" => options.results = Some(PathBuf::from(value()?)),
            "--peer" => options.peers.push(Peer::load(value()?)?),
            "--program" => program::choose(PathBuf::from(value()?)),
            word => {
                let named = plan::named(word);
                if named.is_empty() {
                    let (targets, floor) = (plan::TARGETS.join(" "), plan::FLOOR.join(" "));
                    return Err(format!(
                        "unknown argument `{word}`; {USAGE}; sections: {targets} p9 all {floor}"
                    ));
                }
                options.sections.extend(named);
            }
        }
    }
    if options.sections.is_empty() {
        options.sections = plan::TARGETS.into();
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
    let servers = Servers { kafka, postgres: std::env::var("MILLRACE_POSTGRES").unwrap_or_default() };
    let topics = Topics::connect(&servers.kafka)?;
    let sections = options.sections.iter().copied();
    let (able, unable): (Vec<&str>, Vec<&str>) =
        sections.partition(|section| *section != "p5" || !servers.postgres.is_empty());
    for section in unable {
        println!("{section} skipped: MILLRACE_POSTGRES (URL of a role that may create databases) is not set");
    }
    for section in able {
        measured(section, &options, &servers, &topics)?;
        if let Some(deleted) = broker.as_ref().map(Broker::deleted_records) {
            println!("\nthe development broker deleted {deleted} records");
        }
    }
    Ok(())
}

fn measured(section: &str, options: &Options, servers: &Servers, topics: &Topics) -> Result<(), String> {
    let mut runs = plan::section(section, servers, options.events).ok_or(USAGE)?;
    runs.extend(options.peers.iter().filter_map(|peer| targets::of_peer(peer, section, &servers.kafka)));
    runs.retain(|run| run.label.contains(&options.only) || run.label == plan::YARDSTICK);
    let mut results = Results::begin(section, options.events);
    let mut figures = vec![Vec::new(); runs.len()];
    for round in 0..options.repeat {
        for (planned, figures) in runs.iter().zip(&mut figures) {
            let load = results::load_average();
            let figure = runs::run(planned, servers, topics, options.events, &format!("{section}-{round}"))
                .map_err(|e| format!("{}: {e}", planned.label))?;
            eprintln!("{} {}: {}", round + 1, planned.label, figure.line());
            results.add(round + 1, &planned.label, &figure, load);
            figures.push(figure);
        }
    }
    println!("\n{section}");
    report::print(&runs, &figures);
    let judged = goals::judge(section, &runs, &figures);
    for judged in &judged {
        println!("{}", judged.line());
    }
    if let Some(folder) = &options.results {
        let title = format!("Millrace, section {section}: medians and rounds");
        let plot = plot::svg(&title, &runs, &figures, &judged);
        println!("written to {}", results.write(folder, &judged, &plot)?.display());
    }
    Ok(())
}
