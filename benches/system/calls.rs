//! Stages that call: `millrace worker` with an `http` stage, against a destination in this process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::destination::{Answers, Destination};
use crate::events::Shape;
use crate::program::{Program, Project};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::{InputHeaders, Topics};
use crate::worker::{committed, member};

const PATIENCE: Duration = Duration::from_secs(120);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long a destination that never answers is borne: long enough to fetch everything, were it not for the limits.
const DEAD_FOR: Duration = Duration::from_secs(15);

/// A run of the worker.
#[derive(Clone, Debug)]
pub struct CallsJob {
    pub kafka: String,
    pub answers: Answers,
    pub partitions: i32,
    pub events: u64,
    pub keys: u64,
    pub concurrency: usize,
}

pub fn run(job: &CallsJob, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let namespace = format!("bench-{unique}");
    let shape = Shape { keys: job.keys, ..Shape::default() };
    let input = topics.input(job.partitions, job.events, shape, InputHeaders::CloudEvents)?;
    let destination = Destination::start(job.answers)?;
    let project = project(job, (&namespace, &input), &destination.url)?;
    let names = ["--namespace", &namespace, "--kafka", &job.kafka];
    project.run(&[&["apply", "--yes"], &names[..]].concat())?;
    let mut worker =
        Program::start(&project, &[&["worker", "--instance", "bench"], &names[..]].concat(), &[])?;
    let measured = match job.answers {
        Answers::Never => dead(&mut worker),
        Answers::Soon | Answers::Together(_) => {
            all_done(job, &mut worker, &input, (&destination, &format!("{namespace}.calls")))
        }
    };
    let figures = worker.explained(measured)?;
    if job.answers != Answers::Never {
        worker.stop()?;
    }
    topics.delete_all(&namespace)?;
    Ok(figures)
}

/// Waits until everything is called and committed.
pub fn all_done(
    job: &CallsJob,
    worker: &mut Program,
    input: &str,
    (destination, group): (&Destination, &str),
) -> Outcome<Figures> {
    let started = Instant::now();
    let asking = member(&job.kafka, group)?;
    while (destination.answered() as u64) < job.events
        || !committed(&asking, input, job.partitions).is_ok_and(|done| done >= job.events)
    {
        worker.expect_alive()?;
        if started.elapsed() > PATIENCE {
            return Err(format!("{} of {} calls were answered", destination.answered(), job.events));
        }
        std::thread::sleep(ASK_EVERY);
    }
    let begun = destination.begun();
    if begun.len() as u64 != job.events {
        return Err(format!("{} calls for {} events", begun.len(), job.events));
    }
    let mut last = HashMap::new();
    for (customer, seq) in begun {
        if last.insert(customer, seq).is_some_and(|before| before >= seq) {
            return Err(format!("the call of event {seq} came after a later one of customer {customer}"));
        }
    }
    Ok(Figures::new(&[
        ("seconds", destination.first_to_last().as_secs_f64()),
        ("in_flight", destination.most_open() as f64),
        ("cpu", worker.cpu_s()? / (job.events as f64 / 1e6)),
        ("rss", worker.rss_mib()),
    ]))
}

/// Lets a worker stand before a destination that never answers.
fn dead(worker: &mut Program) -> Outcome<Figures> {
    worker.ready()?;
    std::thread::sleep(DEAD_FOR);
    worker.expect_alive()?;
    Ok(Figures::new(&[("rss", worker.rss_mib()), ("threads", worker.threads() as f64)]))
}

fn project(job: &CallsJob, (namespace, input): (&str, &str), url: &str) -> Outcome<Project> {
    let project = Project::new()?;
    project.topic(input, job.partitions)?;
    let CallsJob { concurrency, .. } = job;
    let connector = format!(
        "description: Where the benchmark calls\ntarget:\n  base_url: {url}\n  limits: {{concurrency: {concurrency}, \
         timeout: 5m}}\n  calls:\n    take: {{method: POST, path: \"/take/{{customer}}/{{seq}}\"}}\n"
    );
    project.file("connectors/taker.yaml", &connector)?;
    let pipeline = format!(
        "description: What the benchmark measures\ninput:\n  topics: [{input}]\ngroup: calls\nordering: key\n\
         concurrency: {concurrency}\nstages:\n  - id: call\n    http: {{connector: taker, call: take, path_params: \
         {{customer: .data.object.customer, seq: .seq}}}}\n"
    );
    project.file(&format!("pipelines/{namespace}.yaml"), &pipeline)?;
    Ok(project)
}
