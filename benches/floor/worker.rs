//! The whole engine: `millrace worker` as a child process, on a project made for the run, measured from outside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::measure::{self, CpuSpent};
use crate::outcome;
use crate::raw::Outcome;
use crate::topics::Topics;

/// How often the child's CPU time is noted, so that it is known at the moment of the first output.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
/// How often the broker is asked how far the group has come: not so often that the answers cost anything.
const ASK_EVERY_SAMPLES: usize = 10;
const RUN_MAX: Duration = Duration::from_secs(900);
const STOP_MAX: Duration = Duration::from_secs(30);
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the pipeline does with an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Writes it as it came.
    PassThrough,
    /// Drops what is not live, adds two fields, writes it with a key of its own.
    FilterMap,
}

/// A run of the worker.
#[derive(Clone, Debug)]
pub struct WorkerJob {
    pub kafka: String,
    pub work: Work,
    /// `exactly_once` or `at_least_once`.
    pub delivery: &'static str,
}

/// Where one run reads and writes.
pub struct Run {
    pub input: String,
    pub output: String,
    pub executions: String,
    pub partitions: i32,
    pub events: u64,
    namespace: String,
}

impl Run {
    pub fn new(input: String, partitions: i32, events: u64, unique: &str) -> Run {
        let namespace = format!("floor-{unique}");
        Run {
            input,
            output: format!("{namespace}-out"),
            executions: format!("{namespace}.executions"),
            partitions,
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
}

/// One run: starts the worker, waits until its group has committed everything, stops it, reads everything back.
pub fn run(job: &WorkerJob, run: &Run, topics: &Topics) -> Outcome<Measured> {
    // The broker's time of appending is when a record was there; the worker's own would be that of its source.
    topics.create_with(&run.output, run.partitions, &[("message.timestamp.type", "LogAppendTime")])?;
    topics.create(&run.executions, run.partitions)?;
    let project = Project::write(job, run)?;
    let mut worker = Worker::start(job, run, &project)?;
    let watched = watch(job, run, &mut worker);
    let stopped = worker.stop();
    let watched = watched.and_then(|watched| stopped.map(|()| watched));
    let watched = watched.map_err(|error| format!("{error}\n{}", project.log_end()))?;
    let appended = outcome::check(job, run)?;
    topics.delete(&run.output)?;
    topics.delete(&run.executions)?;
    let before = watched.samples.iter().rev().find(|sample| sample.at_ms <= appended.first_ms);
    let spent = CpuSpent {
        wall_s: (appended.last_ms - appended.first_ms) as f64 / 1e3,
        process_s: watched.cpu_s - before.map_or(0.0, |sample| sample.cpu_s),
        librdkafka_s: watched.librdkafka_s,
    };
    Ok(Measured { spent, rss_mib: watched.rss_mib })
}

/// What was seen of the worker until everything was committed.
struct Watched {
    samples: Vec<Sample>,
    cpu_s: f64,
    librdkafka_s: f64,
    rss_mib: f64,
}

/// CPU time of the worker until a moment of the wall clock, which is also the broker's.
struct Sample {
    at_ms: i64,
    cpu_s: f64,
}

/// Waits until everything is committed, noting CPU times all the while.
fn watch(job: &WorkerJob, run: &Run, worker: &mut Worker) -> Outcome<Watched> {
    let group = format!("{}.bench", run.namespace);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &job.kafka).set("group.id", &group);
    let asking: BaseConsumer = config.create().map_err(|e| e.to_string())?;
    let mut samples = Vec::new();
    let started = Instant::now();
    while started.elapsed() < RUN_MAX {
        if let Some(status) = worker.child.try_wait().map_err(|e| e.to_string())? {
            return Err(format!("the worker ended by itself: {status}"));
        }
        let cpu_s = measure::process_cpu_of(worker.child.id())?;
        samples.push(Sample { at_ms: now_ms(), cpu_s });
        if samples.len().is_multiple_of(ASK_EVERY_SAMPLES) && committed(&asking, run)? >= run.events {
            let cpu_s = measure::process_cpu_of(worker.child.id())?;
            let (librdkafka_s, rss_mib) = (worker.librdkafka_cpu_s(), worker.rss_mib());
            return Ok(Watched { samples, cpu_s, librdkafka_s, rss_mib });
        }
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    Err(format!("the worker had committed {} of {} events", committed(&asking, run)?, run.events))
}

/// Sum of the committed offsets: the number of events done, because partitions begin at 0 and have no gaps.
fn committed(asking: &BaseConsumer, run: &Run) -> Outcome<u64> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&run.input, 0, run.partitions - 1);
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

/// The project's folder, removed when dropped.
struct Project(tempfile::TempDir);

impl Project {
    fn write(job: &WorkerJob, run: &Run) -> Outcome<Project> {
        let project = Project(tempfile::tempdir().map_err(|e| e.to_string())?);
        let topic = format!("partitions: {}\nvalue: {{format: json}}\n", run.partitions);
        project.file(&format!("topics/{}.yaml", run.input), &topic)?;
        project.file(&format!("topics/{}.yaml", run.output), &topic)?;
        project.file("pipelines/bench.yaml", &pipeline(job, run))?;
        Ok(project)
    }

    fn file(&self, name: &str, text: &str) -> Outcome<()> {
        let path = self.0.path().join(name);
        let folder = path.parent().ok_or("a file has a folder")?;
        fs::create_dir_all(folder).and_then(|()| fs::write(&path, text)).map_err(|e| e.to_string())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("worker.log")
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn pipeline(job: &WorkerJob, run: &Run) -> String {
    let head = format!(
        "description: What the benchmark measures\ninput:\n  topics: [{}]\ndelivery: {}\nstages:\n",
        run.input, job.delivery
    );
    let stages = match job.work {
        Work::PassThrough => format!("  - id: copy\n    emit: {{topic: {}}}\n", run.output),
        Work::FilterMap => format!(
            "  - id: live\n    filter: .livemode == true\n\
             \x20 - id: enrich\n    map: |\n      .customer = .data.object.customer\n      \
             .currency = upcase(string!(.data.object.currency))\n\
             \x20 - id: store\n    emit: {{topic: {}, key: .customer}}\n",
            run.output
        ),
    };
    head + &stages
}

/// The child process, killed when dropped.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(job: &WorkerJob, run: &Run, project: &Project) -> Outcome<Worker> {
        let log = File::create(project.log()).map_err(|e| e.to_string())?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MILLRACE_"));
        for (name, _) in ours {
            command.env_remove(name);
        }
        command
            .arg("worker")
            .args(["--project".as_ref(), project.0.path().as_os_str()])
            .args(["--namespace", &run.namespace, "--kafka", &job.kafka])
            .args(["--instance", "bench", "--metrics", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(Worker { child: command.spawn().map_err(|e| format!("the worker cannot start: {e}"))? })
    }

    fn librdkafka_cpu_s(&self) -> f64 {
        measure::librdkafka_cpu_of(&self.proc())
    }

    fn rss_mib(&self) -> f64 {
        measure::rss_peak_mib_of(&self.proc())
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string())
    }

    /// Asks it to end in order, and waits.
    fn stop(mut self) -> Outcome<()> {
        // SAFETY: a signal to a child of ours that has not been waited for, so the id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let asked = Instant::now();
        while asked.elapsed() < STOP_MAX {
            match self.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the worker ended with {status}")),
                None => std::thread::sleep(SAMPLE_INTERVAL),
            }
        }
        Err(format!("the worker did not end within {STOP_MAX:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
