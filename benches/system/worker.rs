//! The whole engine: `millrace worker` as a child process, on a project made for the run, measured from outside.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::events::Shape;
use crate::measure::CpuSpent;
use crate::outcome::{self, Appended};
use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::topics::Topics;

/// How often the child's CPU time is noted, so that it is known at the moment of the first output.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// How often the broker is asked how far the group has come: not so often that the answers cost anything.
const ASK_EVERY_SAMPLES: usize = 10;
const RUN_MAX: Duration = Duration::from_secs(900);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the pipeline does with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Writes it as it came.
    PassThrough,
    /// Drops what is not live, adds two fields, writes it with a key of its own.
    FilterMap,
    /// The same, in a program that uses the value as a whole.
    FilterMapWhole,
}

/// A run of the worker.
#[derive(Clone, Debug)]
pub struct WorkerJob {
    pub kafka: String,
    pub work: Work,
    /// `exactly_once` or `at_least_once`.
    pub delivery: &'static str,
    /// `all` or `failures`: which events leave an execution result.
    pub results: &'static str,
    pub scale: Scale,
}

/// How large the work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    pub shape: Shape,
    pub partitions: i32,
    /// Pipelines of each group; when there is more than one, each takes the events of one type.
    pub pipelines: usize,
    /// Groups, each of which reads all events.
    pub groups: usize,
}

impl Default for Scale {
    fn default() -> Self {
        Scale { shape: Shape::default(), partitions: 12, pipelines: 1, groups: 1 }
    }
}

impl Scale {
    /// How many events make a run of about the same work as `events` of the usual size read by one group.
    pub fn events(&self, events: u64) -> u64 {
        let usual = crate::events::BYTES as u64;
        (events * usual / (self.shape.bytes as u64).max(usual / 3) / self.groups as u64).max(1_000)
    }
}

/// Where one run reads and writes.
pub struct Run {
    pub input: String,
    /// One for each group.
    pub outputs: Vec<String>,
    pub executions: String,
    pub events: u64,
    pub namespace: String,
}

impl Run {
    pub fn new(scale: &Scale, input: String, events: u64, unique: &str) -> Run {
        let namespace = format!("bench-{unique}");
        let output = |group| format!("{namespace}-out-{group}");
        Run {
            input,
            outputs: (0..scale.groups).map(output).collect(),
            executions: format!("{namespace}.executions"),
            events,
            namespace,
        }
    }
}

/// What was measured.
pub struct Measured {
    pub spent: CpuSpent,
    /// Highest resident memory, in MiB.
    pub rss_mib: f64,
    pub threads: usize,
}

/// One run: starts the worker, waits until its groups have committed everything, stops it, reads everything back.
pub fn run(job: &WorkerJob, run: &Run, topics: &Topics) -> Outcome<Measured> {
    // The broker's time of appending is when a record was there; the worker's own would be that of its source.
    for output in &run.outputs {
        topics.create_with(output, job.scale.partitions, &[("message.timestamp.type", "LogAppendTime")])?;
    }
    let project = project(job, run)?;
    let names = ["--namespace", &run.namespace, "--kafka", &job.kafka];
    project.run(&[&["apply", "--yes"], &names[..]].concat())?;
    let mut worker =
        Program::start(&project, &[&["worker", "--instance", "bench"], &names[..]].concat(), &[])?;
    let groups: Vec<String> =
        (0..job.scale.groups).map(|group| format!("{}.g{group}", run.namespace)).collect();
    let reading = Reading { kafka: &job.kafka, groups: &groups, run, partitions: job.scale.partitions };
    let watched = watch(&reading, &mut worker);
    let watched = worker.explained(watched)?;
    worker.stop()?;
    let appended = outcome::check(job, run)?;
    topics.delete_all(&run.namespace)?;
    Ok(watched.measured(&appended))
}

/// Groups that read the input of a run.
pub struct Reading<'a> {
    pub kafka: &'a str,
    pub groups: &'a [String],
    pub run: &'a Run,
    pub partitions: i32,
}

/// What was seen of a process until everything was committed.
pub struct Watched {
    samples: Vec<Sample>,
    cpu_s: f64,
    librdkafka_s: f64,
    rss_mib: f64,
    threads: usize,
}

impl Watched {
    /// CPU from the first output on, and the time until the last.
    pub fn measured(&self, appended: &Appended) -> Measured {
        let before = self.samples.iter().rev().find(|sample| sample.at_ms <= appended.first_ms);
        let spent = CpuSpent {
            wall_s: (appended.last_ms - appended.first_ms) as f64 / 1e3,
            process_s: self.cpu_s - before.map_or(0.0, |sample| sample.cpu_s),
            librdkafka_s: self.librdkafka_s,
        };
        Measured { spent, rss_mib: self.rss_mib, threads: self.threads }
    }
}

/// CPU time of a process until a moment of the wall clock, which is also the broker's.
struct Sample {
    at_ms: i64,
    cpu_s: f64,
}

/// Waits until everything is committed, noting CPU times all the while.
pub fn watch(reading: &Reading<'_>, process: &mut Program) -> Outcome<Watched> {
    let Reading { kafka, groups, run, partitions } = reading;
    let asking: Outcome<Vec<BaseConsumer>> = groups.iter().map(|group| member(kafka, group)).collect();
    let asking = asking?;
    let all_committed =
        || -> Outcome<u64> { asking.iter().map(|asking| committed(asking, &run.input, *partitions)).sum() };
    let wanted = run.events * groups.len() as u64;
    let mut samples = Vec::new();
    let started = Instant::now();
    while started.elapsed() < RUN_MAX {
        process.expect_alive()?;
        samples.push(Sample { at_ms: now_ms(), cpu_s: process.cpu_s()? });
        // A broker under load may be late with an answer; it is asked again.
        if samples.len().is_multiple_of(ASK_EVERY_SAMPLES) && all_committed().is_ok_and(|done| done >= wanted)
        {
            return Ok(Watched {
                samples,
                cpu_s: process.cpu_s()?,
                librdkafka_s: process.librdkafka_cpu_s(),
                rss_mib: process.rss_mib(),
                threads: process.threads(),
            });
        }
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    Err(format!("{} of {wanted} events were committed", all_committed()?))
}

/// A client that can ask for a group's offsets.
pub fn member(kafka: &str, group: &str) -> Outcome<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka).set("group.id", group);
    config.create().map_err(|e| e.to_string())
}

/// Sum of the committed offsets: the number of events done, because partitions begin at 0 and have no gaps.
pub fn committed(asking: &BaseConsumer, topic: &str, partitions: i32) -> Outcome<u64> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let list = asking.committed_offsets(list, ASK_TIMEOUT).map_err(|e| e.to_string())?;
    let offsets = list.elements().into_iter().map(|element| match element.offset() {
        Offset::Offset(offset) => offset as u64,
        _ => 0,
    });
    Ok(offsets.sum())
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn project(job: &WorkerJob, run: &Run) -> Outcome<Project> {
    let project = Project::new()?;
    project.topic(&run.input, job.scale.partitions)?;
    for (group, output) in run.outputs.iter().enumerate() {
        project.topic(output, job.scale.partitions)?;
        for number in 0..job.scale.pipelines {
            let text = pipeline(job, &run.input, output, (group, number));
            // Companion topics bear its name, and are deleted with the others.
            project.file(&format!("pipelines/{}-g{group}-p{number}.yaml", run.namespace), &text)?;
        }
    }
    Ok(project)
}

fn pipeline(job: &WorkerJob, input: &str, output: &str, (group, number): (usize, usize)) -> String {
    let types = match job.scale.pipelines {
        1 => String::new(),
        _ => format!("\n  types: [bench.type-{number}]"),
    };
    let (delivery, results) = (job.delivery, job.results);
    let head = format!(
        "description: What the benchmark measures\ninput:\n  topics: [{input}]{types}\ngroup: g{group}\n\
         delivery: {delivery}\nresults: {results}\nstages:\n"
    );
    let map = match job.work {
        Work::PassThrough => return format!("{head}  - id: copy\n    emit: {{topic: {output}}}\n"),
        Work::FilterMap => {
            "      .customer = .data.object.customer\n      \
             .currency = upcase(string!(.data.object.currency))\n"
        }
        Work::FilterMapWhole => {
            "      . = merge(object!(.), {\"customer\": .data.object.customer, \
             \"currency\": upcase(string!(.data.object.currency))})\n"
        }
    };
    format!(
        "{head}  - id: live\n    filter: .livemode == true\n  - id: enrich\n    map: |\n{map}  - id: store\n    \
         emit: {{topic: {output}, key: .customer}}\n"
    )
}
