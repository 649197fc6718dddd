//! Webhooks into Kafka: `millrace ingest` as a child process under signed requests.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::message::Message as _;

use crate::events;
use crate::http::{self, Load, Times};
use crate::job::Job;
use crate::measure;
use crate::outcome::{self, Seen};
use crate::program::{Program, Project, free_port};
use crate::raw::Outcome;
use crate::report::Figures;
use crate::topics::Topics;

/// One request of this many is not counted: connections are opened, code and caches are cold.
const WARM_UP_SHARE: u64 = 20;
const READY_MAX: Duration = Duration::from_secs(10);
pub const CONNECTIONS: u64 = 64;

/// A run of the endpoint.
#[derive(Clone, Debug)]
pub struct IngestJob {
    pub kafka: String,
    pub requests: u64,
    /// `None`: as many as are answered.
    pub per_s: Option<u64>,
    pub partitions: i32,
    pub endpoint: Endpoint,
}

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Millrace,
    /// The yardstick.
    Bare,
}

/// The source connector, into `topic`.
pub fn connector(project: &Project, topic: &str) -> Outcome<()> {
    let text = format!(
        "description: Webhooks of the benchmark\nsource:\n  verify: {{scheme: stripe, secrets: [{{env: BENCH_SECRET}}]}}\n  \
         topic: {topic}\n"
    );
    project.file(&format!("connectors/{}.yaml", http::CONNECTOR), &text)
}

/// Starts the endpoint of `project`, which answers when this returns.
pub fn endpoint(project: &Project, namespace: &str, kafka: &str) -> Outcome<(Program, SocketAddr)> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let listen = address.to_string();
    let words = ["ingest", "--namespace", namespace, "--kafka", kafka, "--listen", &listen];
    let mut program = Program::start(project, &words, &[("BENCH_SECRET", http::SECRET)])?;
    let ready = program.ready();
    program.explained(ready)?;
    Ok((program, address))
}

fn bare(project: &Project, job: &IngestJob, topic: &str) -> Outcome<(Program, SocketAddr)> {
    let port = free_port()?;
    let settings = Job { output: topic.to_owned(), linger_ms: 1, port, ..Job::new(&job.kafka, "bare") };
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    command.arg("--child").args(settings.arguments());
    let mut program = Program::foreign(project, command)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let asked = Instant::now();
    while TcpStream::connect(address).is_err() {
        program.expect_alive()?;
        if asked.elapsed() > READY_MAX {
            return Err(format!("nobody listens at {address}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((program, address))
}

pub fn run(job: &IngestJob, topics: &Topics, unique: &str) -> Outcome<Figures> {
    let namespace = format!("bench-{unique}");
    let topic = format!("{namespace}.events");
    let project = Project::new()?;
    project.topic(&topic, job.partitions)?;
    connector(&project, &topic)?;
    project.run(&["apply", "--yes", "--namespace", &namespace, "--kafka", &job.kafka])?;
    let (endpoint, address) = match job.endpoint {
        Endpoint::Millrace => endpoint(&project, &namespace, &job.kafka)?,
        Endpoint::Bare => bare(&project, job, &topic)?,
    };
    let times = Arc::new(Times::new(job.requests));
    let load = Load { address, connections: CONNECTIONS, requests: job.requests, per_s: job.per_s };
    let before_s = endpoint.cpu_s()?;
    let sent = http::runtime()?.block_on(http::send(load, Arc::clone(&times)));
    endpoint.explained(sent)?;
    let (cpu_s, librdkafka_s) = (endpoint.cpu_s()? - before_s, endpoint.librdkafka_cpu_s());
    let rss_mib = endpoint.rss_mib();
    match job.endpoint {
        Endpoint::Millrace => endpoint.stop()?,
        Endpoint::Bare => endpoint.end()?,
    }
    let first = job.requests / WARM_UP_SHARE;
    let (begin, end) = (times.due_ns(first), (0..job.requests).map(|seq| times.answered_ns(seq)).max());
    let wall_s = end.unwrap_or(begin).saturating_sub(begin) as f64 / 1e9;
    check(&job.kafka, &topic, job.requests, &times)?;
    topics.delete_all(&namespace)?;
    let latencies = times.latencies_ms(first);
    let millions = job.requests as f64 / 1e6;
    Ok(Figures::new(&[
        ("rate", (job.requests - first) as f64 / wall_s),
        ("cpu", cpu_s / millions),
        ("cpu_librdkafka", librdkafka_s / millions),
        ("rss", rss_mib),
        ("p50", measure::quantile(&latencies, 0.5)),
        ("p99", measure::quantile(&latencies, 0.99)),
    ]))
}

/// Every answered request is in the topic once, as it was sent, under its customer.
fn check(kafka: &str, topic: &str, requests: u64, times: &Times) -> Outcome<()> {
    let mut seen = Seen::new(requests);
    let (mut key, mut body) = (Vec::new(), Vec::new());
    outcome::read(kafka, topic, &mut |message| {
        let value = message.payload().unwrap_or_default();
        let seq = events::seq(value).ok_or("not an event of ours")?;
        seen.add(seq).map_err(|seq| format!("event {seq} twice"))?;
        events::write(seq, times.due_ns(seq), &mut key, &mut body);
        if value != body || message.key() != Some(&key[..]) {
            return Err(format!("event {seq} became {}", String::from_utf8_lossy(value)));
        }
        Ok(())
    })?;
    if seen.count == requests {
        Ok(())
    } else {
        Err(format!("{} of {requests} events in {topic}", seen.count))
    }
}
